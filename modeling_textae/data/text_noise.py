"""Noise as the world makes it, on text: confusions of characters by OCR, broken and joined words, slips of the keyboard and
misspellings, each with a share of one common strength.

Everything works on arrays of code points, so that megabytes take less than a second; nothing is random but the generator.
"""

from abc import ABC, abstractmethod

import numpy as np

from .edits import MAX_CHARACTER, Edits, NoisyText, StringTable, apply_edits, at, code_points, text_of
from .noise import check_rate

# Where characters of a kind are


class CharacterTable:
    """Which code points a function of a character accepts, to be indexed by arrays of them; made when first asked for.

    Args:
        accepted (callable): a character to whether it is one.
    """

    def __init__(self, accepted):
        self.accepted, self.table = accepted, None

    def __getitem__(self, codes):
        if self.table is None:
            self.table = np.fromiter(
                map(self.accepted, map(chr, range(MAX_CHARACTER))), dtype=bool, count=MAX_CHARACTER
            )
        return self.table[codes]


IS_LETTER = CharacterTable(str.isalpha)
IS_SPACE = CharacterTable(str.isspace)
IS_PUNCTUATION = CharacterTable(".,;:!?'\"()-–—‘’“”".__contains__)
IS_ANYTHING = CharacterTable(bool)


class Noise(ABC):
    """One kind of noise: [`edits`] at those of some places where it can happen."""

    @abstractmethod
    def edits(self, codes, places, generator):
        """Edits of code points, shape `(n,)`, at candidate places, shape `(m,)`; of places where this kind cannot happen, none.

        Args:
            codes (`np.ndarray` of uint32), places (`np.ndarray` of int), generator (`np.random.Generator`).

        Returns:
            [`Edits`].
        """


class Confusions(Noise):
    """Short strings taken for others.

    Args:
        pairs (`list[tuple[str, str]]`): what is read and what for; sources of 1 to 3 characters. Of several that
            begin at a place, each is as likely.
        match_case (`bool`, defaults to `False`): also where the source is capitalised, and then the replacement too.

    Raises:
        ValueError: for a source that is empty or longer.
    """

    LONGEST = 3

    def __init__(self, pairs, match_case=False):
        pairs = list(dict.fromkeys(pairs))
        if match_case:
            seen = set(pairs)
            pairs += [
                (a[:1].upper() + a[1:], b[:1].upper() + b[1:])
                for a, b in pairs
                if (a[:1].upper() + a[1:], b[:1].upper() + b[1:]) not in seen and len(a[:1].upper()) == 1
            ]
        wrong = [source for source, _ in pairs if not 1 <= len(source) <= self.LONGEST]
        if wrong:
            raise ValueError(f"the confusion of {wrong[0]!r} cannot be: accepted are 1 to {self.LONGEST} characters")
        pairs.sort(key=lambda pair: (len(pair[0]), [ord(c) for c in pair[0]]))
        self.pairs, self.table = pairs, StringTable([target for _, target in pairs])
        # For each length the sources' keys, rising, and where each source's targets begin and end among all.
        self.by_length = {}
        for length in sorted({len(source) for source, _ in pairs}):
            keys = np.array([self.key(source) if len(source) == length else -1 for source, _ in pairs], dtype=np.int64)
            own = np.flatnonzero(keys >= 0)
            unique, first, counts = np.unique(keys[own], return_index=True, return_counts=True)
            self.by_length[length] = unique, own[0] + first, counts

    @staticmethod
    def key(source):
        """The number of a string of up to three characters."""
        number = 0
        for character in source:
            number = number << 21 | ord(character)
        return number

    def edits(self, codes, places, generator):
        """As of [`Noise`]."""
        number, seen = np.zeros(len(places), dtype=np.int64), np.zeros(len(places), dtype=np.int64)
        chosen, lengths = np.full(len(places), -1), np.zeros(len(places), dtype=np.int64)
        for length in range(1, max(self.by_length, default=0) + 1):
            number = number << 21 | at(codes, places + length - 1).astype(np.int64)
            if length not in self.by_length:
                continue
            keys, first, count = self.by_length[length]
            row = np.searchsorted(keys, number).clip(max=len(keys) - 1)
            counts = np.where((keys[row] == number) & (places + length <= len(codes)), count[row], 0)
            seen += counts
            # One of all that were seen so far, each as likely.
            drawn = (generator.random(len(places)) * seen).astype(np.int64)
            taken = drawn < counts
            chosen[taken], lengths[taken] = first[row[taken]] + drawn[taken], length
        found = chosen >= 0
        return Edits.of(places[found], places[found] + lengths[found], self.table, chosen[found])


