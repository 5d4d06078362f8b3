"""Restoring noisy texts of any length: windows, what a model would write otherwise in each, and which of that to believe."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

PIECES = re.compile(r"\s+|\S+")


@dataclass(frozen=True)
class SuggestedEdit:
    """What a model would write in place of a part of a text.

    Attributes:
        start, end (`int`): characters of the text, from and to.
        replacement (`str`): what to write there.
        gain (`float`): by how many nats the model finds the text likelier with this edit alone.
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
    """Words and the white space between them, those of more than `longest` bytes cut between characters."""
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
        back, common = last, 0
        while back - 1 > first and common + sizes[back - 1] <= overlap:
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
    """Where a restored text differs from a noisy one, in whole words and white space: `(start, end, replacement)` of each.

    Args:
        noisy, restored (`str`).
    """
    before, after = PIECES.findall(noisy), PIECES.findall(restored)
    offsets = [0]
    for piece in before:
        offsets.append(offsets[-1] + len(piece))
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [(offsets[a], offsets[b], "".join(after[c:d])) for kind, a, b, c, d in blocks if kind != "equal"]


def apply_suggested(text, edits, min_gain):
    """A text with the edits that gain at least so much; of two that overlap, the one that gains more."""
    best = []
    for edit in sorted((edit for edit in edits if edit.gain >= min_gain), key=lambda edit: (edit.start, edit.end)):
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
