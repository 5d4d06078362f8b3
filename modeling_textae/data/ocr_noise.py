"""Noise as a collection of noisy and clean texts has it: what is taken for what, how often, after which character.

A channel that works place by place: where a run of up to three characters begins, after a given character, each replacement
has a rate of its own, estimated from counts that rarer contexts share with the run itself, and rarer runs with all characters.
Source: after Kernighan, Church and Gale 1990, "A spelling correction program based on a noisy channel model", with runs in
place of single characters, as Brill and Moore 2000, "An improved error model for noisy channel spelling correction".
"""

import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein
from transformers.utils import cached_file

from .edits import MAX_CHARACTER, Edits, NoisyText, StringTable, apply_edits, at, code_points, text_of
from .noise import check_rate

FILE_NAME = "ocr_noise.json"
LONGEST = 3  # characters of a run, clean or noisy; longer differences count as single characters
CONTEXT_WEIGHT = 20.0  # occurrences of a run after a character that count as much as the run's own rate
RUN_WEIGHT = 20.0  # occurrences of a run that count as much as no edit at all
TRIALS = (0.1, 0.2, 0.3, 0.4)  # edits for each character, at which those that overlap are counted
KEY_FACTOR = 0x9E37_79B9_7F4A_7C15  # spreads the numbers of runs over 64 bits, so that no two meet
BUCKETS = 1 << 16  # of pairs of characters, each with the most that may happen to any of them
SAMPLED = 50_000  # places of a text that say how strong the noise on it is


def edits_between(clean, noisy):
    """The runs in which two texts differ, as short as [`LONGEST`] asks, each `(start, end, replacement)`.

    Args:
        clean, noisy (`str`).
    """
    found = []
    for block in Levenshtein.opcodes(clean, noisy):
        if block.tag == "equal":
            continue
        edit = block.src_start, block.src_end, noisy[block.dest_start : block.dest_end]
        # What touches is one run: rn for m is no substitution beside a deletion.
        if found and found[-1][-1][1] == edit[0]:
            found[-1].append(edit)
        else:
            found.append([edit])
    whole = []
    for run in found:
        start, end, target = run[0][0], run[-1][1], "".join(edit[2] for edit in run)
        if max(end - start, len(target)) <= LONGEST:
            whole.append((start, end, target))
        else:
            whole += [single for edit in run for single in single_edits(*edit)]
    return whole


def single_edits(start, end, target):
    """An edit as edits of single characters."""
    number = max(end - start, len(target))
    return [(min(start + i, end), min(start + i + 1, end), target[i : i + 1]) for i in range(number)]


def aligned_edits(clean, noisy, pad):
    """As of [`edits_between`], of texts that are aligned already, character by character; and the clean text without padding.

    Raises:
        ValueError: where their lengths differ.
    """
    if len(clean) != len(noisy):
        raise ValueError(f"aligned texts are as long as each other: got {len(clean)} and {len(noisy)} characters")
    found, run, place = [], None, 0
    for mine, theirs in zip(clean, noisy, strict=True):
        width = int(mine != pad)
        if mine == theirs:
            run = None
        else:
            if run is None:
                run = []
                found.append(run)
            run.append((place, place + width, theirs.replace(pad, "")))
        place += width
    edits = []
    for run in found:
        start, end, target = run[0][0], run[-1][1], "".join(edit[2] for edit in run)
        edits += [(start, end, target)] if max(end - start, len(target)) <= LONGEST else run
    return [edit for edit in edits if edit[1] > edit[0] or edit[2]], clean.replace(pad, "")


