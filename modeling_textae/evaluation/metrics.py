"""Metrics: pure functions of texts and labels."""

import math
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein


def character_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Edits (insertions, deletions, substitutions) that turn predictions into references, over the references' characters.

    Args:
        predictions, references: texts, one for one.

    Returns:
        `float`: 0 where all are equal; above 1 where more is wrong than there is.

    Raises:
        ValueError: where the numbers of texts differ or the references are empty.
    """
    return error_rate(predictions, references, "character")


def word_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """As [`character_error_rate`], of words: what stands between white space."""
    return error_rate([text.split() for text in predictions], [text.split() for text in references], "word")


def error_rate(predictions: Sequence, references: Sequence, unit: str) -> float:
    """Edits of sequences over the references' length; arguments and errors as of [`character_error_rate`]."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} references")
    total = sum(map(len, references))
    if not total:
        raise ValueError(f"the references have no {unit} to be wrong about")
    return sum(map(Levenshtein.distance, predictions, references)) / total


def exact_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions that equal their references.

    Raises:
        ValueError: where the numbers of texts differ or there are none.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions but {len(references)} references: give one for one, at least one"
        )
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)


def count_correct(logits, labels, where=None) -> tuple[int, int]:
    """Labels whose score is the largest, and labels asked for.

    Args:
        logits (`torch.Tensor` of shape `(..., vocabulary)`).
        labels (`torch.LongTensor` of shape `(...)`): -100 where not asked.
        where (`torch.BoolTensor` of shape `(...)`, *optional*): ask only here.

    Returns:
        `tuple[int, int]`: correct and asked.
    """
    asked = labels != -100 if where is None else (labels != -100) & where
    correct = (logits.argmax(-1) == labels) & asked
    return int(correct.sum()), int(asked.sum())


def share(correct: int, asked: int) -> float | None:
    """`correct / asked`, or `None` where nothing was asked."""
    return correct / asked if asked else None


def adaptive_code_bits(counts) -> float:
    """Bits of a sequence of symbols of which only the number is known beforehand: each is coded by how often it came before, and
    the order tells nothing else.

    Source: the mixture of Krichevsky and Trofimov 1981, "The performance of universal encoding", with what every symbol counts at
    the start chosen among eight, which costs three bits.

    Args:
        counts: how often each symbol occurs, those that do not among them.

    Returns:
        `float`.
    """
    counts = np.asarray(counts, dtype=np.float64)
    occurring, total, size = counts[counts > 0], counts.sum(), len(counts)

    def bits(start):
        nats = math.lgamma(total + size * start) - math.lgamma(size * start)
        nats -= sum(map(math.lgamma, occurring + start)) - len(occurring) * math.lgamma(start)
        return nats / math.log(2)

    return min(bits(start) for start in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)) + 3
