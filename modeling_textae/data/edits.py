"""Edits of texts, many at once: arrays of code points, the replacements made in them, and where each character came from."""

from dataclasses import dataclass

import numpy as np

MAX_CHARACTER = 0x110000


def code_points(text):
    """The code points of a text, shape `(n,)`."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def text_of(codes):
    """The text of code points, shape `(n,)`."""
    return np.ascontiguousarray(codes, dtype=np.uint32).tobytes().decode("utf-32-le", "surrogatepass")


@dataclass(frozen=True)
class NoisyText:
    """A noisy text and where it comes from.

    Attributes:
        text (`str`).
        source (`np.ndarray` of int, shape `(len(text) + 1,)`): never falling; `text[i:j]` stands for the characters from
            `source[i]` to `source[j]` of what it was made from.
    """

    text: str
    source: np.ndarray


@dataclass
class Edits:
    """Replacements in a text: characters from `starts` to `ends` by others, or, where both are equal, an insertion.

    Attributes:
        starts, ends (`np.ndarray` of int, shape `(n,)`).
        lengths (`np.ndarray` of int, shape `(n,)`): of the replacements.
        codes (`np.ndarray` of uint32, shape `(lengths.sum(),)`): these, one after the other.
    """

    starts: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray
    codes: np.ndarray

    def __len__(self):
        return len(self.starts)

    @classmethod
    def of(cls, starts, ends, table, chosen):
        """Edits whose replacements are rows, shape `(n,)`, of a [`StringTable`]."""
        lengths, codes = table.take(chosen)
        return cls(starts, ends, lengths, codes)

    @classmethod
    def joined(cls, parts):
        """Several edits as one, in their order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def take(self, rows):
        """Some of the edits, shape `(m,)`."""
        offsets = np.cumsum(self.lengths) - self.lengths
        lengths = self.lengths[rows]
        return Edits(self.starts[rows], self.ends[rows], lengths, self.codes[ranges(offsets[rows], lengths)])


class StringTable:
    """Strings as code points end to end.

    Args:
        strings (`list[str]`).
    """

    def __init__(self, strings):
        self.strings = list(strings)
        parts = [code_points(string) for string in self.strings]
        self.lengths = np.array([len(part) for part in parts], dtype=np.int64)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        self.codes = np.concatenate([*parts, np.zeros(0, dtype=np.uint32)])

    def take(self, rows):
        """Lengths and code points of some strings, end to end."""
        lengths = self.lengths[rows]
        return lengths, self.codes[ranges(self.offsets[rows], lengths)]


def ranges(starts, lengths):
    """The whole numbers from each start on, so many of each, end to end."""
    before = np.cumsum(lengths) - lengths
    found = np.repeat(starts - before, lengths)
    found += np.arange(len(found))
    return found


def apply_edits(codes, edits):
    """Edit code points; of edits that overlap, the first in the text holds, and of those that begin together the first given.

    Args:
        codes (`np.ndarray` of uint32, shape `(n,)`), edits ([`Edits`]): in any order.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the edited code points, shape `(m,)`, and `source` as of [`NoisyText`], shape
        `(m + 1,)`.
    """
    size = len(codes)
    order = np.argsort(edits.starts, kind="stable")
    edits = edits.take(order[apart(edits.starts[order], np.maximum(edits.ends, edits.starts + 1)[order])])

    # What is kept before each edit and after the last, and between these the replacements, all out of one array.
    count = len(edits)
    begins, lengths = np.empty(2 * count + 1, dtype=np.int64), np.empty(2 * count + 1, dtype=np.int64)
    begins[0::2] = np.concatenate(([0], edits.ends))
    lengths[0::2] = np.concatenate((edits.starts, [size])) - begins[0::2]
    begins[1::2] = size + np.cumsum(edits.lengths) - edits.lengths
    lengths[1::2] = edits.lengths
    index = ranges(begins, lengths)
    found = np.concatenate((codes, edits.codes))[index]
    source = np.concatenate((index, [size]))
    offsets = np.cumsum(lengths) - lengths
    source[ranges(offsets[1::2], edits.lengths)] = np.repeat(edits.starts, edits.lengths)
    return found, source


def apart(starts, ends):
    """Which spans, by rising starts, begin no earlier than the last chosen one before them ends; shape `(n,)`."""
    chosen, left = np.zeros(len(starts), dtype=bool), np.arange(len(starts))
    while len(left):
        before = np.concatenate(([-1], ends[left][:-1]))
        # Those after all that came before them are chosen for certain, and what they overlap is not.
        certain = starts[left] >= np.maximum.accumulate(before)
        chosen[left[certain]] = True
        reached = np.maximum.accumulate(np.where(np.concatenate(([False], certain[:-1])), before, -1))
        left = left[~certain & (starts[left] >= reached)]
    return chosen


def at(codes, places):
    """The code points at places, 0 where there is none."""
    inside = (places >= 0) & (places < len(codes))
    return np.where(inside, codes[np.clip(places, 0, max(len(codes) - 1, 0))], 0) if len(codes) else places * 0
