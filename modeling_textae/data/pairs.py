"""Pairs of noisy and clean texts, out of files."""

import datasets

from .corpora import file_format


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
        `list[tuple[str, str]]`: noisy and clean.

    Raises:
        FileNotFoundError: for a missing file. ValueError: for one without these columns, shares that are none, texts that are not
        aligned, or no pair with a clean text.
    """
    if not 0 <= first < last <= 1:
        raise ValueError(f"from {first} to {last} there are no records: accepted are shares, the first below the last")
    records = datasets.load_dataset(file_format(path), data_files=str(path), split="train")
    missing = [name for name in (noisy, clean) if name not in records.column_names]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}, only {', '.join(records.column_names)}")
    records = records.select(range(round(first * len(records)), round(last * len(records))))
    pairs = list(zip(records[noisy], records[clean], strict=True))
    if pad is not None:
        pairs = [unaligned(*pair, pad, ignored) for pair in pairs]
    pairs = [pair for pair in pairs if pair[1]]
    if not pairs:
        raise ValueError(f"{path} has no clean text from {first} to {last}")
    return pairs


def unaligned(noisy, clean, pad, ignored):
    """Aligned texts without what fills gaps and what is ignored."""
    if len(noisy) != len(clean):
        raise ValueError(f"aligned texts are as long as each other: got {len(noisy)} and {len(clean)} characters")
    kept = [both for both in zip(noisy, clean, strict=True) if ignored not in both]
    return tuple("".join(side).replace(pad, "") for side in zip(*kept, strict=True)) if kept else ("", "")