class Insertions(Noise):
    """A string put between two characters.

    Args:
        strings (`list[str]`): one of them, each as likely.
        before, after ([`CharacterTable`]): what the character before and the one after must be.
        times (`int`, defaults to 1): how many such characters there must be on both sides.
    """

    def __init__(self, strings, before, after, times=1):
        self.table, self.before, self.after, self.times = StringTable(strings), before, after, times

    def edits(self, codes, places, generator):
        """As of [`Noise`]."""
        fits = np.ones(len(places), dtype=bool)
        for step in range(self.times):
            fits &= self.before[at(codes, places - 1 - step)] & self.after[at(codes, places + step)]
        places = places[fits]
        return Edits.of(places, places, self.table, generator.integers(len(self.table.lengths), size=len(places)))


class Deletions(Noise):
    """A character dropped.

    Args:
        which ([`CharacterTable`]): what it must be.
        between ([`CharacterTable`], *optional*): what both its neighbours must be.
    """

    def __init__(self, which, between=None):
        self.which, self.between, self.table = which, between, StringTable([""])

    def edits(self, codes, places, generator):
        """As of [`Noise`]."""
        fits = self.which[at(codes, places)]
        if self.between is not None:
            fits &= self.between[at(codes, places - 1)] & self.between[at(codes, places + 1)]
        places = places[fits]
        return Edits.of(places, places + 1, self.table, places * 0)


class Transpositions(Noise):
    """Two letters of a word in the other order."""

    def edits(self, codes, places, generator):
        """As of [`Noise`]."""
        first, second = at(codes, places), at(codes, places + 1)
        fits = IS_LETTER[first] & IS_LETTER[second] & (first != second)
        places = places[fits]
        swapped = np.stack((second[fits], first[fits]), 1).astype(np.uint32)
        return Edits(places, places + 2, np.full(len(places), 2), swapped.ravel())


class Doublings(Noise):
    """A letter written twice, or once where it stands twice."""

    def edits(self, codes, places, generator):
        """As of [`Noise`]."""
        here = at(codes, places)
        fits = IS_LETTER[here]
        places, here = places[fits], here[fits].astype(np.uint32)
        double = here == at(codes, places + 1)
        return Edits(places, places + np.where(double, 2, 0), np.ones(len(places), dtype=np.int64), here)


# What is confused with what

# Shapes that OCR takes for each other, in both directions where both are common.
OCR_CONFUSIONS = [
    *[(a, b) for pair in (
        "rn m", "vv w", "cl d", "li h", "ii u", "ri n", "nn m", "fi ﬁ", "fl ﬂ", "ni m", "in m", "tl d", "lc k", "ti h",
        "ce œ", "I l", "1 l", "1 I", "0 O", "0 o", "5 S", "5 s", "8 B", "6 b", "9 g", "2 z", "i l", "i j", "c e", "o e",
        "a o", "u n", "h b", "f t", "r t", "v y", "s a", "C G", "C O", "D O", "E F", "P F", "R K", "U V", "V Y", "n r",
        "g q", "t l", "t i", "e o", "M N", "H II", "N IV", "W VV", ", .", "; :", "' ’", "\" ”", "- —", "! l", "l |",
    ) for first, second in [pair.split(" ")] for a, b in ((first, second), (second, first)) if len(a) <= 3],
    ("ſ", "f"), ("s", "f"), ("ct", "ft"), ("e", "é"), ("k", "lc"), ("m", "in"), ("w", "iv"), ("y", "v"), ("th", "tli"),
    ("he", "be"), ("d", "cl"), ("ff", "ſſ"), ("st", "ſt"), ("æ", "ee"), ("œ", "ce"), ("£", "L"), ("&", "8"), ("?", "P"),
]  # fmt: skip
# Rows of a keyboard as they lie, each half a key further to the right than the one above.
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# Spellings that sound alike.
PHONETIC = [
    *[(a, b) for pair in (
        "ie ei", "ea ee", "ai ay", "ou ow", "ph f", "ck k", "c k", "s c", "z s", "x cs", "qu kw", "j g", "wh w", "kn n",
        "gh g", "tio sio", "anc enc", "ant ent", "abl ibl", "or er", "ar er", "y i", "i e", "a e", "o u", "au aw",
        "oo u", "ll l", "ss s", "sc s", "mb m", "th t", "ei ee", "ey y", "ure er", "ous us", "our or", "re er",
    ) for first, second in [pair.split(" ")] for a, b in ((first, second), (second, first))],
]  # fmt: skip
SPECKLE = [".", ",", "'", "`", "·", "^", "*", "-", "~", ":", "_", "°", "•"]


