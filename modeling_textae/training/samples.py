"""What a language model writes while it is trained."""

from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from ..models.autoencoder import in_use

logger = logging.get_logger(__name__)


class SamplesCallback(TrainerCallback):
    """Every so many steps, adds to a file what a causal language model goes on with after some prompts, drawn at temperature 1.

    Training does not feel it: random numbers are drawn from a seed of their own, the same each time, and what a fork of the
    generators has used is given back. Only the first process writes.

    Args:
        tokenizer: of the model.
        prompts (`list[str]`): an empty one begins a text.
        every (`int`): steps.
        path (`str` or `Path`): Markdown, appended to; a resumed run goes on with it.
        max_new_tokens (`int`, defaults to 100): for each prompt.
        seed (`int`, defaults to 0): of the draws.

    Raises:
        ValueError: for fewer than one step.

    Example:

    ```python
    >>> trainer.add_callback(SamplesCallback(tokenizer, ["The river"], 500, "runs/mine/samples.md"))
    ```
    """

    def __init__(self, tokenizer, prompts, every, path, max_new_tokens=100, seed=0):
        if every < 1:
            raise ValueError(f"samples every {every} steps cannot be: accepted is 1 and above")
        self.tokenizer, self.prompts, self.every = tokenizer, list(prompts), every
        self.path, self.max_new_tokens, self.seed = Path(path), max_new_tokens, seed

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Write samples where it is time."""
        if state.global_step % self.every or not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"# Step {state.global_step}\n\n")
            for prompt, text in zip(self.prompts, self.written(model), strict=True):
                logger.info(f"step {state.global_step}: {prompt!r} → {text!r}")
                # Indented, a text is shown as it is.
                file.write("".join(f"    {line}\n" for line in f"{prompt}⟶{text}".splitlines()) + "\n")

    def written(self, model):
        """What a model goes on with after each prompt, `list[str]`."""
        found, devices = [], [model.device] if model.device.type == "cuda" else []
        with in_use(model), torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            for prompt in self.prompts:
                ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
                ids = torch.tensor([[self.tokenizer.bos_token_id, *ids]], device=model.device)
                after = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0,
                    max_new_tokens=self.max_new_tokens, pad_token_id=self.tokenizer.pad_token_id,
                )[0, ids.shape[1] :]  # fmt: skip
                found.append(self.tokenizer.decode(after, skip_special_tokens=True))
        return found
