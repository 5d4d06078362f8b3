"""How well masked tokens are told: accuracy, cross-entropy and pseudo-perplexity, of models and of counted n-grams."""

import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from transformers import pipeline

from ..data.collators import example_generator, pad_rows, padding_mask
from ..data.noise import check_rate
from .metrics import share
from .report import figure
from .texts import batches


@dataclass(frozen=True)
class MaskedText:
    """A text with hidden tokens.

    Attributes:
        ids (`np.ndarray` of int, shape `(length,)`): the true tokens.
        hidden (`np.ndarray` of bool, shape `(length,)`): which of them are asked for, and shown as masks.
    """

    ids: np.ndarray
    hidden: np.ndarray


def mask_texts(texts, tokenizer, rate=0.15, seed=0):
    """Hide tokens at random, at least one a text; every hidden token becomes the mask.

    Args:
        texts (`list[str]`).
        tokenizer (`PreTrainedTokenizerFast`).
        rate (`float`, defaults to 0.15): probability of each token.
        seed (`int`, defaults to 0).

    Returns:
        `list[MaskedText]`, without texts that have nothing but special tokens, which are never hidden.

    Raises:
        ValueError: where the rate is no probability.
    """
    check_rate(rate)
    masked = []
    for i, ids in enumerate(tokenizer(texts, add_special_tokens=False)["input_ids"]):
        draw = example_generator(seed, 0, i).random(len(ids))
        draw[np.isin(ids, tokenizer.all_special_ids)] = 2.0  # never asked for
        if len(ids) and draw.min() < 1:
            masked.append(MaskedText(np.array(ids), (draw < rate) | (draw == draw.min())))
    return masked


def mask_each_token(texts, tokenizer):
    """One [`MaskedText`] for each token of each text, with that token hidden alone."""
    masked = []
    special = set(tokenizer.all_special_ids)
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        each = zip(ids, np.eye(len(ids), dtype=bool), strict=True)
        masked += [MaskedText(np.array(ids), hidden) for token, hidden in each if token not in special]
    return masked


def sentences_of(texts, number, seed=0, shortest=40, longest=200):
    """Draw sentences from texts: from a capital letter to the first full stop, question or exclamation mark.

    A sentence begins a line or follows another, has no mark of an end inside, and has white space or nothing behind it.

    Args:
        texts (iterable of `str`).
        number (`int`): how many at most.
        seed (`int`, defaults to 0): of the draw.
        shortest, longest (`int`, default to 40 and 200): bytes.

    Returns:
        `list[str]`.

    Raises:
        ValueError: where there is none.
    """
    pattern = re.compile(r"(?:(?<=^)|(?<=[.!?]\s))[A-Z][^.!?\n]*[.!?](?=\s|$)", re.MULTILINE)
    found = [
        match.group()
        for text in texts
        for match in pattern.finditer(text)
        if shortest <= len(match.group().encode("utf-8")) <= longest
    ]
    if not found:
        raise ValueError(f"the texts have no sentence of {shortest} to {longest} bytes")
    chosen = np.random.default_rng(seed).choice(len(found), min(number, len(found)), replace=False)
    return [found[i] for i in np.sort(chosen)]


@torch.no_grad()
def model_scores(model, tokenizer, masked, batch_size=32):
    """Log-probability of each hidden token, and whether it is the model's first choice.

    Args:
        model: any masked language model of transformers.
        tokenizer: its tokenizer.
        masked (`list[MaskedText]`).
        batch_size (`int`, defaults to 32).

    Returns:
        `tuple[np.ndarray, np.ndarray]`: nats and bool, each of shape `(hidden,)`, in the order of the texts.
    """
    scores, correct = [], []
    for _, batch in batches(masked, batch_size, "masked tokens"):
        shown = [np.where(text.hidden, tokenizer.mask_token_id, text.ids) for text in batch]
        labels = pad_rows([np.where(text.hidden, text.ids, -100) for text in batch], -100).to(model.device)
        inputs, mask = pad_rows(shown, tokenizer.pad_token_id).to(model.device), padding_mask(shown).to(model.device)
        logits = model(input_ids=inputs, attention_mask=mask).logits
        asked = labels != -100
        logits, labels = logits[asked].float(), labels[asked]
        scores.append(logits.log_softmax(-1).gather(1, labels[:, None])[:, 0].cpu().numpy())
        correct.append((logits.argmax(-1) == labels).cpu().numpy())
    return np.concatenate(scores), np.concatenate(correct)


