"""Restoring noisy texts by Bayes' rule: how likely a text is to a language model of bytes, times how likely a noise model makes
of it what stands there.

Source: Kernighan, Church and Gale 1990, "A spelling correction program based on a noisy channel model". Deviation: in place of a
list of words a language model of bytes, and in place of words whole texts, which are searched for by beams: words that were
joined or broken are restored like any others.
"""

import heapq
import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ..models.autoencoder import in_use
from ..models.denoising import (
    SuggestedEdit,
    apply_suggested,
    edits_by_windows,
    in_batches,
    listed,
    without_each,
    word_edits,
)
from .collators import pad_rows, padding_mask
from .ocr_noise import LONGEST, edits_between

RECENT = 8  # last bytes in which hypotheses must differ to be kept beside each other


def bytes_of(text):
    """A text's bytes in UTF-8; half of a surrogate pair as if it were a character."""
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Reading:
    """What the next characters of a noisy text may stand for.

    Attributes:
        written (`bytes`): of the clean text, at least one.
        end (`int`): the noisy character after them.
        cost (`float`): nats that the noise takes.
    """

    written: bytes
    end: int
    cost: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The beginning of a clean text.

    Attributes:
        text (`bytes`): so far.
        rest (`bytes`): what is to be written next of a reading that has begun.
        end (`int`): the noisy character after what this stands for, `rest` included.
        score (`float`): log-probability of the text and of the noise.
        row (`int`): of the last batch, that it goes on from.
    """

    text: bytes
    rest: bytes
    end: int
    score: float
    row: int


class NoisyChannel:
    """A language model of bytes and a noise model, which together restore noisy texts.

    Where the noisy text surprises the language model, all that the noise model knows to become what stands there is tried,
    several edits in a row included; the likeliest text is compared with the noisy one, and each word in which they differ is an
    edit with a gain of its own: what is lost without it, beside all the others. The search takes the character before an edit
    from the noisy text, gains take it from the clean one. What another model suggests may stand beside what the search finds: its
    edits, too, gain what language model and noise model find of each alone.

    Args:
        language_model ([`AbstractinatorForCausalLM`]): or another causal model with a `bos_token_id` and a cache that can be
            reordered, whose first 256 ids are the bytes.
        noise_model ([`OcrNoiseModel`]).
        suggest (callable, *optional*): from texts to [`SuggestedEdit`]s of each, of which the gains are not read: for example
            `functools.partial(model.suggest_edits, tokenizer=tokenizer)` of an [`EncodzallForConditionalGeneration`].
        num_beams (`int`, defaults to 48): beginnings of a text that are followed at once, at most; with `suggest`, 0 leaves the
            search out.
        beam_width (`float`, defaults to 12): nats by which a beginning may be behind the best.
        edit_cost (`float`, defaults to 1): nats that every edit takes beside those of its rate.
        max_cost (`float`, defaults to 14): nats of an edit alone, at most; what the noise model has never seen takes as many.
        usual_nats (`float`, defaults to 1): nats of a character that are no surprise.
        lookahead (`int`, defaults to 8): characters in which a surprise must show.
        slack (`float`, defaults to 2): nats that an edit may cost beyond the surprise.

    Raises:
        ValueError: for sizes that cannot be, or a language model without a start.

    Example:

    ```python
    >>> from modeling_textae.data.ocr_noise import OcrNoiseModel
    >>> from modeling_textae.data.noisy_channel import NoisyChannel
    >>> channel = NoisyChannel(model, OcrNoiseModel.from_pretrained("runs/ocr-noise"))
    >>> channel.denoise(["tlie end of tbe river"])
    ['the end of the river']
    ```
    """

    def __init__(
        self,
        language_model,
        noise_model,
        suggest=None,
        num_beams=48,
        beam_width=12.0,
        edit_cost=1.0,
        max_cost=14.0,
        usual_nats=1.0,
        lookahead=8,
        slack=2.0,
    ):
        if num_beams < (suggest is None) or lookahead < 1:
            raise ValueError(
                f"num_beams {num_beams} and lookahead {lookahead}: accepted is 1 and above, with suggest also no beam"
            )
        if not all(0 <= number < math.inf for number in (beam_width, edit_cost, max_cost, slack)):
            raise ValueError(
                f"beam_width {beam_width}, edit_cost {edit_cost}, max_cost {max_cost} and slack {slack}: accepted are finite "
                "numbers from 0"
            )
        if language_model.config.bos_token_id is None:
            raise ValueError("the language model has no bos_token_id: texts need a start")
        self.language_model, self.noise_model, self.suggest = language_model, noise_model, suggest
        self.num_beams, self.beam_width, self.edit_cost, self.max_cost = num_beams, beam_width, edit_cost, max_cost
        self.usual_nats, self.lookahead, self.slack = usual_nats, lookahead, slack
        self.sources = {}  # of context and target, found before

    # What texts and edits take

    def nats(self, texts):
        """Nats of each byte of texts, a `list[str]`: for each an array of shape `(bytes,)`."""
        if not texts:
            return []
        rows, device = [[*bytes_of(text)] for text in texts], self.language_model.device
        whole = [[self.language_model.config.bos_token_id, *row] for row in rows]
        ids, real = pad_rows(whole, 0).to(device), padding_mask(whole).to(device)
        with in_use(self.language_model):
            logits = self.language_model(ids, attention_mask=real, use_cache=False).logits[:, :-1]
        wanted = ids[:, 1:].masked_fill(real[:, 1:] == 0, -100)
        nats = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), wanted, reduction="none").cpu().numpy()
        return [found[: len(row)] for found, row in zip(nats, rows, strict=True)]

    def cost(self, context, run, target):
        """Nats that it takes the noise to make a target of a run of clean characters after a character of context."""
        rate = self.noise_model.rate(context, run, target)
        return min(self.edit_cost - math.log(rate), self.max_cost) if rate else self.max_cost

    def edit_nats(self, text, start, end, replacement):
        """Nats that it takes the noise to make a part of a noisy text of what would replace it."""
        before = text[start - 1 : start] or "\n"
        return sum(
            self.cost(replacement[a - 1] if a else before, replacement[a:b], target)
            for a, b, target in edits_between(replacement, text[start:end])
        )

    # Search

    def sources_of(self, context, target):
        """Runs of clean characters that noise makes a target of after a character of context, with the nats it takes, the least
        first: `list[tuple[float, str]]`."""
        if (context, target) not in self.sources:
            costs = ((self.cost(context, run, target), run) for run in self.noise_model.sources.get(target, ()))
            self.sources[context, target] = sorted(pair for pair in costs if pair[0] < self.max_cost)
        return self.sources[context, target]

    def readings(self, text, told):
        """What may stand for each character of a noisy text.

        Args:
            text (`str`), told (`np.ndarray` of shape `(characters + 1,)`): nats of it before each character.

        Returns:
            `tuple[list[list[Reading]], list[float]]`: the [`Reading`]s at each character and at the end; and what it costs that
            all from there on is noise, infinite where that is not thought of.
        """
        letters, size = [bytes_of(character) for character in text], len(text)
        found, ends = [[] for _ in range(size + 1)], [math.inf] * size + [0.0]
        simple = [[] for _ in range(size + 1)]  # readings that write what stands at once, cheapest first
        alone = [{place: 0.0} for place in range(size + 1)]  # up to where all is noise, and what that costs
        for place in range(size, -1, -1):
            ahead = np.arange(place, min(place + self.lookahead, size) + 1)
            most = self.slack + float((told[ahead] - told[place] - self.usual_nats * (ahead - place)).max())
            context = text[place - 1 : place] or "\n"
            if place < size:
                simple[place].append(Reading(letters[place], place + 1, 0.0))
            for end in range(place, min(place + LONGEST, size) + 1):
                for cost, run in self.sources_of(context, text[place:end]):
                    if cost > most:
                        break
                    if run:
                        simple[place].append(Reading(bytes_of(run), end, cost))
                    elif end > place:
                        for further, more in alone[end].items():
                            if cost + more <= most:
                                alone[place][further] = min(alone[place].get(further, math.inf), cost + more)
            simple[place].sort(key=lambda reading: reading.cost)
            ends[place] = alone[place].get(size, math.inf)
            for after, noise in alone[place].items():
                for reading in simple[after]:
                    if noise + reading.cost > most and reading.cost:
                        break
                    found[place].append(replace(reading, cost=noise + reading.cost))
        return found, ends

    def told_before(self, text, nats):
        """Nats of a text before each of its characters, shape `(characters + 1,)`, from those of its bytes."""
        sizes = [len(bytes_of(character)) for character in text]
        return np.concatenate(([0.0], np.cumsum(nats)))[np.cumsum([0, *sizes])]

    def likeliest(self, texts):
        """The likeliest clean text of each noisy one, a `list[str]`; none is more than twice as long."""
        return self.search(texts, self.nats(texts))

    def search(self, texts, nats):
        """As [`likeliest`], of texts whose bytes' nats are known, as of [`nats`]."""
        if not texts:
            return []
        told = [self.told_before(*pair) for pair in zip(texts, nats, strict=True)]
        readings, ends = zip(*map(self.readings, texts, told), strict=True)
        best = [(0.0, bytes_of(text)) for text in texts]  # as it is, a text gains nothing
        longest = [2 * len(text) + LONGEST for _, text in best]
        model = self.language_model
        with in_use(model):
            output = model(torch.full((len(texts), 1), model.config.bos_token_id, device=model.device), use_cache=True)
            beams = [[Hypothesis(b"", b"", 0, 0.0, row)] for row in range(len(texts))]
            while True:
                scores = output.logits[:, -1].float().log_softmax(-1).cpu().numpy()
                for i, beam in enumerate(beams):
                    for now in beam:
                        gain = now.score + told[i][-1] - ends[i][now.end]
                        if not now.rest and gain > best[i][0]:
                            best[i] = gain, now.text
                    beams[i] = self.best_of(
                        [now for now in beam if len(now.text) < longest[i]], scores, readings[i], told[i], best[i][0]
                    )
                rows = [now.row for beam in beams for now in beam]
                if not rows:
                    return [text.decode("utf-8", "surrogatepass") for _, text in best]
                last = torch.tensor([[now.text[-1]] for beam in beams for now in beam], device=model.device)
                output.past_key_values.reorder_cache(torch.tensor(rows, device=model.device))
                output = model(last, past_key_values=output.past_key_values, use_cache=True)
                number = iter(range(len(rows)))
                beams = [[replace(now, row=next(number)) for now in beam] for beam in beams]

    def best_of(self, beam, scores, readings, told, reached):
        """The best hypotheses that are one byte longer.

        Args:
            beam (`list[Hypothesis]`); scores (`np.ndarray` of shape `(rows, vocabulary)`): log-probabilities of the next byte.
            readings (`list[list[Reading]]`): of the noisy text; told (`np.ndarray`): nats of it before each character.
            reached (`float`): what the best whole text gains.

        Returns:
            `list[Hypothesis]`, the best first.
        """
        found, least = {}, reached - self.beam_width
        for now in beam:
            for reading in [Reading(now.rest, now.end, 0.0)] if now.rest else readings[now.end]:
                byte, rest = reading.written[:1], reading.written[1:]
                score = now.score + float(scores[now.row, byte[0]]) - reading.cost
                # What is not written yet of a reading is not known to be likely.
                gain = score + told[reading.end] - self.usual_nats * len(rest)
                if gain < least:
                    continue
                least = max(least, gain - self.beam_width)
                text = now.text + byte
                key = reading.end, rest, text[-RECENT:]
                if key not in found or found[key][0] < gain:
                    found[key] = gain, Hypothesis(text, rest, reading.end, score, now.row)
        best = heapq.nlargest(self.num_beams, found.values(), key=lambda pair: pair[0])
        return [now for gain, now in best if gain >= least]

    # Use

    def window_edits(self, rows, batch_size):
        """[`SuggestedEdit`]s of each of some short texts, so many texts of one edit in a batch; `rows` are a `list[tuple[str,
        list[SuggestedEdit]]]` of them and what is suggested for each."""
        windows = [text for text, _ in rows]
        before = self.nats(windows)
        found = self.searched_edits(windows, before, batch_size) if self.num_beams else [[] for _ in windows]
        for i, (_, some) in enumerate(rows):
            known = {(edit.start, edit.end, edit.replacement) for edit in found[i]}
            some = [edit for edit in some if (edit.start, edit.end, edit.replacement) not in known]
            texts = [windows[i][: edit.start] + edit.replacement + windows[i][edit.end :] for edit in some]
            for edit, nats in zip(some, self.nats_by(texts, batch_size), strict=True):
                noise = self.edit_nats(windows[i], edit.start, edit.end, edit.replacement)
                found[i].append(replace(edit, gain=float(before[i].sum()) - nats - noise))
        return found

    def searched_edits(self, windows, before, batch_size):
        """As [`window_edits`], those of the search alone; `before` is as of [`nats`]."""
        restored, found = self.search(windows, before), [[] for _ in windows]
        edits = [word_edits(*pair) for pair in zip(windows, restored, strict=True)]
        whole = [float(nats.sum()) for nats in self.nats(restored)]
        wanted = [(i, edit) for i, some in enumerate(edits) for edit in some]
        without = [text for some in zip(windows, restored, edits, strict=True) for text in without_each(*some)]
        for (i, edit), nats in zip(wanted, self.nats_by(without, batch_size), strict=True):
            found[i].append(SuggestedEdit(*edit, nats - whole[i] - self.edit_nats(windows[i], *edit)))
        return found

    def nats_by(self, texts, batch_size):
        """Nats of each whole text, so many at a time."""
        parts = (self.nats(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size))
        return [float(nats.sum()) for part in parts for nats in part]

    def suggest_edits(self, texts, window=256, overlap=64, batch_size=8, show_progress=False):
        """What the texts would be otherwise, word by word, and how much likelier that is.

        Args:
            texts (`list[str]`), of any length.
            window (`int`, defaults to 256): bytes that are searched at once; overlap (`int`, defaults to 64): bytes that
                neighbouring windows have in common; each decides a half.
            batch_size (`int`, defaults to 8): windows at once, each with all its beams.
            show_progress (`bool`, defaults to `False`).

        Returns:
            `list[list[SuggestedEdit]]`, by their starts.

        Raises:
            ValueError: for an overlap that is more than a half of the window, a window below 16 bytes, or a text alone.
        """
        # A text without one edit is one row, a window as many as it has beams.
        edits = partial(self.window_edits, batch_size=batch_size * 4)

        def edits_of(windows):
            suggested = [[] for _ in windows] if self.suggest is None or not windows else self.suggest(windows)
            if len(suggested) != len(windows):
                raise ValueError(f"suggest returned edits of {len(suggested)} texts for {len(windows)}")
            return in_batches(edits, list(zip(windows, suggested, strict=True)), batch_size, show_progress, "judging")

        return edits_by_windows(texts, edits_of, window, overlap)

    def denoise(self, texts, min_gain=0.0, **kwargs):
        """Restore noisy texts of any length; what is not likelier by `min_gain` nats for each character that it changes stays
        as it was.

        Args:
            texts (`list[str]`), min_gain (`float`, defaults to 0); kwargs: of [`suggest_edits`].

        Returns:
            `list[str]`.

        Raises:
            ValueError: as of [`suggest_edits`].
        """
        texts = listed(texts)
        found = self.suggest_edits(texts, **kwargs)
        return [apply_suggested(text, edits, min_gain) for text, edits in zip(texts, found, strict=True)]
