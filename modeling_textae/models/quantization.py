"""Quantizers: finite scalar quantization, and vector quantization whose codebook follows moving averages."""

import math
from abc import ABC, abstractmethod

import torch
from torch import nn
from transformers import initialization as init


def straight_through(exact, rounded):
    """The rounded value, with the gradient of the exact one. Source: Bengio et al. 2013, "Estimating or propagating gradients
    through stochastic neurons", section 4."""
    return exact + (rounded - exact).detach()


class StepStatistics(nn.Module, ABC):
    """Sums over the training passes of one optimizer step and over all ranks, handed on once, when the next step begins.

    A step has gone by when the parameter that a subclass is given has other values than before, so that accumulated
    micro-batches count as one batch, under any trainer and optimizer. (Its version would not tell: fused optimizers leave it
    as it is.) Nothing is gathered where it is frozen, or without gradients, as where a model in training generates. Not for
    checkpointed blocks, which pass twice.

    Args:
        shapes (`dict[str, tuple[int]]`): of each sum.
    """

    read_in_use = ()  # the buffers that a pass outside of training reads; others are training's own

    def __init__(self, shapes):
        super().__init__()
        self.sum_names = list(shapes)
        for name, shape in shapes.items():
            self.register_buffer(f"pending_{name}", torch.zeros(shape))
        self.seen = None

    @torch.no_grad()
    def reset(self):
        """Forget all sums; respects loaded ones."""
        for name in self.sum_names:
            init.zeros_(getattr(self, f"pending_{name}"))

    def _apply(self, fn, recurse=True):
        # Averages in half precision would not move, and codes turn on more digits than it has: only devices change.
        def moved(tensor):
            found = fn(tensor)
            return tensor.to(found.device) if tensor.is_floating_point() and not tensor.is_meta else found

        return super()._apply(moved, recurse)

    def gathers(self, parameter):
        """Whether a pass is one of training, of a layer that `parameter` belongs to."""
        return self.training and parameter.requires_grad and torch.is_grad_enabled()

    @torch.no_grad()
    def hand_on(self, parameter):
        """Apply the sums of the last step, if one has gone by since: if the parameter was moved."""
        if self.seen is None or not torch.equal(parameter, self.seen):
            pending = {name: getattr(self, f"pending_{name}") for name in self.sum_names}
            if any(value.any() for value in pending.values()):
                self.apply_statistics(**pending)
            for value in pending.values():
                value.zero_()
            self.seen = parameter.detach().clone()

    @torch.no_grad()
    def gather(self, **sums):
        """Add sums of a training pass, over all ranks."""
        for name, value in sums.items():
            if torch.distributed.is_initialized():
                torch.distributed.all_reduce(value := value.clone())
            getattr(self, f"pending_{name}").add_(value)

    @abstractmethod
    def apply_statistics(self, **sums):
        """What a subclass does with a step's sums."""


