"""Training's care of latents beside the loss: the annealed weight of their divergence, and the grids they are stored on."""

from itertools import islice

import datasets
import numpy as np
import torch
from transformers import TrainerCallback

from ..models.autoencoder import in_use


class KlAnnealingCallback(TrainerCallback):
    """Grows the weight of a model's KL divergence from 0 to its whole over the first steps.

    The weight follows from the step alone, so a resumed run goes on as if it had never stopped.

    Args:
        steps (`int`): after which the weight is whole; at least 1.

    Raises:
        ValueError: for fewer.

    Example:

    ```python
    >>> trainer.add_callback(KlAnnealingCallback(1000))
    ```
    """

    def __init__(self, steps):
        if steps < 1:
            raise ValueError(f"{steps} steps are no time to anneal in: accepted is 1 and above")
        self.steps = steps

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Set the factor of the step that begins."""
        for module in model.modules():  # whatever wraps it
            if hasattr(module, "kl_annealing"):
                module.kl_annealing = min(1.0, state.global_step / self.steps)


def some_passages(passages, number, seed=0):
    """Texts of a dataset of passages, streamed or not: drawn evenly, or the first of a stream.

    Args:
        passages: dataset with the column `text`.
        number (`int`): how many at most.
        seed (`int`, defaults to 0): of the draw.

    Returns:
        `list[str]`.
    """
    if isinstance(passages, datasets.Dataset):
        size = len(passages)
        chosen = np.random.default_rng(seed).choice(size, min(number, size), replace=False)
        return list(passages.select(np.sort(chosen))["text"])
    return [row["text"] for row in islice(passages, number)]


def fit_latent_scale(model, tokenizer, texts, batch_size=32):
    """Fit the grids on which a model stores its latents to those of training text.

    Args:
        model ([`TextAutoencoder`]): with a method `fit_latent_scale`.
        tokenizer: its tokenizer.
        texts (`list[str]`): training text.
        batch_size (`int`, defaults to 32).

    Raises:
        ValueError: for no text, or latents that are not finite.
    """
    found = []
    with in_use(model):
        for start in range(0, len(texts), batch_size):
            batch = texts[start : start + batch_size]
            inputs = tokenizer(batch, padding=True, add_special_tokens=False, return_tensors="pt").to(model.device)
            latents = model.encode(inputs["input_ids"], inputs["attention_mask"])
            found.append(latents[model.latent_mask(inputs["attention_mask"]) == 1].float())
        model.fit_latent_scale(torch.cat(found) if found else torch.empty(0, model.config.latent_dim))
