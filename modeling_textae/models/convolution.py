"""Convolutions over time as matrix products, on tensors of shape `(batch, length, channels)`.

A kernel is then the matrix of a linear layer, which Muon orthogonalises, LoRA adapts and int8 stores like any other, and on a CPU
in bfloat16 the product is faster than a convolution.
"""

import torch
from torch import nn


def windows(states, kernel_size, stride=1):
    """The places that a convolution sees, side by side: zeros beyond the ends, `(kernel_size - stride) // 2` of them before.

    A linear layer of weight `(out, kernel_size * channels)` on them is `torch.nn.functional.conv1d` of the weight
    `(out, channels, kernel_size)`, the kernel's places in order.

    Args:
        states (`torch.Tensor` of shape `(batch, length, channels)`).
        kernel_size (`int`), stride (`int`, defaults to 1).

    Returns:
        `torch.Tensor` of shape `(batch, length // stride, kernel_size * channels)`.

    Raises:
        ValueError: where the stride does not divide the length.
    """
    length = states.shape[1]
    if length % stride:
        raise ValueError(f"length {length} is no multiple of the stride {stride}")
    before = (kernel_size - stride) // 2
    padded = nn.functional.pad(states, (0, 0, before, kernel_size - stride - before))
    return torch.cat([padded[:, i : i + length : stride] for i in range(kernel_size)], dim=-1)


def overlap_add(taps):
    """Double the length: what a transposed convolution of kernel 4 and stride 2 makes of its kernel's products.

    A linear layer of weight `(4 * out, channels)` followed by this is `torch.nn.functional.conv_transpose1d` of the weight
    `(channels, out, 4)` with padding 1.

    Args:
        taps (`torch.Tensor` of shape `(batch, length, 4 * channels)`): what each place adds to the four around it, in order.

    Returns:
        `torch.Tensor` of shape `(batch, 2 * length, channels)`.
    """
    first, second, third, fourth = taps.chunk(4, dim=-1)
    even = second + nn.functional.pad(fourth, (0, 0, 1, 0))[:, :-1]
    odd = third + nn.functional.pad(first, (0, 0, 0, 1))[:, 1:]
    return torch.stack((even, odd), dim=2).flatten(1, 2)
