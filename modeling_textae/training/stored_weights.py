"""Training through weights as they will be stored."""

import torch
from transformers import TrainerCallback


class StoredWeightsCallback(TrainerCallback):
    """Training passes run with weights rounded to bfloat16, while the optimizer moves the exact ones, which checkpoints and
    evaluations on the way have; the last are rounded in their place: what is stored is what was trained.

    Without it, codes of an autoencoder that was trained in float32 turn on digits that a file in bfloat16 has not; autocast,
    which rounds matrices on the way, does much the same. Source: Courbariaux et al. 2015, "BinaryConnect", section 2.3, which
    keeps exact weights for the updates of rounded ones.
    """

    def __init__(self):
        self.exact = {}

    @torch.no_grad()
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Set the exact weights aside and round."""
        # Of `data`: the weights are to look unmoved to whoever counts their versions.
        self.exact = {name: p.data.clone() for name, p in model.named_parameters() if p.requires_grad}
        for name, parameter in model.named_parameters():
            if name in self.exact:
                parameter.data.copy_(parameter.data.bfloat16())

    @torch.no_grad()
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Bring the exact weights back, for the optimizer to move."""
        for name, parameter in model.named_parameters():
            if name in self.exact:
                parameter.data.copy_(self.exact[name])
        self.exact = {}

    @torch.no_grad()
    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Round for good."""
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(parameter.data.bfloat16())