@dataclass
class Channel:
    """What may happen to runs of one length in one kind of context, as arrays.

    Attributes:
        keys (`np.ndarray` of uint64, shape `(n,)`): of context and run, rising.
        rates (`np.ndarray`, shape `(n,)`): of any edit there.
        ends (`np.ndarray`, shape `(n,)`): where each key's edits end among all.
        shares (`np.ndarray`, shape `(m,)`): running total of the edits' rates, over all keys.
        targets (`np.ndarray` of int, shape `(m,)`): which string each edit writes.
        costs (`np.ndarray`, shape `(n,)`): mean edits of characters in an edit there.
    """

    keys: np.ndarray
    rates: np.ndarray
    ends: np.ndarray
    shares: np.ndarray
    targets: np.ndarray
    costs: np.ndarray

    def rows(self, keys):
        """Which row each key has, -1 for none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        row = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[row] == keys, row, -1)


def key_of(context, run):
    """The number of a run of up to three characters after a context, of one character or, for any, none."""
    number = ord(context) + 1 if context else 0
    for character in run:
        number = (((number ^ number >> 29) * KEY_FACTOR) + ord(character) + 1) & (1 << 64) - 1
    return number


def longer_keys(keys, characters):
    """[`key_of`] of runs that go on, each of shape `(n,)`, by one character: arrays of uint64, which may overflow."""
    return (keys ^ keys >> np.uint64(29)) * np.uint64(KEY_FACTOR) + characters.astype(np.uint64) + np.uint64(1)


class OcrNoiseModel:
    """Noise fitted to pairs of noisy and clean texts.

    Args:
        edits (`dict[tuple[str, str, str], int]`): how often a run of clean characters, after a character or `""` for all of these
            together, was read as another.
        occurrences (`dict[tuple[str, str], int]`): how often the run stands after that character in the clean texts.
        strengths (`list[float]`): character error rates of the pairs, a hundred quantiles of them.
        overlap (`float`, defaults to 0): by what share of themselves edits that are expected of all characters would fall short
            of as high a character error rate, since they overlap and undo each other; of fewer, as many times less.

    Attributes:
        sources (`dict[str, list[str]]`): of each noisy run, `""` for what was dropped, the clean ones that it was made of.

    Example:

    ```python
    >>> model = OcrNoiseModel.fit([("tlie river", "the river"), ("a boat", "a boat")])
    >>> noisy = model("the end of the river", 0.05, np.random.default_rng(0))
    ```
    """

    def __init__(self, edits, occurrences, strengths, overlap=0.0):
        self.counts, self.occurrences, self.strengths = dict(edits), dict(occurrences), list(strengths)
        self.overlap = overlap
        runs = sorted({(context, run) for context, run, _ in self.counts})
        self.rates = rates = {}
        self.sources, self.table = {}, StringTable(sorted({target for _, _, target in self.counts}))
        number = {target: i for i, target in enumerate(self.table.strings)}
        of_run = {}
        for (context, run, target), count in sorted(self.counts.items()):
            of_run.setdefault((context, run), {})[target] = count
            if not context:
                self.sources.setdefault(target, []).append(run)
        for context, run in sorted(runs, key=lambda pair: pair[0] != ""):
            seen = self.occurrences[context, run]
            if not context:
                rates["", run] = {t: n / (seen + RUN_WEIGHT) for t, n in of_run["", run].items()}
                continue
            own, general = of_run[context, run], rates["", run]
            rates[context, run] = {
                t: (own.get(t, 0) + CONTEXT_WEIGHT * rate) / (seen + CONTEXT_WEIGHT) for t, rate in general.items()
            }
        # For each length of a run what is known after a character, and what is known of the run alone.
        self.known, self.general = (
            [
                self.channel({k: r for k, r in rates.items() if len(k[1]) == length and bool(k[0]) == known}, number)
                for length in range(LONGEST + 1)
            ]
            for known in (True, False)
        )
        letters = sorted({c for context, run in rates for c in (context, *run) if c})
        self.letters = np.zeros(MAX_CHARACTER, dtype=np.int32)
        self.letters[[ord(c) for c in letters]] = 1 + np.arange(len(letters))
        self.limits = self.limits_of(rates, len(letters) + 1)

    @staticmethod
    def channel(rates, number):
        """[`Channel`] of some rates, `{(context, run): {target: rate}}`."""
        keyed = sorted((key_of(*pair), pair) for pair in rates)
        flat = [(target, rate) for _, pair in keyed for target, rate in rates[pair].items()]
        sizes = np.array([len(rates[pair]) for _, pair in keyed], dtype=np.int64)
        totals = np.array([sum(rates[pair].values()) for _, pair in keyed])
        costs = [
            sum(rate * Levenshtein.distance(pair[1], target) for target, rate in rates[pair].items())
            for _, pair in keyed
        ]
        return Channel(
            np.array([key for key, _ in keyed], dtype=np.uint64),
            totals,
            np.cumsum(sizes),
            np.cumsum([rate for _, rate in flat]),
            np.array([number[target] for target, _ in flat], dtype=np.int64),
            np.array(costs) / np.maximum(totals, 1e-300),
        )

    def limits_of(self, rates, size):
        """The most that may happen to a run of each length: by one character, shape `(size,)`, and, where it is higher, by the
        bucket of two, shape `(BUCKETS,)`. The one is the character at the place, or, of insertions, before it; the two are those
        before and at the place, or, of longer runs, their first two. A draw under it says which places to look at closely."""
        limits = [(np.zeros(size), np.zeros(BUCKETS)) for _ in range(LONGEST + 1)]
        for context, run in sorted(rates, key=lambda pair: pair[0] != ""):
            rate = sum(rates[context, run].values())
            before, *letters = (int(self.letters[ord(c)]) if c else 0 for c in (context, *run))
            single, pairs = limits[len(run)]
            if len(run) == 0:
                single[before if context else slice(None)] = rate
            elif len(run) == 1 and not context:
                single[letters[0]] = rate
            else:
                bucket = bucket_of(before, letters[0]) if len(run) == 1 else bucket_of(*letters[:2])
                pairs[bucket] = max(pairs[bucket], rate)
        return limits

    # Fitting

    @classmethod
    def fit(cls, pairs, aligned=False, pad="@", min_count=2, seed=0):
        """Learn from noisy and clean texts.

        Args:
            pairs (`list[tuple[str, str]]`): noisy and clean, one for one.
            aligned (`bool`, defaults to `False`): whether each pair is aligned already, character by character, gaps filled by
                `pad`; otherwise the fewest edits align it.
            pad (`str`, defaults to `"@"`).
            min_count (`int`, defaults to 2): what happened less often after a character is told by the run alone.
            seed (`int`, defaults to 0): of the trial that says how many edits overlap.

        Returns:
            [`OcrNoiseModel`].

        Raises:
            ValueError: for what is no pair, no pair that differs, aligned texts that are not, or a `pad` of more than one
                character.
        """
        if len(pad) != 1:
            raise ValueError(f"pad {pad!r} is not one character")
        counts, texts, strengths = Counter(), [], []
        for pair in pairs:
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(f"{pair!r} is no pair: give (noisy, clean)")
            noisy, clean = pair
            edits, clean = aligned_edits(clean, noisy, pad) if aligned else (edits_between(clean, noisy), clean)
            if not clean:
                continue
            texts.append(clean)
            distance = sum(Levenshtein.distance(clean[start:end], target) for start, end, target in edits)
            strengths.append(distance / len(clean))
            for start, end, target in edits:
                run = clean[start:end]
                counts["", run, target] += 1
                counts[clean[start - 1] if start else "\n", run, target] += 1
        if not counts:
            raise ValueError("no pair differs: there is no noise to learn from")
        counts = {key: count for key, count in counts.items() if not key[0] or count >= min_count}
        occurrences = occurrences_of({key[:2] for key in counts}, texts)
        quantiles = np.quantile(strengths, np.linspace(0, 1, 101)).round(6).tolist()
        model = cls(counts, occurrences, quantiles)
        model.overlap = model.trial(texts, seed)
        return model

    def rate(self, context, run, target):
        """How often a run of clean characters, `""` for an insertion, is read as a target after the character `context`; 0 where
        that was never seen."""
        return self.rates.get((context, run), self.rates.get(("", run), {})).get(target, 0.0)

    def trial(self, texts, seed):
        """What `overlap` is on these texts."""
        text, generator, found = "\n".join(texts)[:SAMPLED], np.random.default_rng(seed), []
        for wanted in TRIALS:
            for _ in range(min(SAMPLED // len(text), 200)):  # a short text says little at a time
                noisy, _, expected = self.at_rate(code_points(text), wanted, generator)
                found.append((expected, Levenshtein.distance(text, text_of(noisy)) / len(text)))
        expected, realised = np.array(found).T
        # The least squares of realised = expected - overlap * expected^2.
        return round(max(float((expected**2 @ (expected - realised)) / (expected**4).sum()), 0.0), 4)

    # Use

    def __call__(self, text, strength, generator):
        """Make a text noisy.

        Args:
            text (`str`), strength (`float`): the wanted character error rate, from 0 to 1; where it is more than these edits can
                make, the most that they can.
            generator (`np.random.Generator`).

        Returns:
            [`NoisyText`].

        Raises:
            ValueError: for a strength below 0 or above 1.
        """
        check_rate(strength)
        # strength = expected - overlap * expected^2
        root = math.sqrt(max(1 - 4 * self.overlap * strength, 0.0))
        found, source, _ = self.at_rate(code_points(text), 2 * strength / (1 + root), generator)
        return NoisyText(text_of(found), source)

    def draw_strength(self, mean, generator):
        """The strength of one text, as the pairs' own differ, their mean scaled to `mean`; 1 at most."""
        levels = np.asarray(self.strengths, dtype=float)
        drawn = np.interp(generator.random(), np.linspace(0, 1, len(levels)), levels)
        return min(float(drawn * scale_of(levels, mean)), 1.0)

    def at_rate(self, codes, wanted, generator):
        """Edit code points so that edits of so many characters, for each of theirs, are expected.

        Returns:
            `tuple`: as of [`apply_edits`], and how many were expected: fewer where there are too few places.
        """
        if not len(codes) or not wanted:
            return *apply_edits(codes, Edits.joined([self.drawn(*self.nowhere(), generator)])), 0.0
        sample = np.arange(len(codes)) if len(codes) <= SAMPLED else generator.integers(len(codes), size=SAMPLED)
        rates, costs = np.array([self.looked_up(codes, sample, length)[:2] for length in range(LONGEST + 1)]).swapaxes(
            0, 1
        )
        factor, parts = scale_to(rates, costs, wanted * len(sample)), []
        expected = float((np.minimum(factor * rates, 1) * costs).sum()) / len(sample)
        letters = self.letters[codes]
        first = self.letters[ord("\n")]
        for length, (single, pairs) in enumerate(self.limits):
            # Insertions have a place more, at the end.
            here = np.append(first, letters) if length == 0 else letters
            second = np.append(letters[1:], 0) if length > 1 else letters
            limits = single[here]
            if length:
                both = (here, second) if length > 1 else (np.append(first, letters[:-1]), letters)
                limits = np.maximum(limits, pairs[bucket_of(*both)])
            limits = np.minimum(factor * limits, 1)
            places = np.flatnonzero(generator.random(len(limits), dtype=np.float32) < limits)
            rates, _, row, known = self.looked_up(codes, places, length)
            taken = generator.random(len(places)) * limits[places] < factor * rates
            parts.append(self.drawn(places[taken], length, row[taken], known[taken], generator))
        return *apply_edits(codes, Edits.joined(parts)), expected

    @staticmethod
    def nowhere():
        """Arguments of [`drawn`] for no edit."""
        none = np.zeros(0, dtype=np.int64)
        return none, 0, none, none > 0

    def drawn(self, places, length, row, known, generator):
        """One [`Edits`] of runs of a length at each place, by rows of its channels."""
        chosen, draws = np.zeros(len(places), dtype=np.int64), generator.random(len(places))
        for mine, channel in ((known, self.known[length]), (~known, self.general[length])):
            if not mine.any():
                continue
            first = np.concatenate(([0], channel.ends))[row[mine]]
            last = channel.ends[row[mine]] - 1
            reached = channel.shares[last] - (1 - draws[mine]) * channel.rates[row[mine]]
            edit = np.searchsorted(channel.shares, reached, side="right").clip(first, last)
            chosen[mine] = channel.targets[edit]
        return Edits.of(places, places + length, self.table, chosen)

    def looked_up(self, codes, places, length):
        """What may happen to runs of a length at places, shape `(n,)`: where the run is known after its character, as that says,
        otherwise as the run alone says.

        Returns:
            `tuple[np.ndarray, ...]`: rates, costs, rows of the channels, -1 for none, and whether the character is known, each of
            shape `(n,)`.
        """
        key = np.where(places > 0, at(codes, places - 1), ord("\n")).astype(np.uint64) + np.uint64(1)
        general = np.zeros(len(places), dtype=np.uint64)
        for i in range(length):
            character = at(codes, places + i)
            key, general = longer_keys(key, character), longer_keys(general, character)
        row = self.known[length].rows(key)
        known = row >= 0
        row = np.where(known, row, self.general[length].rows(general))
        row[places + length > len(codes)] = -1
        rates, costs = np.zeros(len(places)), np.zeros(len(places))
        for mine, channel in ((known & (row >= 0), self.known[length]), (~known & (row >= 0), self.general[length])):
            rates[mine], costs[mine] = channel.rates[row[mine]], channel.costs[row[mine]]
        return rates, costs, row, known

    # Storing

    def save_pretrained(self, save_directory):
        """Write the counts as JSON to a folder.

        Args:
            save_directory (`str`): made where it is missing.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        stored = {
            "edits": [[*key, count] for key, count in sorted(self.counts.items())],
            "occurrences": [[*key, count] for key, count in sorted(self.occurrences.items())],
            "strengths": self.strengths,
            "overlap": self.overlap,
        }
        aside = folder / f"{FILE_NAME}.partial"
        aside.write_text(json.dumps(stored), encoding="utf-8")
        os.replace(aside, folder / FILE_NAME)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Read what [`save_pretrained`] wrote.

        Args:
            pretrained_model_name_or_path (`str`): a folder or a repository of the Hub; kwargs: as of transformers' `cached_file`.

        Raises:
            OSError: where there is none. ValueError: for a file that is none of these.
        """
        path = cached_file(pretrained_model_name_or_path, FILE_NAME, **kwargs)
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            edits = {(context, run, target): count for context, run, target, count in stored["edits"]}
            occurrences = {(context, run): count for context, run, count in stored["occurrences"]}
            return cls(edits, occurrences, stored["strengths"], stored["overlap"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no stored OcrNoiseModel: {error}") from error


def bucket_of(first, second):
    """The bucket of two of a model's letters."""
    return (first * 40_503 + second) % BUCKETS


def scale_of(levels, mean):
    """The factor by which a curve through levels, shape `(n,)`, evenly spaced, has this mean, cut off at 1; where none is enough,
    a large one."""

    def mean_of(curve):
        return (curve[1:] + curve[:-1]).mean() / 2

    scale = mean / max(mean_of(levels), 1e-9)
    for _ in range(20):  # the rest makes up for what is cut off
        reached = mean_of(np.minimum(scale * levels, 1.0))
        if reached >= 0.999 * mean:
            break
        scale *= mean / max(reached, 1e-9)
    return scale


def scale_to(rates, costs, wanted):
    """The factor of rates at which `sum(min(factor * rates, 1) * costs)` is as wanted, or, where it never is, the one from which
    it grows no more.

    Args:
        rates, costs (`np.ndarray` of one shape), wanted (`float`).

    Returns:
        `float`.
    """
    rates, costs = rates[rates > 0], costs[rates > 0]
    if not len(rates):
        return 0.0
    order = np.argsort(-rates)
    rates, costs = rates[order], costs[order]
    # With the largest rates at 1, the others make up the rest: what is reached where each meets 1 says how many are.
    full = np.concatenate(([0.0], np.cumsum(costs)))
    rest = np.concatenate((np.cumsum((rates * costs)[::-1])[::-1], [0.0]))
    reached = full[:-1] + rest[:-1] / rates
    number = int(np.searchsorted(reached, wanted))
    return float((wanted - full[number]) / rest[number]) if number < len(rates) else float(1 / rates[-1])


def occurrences_of(wanted, texts):
    """How often runs stand after a character, `""` for any, in texts, between which there is a line's end.

    Args:
        wanted (`set[tuple[str, str]]`): contexts and runs; texts (`list[str]`).

    Returns:
        `dict[tuple[str, str], int]`.
    """
    codes, found = code_points("\n".join(texts)), dict.fromkeys(wanted, 0)
    before = np.append(ord("\n"), codes).astype(np.uint64) + np.uint64(1)
    for length in range(LONGEST + 1):
        places = len(codes) - length + 1
        for known in (True, False):
            mine = [pair for pair in wanted if len(pair[1]) == length and bool(pair[0]) == known]
            if not mine or places < 1:
                continue
            mine.sort(key=lambda pair: key_of(*pair))
            numbers = np.array([key_of(*pair) for pair in mine], dtype=np.uint64)
            key = before[:places] if known else np.zeros(places, dtype=np.uint64)
            for i in range(length):
                key = longer_keys(key, codes[i : i + places])
            row = np.searchsorted(numbers, key).clip(max=len(numbers) - 1)
            counts = np.bincount(row[numbers[row] == key], minlength=len(mine))
            found.update(zip(mine, counts.tolist(), strict=True))
    return found
