"""Optimizers that a recipe names: AdamW, and Muon for matrices beside AdamW for the rest."""

from collections import defaultdict

import torch
from torch import nn

from ..models.linear import FusedLinear

NAMES = ("adamw", "muon")


def is_muon_matrix(name, module, parameter):
    """Whether Muon trains a parameter of a module: the matrices of linear layers, but of none named a head."""
    return isinstance(module, nn.Linear) and parameter.ndim == 2 and not name.endswith("head")


def bfloat16_is_fast(device="cpu"):
    """Whether a device multiplies matrices in bfloat16 faster than in float32.

    Args:
        device (`str` or `torch.device`, defaults to `"cpu"`).
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def orthogonalized(matrix, coefficients=(3.4445, -4.7750, 2.0315), steps=5, eps=1e-7):
    """Bring a matrix's singular values near to 1, by an odd polynomial of it, applied again and again.

    Source: Jordan et al. 2024, "Muon": the quintic Newton-Schulz iteration, as `torch.optim.Muon` has it, in the matrix's own
    precision instead of always in bfloat16.

    Args:
        matrix (`torch.FloatTensor` of shape `(rows, columns)`).
        coefficients (`tuple[float, float, float]`): of the first, third and fifth power.
        steps (`int`, defaults to 5), eps (`float`, defaults to 1e-7): the least norm to divide by.

    Returns:
        `torch.FloatTensor` of shape `(rows, columns)`.
    """
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with steps as large as AdamW's (`match_rms_adamw`), whose matrices are multiplied in bfloat16 only
    where the device is faster so: a CPU without instructions for it took some 50 times as long as in float32.

    Args:
        params, lr, weight_decay, momentum: as of torch's; a group's `num_parts`, by default 1, says of how many matrices, one
            above the other, each of its parameters is made: every one is orthogonalised alone.
        in_bfloat16 (`bool`, *optional*): by default whether [`bfloat16_is_fast`].
    """

    def __init__(self, params, *, lr, weight_decay, momentum, in_bfloat16=None):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        self.in_bfloat16 = in_bfloat16

    @torch.no_grad()
    def step(self, closure=None):
        """Step; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, group)
        return loss

    def move(self, parameter, group):
        """Add a matrix's gradient to its momentum, and step by what the momentum is, orthogonalised."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        update = parameter.grad.lerp(momentum, group["momentum"])
        in_bfloat16 = bfloat16_is_fast(parameter.device) if self.in_bfloat16 is None else self.in_bfloat16
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        num_parts = group.get("num_parts", 1)
        for part, step in zip(parameter.chunk(num_parts), update.chunk(num_parts), strict=True):
            step = orthogonalized(step.bfloat16() if in_bfloat16 else step.float())
            part.add_(step, alpha=-group["lr"] * 0.2 * max(part.shape) ** 0.5)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon on matrices and AdamW on everything else, as one optimizer with one state and one schedule.

    Source: Jordan et al. 2024, "Muon". [`Muon`]'s steps are scaled to the size of AdamW's, so that both learning rates are of
    one kind.

    Args:
        model (`nn.Module`).
        lr (`float`, defaults to 3e-3): of AdamW.
        muon_lr (`float`, defaults to 6e-3): of Muon.
        weight_decay (`float`, defaults to 0): of matrices and embeddings; never of vectors.
        betas (`tuple[float, float]`, defaults to (0.9, 0.98)), eps (`float`, defaults to 1e-8): of AdamW.
        momentum (`float`, defaults to 0.95): of Muon.
    """

    def __init__(self, model, lr=3e-3, muon_lr=6e-3, weight_decay=0.0, betas=(0.9, 0.98), eps=1e-8, momentum=0.95):
        matrices, tensors, vectors, seen = defaultdict(list), [], [], set()
        for prefix, module in model.named_modules():
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    if is_muon_matrix(prefix, module, parameter):
                        matrices[module.num_parts if isinstance(module, FusedLinear) else 1].append(parameter)
                    else:
                        (tensors if parameter.ndim > 1 else vectors).append(parameter)
        self.inner = []
        if matrices:
            muon = {"lr": muon_lr, "weight_decay": weight_decay, "momentum": momentum}
            groups = [{"params": matrices[num_parts], "num_parts": num_parts} for num_parts in sorted(matrices)]
            self.inner.append(Muon(groups, **muon))
        rest = [{"params": tensors, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        if tensors or vectors:
            rest = [group for group in rest if group["params"]]
            self.inner.append(torch.optim.AdamW(rest, lr=lr, betas=betas, eps=eps))
        groups = [g | {"optimizer": i} for i, optimizer in enumerate(self.inner) for g in optimizer.param_groups]
        super().__init__(groups, {})
        self._share()

    def _share(self):
        """Let the inner optimizers work on this one's groups and state, which schedules and checkpoints see."""
        for i, optimizer in enumerate(self.inner):
            optimizer.param_groups = [group for group in self.param_groups if group["optimizer"] == i]
            optimizer.state = self.state

    def __setstate__(self, state):
        super().__setstate__(state)
        self._share()

    def step(self, closure=None):
        """Step both; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.inner:
            optimizer.step()
        return loss


class MuonFactory:
    """Makes [`MuonWithAdamW`] where the Trainer expects a factory: `factory()(model, **kwargs)`."""

    def __call__(self, model, **kwargs):
        return MuonWithAdamW(model, **kwargs)


def optimizer_class_and_arguments(name, args, muon_learning_rate=None):
    """What to hand to `Trainer(optimizer_cls_and_kwargs=...)`.

    Args:
        name (`str`): `"adamw"` or `"muon"`.
        args (`TrainingArguments`): learning rate, weight decay and the numbers of AdamW.
        muon_learning_rate (`float`, *optional*): by default twice the learning rate.

    Returns:
        `tuple`, or `None` for AdamW, which the Trainer makes itself.

    Raises:
        ValueError: for another name.
    """
    if name not in NAMES:
        raise ValueError(f"optimizer {name!r} is unknown: accepted are {', '.join(NAMES)}")
    if name == "adamw":
        return None
    return MuonFactory, {
        "lr": args.learning_rate,
        "muon_lr": 2 * args.learning_rate if muon_learning_rate is None else muon_learning_rate,
        "weight_decay": args.weight_decay,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
    }