def ngram_scores(probabilities, masked, rows=512):
    """As [`model_scores`], of counted n-grams.

    Args:
        probabilities (callable): from the tokens on the left and on the right, -1 where there is none or it is hidden, to the
            probabilities of every token, shape `(n, vocabulary)`.
        masked (`list[MaskedText]`).
        rows (`int`, defaults to 512): tokens at once.
    """
    left, right, true = [], [], []
    for text in masked:
        known = np.pad(np.where(text.hidden, -1, text.ids), 1, constant_values=-1)
        left.append(known[:-2][text.hidden])
        right.append(known[2:][text.hidden])
        true.append(text.ids[text.hidden])
    left, right, true = (np.concatenate(part) for part in (left, right, true))
    scores, correct = [], []
    for start in range(0, len(true), rows):
        part = slice(start, start + rows)
        found = probabilities(left[part], right[part])
        scores.append(np.log(found[np.arange(len(found)), true[part]]))
        correct.append(found.argmax(1) == true[part])
    return np.concatenate(scores), np.concatenate(correct)


def ngram_models(counts):
    """The n-gram baselines of a [`TokenCounts`], by name, as [`ngram_scores`] takes them."""
    return {
        "unigram": lambda left, right: np.broadcast_to(counts.unigram, (len(left), len(counts.unigram))),
        "bigram (left neighbour)": lambda left, right: counts.after(left),
        "bigrams (both neighbours)": counts.between,
    }


def masked_language_rows(scorers, tokenizer, passages, sentences=(), rates=(0.15,), seed=0):
    """A table: one row for each scorer.

    Args:
        scorers (`dict[str, callable]`): from a list of [`MaskedText`] to what [`model_scores`] returns.
        tokenizer: the one that all share.
        passages (`list[str]`): whose tokens are hidden at random.
        sentences (`sequence of str`): whose tokens are hidden one at a time, for the pseudo-perplexity; none by default.
        rates (`sequence of float`): mask rates.
        seed (`int`, defaults to 0): of the masks.

    Returns:
        `list[dict]`: `model`; for each rate `accuracy` and `cross-entropy` (nats a token) with the number of tokens; and
        `pseudo-perplexity`: the exponential of the mean cross-entropy of each token given all others. Source: Salazar et al.
        2020, "Masked language model scoring", equation 3.
    """
    hidden = {rate: mask_texts(passages, tokenizer, rate, seed) for rate in rates}
    each = mask_each_token(list(sentences), tokenizer) if sentences else []
    rows = []
    for name, score in scorers.items():
        row = {"model": name}
        for rate, masked in hidden.items():
            scores, correct = score(masked)
            tail = f", rate {rate:g} (n = {len(scores)})"
            row |= {
                f"accuracy{tail}": share(int(correct.sum()), len(correct)),
                f"cross-entropy{tail}": float(-scores.mean()),
            }
        if each:
            scores, _ = score(each)
            row[f"pseudo-perplexity (n = {len(scores)})"] = math.exp(-scores.mean())
        rows.append(row)
    return rows


def answers(model, tokenizer, questions, batch_size=32):
    """The first choice of transformers' fill-mask pipeline for each question.

    Args:
        model: any masked language model of transformers.
        tokenizer: its tokenizer.
        questions (`list[str]`): with one mask each.
        batch_size (`int`, defaults to 32).

    Returns:
        `list[str]`: the tokens, without the space before them.
    """
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, device=model.device, top_k=1)
    found = fill(list(questions), batch_size=batch_size)
    return [choices[0]["token_str"].strip() for choices in (found if len(questions) > 1 else [found])]


def filled_samples(model, tokenizer, passages, rate=0.15, number=3, seed=0):
    """Samples of masked passages and what the model fills in.

    Returns:
        `list[dict]` with `clean`, `masked` and `filled`.
    """
    samples = []
    for text in mask_texts(passages[:number], tokenizer, rate, seed):
        masked = torch.from_numpy(np.where(text.hidden, tokenizer.mask_token_id, text.ids))[None].to(model.device)
        filled = model.fill_masks(masked, torch.ones_like(masked), tokenizer)
        samples.append(
            {
                "clean": tokenizer.decode(text.ids),
                "masked": tokenizer.decode(masked[0]),
                "filled": tokenizer.decode(filled[0]),
            }
        )
    return samples


def run_report(model, tokenizer, passages, samples=3):
    """What a training run reports of its model on held-out passages.

    Args:
        model ([`MlmEncoderForMaskedLM`]): without samples, any masked language model of transformers.
        tokenizer ([`MlmEncoderTokenizer`]).
        passages (`list[str]`).
        samples (`int`, defaults to 3): passages to show filled.

    Returns:
        `tuple[dict, list[str]]`: the figures, and lines to print.
    """
    (row,) = masked_language_rows({"model": lambda masked: model_scores(model, tokenizer, masked)}, tokenizer, passages)
    samples = filled_samples(model, tokenizer, passages, number=samples) if samples else []
    lines = [f"{name}: {figure(value)}" for name, value in row.items() if name != "model"]
    for sample in samples:
        lines += ["", *(f"{name + ':':<7} {text!r}" for name, text in sample.items())]
    return {"masked": row, "samples": samples}, lines
