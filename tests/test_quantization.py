import pytest
import torch
from processes import run as in_processes
from torch import nn
from vector_quantize_pytorch import FSQ, VectorQuantize

from modeling_textae.models.quantization import FSQLayer, RunningNorm, VectorQuantizer, rotated

LEVELS = [[8, 8, 8, 8, 8, 5, 5, 5], [8, 5, 5, 5], [7, 5, 5, 5, 5], [3, 4, 6]]


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_equals_the_reference_gradients_included(levels):
    torch.manual_seed(0)
    values = torch.randn(5, 7, len(levels)) * 3
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    codes, indices = FSQLayer(levels)(ours)
    expected, expected_indices = FSQ(levels)(theirs)
    torch.testing.assert_close(codes, expected)
    assert torch.equal(indices, expected_indices.long())
    weight = torch.randn_like(codes)
    (codes * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_reaches_every_level_evenly_spaced(levels):
    codes, _ = FSQLayer(levels)(torch.linspace(-9, 9, 4001).unsqueeze(1).expand(-1, len(levels)))
    for column, number in zip(codes.T, levels, strict=True):
        found = column.unique()
        assert len(found) == number
        torch.testing.assert_close(found.diff(), torch.full((number - 1,), 1 / (number // 2)))


def test_fsq_numbers_and_codes_are_one_to_one_without_a_codebook():
    levels = [3, 4, 5]
    layer, numbers = FSQLayer(levels), torch.arange(60)
    codes = layer.indices_to_codes(numbers)
    assert torch.equal(layer.codes_to_indices(codes), numbers)
    naive = [[(n % 3) / 1 - 1, (n // 3 % 4 - 2) / 2, (n // 12 - 2) / 2] for n in range(60)]
    torch.testing.assert_close(codes, torch.tensor(naive))
    assert layer.codebook_size == 60
    assert not list(FSQLayer([8] * 7).buffers())


def test_fsq_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    layer, values = FSQLayer([8, 8, 8, 8, 8, 5, 5, 5]), torch.randn(1000, 8)
    expected = layer(values)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes, indices = layer(values)
    assert codes.dtype == torch.float32
    assert torch.equal(indices, expected)


def test_fsq_temperature_divides_and_margins_are_distances_to_an_edge():
    values = torch.randn(50, 2)
    assert torch.equal(FSQLayer([8, 5], temperature=2.0)(values)[1], FSQLayer([8, 5])(values / 2)[1])
    layer = FSQLayer([5])
    # 0 is the middle of a level; the edge to the next is half a step away, at atanh(0.5 / 2.002).
    edge = torch.atanh(torch.tensor(0.5 / 2.002))
    margins = layer.margins(torch.stack((torch.tensor(0.0), edge)).unsqueeze(1))
    torch.testing.assert_close(margins, torch.tensor([0.5, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("levels", [[], [8, 1]])
def test_fsq_refuses_levels_that_are_none(levels):
    with pytest.raises(ValueError, match="levels"):
        FSQLayer(levels)
    with pytest.raises(ValueError, match="temperature"):
        FSQLayer([5], temperature=0)


def quantizers(rotation):
    torch.manual_seed(0)
    theirs = VectorQuantize(
        4, codebook_size=12, decay=0.9, commitment_weight=1.0, rotation_trick=rotation, threshold_ema_dead_code=0
    )
    ours = VectorQuantizer(12, 4, decay=0.9, dead_usage=0, rotation=rotation)
    ours.codebook.copy_(theirs.codebook)
    ours.averages.copy_(theirs._codebook.embed_avg[0])
    ours.usage.copy_(theirs._codebook.cluster_size[0])
    ours.steps.fill_(1)
    return ours.train(), theirs.train()


@pytest.mark.parametrize("rotation", [False, True])
def test_vector_quantizer_equals_the_reference_over_several_steps(rotation):
    ours, theirs = quantizers(rotation)
    parameter = nn.Parameter(torch.zeros(1))
    for _ in range(4):
        vectors = torch.randn(40, 4)
        a, b = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
        codes, indices, distances = ours(a, parameter)
        expected, expected_indices, loss = theirs(b)
        torch.testing.assert_close(codes, expected)
        assert torch.equal(indices, expected_indices)
        weight = torch.randn_like(codes)
        # The reference's distance is a mean over numbers too.
        ((codes * weight).sum() + distances.mean() / 4).backward()
        ((expected * weight).sum() + loss.squeeze()).backward()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            parameter.add_(1)  # as an optimizer would
    ours.hand_on(parameter)
    torch.testing.assert_close(ours.codebook, theirs.codebook)
    torch.testing.assert_close(ours.usage, theirs._codebook.cluster_size[0])


@pytest.mark.parametrize("kind", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_every_kind_of_optimizer_is_seen_to_step(kind):
    torch.manual_seed(0)
    layer, quantizer = nn.Linear(4, 4), VectorQuantizer(8, 4)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, **kind)
    for _ in range(5):
        codes, _, distances = quantizer(layer(torch.randn(32, 4)), layer.weight)
        (codes.square().mean() + distances.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert quantizer.steps == 5  # 1 after the start; the last step's sums wait for the next pass


def quantized_step(vectors, dead_usage):
    """A quantizer that has started elsewhere, after a step of vectors in two micro-batches."""
    torch.manual_seed(1)
    quantizer, parameter = VectorQuantizer(8, 4, dead_usage=dead_usage), nn.Parameter(torch.zeros(1))
    quantizer.steps.fill_(1)
    quantizer.usage[0] = 1e-6
    for part in vectors.chunk(2):
        quantizer(part, parameter)
    with torch.no_grad():
        parameter.add_(1)
    quantizer.hand_on(parameter)
    return quantizer


def quantize_as_a_rank(folder, dead_usage):
    """A step of a rank's part of the vectors, written to a file of its own."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    vectors = torch.load(f"{folder}/vectors.pt").chunk(2)[rank]
    torch.save(quantized_step(vectors, dead_usage).state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dead_usage", [0, 0.05])
def test_ranks_move_one_codebook_by_the_sums_of_all(tmp_path, dead_usage):
    torch.manual_seed(0)
    vectors = torch.randn(64, 4)
    torch.save(vectors, tmp_path / "vectors.pt")
    codes, errors = in_processes(quantize_as_a_rank, str(tmp_path), dead_usage, ranks=2)
    assert codes == [0, 0], errors
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    whole = quantized_step(vectors, dead_usage)
    assert bool(whole.restarts) == bool(dead_usage)
    for name in ("usage", "frequencies", "averages", "codebook", "restarts"):
        assert torch.equal(first[name], second[name])
        if not dead_usage:  # else codes start anew from the vectors of one rank
            torch.testing.assert_close(first[name], getattr(whole, name))


def test_what_a_model_in_training_generates_is_no_statistics():
    quantizer, parameter = VectorQuantizer(8, 4).train(), nn.Parameter(torch.zeros(1))
    with torch.no_grad():
        quantizer(torch.randn(32, 4), parameter)
    assert not quantizer.steps
    assert not quantizer.pending_usage.any()


def test_rotation_turns_a_vector_to_its_code():
    torch.manual_seed(0)
    vectors, codes = torch.randn(6, 4), torch.randn(6, 4)
    torch.testing.assert_close(rotated(vectors, codes), codes, atol=1e-5, rtol=1e-5)


def test_micro_batches_count_as_one_step_and_frozen_layers_gather_nothing():
    torch.manual_seed(0)
    vectors, parameter = torch.randn(32, 4), nn.Parameter(torch.zeros(1))
    whole, parts = (VectorQuantizer(8, 4, dead_usage=0) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    for quantizer in (whole, parts):
        quantizer.steps.fill_(1)
    whole(vectors, parameter)
    before = parts.codebook.clone()
    for part in vectors.split(8):
        parts(part, parameter)
        assert torch.equal(parts.codebook, before)  # nothing moves within a step
    with torch.no_grad():
        parameter.add_(1)
    for quantizer in (whole, parts):
        quantizer.hand_on(parameter)
    assert not torch.equal(parts.codebook, before)
    torch.testing.assert_close(whole.codebook, parts.codebook)
    frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    moved = parts.codebook.clone()
    parts(vectors, frozen)
    assert not parts.pending_usage.any()
    assert torch.equal(parts.codebook, moved)
    assert not list(whole.parameters())


def test_codebook_starts_from_k_means_and_dead_codes_start_anew():
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0], [-5, 0], [0, 5], [0, -5]])
    vectors = centres.repeat(25, 1) + 0.01 * torch.randn(100, 2)
    quantizer, parameter = VectorQuantizer(4, 2, dead_usage=0.1), nn.Parameter(torch.zeros(1))
    quantizer(vectors, parameter)
    assert (vectors - quantizer.codebook[quantizer.nearest(vectors)]).norm(dim=1).mean() < 3
    with torch.no_grad():
        quantizer.codebook[0] = torch.tensor([90.0, 90])  # far from all: nobody's nearest
        for pending in (quantizer.pending_usage, quantizer.pending_vectors):
            pending.zero_()
        quantizer.averages[0], quantizer.usage[0] = 0.01 * quantizer.codebook[0], 0.01
    for _ in range(3):
        with torch.no_grad():
            parameter.add_(1)
        quantizer(vectors, parameter)
    # It begins again at a vector that was there, not anywhere.
    assert (vectors - quantizer.codebook[0]).norm(dim=1).min() < 1e-2
    assert quantizer.codebook.abs().max() < 6
    assert quantizer.margins(vectors).shape == (100,)
    assert torch.equal(quantizer.indices(vectors), quantizer.nearest(vectors))


def test_perplexity_is_that_of_the_codes_that_were_drawn_and_knows_no_restart():
    vectors = torch.tensor([[0.0, 0.0]] * 3 + [[9.0, 9.0]]) + 1e-3 * torch.randn(4, 2)
    parameter = nn.Parameter(torch.zeros(()))
    quantizer = VectorQuantizer(16, 2, decay=0.5).train()
    assert quantizer.perplexity() == 1
    counts = torch.zeros(16)
    for _ in range(8):
        _, numbers, _ = quantizer(vectors, parameter)
        counts = 0.5 * counts + torch.bincount(numbers, minlength=16)
        with torch.no_grad():
            parameter.add_(1)  # the optimizer's step
    quantizer(vectors, parameter)
    shares = counts[counts > 0] / counts.sum()
    assert quantizer.restarts > 0
    torch.testing.assert_close(quantizer.perplexity(), (-(shares * shares.log()).sum()).exp())


def test_more_codes_than_vectors_can_start():
    quantizer = VectorQuantizer(50, 2)
    quantizer(torch.randn(8, 2), nn.Parameter(torch.zeros(1)))
    assert quantizer.codebook.isfinite().all()
    assert len(quantizer.codebook.unique(dim=0)) > 8


def test_running_norm_is_batch_norm_in_evaluation_and_does_not_couple_examples_in_training():
    torch.manual_seed(0)
    ours, parameter = RunningNorm(3, momentum=0.9), nn.Parameter(torch.zeros(1))
    theirs = nn.BatchNorm1d(3, affine=False, momentum=0.1)
    for _ in range(5):
        values = torch.randn(64, 3) * 3 + 1
        ours(values, parameter)
        theirs(values)
        with torch.no_grad():
            parameter.add_(1)
    ours.hand_on(parameter)
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    # torch divides by one less.
    torch.testing.assert_close(ours.variance, (theirs.running_var - 0.9**5) * 63 / 64 + 0.9**5)
    both = ours(values, parameter)
    torch.testing.assert_close(both[:1], ours(values[:1], parameter))
    torch.testing.assert_close(ours.eval()(values, parameter), both)


def test_statistics_in_waiting_survive_a_checkpoint():
    torch.manual_seed(0)
    parameter, values = nn.Parameter(torch.zeros(1)), torch.randn(2, 16, 3)
    norm = RunningNorm(3)
    norm(values[0], parameter)
    with torch.no_grad():
        parameter.add_(1)
    resumed = RunningNorm(3)
    resumed.load_state_dict(norm.state_dict())
    torch.testing.assert_close(resumed(values[1], parameter), norm(values[1], parameter))
    assert norm.mean.any()
