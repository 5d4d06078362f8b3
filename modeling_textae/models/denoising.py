"""Restoring noisy texts of any length: windows, what a model would write otherwise in each, and which of that to believe."""

import re
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import pairwise

from tqdm.auto import trange

# Each word with the white space behind it, as passages are cut; what stands before the first word is a piece of its own.
PIECES = re.compile(r"\S+\s*|\s+")
LONG_EDIT = 32  # characters, beyond which an edit without shared white space is cut where both texts agree
AGREEMENT = 4  # characters that both then share at least


@dataclass(frozen=True)
class SuggestedEdit:
    """What a model would write in place of a part of a text.

    Attributes:
        start, end (`int`): characters of the text, from and to.
        replacement (`str`): what to write there.
        gain (`float`): by how many nats the model finds the text likelier with it, alone or beside the others of its window.
    """

    start: int
    end: int
    replacement: str
    gain: float


@dataclass(frozen=True)
class Window:
    """A part of a text.

    Attributes:
        start (`int`): its first character.
        text (`str`).
        core (`tuple[int, int]`): characters of the whole text whose edits this window decides, from and to.
    """

    start: int
    text: str
    core: tuple[int, int]


def pieces_of(text, longest):
    """Words with the white space behind them, those of more than `longest` bytes cut between characters."""
    for piece in PIECES.findall(text):
        if len(piece) * 4 <= longest or len(piece.encode("utf-8", "surrogatepass")) <= longest:
            yield piece
        else:
            size = max(longest // 4, 1)  # no character takes more than four bytes
            yield from (piece[i : i + size] for i in range(0, len(piece), size))


def windows_of(text, length, overlap):
    """Windows of whole words that cover a text, each with the last words of the one before; of what two have in common, each
    decides a half.

    Args:
        text (`str`), length (`int`): bytes of a window at most, at least 4; overlap (`int`): bytes that two share at most.

    Returns:
        `list[Window]`.
    """
    pieces = list(pieces_of(text, length))
    sizes = [len(piece.encode("utf-8", "surrogatepass")) for piece in pieces]
    spans, first = [], 0
    while first < len(pieces):
        last, size = first, 0
        while last < len(pieces) and size + sizes[last] <= length:
            size += sizes[last]
            last += 1
        spans.append((first, last))
        if last == len(pieces):
            break
        # What comes next has to fit beside what both have in common.
        room = min(overlap, length - sizes[last])
        back, common = last, 0
        while back - 1 > first and common + sizes[back - 1] <= room:
            back -= 1
            common += sizes[back]
        first = back
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    borders = [0] + [offsets[(b + a) // 2] for (_, a), (b, _) in pairwise(spans)] + [len(text)]
    return [
        Window(offsets[a], text[offsets[a] : offsets[b]], (borders[i], borders[i + 1]))
        for i, (a, b) in enumerate(spans)
    ]


def word_edits(noisy, restored):
    """Where a restored text differs from a noisy one, in whole words: `(start, end, replacement)` of each.

    Words that one text parts and the other joins are one edit. Where nothing is parted for long, as in scripts without spaces, an
    edit ends where the texts agree again.

    Args:
        noisy, restored (`str`).
    """
    blocks = SequenceMatcher(None, noisy, restored, autojunk=False).get_matching_blocks()
    cuts = [(0, 0)]
    for a, b, size in blocks:
        for i in range(size):
            if noisy[a + i].isspace():
                cuts += [(a + i, b + i), (a + i + 1, b + i + 1)]
    agreed = [(a + i, b + i) for a, b, size in blocks if size >= AGREEMENT for i in (0, size)]
    cuts.append((len(noisy), len(restored)))
    edits = []
    for start, end in pairwise(cuts):
        inner = [cut for cut in agreed if start < cut < end] if end[0] - start[0] > LONG_EDIT else []
        for (a, b), (c, d) in pairwise([start, *inner, end]):
            if noisy[a:c] != restored[b:d]:
                edits.append((a, c, restored[b:d]))
    return edits


def without_each(noisy, restored, edits):
    """A restored text with one of its edits taken back at a time.

    Args:
        noisy, restored (`str`), edits (`list[tuple[int, int, str]]`): as of [`word_edits`].

    Returns:
        `list[str]`, one for each edit.
    """
    texts, moved = [], 0
    for start, end, new in edits:
        place = start + moved
        texts.append(restored[:place] + noisy[start:end] + restored[place + len(new) :])
        moved += len(new) - (end - start)
    return texts


def listed(texts):
    """Texts as a list; a text alone, which is a sequence of texts as well, raises `ValueError`."""
    if isinstance(texts, str):
        raise ValueError("texts are a list: give [text] for one alone")
    return list(texts)


def in_batches(function, rows, batch_size, show_progress, label):
    """What a function of lists says of each of some rows, so many at once, with a progress bar.

    Args:
        function (callable): from a list to a list of the same length; rows (`list`); batch_size (`int`); show_progress (`bool`);
            label (`str`): of the bar.

    Returns:
        `list`.
    """
    found = []
    for start in trange(0, len(rows), batch_size, disable=not show_progress, desc=label, leave=False):
        found += function(rows[start : start + batch_size])
    return found


def edits_by_windows(texts, edits_of, window, overlap):
    """What is suggested for texts of any length, window by window.

    Args:
        texts (`list[str]`).
        edits_of (callable): from a `list[str]` of all windows, the longest first, to the [`SuggestedEdit`]s of each.
        window (`int`), overlap (`int`): bytes that are read at once, and that neighbouring windows have in common; each decides a
            half.

    Returns:
        `list[list[SuggestedEdit]]`, by their starts.

    Raises:
        ValueError: for an overlap that is more than a half of the window, a window below 16 bytes, or a text alone.
    """
    if window < 16 or not 0 <= overlap <= window // 2:
        raise ValueError(f"overlap {overlap} of a window of {window} bytes: accepted are 0 to a half, of 16 or more")
    texts = listed(texts)
    found = [[] for _ in texts]
    every = [(i, part) for i, text in enumerate(texts) for part in windows_of(text, window, overlap)]
    # A batch takes as long as its longest window; the largest come first, so that memory grows no more.
    every.sort(key=lambda pair: -len(pair[1].text.encode("utf-8", "surrogatepass")))
    for (i, part), edits in zip(every, edits_of([part.text for _, part in every]), strict=True):
        for edit in edits:
            moved = replace(edit, start=edit.start + part.start, end=edit.end + part.start)
            middle = (moved.start + moved.end) / 2
            if part.core[0] <= middle < part.core[1] or middle == part.core[1] == len(texts[i]):
                found[i].append(moved)
    return [sorted(edits, key=lambda edit: (edit.start, edit.end)) for edits in found]


def changed_characters(first, second):
    """The fewest characters to insert, delete or replace that make one text of another.

    Source: Wagner and Fischer 1974, "The string-to-string correction problem". No library's: it travels with checkpoints.

    Args:
        first, second (`str`): words; the time grows with the product of their lengths.

    Returns:
        `int`.
    """
    row = list(range(len(second) + 1))
    for i, mine in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, theirs in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (mine != theirs))
    return row[-1]


def apply_suggested(text, edits, min_gain):
    """A text with the edits that gain enough; of two that overlap, the one that gains more.

    Edits of many characters are rarely right and gain much, so that a margin is of each character that changes.

    Args:
        text (`str`), edits (`list[SuggestedEdit]`).
        min_gain (`float`): nats for each character that an edit changes; from 0 down, of the whole edit.

    Returns:
        `str`.
    """

    def gains_enough(edit):
        if edit.gain < min_gain or min_gain <= 0:
            return edit.gain >= min_gain
        return edit.gain >= min_gain * changed_characters(text[edit.start : edit.end], edit.replacement)

    best = []
    for edit in sorted(filter(gains_enough, edits), key=lambda edit: (edit.start, edit.end)):
        if best and edit.start < max(best[-1].end, best[-1].start + 1):
            if edit.gain > best[-1].gain:
                best[-1] = edit
        else:
            best.append(edit)
    parts, place = [], 0
    for edit in best:
        parts += [text[place : edit.start], edit.replacement]
        place = edit.end
    return "".join([*parts, text[place:]])
