"""What a model restores of noisy texts, at every margin of its gate, out of one pass."""

import time

from ..models.denoising import apply_suggested
from .metrics import character_error_rate, word_error_rate


def figures_of(texts, clean):
    """Error rates of texts.

    Args:
        texts, clean (`list[str]`): one for one.

    Returns:
        `dict`: `character_error_rate` and `word_error_rate`.
    """
    return {
        "character_error_rate": character_error_rate(texts, clean),
        "word_error_rate": word_error_rate(texts, clean),
    }


def reduction_of(before, after):
    """Share of the character errors that are gone, of two [`figures_of`]; `None` where there were none."""
    wrong = before["character_error_rate"]
    return 1 - after["character_error_rate"] / wrong if wrong else None


def denoising_rows(suggest_edits, pairs, gains, show_progress=True, **kwargs):
    """Error rates of noisy texts as they are and restored, at several margins.

    Args:
        suggest_edits (callable): from texts to [`SuggestedEdit`]s of each, as of [`NoisyChannel`].
        pairs (`list[tuple[str, str]]`): noisy and clean.
        gains (`list[float]`): margins, in nats.
        show_progress (`bool`, defaults to `True`), kwargs: of it.

    Returns:
        `tuple[list[dict], float]`: a row for the noisy texts and one for each margin, with `texts`, `min_gain`, error rates,
        `reduction` (share of the character errors that are gone) and `changed` (share of the texts); and kB of noisy text a
        second.
    """
    noisy, clean = map(list, zip(*pairs, strict=True))
    start = time.perf_counter()
    found = suggest_edits(noisy, show_progress=show_progress, **kwargs)
    speed = sum(len(text.encode("utf-8")) for text in noisy) / (time.perf_counter() - start) / 1e3
    before = figures_of(noisy, clean)
    rows = [{"texts": "noisy", **before}]
    for gain in gains:
        restored = [apply_suggested(text, edits, gain) for text, edits in zip(noisy, found, strict=True)]
        after = figures_of(restored, clean)
        rows.append(
            {
                "texts": "restored",
                "min_gain": gain,
                **after,
                "reduction": reduction_of(before, after),
                "changed": sum(a != b for a, b in zip(noisy, restored, strict=True)) / len(noisy),
            }
        )
    return rows, speed
