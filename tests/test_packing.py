import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.masking_utils import packed_sequence_mask_function

from modeling_textae import EncodzallConfig
from modeling_textae.models.packing import greedy_groups, pack_rows


def naive_groups(lengths, capacity, barriers):
    begins, total = [], capacity
    for i, length in enumerate(lengths):
        begin = i in barriers or total + length > capacity
        total = length if begin else total + length
        begins.append(begin)
    return begins


@given(st.data())
def test_greedy_groups_equal_a_plain_loop(data):
    capacity = data.draw(st.integers(1, 20))
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=60))
    barriers = data.draw(st.lists(st.integers(0, max(len(lengths) - 1, 0)), max_size=5, unique=True).map(sorted))
    groups = greedy_groups(np.array(lengths, dtype=np.int64), capacity, np.array(barriers, dtype=np.int64))
    assert groups.tolist() == naive_groups(lengths, capacity, {0, *barriers})


@pytest.mark.parametrize("wrong", [0, 9])
def test_lengths_that_fit_nowhere_are_refused(wrong):
    with pytest.raises(ValueError, match=f"length {wrong} cannot be packed: accepted are 1 to 8"):
        greedy_groups(np.array([3, wrong]), 8)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=50))
def test_rows_hold_whole_segments_in_order(lengths):
    rows = pack_rows(torch.tensor(lengths), 16)
    values = torch.arange(sum(lengths))
    laid = rows.lay(values, -1)
    assert torch.equal(laid.flatten()[rows.slots], values)
    assert torch.equal(laid[laid >= 0], values)  # nothing else is there, and the order is kept
    expected = [i for i, n in enumerate(lengths) for _ in range(n)]
    assert rows.segments.flatten()[rows.slots].tolist() == expected
    assert rows.positions.tolist() == [p for n in lengths for p in range(n)]
    for row in rows.segments.tolist():
        assert all(row.count(s) == lengths[s] for s in set(row) - {-1})


@pytest.mark.parametrize("causal", [False, True])
def test_attention_mask_stays_inside_segments(causal):
    config = EncodzallConfig(hidden_size=32)
    config._attn_implementation = "sdpa"
    rows = pack_rows(torch.tensor([3, 2, 4, 3]), 8)
    mask = rows.attention_mask(config, torch.zeros(*rows.segments.shape, 4), causal)[:, 0]
    within = packed_sequence_mask_function(rows.segments)
    for b in range(mask.shape[0]):
        for q in range(8):
            for k in range(8):
                assert mask[b, q, k] == (within(b, 0, q, k) and (k <= q or not causal))


def test_segments_longer_than_allowed_are_refused():
    with pytest.raises(ValueError, match="length 13 cannot be packed: accepted are 1 to 12"):
        pack_rows(torch.tensor([5, 13]), 64, 12)