def keyboard_neighbours():
    """Pairs of letters on keys that touch."""
    place = {key: (row, column + row / 2) for row, keys in enumerate(KEYBOARD) for column, key in enumerate(keys)}
    return [
        (a, b)
        for a, (row, column) in place.items()
        for b, (other_row, other) in place.items()
        if a != b and abs(row - other_row) <= 1 and abs(column - other) <= 1
    ]


KINDS = {
    "ocr confusions": (Confusions(OCR_CONFUSIONS), 0.40),
    "split words": (Insertions([" "], IS_LETTER, IS_LETTER), 0.04),
    "joined words": (Deletions(IS_SPACE, IS_LETTER), 0.04),
    "lost punctuation": (Deletions(IS_PUNCTUATION), 0.04),
    "hyphen breaks": (Insertions(["-\n", "- "], IS_LETTER, IS_LETTER, times=2), 0.02),
    "speckle": (Insertions(SPECKLE, IS_ANYTHING, IS_ANYTHING), 0.04),
    "keyboard slips": (Confusions(keyboard_neighbours(), match_case=True), 0.10),
    "insertions": (Insertions(list("etaoinshrdlu"), IS_LETTER, IS_LETTER), 0.05),
    "deletions": (Deletions(IS_LETTER), 0.08),
    "transpositions": (Transpositions(), 0.06),
    "doublings": (Doublings(), 0.05),
    "phonetic": (Confusions(PHONETIC, match_case=True), 0.08),
}


class TextNoise:
    """Several kinds of noise at one strength.

    Args:
        kinds (`dict[str, tuple[Noise, float]]`, defaults to [`KINDS`]): each kind, and its share of the edits.

    Raises:
        ValueError: for a negative share, or none above 0.

    Example:

    ```python
    >>> noisy = TextNoise()("the end of the river", 0.1, np.random.default_rng(0))
    ```
    """

    ROUNDS = 8  # of drawing places: after so many, a kind has too few places in the text

    def __init__(self, kinds=None):
        self.kinds = dict(KINDS if kinds is None else kinds)
        shares = np.array([share for _, share in self.kinds.values()], dtype=float)
        if not len(shares) or shares.min() < 0 or not shares.sum():
            raise ValueError(
                f"the shares {shares.tolist()} of noise are none: accepted are 0 and above, one of them above"
            )
        self.shares = shares / shares.sum()

    def __call__(self, text, strength, generator):
        """Make a text noisy.

        Args:
            text (`str`), strength (`float`): edits for each character, from 0 to 1; where the text has too few places for a kind,
                there are fewer. generator (`np.random.Generator`).

        Returns:
            [`NoisyText`].

        Raises:
            ValueError: for a strength below 0 or above 1.
        """
        check_rate(strength)
        codes, parts = code_points(text), []
        for (kind, _), share in zip(self.kinds.values(), self.shares, strict=True):
            parts.append(self.edits(kind, codes, int(generator.binomial(len(codes), strength * share)), generator))
        found, source = apply_edits(codes, Edits.joined(parts))
        return NoisyText(text_of(found), source)

    def draw_strength(self, mean, generator):
        """The strength of one text, evenly from as far below the mean as above, so that some have hardly any noise."""
        return mean + min(mean, 1 - mean) * generator.uniform(-1, 1)

    def edits(self, kind, codes, number, generator):
        """So many edits of a kind, at places drawn evenly out of those where it can happen."""
        parts, have, tried = [kind.edits(codes, np.zeros(0, dtype=np.int64), generator)], 0, 0
        for _ in range(self.ROUNDS):
            if have >= number:
                break
            # As many places more as the share that served so far says.
            want = int(1.1 * (number - have) * (tried / have if have else 2)) + 16
            places = generator.integers(len(codes) + 1, size=min(want, 4 * len(codes) + 16))  # the end is a place, too
            tried += len(places)
            parts.append(kind.edits(codes, places, generator))
            have += len(parts[-1])
        whole = Edits.joined(parts)
        return whole.take(np.arange(min(number, len(whole))))
