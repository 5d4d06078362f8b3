"""How well embeddings find texts again."""

import torch

from ..data.collators import example_generator
from .report import figure


def retrieval(model, tokenizer, passages, noise, strength, batch_size=64, seed=0):
    """Share of noisy passages whose own clean passage lies nearest of all.

    Args:
        model ([`EncodzallForSentenceEmbedding`]), tokenizer, passages (`list[str]`): all different.
        noise ([`TextNoise`] or [`OcrNoiseModel`]), strength (`float`), seed (`int`, defaults to 0): of the noise.
        batch_size (`int`, defaults to 64).

    Returns:
        `float`.
    """
    noisy = [noise(text, strength, example_generator(seed, 0, i)).text for i, text in enumerate(passages)]
    first, second = (model.embed(texts, tokenizer, batch_size) for texts in (noisy, passages))
    return float(((first @ second.T).argmax(1) == torch.arange(len(passages))).float().mean())


def run_report(model, tokenizer, passages, noise, strength):
    """What a training run reports of its model on held-out passages; arguments as of [`retrieval`].

    Returns:
        `tuple[dict, list[str]]`: the figures, and lines to print.
    """
    passages = list(dict.fromkeys(passages))
    found = {f"{rate:g}": retrieval(model, tokenizer, passages, noise, rate) for rate in sorted({0.05, 0.2, strength})}
    lines = [f"noise {rate}: {figure(share)} of {len(passages)} found again" for rate, share in found.items()]
    return {"retrieval": found, "passages": len(passages)}, lines
