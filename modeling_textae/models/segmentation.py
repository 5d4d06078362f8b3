"""Where causal segments end: entropies, rules, and lengths that are kept within bounds."""

import math

import torch
from transformers import initialization as init

from .byte_tokenizer import NUM_BYTES
from .quantization import StepStatistics

WHITE_SPACE = tuple(b" \t\n\r\v\f")
SCORE_BINS, SCORE_RANGE = 512, (-16.0, 16.0)


def entropies(scores):
    """Entropy of each distribution, in bits and in float32 whatever the dtype of the scores.

    Args:
        scores (`torch.Tensor` of shape `(..., symbols)`).

    Returns:
        `torch.FloatTensor` of shape `(...)`.
    """
    told = scores.float().log_softmax(-1)
    return -(told.exp() * told).sum(-1) / math.log(2)


def cut_scores(rule, values, margin, before=None):
    """What a limit decides on at each place: a segment ends where it is above the limit.

    Args:
        rule (`str`): `rise`, `threshold` or `rise_or_threshold`.
        values (`torch.FloatTensor` of shape `(batch, length)`): entropies of the next symbol, in bits.
        margin (`float`): by how much a threshold is above the limit of a rise.
        before (`torch.FloatTensor` of shape `(batch,)`, *optional*): the entropy before the first place; by default that
            place's own.

    Returns:
        `torch.FloatTensor` of shape `(batch, length)`.
    """
    if rule == "threshold":
        return values
    before = values[:, :1] if before is None else before[:, None]
    rise = values - torch.cat((before, values[:, :-1]), 1)
    return rise if rule == "rise" else rise.maximum(values - margin)


def is_white_space(input_ids):
    """Which bytes are white space, in ASCII's sense; shape as given."""
    table = torch.zeros(NUM_BYTES, dtype=torch.bool, device=input_ids.device)
    table[list(WHITE_SPACE)] = True
    return table[input_ids.clamp(0, NUM_BYTES - 1)] & (input_ids < NUM_BYTES)


@torch.compiler.disable
def bounded_cuts(wanted, forced, shortest, longest):
    """Where segments end, of at least `shortest` and at most `longest` places each: at the first wanted place that makes the
    segment long enough, and at every forced one.

    Whether a place ends its segment depends on it and those before it alone. The sequential rule is solved by pointer
    doubling: each place knows where the segment would end that begins there, and the ends reached from the first are those
    that count. O(n log n).

    Args:
        wanted, forced (`torch.BoolTensor` of shape `(batch, length)`).
        shortest, longest (`int`): at least 1; the latter also for each place where a segment may begin, a `torch.LongTensor` of
            shape `(batch, length)`.

    Returns:
        `torch.BoolTensor` of shape `(batch, length)`: places that end a segment.
    """
    batch, length = wanted.shape
    place = torch.arange(length, device=wanted.device)
    never = torch.full((), length, device=wanted.device)

    def next_of(marks):
        """The first marked place from each on, `length` for none; shape `(batch, length + shortest)`."""
        found = torch.where(marks, place, never).flip(1).cummin(1).values.flip(1)
        return torch.nn.functional.pad(found, (0, shortest), value=length)

    end = next_of(wanted)[:, shortest - 1 : length + shortest - 1].minimum(place + longest - 1)
    end = end.minimum(next_of(forced)[:, :length])
    # One node a place, one for the end, and a last one, which leaps to itself, for segments that do not end here.
    leap = torch.nn.functional.pad(torch.where(end < length, end + 1, length + 1), (0, 2), value=length + 1)
    begins = torch.zeros(batch, length + 2, dtype=torch.bool, device=wanted.device)
    begins[:, 0] = True
    for _ in range(length.bit_length()):
        begins = begins.scatter(1, leap.where(begins, length + 1), True)
        leap = leap.gather(1, leap)
    return begins[:, 1 : length + 1]


class SegmentLimit(StepStatistics):
    """The limit of scores above which segments end, which in training follows the quantile that gives a wanted mean length.

    The quantile is read off a histogram, so that accumulated passes and several ranks count as one batch; bounds on the lengths
    are not counted in.

    Args:
        target (`float`): wanted mean length, at least 1.
        decay (`float`, defaults to 0.9): what the limit keeps of itself a step.
    """

    read_in_use = ("limit",)

    def __init__(self, target, decay=0.9):
        super().__init__({"scores": (SCORE_BINS,)})
        self.target, self.decay = target, decay
        self.register_buffer("limit", torch.empty(()))
        self.register_buffer("steps", torch.empty((), dtype=torch.long))
        self.reset()

    @torch.no_grad()
    def reset(self):
        """A limit of one bit; respects a loaded one."""
        super().reset()
        init.ones_(self.limit)
        init.zeros_(self.steps)

    def set(self, limit):
        """Give the limit a value, from which training goes on."""
        self.limit.fill_(limit)
        self.steps.clamp_(min=1)

    @torch.compiler.disable
    def observe(self, scores, parameter):
        """Gather the scores of a training pass, shape `(n,)`, after the last step's have moved the limit, if `parameter` was
        moved since."""
        if self.gathers(parameter):
            self.hand_on(parameter)
            self.gather(scores=torch.histc(scores.detach().float().clamp(*SCORE_RANGE), SCORE_BINS, *SCORE_RANGE))

    def apply_statistics(self, scores):
        """Move the limit towards the quantile of a step's scores."""
        low, high = SCORE_RANGE
        share = scores.cumsum(0) / scores.sum()
        wanted = 1 - 1 / self.target
        i = int((share < wanted).sum().clamp(max=SCORE_BINS - 1))
        below = share[i - 1] if i else share.new_zeros(())
        inside = ((wanted - below) / (share[i] - below).clamp(min=1e-9)).clamp(0, 1)
        found = low + (i + inside) * (high - low) / SCORE_BINS
        self.limit.lerp_(found, 1 - self.decay if self.steps else 1.0)
        self.steps.add_(1)