class FSQLayer(nn.Module):
    """Finite scalar quantization: each number is bounded and rounded to one of a few levels; a code is their combination.

    Source: Mentzer et al. 2023, "Finite scalar quantization: VQ-VAE made simple", section 3 and appendix A.1, with its half-step
    offset of even numbers of levels. Computes in float32, whatever the autocast: in bfloat16 codes are lost.

    Args:
        levels (`list[int]`): levels of each number, at least 2.
        temperature (`float`, defaults to 1): what numbers are divided by before they are bounded.

    Raises:
        ValueError: for a number of levels below 2, or a temperature that is not above 0.

    Example:

    ```python
    >>> codes, indices = FSQLayer([8, 5])(torch.randn(4, 2))
    ```
    """

    def __init__(self, levels, temperature=1.0):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels {levels} are too few: accepted are lists of numbers from 2")
        if not temperature > 0:
            raise ValueError(f"temperature {temperature} must be above 0")
        self.temperature = temperature
        self.levels = list(levels)

    @property
    def codebook_size(self):
        """How many codes there are."""
        return math.prod(self.levels)

    def level_counts(self, like):
        """Levels of each number as a tensor, shape `(len(levels),)`."""
        return torch.tensor(self.levels, device=like.device)

    def basis(self, like):
        """What each digit counts in an index, shape `(len(levels),)`; the first number's is 1."""
        return torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))], device=like.device)

    def bound(self, values):
        """Squeeze numbers to the outermost levels and half a step beyond: steps of 1 around 0, for even levels around -0.5."""
        levels = self.level_counts(values)
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        return (values / self.temperature + (offset / half).atanh()).tanh() * half - offset

    def forward(self, values):
        """Quantize.

        Args:
            values (`torch.Tensor` of shape `(..., len(levels))`).

        Returns:
            `tuple[torch.FloatTensor, torch.LongTensor]`: codes of the same shape, each number in [-1, 1], with the gradient of
            the bounded values, and indices of shape `(...)`.
        """
        with torch.autocast(values.device.type, enabled=False):
            bounded = self.bound(values.float())
            codes = straight_through(bounded, bounded.round()) / (self.level_counts(values) // 2)
            return codes, self.codes_to_indices(codes.detach())

    def indices(self, values):
        """The codes' numbers alone, shape `(...)`."""
        return self(values)[1]

    def margins(self, values):
        """How far the nearest number is from the edge between two levels, in steps of a level, shape `(...)`: at most 0.5."""
        bounded = self.bound(values.float())
        return 0.5 - (bounded - bounded.round()).abs().amax(-1)

    def codes_to_indices(self, codes):
        """Codes, shape `(..., len(levels))`, to indices, shape `(...)`: digits of mixed radix, the first number the lowest."""
        half = self.level_counts(codes) // 2
        return ((codes.float() * half).round().long() + half).mul(self.basis(codes)).sum(-1)

    def indices_to_codes(self, indices):
        """Indices of shape `(...)` to codes of shape `(..., len(levels))`; no codebook is ever built."""
        digits = indices.unsqueeze(-1) // self.basis(indices) % self.level_counts(indices)
        half = self.level_counts(indices) // 2
        return (digits - half) / half


class VectorQuantizer(StepStatistics):
    """Vector quantization: each vector becomes the nearest of a codebook, which follows the vectors' moving averages.

    Source: van den Oord et al. 2017, "Neural discrete representation learning", section 3 and appendix A.1. The codebook starts
    from k-means of the first training pass; codes that are hardly used any more start anew from vectors of the last steps, after
    Dhariwal et al. 2020, "Jukebox", appendix B.1; the gradient may be that of a rotation, after Fifty et al. 2024, "Restructuring
    vector quantization with the rotation trick", section 4. Computes in float32, moves once an optimizer step by sums over its
    micro-batches and ranks, and has no parameter that an optimizer could move.

    Args:
        num_codes (`int`), dim (`int`): of the codebook.
        decay (`float`, defaults to 0.99): what averages keep at each step.
        dead_usage (`float`, defaults to 0.05): share of what even use would be, below which a code starts anew; 0 for never.
        rotation (`bool`, defaults to `False`): turn the gradient as the vector was turned, instead of passing it straight
            through.
        num_recent (`int`, defaults to 4096): vectors of the last steps that are kept for codes that start anew.
        eps (`float`, defaults to 1e-5): smooths the usages that averages are divided by.

    Example:

    ```python
    >>> quantizer = VectorQuantizer(16, 4)
    >>> codes, indices, distances = quantizer(torch.randn(8, 4), parameter)
    ```
    """

    read_in_use = ("codebook",)

    def __init__(self, num_codes, dim, decay=0.99, dead_usage=0.05, rotation=False, num_recent=4096, eps=1e-5):
        super().__init__({"usage": (num_codes,), "vectors": (num_codes, dim)})
        self.decay, self.dead_usage, self.rotation, self.eps = decay, dead_usage, rotation, eps
        self.register_buffer("codebook", torch.empty(num_codes, dim))
        self.register_buffer("usage", torch.empty(num_codes))
        # Unlike the usage it begins at 0, and codes that start anew get none.
        self.register_buffer("frequencies", torch.empty(num_codes))
        self.register_buffer("averages", torch.empty(num_codes, dim))
        self.register_buffer("recent", torch.empty(num_recent, dim))
        self.register_buffer("steps", torch.empty((), dtype=torch.long))
        self.register_buffer("restarts", torch.empty((), dtype=torch.long))
        self.reset()

    @torch.no_grad()
    def reset(self):
        """A codebook of random vectors; respects loaded ones."""
        super().reset()
        init.normal_(self.codebook)
        init.copy_(self.averages, self.codebook)
        init.ones_(self.usage)
        init.zeros_(self.frequencies)
        init.zeros_(self.recent)
        init.zeros_(self.steps)
        init.zeros_(self.restarts)

    @property
    def codebook_size(self):
        """How many codes there are."""
        return len(self.codebook)

    def perplexity(self):
        """Perplexity of how often codes were used over the last steps, shape `()`; 1 before the first."""
        shares = self.frequencies / self.frequencies.sum().clamp(min=self.eps)
        return torch.special.entr(shares).sum().exp()

    def distances(self, vectors):
        """Squared distances of vectors to all codes, shape `(n, dim)` to `(n, num_codes)`, less each vector's own square."""
        return self.codebook.square().sum(1) - 2 * vectors @ self.codebook.T

    def nearest(self, vectors):
        """The number of the nearest code of each vector, shape `(n, dim)` to `(n,)`."""
        return self.distances(vectors).argmin(1)

    def sums(self, vectors, numbers):
        """How many vectors, shape `(n, dim)`, have each code's number, and their sums."""
        usage = torch.bincount(numbers, minlength=self.codebook_size).float()
        return usage, torch.zeros_like(self.codebook).index_add_(0, numbers, vectors)

    def forward(self, vectors, parameter):
        """Quantize.

        Args:
            vectors (`torch.Tensor` of shape `(..., dim)`).
            parameter (`nn.Parameter`): of the layer that makes the vectors: says when an optimizer step has gone by.

        Returns:
            `tuple`: codes, shape `(..., dim)`, with a gradient to the vectors; their numbers, shape `(...)`; and the squared
            distance of each vector to its code, shape `(...)`, whose gradient draws vectors to codes.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            flat = vectors.reshape(-1, vectors.shape[-1]).float()
            exact = flat.detach()
            numbers = self.observe(exact, parameter) if self.gathers(parameter) else self.nearest(exact)
            found = self.codebook[numbers]
            codes = rotated(flat, found) if self.rotation else straight_through(flat, found)
            distances = (flat - found).square().sum(1)
            return codes.view(vectors.shape), numbers.view(vectors.shape[:-1]), distances.view(vectors.shape[:-1])

    def indices(self, vectors):
        """The codes' numbers alone, shape `(..., dim)` to `(...)`."""
        return self.nearest(vectors.reshape(-1, vectors.shape[-1]).float()).view(vectors.shape[:-1])

    def margins(self, vectors):
        """How much nearer the nearest code is than the next, in squared distance, shape `(..., dim)` to `(...)`."""
        flat = vectors.reshape(-1, vectors.shape[-1]).float()
        nearest = self.distances(flat).topk(2, dim=1, largest=False).values
        return (nearest[:, 1] - nearest[:, 0]).view(vectors.shape[:-1])

    def indices_to_codes(self, indices):
        """The codes of numbers, shape `(...)` to `(..., dim)`."""
        return self.codebook[indices]

    @torch.compiler.disable
    @torch.no_grad()
    def observe(self, flat, parameter):
        """Gather the sums of a training pass of vectors, shape `(n, dim)`, and give the nearest codes' numbers, shape `(n,)`;
        the first pass ever starts the codebook."""
        if not self.steps:
            self.start(flat)
        self.hand_on(parameter)
        numbers = self.nearest(flat)
        usage, sums = self.sums(flat, numbers)
        self.gather(usage=usage, vectors=sums)
        # Of a pass that has more than can be kept, some from everywhere.
        kept = flat[
            torch.linspace(0, len(flat) - 1, min(len(flat), len(self.recent)), device=flat.device).round().long()
        ]
        self.recent.copy_(torch.cat((kept, self.recent[: len(self.recent) - len(kept)])))
        return numbers

    def start(self, flat, rounds=10):
        """Start the codebook from k-means of vectors; vectors that are too few are repeated with a little noise."""
        generator = torch.Generator(flat.device).manual_seed(0)
        order = torch.randperm(len(flat), generator=generator, device=flat.device)
        chosen = flat[order.repeat(-(-self.codebook_size // len(flat)))[: self.codebook_size]]
        noise = torch.randn(chosen.shape, generator=generator, device=flat.device)
        self.codebook.copy_(chosen + 1e-3 * flat.std(0, unbiased=False) * noise)
        for _ in range(rounds):
            usage, sums = self.sums(flat, self.nearest(flat))
            usage = usage.unsqueeze(1)
            self.codebook.copy_(torch.where(usage > 0, sums / usage.clamp(min=1), self.codebook))
        of_first_rank(self.codebook)
        self.recent.copy_(flat[order.repeat(-(-len(self.recent) // len(flat)))[: len(self.recent)]])
        self.averages.copy_(self.codebook)
        self.steps.fill_(1)

    def apply_statistics(self, usage, vectors):
        """Move the codebook towards the means of a step's vectors, and let dead codes start anew."""
        self.usage.lerp_(usage, 1 - self.decay)
        self.frequencies.lerp_(usage, 1 - self.decay)
        self.averages.lerp_(vectors, 1 - self.decay)
        total = self.usage.sum()
        smoothed = (self.usage + self.eps) / (total + self.codebook_size * self.eps) * total
        self.codebook.copy_(self.averages / smoothed.unsqueeze(1))
        self.steps.add_(1)
        dead = self.usage < self.dead_usage * total / self.codebook_size
        self.restarts.add_(dead.sum())
        if dead.any():
            of_first_rank(self.recent)
            generator = torch.Generator(dead.device).manual_seed(int(self.steps))
            chosen = torch.randint(len(self.recent), (int(dead.sum()),), generator=generator, device=dead.device)
            self.codebook[dead] = self.recent[chosen]
            self.usage[dead] = total / self.codebook_size
            self.averages[dead] = self.recent[chosen] * self.usage[dead].unsqueeze(1)


def rotated(vectors, codes):
    """Codes, shape `(n, dim)`, as the rotation and stretching that turns each vector to its code, through which the gradient
    flows."""
    with torch.no_grad():
        size = vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)
        stretch = codes.norm(dim=1, keepdim=True) / size
        of_vector, of_code = vectors / size, nn.functional.normalize(codes, dim=1)
        between = nn.functional.normalize(of_vector + of_code, dim=1)
    reflected = vectors - 2 * (vectors * between).sum(1, keepdim=True) * between
    return stretch * (reflected + 2 * (vectors * of_vector).sum(1, keepdim=True) * of_code)


def of_first_rank(buffer):
    """Give all ranks the first one's values."""
    if torch.distributed.is_initialized():
        torch.distributed.broadcast(buffer, 0)


class RunningNorm(StepStatistics):
    """Each channel less its running mean, over its running deviation: batch norm without affine weights, whose statistics are
    the running ones in training too, so that examples do not touch each other.

    Source: Ioffe and Szegedy 2015, "Batch normalization", with the deviation that no gradient enters the statistics.

    Args:
        channels (`int`), momentum (`float`, defaults to 0.9): what statistics keep at each step.
        eps (`float`, defaults to 1e-5): added to the variance.
    """

    read_in_use = ("mean", "variance")

    def __init__(self, channels, momentum=0.9, eps=1e-5):
        super().__init__({"count": (), "sum": (channels,), "squares": (channels,)})
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.empty(channels))
        self.register_buffer("variance", torch.empty(channels))
        self.reset()

    @torch.no_grad()
    def reset(self):
        """Mean 0 and variance 1; respects loaded ones."""
        super().reset()
        init.zeros_(self.mean)
        init.ones_(self.variance)

    def forward(self, values, parameter):
        """Norm values of shape `(batch, channels)`, to the same shape in float32.

        Args:
            values (`torch.Tensor`).
            parameter (`nn.Parameter`): of the layer that makes them: says when an optimizer step has gone by.
        """
        with torch.autocast(values.device.type, enabled=False):
            values = values.float()
            if self.training:
                self.observe(values.detach(), parameter)
            return (values - self.mean) * torch.rsqrt(self.variance + self.eps)

    @torch.compiler.disable
    def observe(self, values, parameter):
        """Gather the sums of a training pass, after the last step's have moved the statistics."""
        if self.gathers(parameter):
            self.hand_on(parameter)
            self.gather(count=values.new_tensor(len(values)), sum=values.sum(0), squares=values.square().sum(0))

    def apply_statistics(self, count, sum, squares):
        """Move mean and variance towards those of a step's values."""
        mean = sum / count
        self.mean.lerp_(mean, 1 - self.momentum)
        self.variance.lerp_((squares / count - mean.square()).clamp(min=0), 1 - self.momentum)
