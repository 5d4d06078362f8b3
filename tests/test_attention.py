import pytest
import torch
from torch import nn

from modeling_textae.models.attention import (
    WRITTEN_OUT_KEYS,
    apply_rotary,
    attention_implementation,
    eager_attention_forward,
    rotary_rows,
    rotary_table,
)


def test_rotary_equals_complex_multiplication():
    states = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 7, 500], [3, 3, 4, 9, 10]])
    turned = apply_rotary(states, rotary_table(positions, 8, dtype=torch.float64))
    pairs = torch.complex(states[..., :4], states[..., 4:])
    angles = positions[:, None, :, None].double() * 10000.0 ** (-torch.arange(4).double() / 4)
    expected = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag), -1), atol=1e-4, rtol=1e-4)


def test_rotary_products_depend_on_distance_alone():
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(i, j):
        turned = [apply_rotary(x, rotary_table(torch.tensor([[p]]), 8)) for x, p in ((query, i), (key, j))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(9, 4), product(105, 100), atol=1e-4, rtol=1e-4)


def test_rotary_rows_are_those_of_the_table():
    places = torch.tensor([0, 7, 3000])
    with torch.inference_mode():
        rotary_rows(places, 8, 500.0)  # what is kept can be trained with
    turned = apply_rotary(torch.randn(3, 2, 1, 8, requires_grad=True), rotary_rows(places, 8, 500.0))
    turned.sum().backward()
    for found, wanted in zip(rotary_rows(places, 8, 500.0), rotary_table(places[:, None], 8, 500.0), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("additive", [False, True])
def test_eager_attention_equals_torchs(additive):
    module = nn.Module()
    module.num_key_value_groups = 2
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    mask = torch.rand(2, 1, 5, 7) < 0.7
    mask[..., 0] = True
    given = torch.zeros(mask.shape).masked_fill(~mask, -1e9) if additive else mask
    output, weights = eager_attention_forward(module, query, key, value, given, scaling=8**-0.5)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    torch.testing.assert_close(output, expected.transpose(1, 2))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))
    assert weights.masked_select(~mask.expand_as(weights)).abs().max() < 1e-6


def test_attention_is_written_out_where_that_trains_faster():
    def chosen(dtype=torch.bfloat16, keys=64, training=True, implementation="sdpa", mask=None, is_causal=False):
        module = nn.Module()
        module.is_causal = is_causal
        query, key = torch.zeros(1, 2, 5, 8, dtype=dtype, requires_grad=training), torch.zeros(1, 2, keys, 8)
        return attention_implementation(implementation, module, query, key, mask)

    assert chosen() == chosen(keys=WRITTEN_OUT_KEYS) == "eager"
    assert chosen(keys=WRITTEN_OUT_KEYS + 1) == chosen(training=False) == chosen(dtype=torch.float32) == "sdpa"
    assert chosen(implementation="flex_attention") == "flex_attention"
    # Without a mask, written-out attention would show a causal module the future.
    assert chosen(is_causal=True) == "sdpa"
    assert chosen(is_causal=True, mask=torch.ones(1, 1, 5, 64, dtype=torch.bool)) == "eager"
