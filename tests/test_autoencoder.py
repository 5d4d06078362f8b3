import pytest
import torch

from modeling_textae.models.autoencoder import label_cross_entropy, linear_cross_entropy


def both(dtype=torch.float32, given=None, rows=512, autocast=False):
    """Loss and gradients in parts, and of all scores at once."""
    found = []
    labels = torch.randint(0, 300, (4, 37))
    labels[torch.rand(4, 37) < 0.2] = -100
    for in_parts in (True, False):
        torch.manual_seed(1)
        states = torch.randn(4, 37, 24, dtype=dtype).requires_grad_()
        weight = torch.randn(300, 24, dtype=dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            if in_parts:
                loss = linear_cross_entropy(states, weight, labels, given, rows)
            else:
                loss = label_cross_entropy(torch.nn.functional.linear(states, weight), labels, given)
        (3 * loss).backward()
        found.append((loss.detach(), states.grad, weight.grad))
    return found


@pytest.mark.parametrize("rows", [1, 7, 148, 512])
@pytest.mark.parametrize("given", [None, 50, torch.tensor(1000)])
def test_cross_entropy_in_parts_equals_that_of_all_scores(rows, given):
    for a, b in zip(*both(given=given, rows=rows), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"autocast": True}, {"dtype": torch.bfloat16}])
def test_cross_entropy_in_parts_keeps_dtypes(options):
    for a, b in zip(*both(**options), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=3e-2, rtol=3e-2)


def test_cross_entropy_of_no_label_is_nothing():
    states = torch.randn(2, 3, 8, requires_grad=True)
    loss = linear_cross_entropy(states, torch.randn(5, 8), torch.full((2, 3), -100))
    loss.backward()
    assert loss == 0
    assert not states.grad.any()


def test_a_frozen_head_leaves_the_gradient_of_states_as_it_is():
    labels, states = torch.randint(0, 300, (37,)), torch.randn(37, 24)
    weight, found = torch.randn(300, 24), []
    for trained in (True, False):
        states = states.detach().requires_grad_()
        linear_cross_entropy(states, weight.detach().requires_grad_(trained), labels).backward()
        found.append(states.grad)
    assert torch.equal(*found)
