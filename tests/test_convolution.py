import pytest
import torch
from torch import nn

from modeling_textae.models.convolution import overlap_add, windows


def same_with_gradients(ours, reference, tensors):
    """Compare two functions of the same tensors, values and gradients."""
    results = []
    for function in (ours, reference):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = function(*leaves)
        (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)).sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (5, 1, 2), (4, 2, 1), (2, 2, 0)])
def test_windows_and_a_matrix_are_a_convolution(kernel, stride, padding):
    torch.manual_seed(0)
    states, weight = torch.randn(2, 12, 5), torch.randn(7, 5, kernel)

    def ours(states, weight):
        return nn.functional.linear(windows(states, kernel, stride), weight.transpose(1, 2).flatten(1))

    def reference(states, weight):
        return nn.functional.conv1d(states.transpose(1, 2), weight, stride=stride, padding=padding).transpose(1, 2)

    same_with_gradients(ours, reference, (states, weight))


@pytest.mark.parametrize("length", [1, 2, 6])
def test_overlap_add_after_a_matrix_is_a_transposed_convolution(length):
    torch.manual_seed(0)
    states, weight = torch.randn(2, length, 5), torch.randn(5, 7, 4)

    def ours(states, weight):
        return overlap_add(nn.functional.linear(states, weight.permute(2, 1, 0).flatten(0, 1)))

    def reference(states, weight):
        return nn.functional.conv_transpose1d(states.transpose(1, 2), weight, stride=2, padding=1).transpose(1, 2)

    same_with_gradients(ours, reference, (states, weight))


def test_a_length_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="length 5 is no multiple of the stride 2"):
        windows(torch.zeros(1, 5, 3), 4, 2)
