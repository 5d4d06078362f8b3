"""Training's care of latents beside the loss: the annealed weight of their divergence, and the grid they are stored on."""

import torch
from transformers import TrainerCallback


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


@torch.no_grad()
def fit_latent_scale(model, tokenizer, texts, batch_size=32):
    """Fit the grid on which a model stores its latents to those of training text.

    Args:
        model ([`TextAutoencoder`]): with a method `fit_latent_scale`; of another nothing is fitted.
        tokenizer: its tokenizer.
        texts (`list[str]`): training text.
        batch_size (`int`, defaults to 32).
    """
    if not hasattr(model, "fit_latent_scale"):
        return
    training, found = model.training, []
    model.eval()
    for start in range(0, len(texts), batch_size):
        inputs = tokenizer(texts[start : start + batch_size], padding=True, return_tensors="pt").to(model.device)
        latents = model.encode(inputs["input_ids"], inputs["attention_mask"])
        found.append(latents[model.latent_mask(inputs["attention_mask"]) == 1].float())
    model.fit_latent_scale(torch.cat(found))
    model.train(training)
