"""Restoring noisy texts by Bayes' rule: how likely a text is to a language model of bytes, times how likely a noise model makes
of it what stands there.

Source: Kernighan, Church and Gale 1990, "A spelling correction program based on a noisy channel model". Deviation: in place of a
list of words a language model of bytes, and in place of words whole texts, which are searched for by beams: words that were
joined or broken are restored like any others.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ..data.ocr_noise import LONGEST, edits_between
from .autoencoder import in_use
from .denoising import SuggestedEdit, apply_suggested, edits_by_windows, listed, word_edits

RECENT = 8  # last bytes in which hypotheses must differ to be kept beside each other


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
    edit with a gain of its own.

    Args:
        language_model ([`AbstractinatorForCausalLM`]): or another causal model of bytes and `<bos>` whose cache can be reordered.
        noise_model ([`OcrNoiseModel`]).
        num_beams (`int`, defaults to 48): beginnings of a text that are followed at once, at most.
        beam_width (`float`, defaults to 12): nats by which a beginning may be behind the best.
        edit_cost (`float`, defaults to 1): nats that every edit takes beside those of its rate.
        max_cost (`float`, defaults to 14): nats of an edit at most; what the noise model has never seen takes as many.
        usual_nats (`float`, defaults to 1): nats of a character that are no surprise.
        lookahead (`int`, defaults to 8): characters in which a surprise must show.
        slack (`float`, defaults to 2): nats that an edit may cost beyond the surprise.

    Raises:
        ValueError: for sizes that cannot be.

    Example:

    ```python
    >>> channel = NoisyChannel(model, OcrNoiseModel.from_pretrained("runs/ocr-noise"))
    >>> channel.denoise(["tlie end of tbe river"])
    ['the end of the river']
    ```
    """

    def __init__(
        self,
        language_model,
        noise_model,
        num_beams=48,
        beam_width=12.0,
        edit_cost=1.0,
        max_cost=14.0,
        usual_nats=1.0,
        lookahead=8,
        slack=2.0,
    ):
        if num_beams < 1 or lookahead < 1:
            raise ValueError(f"num_beams {num_beams} and lookahead {lookahead}: accepted is 1 and above")
        self.language_model, self.noise_model = language_model, noise_model
        self.num_beams, self.beam_width, self.edit_cost, self.max_cost = num_beams, beam_width, edit_cost, max_cost
        self.usual_nats, self.lookahead, self.slack = usual_nats, lookahead, slack

    # What texts and edits take

    def nats(self, texts):
        """Nats of each byte of texts, each an array of shape `(bytes,)`."""
        rows = [list(text.encode("utf-8", "surrogatepass")) for text in texts]
        width, config = max(map(len, rows)), self.language_model.config
        ids = torch.full((len(rows), 1 + width), config.pad_token_id)
        ids[:, 0] = config.bos_token_id
        for i, row in enumerate(rows):
            ids[i, 1 : 1 + len(row)] = torch.tensor(row, dtype=torch.long)
        real = torch.arange(1 + width) <= torch.tensor([[len(row)] for row in rows])
        ids, device = ids.to(self.language_model.device), self.language_model.device
        logits = self.language_model(ids, attention_mask=real.long().to(device), use_cache=False).logits[:, :-1]
        wanted = ids[:, 1:].masked_fill(~real[:, 1:].to(device), -100)
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

    def readings(self, text, told):
        """What may stand for each character of a noisy text.

        Args:
            text (`str`), told (`np.ndarray` of shape `(characters + 1,)`): nats of it before each character.

        Returns:
            `tuple[list[list[Reading]], list[float]]`: the [`Reading`]s at each character and at the end; and what it costs that
            all from there on is noise, infinite where that is not thought of.
        """
        letters = [character.encode("utf-8", "surrogatepass") for character in text]
        found, ends = [], [math.inf] * len(letters) + [0.0]
        for i in range(len(letters) + 1):
            ahead = np.arange(i, min(i + self.lookahead, len(letters)) + 1)
            surprise = float((told[ahead] - told[i] - self.usual_nats * (ahead - i)).max())
            here = [Reading(letters[i], i + 1, 0.0)] if i < len(letters) else []
            for end in range(i, min(i + LONGEST, len(letters)) + 1):
                for run in self.noise_model.sources.get(text[i:end], ()):
                    cost = self.cost(text[i - 1 : i] or "\n", run, text[i:end])
                    if cost > surprise + self.slack or cost >= self.max_cost:
                        continue
                    if run:
                        here.append(Reading(run.encode("utf-8", "surrogatepass"), end, cost))
                    elif end < len(letters):  # noise alone, and the next character as it is
                        here.append(Reading(letters[end], end + 1, cost))
                    else:
                        ends[i] = min(ends[i], cost)
            found.append(here)
        return found, ends

    def told_before(self, text, nats):
        """Nats of a text before each of its characters, shape `(characters + 1,)`, from those of its bytes."""
        sizes = [len(character.encode("utf-8", "surrogatepass")) for character in text]
        return np.concatenate(([0.0], np.cumsum(nats)))[np.cumsum([0, *sizes])]

    def likeliest(self, texts):
        """The likeliest clean text of each noisy one, a `list[str]`."""
        told = [self.told_before(text, nats) for text, nats in zip(texts, self.nats(texts), strict=True)]
        readings, ends = zip(*map(self.readings, texts, told), strict=True)
        best = [(0.0, text.encode("utf-8", "surrogatepass")) for text in texts]  # as it is, a text gains nothing
        model = self.language_model
        starts = torch.full((len(texts), 1), model.config.bos_token_id, device=model.device)
        output = model(starts, use_cache=True)
        beams = [[Hypothesis(b"", b"", 0, 0.0, row)] for row in range(len(texts))]
        while any(beams):
            scores = output.logits[:, -1].float().log_softmax(-1).cpu().numpy()
            chosen = []
            for i, beam in enumerate(beams):
                for now in beam:
                    gain = now.score + told[i][-1] - ends[i][now.end]
                    if not now.rest and gain > best[i][0]:
                        best[i] = gain, now.text
                chosen.append(self.best_of(beam, scores, readings[i], told[i], best[i][0]))
            rows = [now.row for beam in chosen for now in beam]
            if not rows:
                break
            last = torch.tensor([[now.text[-1]] for beam in chosen for now in beam], device=model.device)
            output.past_key_values.reorder_cache(torch.tensor(rows, device=model.device))
            output = model(last, past_key_values=output.past_key_values, use_cache=True)
            number = iter(range(len(rows)))
            beams = [[replace(now, row=next(number)) for now in beam] for beam in chosen]
        return [text.decode("utf-8", "replace") for _, text in best]

    def best_of(self, beam, scores, readings, told, reached):
        """The best hypotheses that are one byte longer.

        Args:
            beam (`list[Hypothesis]`); scores (`np.ndarray` of shape `(rows, vocabulary)`): log-probabilities of the next byte.
            readings (`list[list[Reading]]`): of the noisy text; told (`np.ndarray`): nats of it before each character.
            reached (`float`): what the best whole text gains.

        Returns:
            `list[Hypothesis]`, the best first.
        """
        found = {}
        for now in beam:
            for reading in [Reading(now.rest, now.end, 0.0)] if now.rest else readings[now.end]:
                byte, rest = reading.written[:1], reading.written[1:]
                score = now.score + float(scores[now.row, byte[0]]) - reading.cost
                # What is not written yet of a reading is not known to be likely.
                gain = score + told[reading.end] - self.usual_nats * len(rest)
                text = now.text + byte
                key = reading.end, rest, text[-RECENT:]
                if key not in found or found[key][0] < gain:
                    found[key] = gain, Hypothesis(text, rest, reading.end, score, now.row)
        best = sorted(found.values(), key=lambda pair: -pair[0])[: self.num_beams]
        least = max(reached, best[0][0] if best else reached) - self.beam_width
        return [now for gain, now in best if gain >= least]

    # Use

    def window_edits(self, windows, batch_size):
        """[`SuggestedEdit`]s of each of some short texts, a `list[str]`, so many texts with one edit in a batch."""
        with in_use(self.language_model):
            wanted = [
                (i, edit) for i, text in enumerate(self.likeliest(windows)) for edit in word_edits(windows[i], text)
            ]
            before = [nats.sum() for nats in self.nats(windows)]
            found = [[] for _ in windows]
            for start in range(0, len(wanted), batch_size):
                part = wanted[start : start + batch_size]
                after = self.nats([windows[i][:a] + new + windows[i][b:] for i, (a, b, new) in part])
                for (i, edit), nats in zip(part, after, strict=True):
                    gain = float(before[i] - nats.sum()) - self.edit_nats(windows[i], *edit)
                    found[i].append(SuggestedEdit(*edit, gain))
        return found

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
        edits_of = partial(self.window_edits, batch_size=batch_size * 4)
        return edits_by_windows(texts, edits_of, window, overlap, batch_size, show_progress)

    def denoise(self, texts, min_gain=0.0, **kwargs):
        """Restore noisy texts of any length; what is not likelier by `min_gain` nats stays as it was.

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
