"""Packing variable-length segments: greedy grouping under a capacity, and rows that hold whole segments."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask, packed_sequence_mask_function


def greedy_groups(lengths, capacity, barriers=None):
    """Group consecutive items from the left, each group as long as its total length stays within `capacity`.

    The sequential rule is solved by pointer doubling: item `i` points to the first item that no longer fits a group
    begun at `i`, and the items reached from the first one are where groups begin. O(n log n), no loop over items.

    Args:
        lengths (`np.ndarray` of int, shape `(n,)`): each at least 1 and at most `capacity`.
        capacity (`int`): the largest total of a group.
        barriers (`np.ndarray` of int, *optional*): items at which a new group begins whatever fits, in rising order.
            Item 0 is always one.

    Returns:
        `np.ndarray` of bool, shape `(n,)`: which items begin a group.

    Raises:
        ValueError: if a length is below 1 or above the capacity.
    """
    n = len(lengths)
    if n == 0:
        return np.zeros(0, dtype=bool)
    if lengths.min() < 1 or lengths.max() > capacity:
        wrong = int(lengths.min() if lengths.min() < 1 else lengths.max())
        raise ValueError(f"a segment of length {wrong} cannot be packed: accepted are 1 to {capacity}")
    ends = np.cumsum(lengths)
    jump = np.searchsorted(ends, ends - lengths + capacity, side="right")
    begins = np.zeros(n + 1, dtype=bool)
    begins[0] = True
    if barriers is not None and len(barriers):
        begins[barriers] = True
        following = np.append(barriers, n)[np.searchsorted(barriers, np.arange(n), side="right")]
        jump = np.minimum(jump, following)
    jump = np.append(jump, n)
    while True:
        reached = jump[begins]
        if begins[reached].all() and begins[n]:
            return begins[:n]
        begins[reached] = True
        begins[n] = True
        jump = jump[jump]


@dataclass
class Rows:
    """Where each element of a flat sequence of segments stands in rows that hold whole segments.

    Attributes:
        slots (`torch.LongTensor` of shape `(elements,)`): for each element its place in the flattened rows.
        segments (`torch.LongTensor` of shape `(rows, row_length)`): the segment that each place holds, -1 for none.
        positions (`torch.LongTensor` of shape `(elements,)`): each element's place within its segment, from 0.
    """

    slots: torch.Tensor
    segments: torch.Tensor
    positions: torch.Tensor

    def lay(self, values, fill):
        """Lay flat values, shape `(elements,)`, out in rows, shape `(rows, row_length)`."""
        rows = torch.full((self.segments.numel(),), fill, dtype=values.dtype, device=values.device)
        return rows.index_copy(0, self.slots, values).view(self.segments.shape)

    def attention_mask(self, config, states, causal=False):
        """Mask by which each place attends to its own segment, and only backwards if `causal`.

        Args:
            config (`PreTrainedConfig`): names the attention implementation, which decides the mask's form.
            states (`torch.Tensor` of shape `(rows, row_length, channels)`): read for dtype and device.
            causal (`bool`, defaults to `False`).

        Returns:
            Boolean or additive mask of shape `(rows, 1, row_length, row_length)`, or flex attention's block mask.
        """
        if config._attn_implementation not in ("sdpa", "eager"):
            make = create_causal_mask if causal else create_bidirectional_mask
            arguments = {"past_key_values": None} if causal else {}
            within = packed_sequence_mask_function(self.segments)
            return make(config, states, attention_mask=None, and_mask_function=within, **arguments)
        allowed = self.segments[:, :, None] == self.segments[:, None, :]
        return (allowed.tril() if causal else allowed)[:, None]


@torch.compiler.disable
def pack_rows(lengths, row_length, max_length=None):
    """Pack segments greedily, whole and in order, into rows of `row_length` places.

    Args:
        lengths (`torch.LongTensor` of shape `(segments,)`): each from 1 to `max_length`.
        row_length (`int`): places in a row.
        max_length (`int`, *optional*): the longest segment accepted; by default one that fills a row.

    Returns:
        [`Rows`], on the device of `lengths`.

    Raises:
        ValueError: if a segment is too long.
    """
    counts = lengths.cpu().numpy()
    longest = row_length if max_length is None else max_length
    if len(counts) and counts.max() > longest:
        raise ValueError(f"a segment of length {counts.max()} cannot be packed: accepted are 1 to {longest}")
    begins = greedy_groups(counts, row_length)
    starts = np.cumsum(counts) - counts
    row = np.cumsum(begins) - 1
    column = starts - starts[begins][row] if len(counts) else starts
    segment = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(segment)) - starts[segment]
    slots = (row * row_length + column)[segment] + position
    held = np.full((int(begins.sum()), row_length), -1, dtype=np.int64)
    held.reshape(-1)[slots] = segment
    return Rows(*(torch.from_numpy(a).to(lengths.device) for a in (slots, held, position)))


def moved_left(values, real, fill):
    """Values of each row that are real, moved to its left end in their order, whichever side their padding was on.

    Args:
        values (`torch.Tensor` of shape `(batch, length)`), real (`torch.BoolTensor` of shape `(batch, length)`), fill (`int`).

    Returns:
        `torch.Tensor` of shape `(batch, length)`, with `fill` beyond each row's end.
    """
    return values.masked_fill(~real, fill).gather(1, (~real).to(torch.int8).argsort(dim=1, stable=True))
