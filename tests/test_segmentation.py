"""Where segments end: against sequential rules, and limits against quantiles."""

import math

import pytest
import torch

from modeling_textae.models.segmentation import SegmentLimit, bounded_cuts, cut_scores, entropies, is_white_space


def one_after_the_other(wanted, forced, shortest, longest):
    cuts, count = [], 0
    for is_wanted, is_forced in zip(wanted, forced, strict=True):
        count += 1
        cuts.append(is_forced or count == longest or (is_wanted and count >= shortest))
        count = 0 if cuts[-1] else count
    return cuts


@pytest.mark.parametrize("length", [0, 1, 2, 5, 17, 100])
@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (1, 4), (2, 3), (3, 9), (5, 200)])
def test_bounded_cuts_are_those_of_the_sequential_rule(length, shortest, longest):
    wanted, forced = torch.rand(6, length) < 0.3, torch.rand(6, length) < 0.1
    found = bounded_cuts(wanted, forced, shortest, longest)
    for row in range(6):
        assert found[row].tolist() == one_after_the_other(wanted[row].tolist(), forced[row].tolist(), shortest, longest)


@pytest.mark.parametrize("place", [0, 3, 19])
def test_a_cut_turns_on_what_came_before_alone(place):
    wanted, forced = torch.rand(1, 20) < 0.3, torch.rand(1, 20) < 0.1
    before = bounded_cuts(wanted, forced, 2, 5)
    wanted[:, place:] = ~wanted[:, place:]
    assert torch.equal(bounded_cuts(wanted, forced, 2, 5)[:, :place], before[:, :place])


def test_entropies_are_bits_in_float32():
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -1e4, -1e4, -1e4]], dtype=torch.bfloat16)
    assert entropies(scores).dtype == torch.float32
    torch.testing.assert_close(entropies(scores), torch.tensor([2.0, 0.0]))
    shares = torch.tensor([0.5, 0.25, 0.25])
    assert entropies(shares.log()).item() == pytest.approx(1.5)


def test_scores_of_rules():
    values = torch.tensor([[2.0, 5.0, 4.5, 1.0]])
    assert cut_scores("threshold", values, 1.0).tolist() == [[2.0, 5.0, 4.5, 1.0]]
    assert cut_scores("rise", values, 1.0).tolist() == [[0.0, 3.0, -0.5, -3.5]]
    assert cut_scores("rise_or_threshold", values, 1.0).tolist() == [[1.0, 4.0, 3.5, 0.0]]
    assert cut_scores("rise", values, 1.0, before=torch.tensor([1.5]))[0, 0].item() == 0.5


def test_white_space_is_ascii_s():
    ids = torch.tensor([list(b"a b\n\t\x85\xa0"), [32, 256, 257, 258, 9, 0, 11]])
    assert is_white_space(ids).tolist() == [
        [False, True, False, True, True, False, False],
        [True, False, False, False, True, False, True],
    ]


def test_a_limit_follows_the_quantile_of_a_wanted_length_over_micro_batches():
    limit, whole = SegmentLimit(4.0), SegmentLimit(4.0)
    parameter = torch.nn.Parameter(torch.zeros(1))
    scores = torch.randn(4000)
    for part in scores.chunk(4):
        limit.observe(part, parameter)
    whole.observe(scores, parameter)
    assert limit.limit == 1  # nothing moves within a step
    with torch.no_grad():
        parameter.add_(1)
    limit.observe(scores[:1], parameter)
    whole.observe(scores[:1], parameter)
    assert limit.limit.item() == pytest.approx(scores.quantile(0.75).item(), abs=0.04)
    torch.testing.assert_close(limit.limit, whole.limit)
    # Later steps move it slowly.
    with torch.no_grad():
        parameter.add_(1)
    before = limit.limit.item()
    limit.observe(scores, parameter)
    assert abs(limit.limit.item() - before) < 0.2 * abs(scores[0].item() - before) + 0.1


def test_a_frozen_parameter_s_limit_stays():
    limit, parameter = SegmentLimit(4.0), torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    for _ in range(3):
        limit.observe(torch.randn(10), parameter)
        parameter.add_(1)
    assert limit.limit == 1
    assert not limit.pending_scores.any()


def test_half_precision_leaves_a_limit_in_float32():
    limit = SegmentLimit(4.0).to(torch.bfloat16)
    assert limit.limit.dtype == torch.float32
    assert math.isfinite(limit.limit)
