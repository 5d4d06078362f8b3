"""Pairs of noisy and clean texts, out of files."""

from itertools import pairwise

import datasets
from rapidfuzz.distance import Levenshtein
from transformers.utils import logging

from .corpora import file_format

logger = logging.get_logger(__name__)
LOOSE_CHARACTERS, LOOSE_SHARE = 6, 0.5  # that differ at the end of a text, from and above which it is not the other's


def read_pairs(path, noisy="noisy", clean="clean", pad=None, ignored="#", first=0.0, last=1.0):
    """Read pairs of texts.

    Args:
        path: json lines, csv, parquet or arrow, also compressed.
        noisy, clean (`str`): their columns; one that is both gives pairs of equal texts.
        pad (`str`, *optional*): of texts that are aligned with each other, the character that fills gaps; it is taken out.
        ignored (`str`, defaults to `"#"`): of such texts, the character that marks, on either side, what nobody could read; it is
            taken out on both.
        first, last (`float`, default to 0 and 1): which of the records, from one share of them to another, in the file's order.

    Returns:
        `list[tuple[str, str]]`: noisy and clean; of records that have nothing in either, none.

    Raises:
        FileNotFoundError: for a missing file. ValueError: for one without these columns, what is no text, shares that are none,
        texts that are not aligned, or no clean text at all.
    """
    if not 0 <= first < last <= 1:
        raise ValueError(f"from {first} to {last} there are no records: accepted are shares, the first below the last")
    records = datasets.load_dataset(file_format(path), data_files=str(path), split="train")
    missing = [name for name in (noisy, clean) if name not in records.column_names]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}, only {', '.join(records.column_names)}")
    records = records.select(range(round(first * len(records)), round(last * len(records))))
    columns = [list(records[name]) for name in (noisy, clean)]
    for name, column in zip((noisy, clean), columns, strict=True):
        for i, text in enumerate(column):
            if not isinstance(text, (str, type(None))):
                raise ValueError(f"{path}: {name!r} of record {i} is {text!r}, and no text")
    # An empty cell of a table is a text of nothing.
    pairs = [(a or "", b or "") for a, b in zip(*columns, strict=True)]
    if pad is not None:
        pairs = [unaligned(*pair, pad, ignored) for pair in pairs]
    if not any(clean for _, clean in pairs):
        raise ValueError(f"{path} has no clean text from {first} to {last}")
    return [pair for pair in pairs if any(pair)]


def unaligned(noisy, clean, pad, ignored):
    """Aligned texts without what fills gaps and what is ignored."""
    if len(noisy) != len(clean):
        raise ValueError(f"aligned texts are as long as each other: got {len(noisy)} and {len(clean)} characters")
    kept = [both for both in zip(noisy, clean, strict=True) if ignored not in both]
    return tuple("".join(side).replace(pad, "") for side in zip(*kept, strict=True)) if kept else ("", "")


def shared_white_space(noisy, clean):
    """Where both texts begin, go on behind white space that they share, and end: `(place in noisy, place in clean)` of each."""
    cuts = [(0, 0)]
    for block in Levenshtein.opcodes(clean, noisy):
        if block.tag == "equal":
            places = range(block.src_start, block.src_end)
            cuts += [(block.dest_start + i + 1 - block.src_start, i + 1) for i in places if clean[i].isspace()]
    if cuts[-1] != (len(noisy), len(clean)):
        cuts.append((len(noisy), len(clean)))
    return cuts


def without_loose_ends(noisy, clean, cuts):
    """Places of a pair without those before the first part that is equal in both, and behind the last, where the texts differ so
    much there that one hardly misreads the other: scans often begin or end elsewhere.

    Args:
        noisy, clean (`str`), cuts (`list[tuple[int, int]]`): as of [`shared_white_space`], between which parts lie.

    Returns:
        `list[tuple[int, int]]`: the same where no part of two characters or more is equal.
    """
    equal = [
        i
        for i, (start, end) in enumerate(pairwise(cuts))
        if (part := noisy[start[0] : end[0]]) == clean[start[1] : end[1]] and len(part.strip()) > 1
    ]
    if not equal:
        return cuts

    def is_loose(part, other):
        distance = Levenshtein.distance(part, other)
        return distance >= LOOSE_CHARACTERS and distance > LOOSE_SHARE * max(len(part), len(other))

    first, last = equal[0], equal[-1] + 1
    (a, b), (c, d) = cuts[first], cuts[last]
    return cuts[first if is_loose(noisy[:a], clean[:b]) else 0 : last + 1 if is_loose(noisy[c:], clean[d:]) else None]


def aligned_passages(noisy, clean, length, loose_ends=True):
    """Cut a pair of texts behind white space that both have, into pairs whose clean text has at most `length` bytes; what has no
    such white space for longer than that is left out.

    Args:
        noisy, clean (`str`), length (`int`).
        loose_ends (`bool`, defaults to `True`): whether ends that are hardly each other's are kept, as of [`without_loose_ends`].

    Returns:
        `list[tuple[str, str]]`: noisy and clean.
    """
    cuts = shared_white_space(noisy, clean)
    if not loose_ends:
        cuts = without_loose_ends(noisy, clean, cuts)
    passages, start, best = [], cuts[0], None
    for cut in cuts[1:]:
        if len(clean[start[1] : cut[1]].encode("utf-8")) <= length:
            best = cut
            continue
        if best is not None:
            passages.append((start, best))
            start = best
        best = cut if len(clean[start[1] : cut[1]].encode("utf-8")) <= length else None
        start = start if best else cut
    if best is not None:
        passages.append((start, best))
    return [(noisy[a[0] : b[0]], clean[a[1] : b[1]]) for a, b in passages]


def with_pairs(passages, pairs, length, min_length, share, seed):
    """Mix passages with pairs.

    Args:
        passages (`datasets.Dataset`): with the columns `text` and `ends_document`, as of [`passage_dataset`].
        pairs (`list[tuple[str, str]]`): noisy and clean, of which ends that are hardly each other's are left out.
        length, min_length (`int`): bytes of a clean passage at most and at least.
        share (`float`): of the examples that are pairs; seed (`int`): of the mixture.

    Returns:
        `datasets.Dataset`: with the column `noisy` as well, `None` for passages.

    Raises:
        ValueError: where no pair is as long.
    """
    cut = [pair for both in pairs for pair in aligned_passages(*both, length, loose_ends=False)]
    cut = [pair for pair in cut if len(pair[1].encode("utf-8")) >= min_length]
    if not cut:
        raise ValueError(f"no pair has a part of {min_length} to {length} bytes")
    given, kept = (sum(len(clean.encode("utf-8")) for _, clean in some) for some in (pairs, cut))
    if kept < given:
        logger.info(
            f"pairs: {len(cut)} passages of {min_length} to {length} bytes have {kept / given:.1%} of the clean text"
        )
    noisy, clean = map(list, zip(*cut, strict=True))
    paired = datasets.Dataset.from_dict({"text": clean, "ends_document": [False] * len(clean), "noisy": noisy})
    if share == 1:
        return paired
    passages = passages.add_column("noisy", [None] * len(passages), feature=datasets.Value("string"))
    paired = paired.cast(passages.features)
    return datasets.interleave_datasets(
        [passages, paired], probabilities=[1 - share, share], seed=seed, stopping_strategy="all_exhausted"
    )
