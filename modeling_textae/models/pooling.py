"""Pooling of segments: many vectors to one, for all segments of a batch at once."""

import torch
from torch import nn
from transformers import initialization as init

POOLING = ("mean", "max", "learned_query")


def segment_mean(values, segments, num_segments):
    """Mean of the values of each segment.

    Args:
        values (`torch.Tensor` of shape `(n, channels)`).
        segments (`torch.LongTensor` of shape `(n,)`): each value's segment, from 0 to `num_segments - 1`.
        num_segments (`int`).

    Returns:
        `torch.Tensor` of shape `(num_segments, channels)`; zeros for a segment without values.
    """
    total = values.new_zeros(num_segments, values.shape[1]).index_add(0, segments, values)
    return total / segment_count(segments, num_segments).clamp(min=1)[:, None].to(values.dtype)


def segment_max(values, segments, num_segments):
    """Largest value of each segment and channel; arguments and result as of [`segment_mean`]."""
    index = segments[:, None].expand_as(values)
    return values.new_zeros(num_segments, values.shape[1]).scatter_reduce(0, index, values, "amax", include_self=False)


def segment_count(segments, num_segments):
    """Number of values of each segment, shape `(num_segments,)`."""
    return segments.new_zeros(num_segments).index_add(0, segments, torch.ones_like(segments))


class LearnedQueryPooling(nn.Module):
    """Weighted mean of each segment, the weights a softmax over the segment of each value's product with one query.

    Args:
        channels (`int`): width of the values.
        num_heads (`int`, defaults to 1): parts of the width with a query of their own.
    """

    def __init__(self, channels, num_heads=1):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.empty(num_heads, channels // num_heads))

    def reset_parameters(self, std):
        """Draw the query from a normal distribution of standard deviation `std`."""
        init.normal_(self.query, std=std)

    def forward(self, values, segments, num_segments):
        """Arguments and result as of [`segment_mean`]."""
        heads = values.view(len(values), *self.query.shape)
        scores = (heads * self.query).sum(-1).float() * heads.shape[-1] ** -0.5
        index = segments[:, None].expand_as(scores)
        peak = scores.detach().new_zeros(num_segments, self.num_heads)
        peak = peak.scatter_reduce(0, index, scores.detach(), "amax", include_self=False)
        weights = (scores - peak[segments]).exp()
        norm = weights.new_zeros(num_segments, self.num_heads).index_add(0, segments, weights)
        weights = (weights / norm[segments]).to(values.dtype)[..., None]
        pooled = values.new_zeros(num_segments, *heads.shape[1:]).index_add(0, segments, heads * weights)
        return pooled.flatten(1)

    def pool_rows(self, values, real):
        """The same of segments in rows, in one order whatever the device: values of shape `(n, length, channels)`, of which those
        that are `real`, a `torch.BoolTensor` of shape `(n, length)`, count; to shape `(n, channels)`."""
        heads = values.unflatten(-1, self.query.shape)
        scores = (heads * self.query).sum(-1).float() * heads.shape[-1] ** -0.5
        weights = scores.masked_fill(~real[..., None], float("-inf")).softmax(1).to(values.dtype)
        return (heads * weights[..., None]).sum(1).flatten(1)
