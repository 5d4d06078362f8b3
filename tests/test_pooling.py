import pytest
import torch

from modeling_textae.models.pooling import LearnedQueryPooling, segment_count, segment_max, segment_mean

SEGMENTS = torch.tensor([0, 0, 0, 2, 2, 3])


@pytest.fixture
def values():
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def by_loop(values, reduce):
    return torch.stack(
        [reduce(values[i == SEGMENTS]) if (i == SEGMENTS).any() else values.new_zeros(8) for i in range(4)]
    )


def learned(pooling):
    def reduce(group):
        heads = group.view(len(group), 2, 4)
        weights = ((heads * pooling.query).sum(-1) / 2).softmax(0)
        return (heads * weights[..., None]).sum(0).flatten()

    return reduce


def assert_equal_with_gradients(values, pooled, expected):
    torch.testing.assert_close(pooled, expected)
    weight = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=pooled.dtype)
    first = torch.autograd.grad((pooled * weight).sum(), values)
    second = torch.autograd.grad((expected * weight).sum(), values)
    torch.testing.assert_close(first, second)


def test_mean(values):
    assert_equal_with_gradients(values, segment_mean(values, SEGMENTS, 4), by_loop(values, lambda g: g.mean(0)))


def test_max(values):
    assert_equal_with_gradients(values, segment_max(values, SEGMENTS, 4), by_loop(values, lambda g: g.max(0).values))


def test_learned_query(values):
    torch.manual_seed(0)
    pooling = LearnedQueryPooling(8, 2)
    pooling.reset_parameters(1.0)
    values = values.detach().float().requires_grad_()
    assert_equal_with_gradients(values, pooling(values, SEGMENTS, 4), by_loop(values, learned(pooling)))


def test_learned_query_survives_large_scores():
    pooling = LearnedQueryPooling(8, 2)
    torch.nn.init.ones_(pooling.query)
    pooled = pooling(torch.full((6, 8), 1000.0), SEGMENTS, 4)
    torch.testing.assert_close(pooled[0], torch.full((8,), 1000.0))


def test_count():
    assert segment_count(SEGMENTS, 4).tolist() == [3, 0, 2, 1]
