import pytest
import torch
from model_cases import TEXTS, encodzall_config, encodzall_training_inputs
from transformers import TrainingArguments

import modeling_textae as textae
from modeling_textae.models.linear import FusedLinear
from modeling_textae.training.optimizers import (
    Muon,
    MuonFactory,
    MuonWithAdamW,
    optimizer_class_and_arguments,
    orthogonalized,
)


def build():
    torch.manual_seed(0)
    return textae.EncodzallForPreTraining(encodzall_config())


def step(model, optimizer, scheduler=None):
    model(**encodzall_training_inputs(TEXTS)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if scheduler:
        scheduler.step()


def test_every_parameter_is_trained_by_one_of_both():
    model = build()
    optimizer = MuonFactory()(model, weight_decay=0.1)
    owners = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    names = {id(p): n for n, p in model.named_parameters()}
    assert owners.keys() == names.keys()
    for key, group in owners.items():
        name = names[key]
        parameter = model.get_parameter(name)
        assert (group["optimizer"] == 0) == (
            (name.endswith(".weight") and "proj" in name) or ".feed_forward." in name or "condition" in name
        )
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_matrices_move_as_torchs_muon_and_the_rest_as_adamw():
    model, twin = build(), build()
    optimizer = MuonWithAdamW(model, lr=1e-3, muon_lr=2e-3)
    optimizer.inner[0].in_bfloat16 = True  # as torch's always is
    matrices = {id(p) for p in optimizer.inner[0].param_groups[0]["params"]}
    pairs = list(zip(model.parameters(), twin.parameters(), strict=True))
    muon = torch.optim.Muon(
        [b for a, b in pairs if id(a) in matrices], lr=2e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [b for a, b in pairs if id(a) not in matrices], lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98)
    )
    for _ in range(3):
        step(model, optimizer)
        twin(**encodzall_training_inputs(TEXTS)).loss.backward()
        muon.step()
        adamw.step()
        twin.zero_grad()
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_orthogonalized_applies_the_polynomial_to_the_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / matrix.double().norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    torch.testing.assert_close(orthogonalized(matrix).double(), left * values @ right, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("in_bfloat16", "tolerance"), [(True, 1e-6), (False, 1e-3)])
def test_muon_steps_as_torchs_with_decay(in_bfloat16, tolerance):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(8, 16)) for _ in range(2))
    numbers = {"lr": 1e-2, "weight_decay": 0.1, "momentum": 0.9}
    optimizers = [
        Muon([ours], **numbers, in_bfloat16=in_bfloat16),
        torch.optim.Muon([theirs], **numbers, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        gradient = torch.randn(8, 16, generator=generator)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    assert optimizers[0].state[ours].keys() == optimizers[1].state[theirs].keys()


def test_fused_layers_move_as_the_layers_they_are_made_of():
    torch.manual_seed(0)
    parts = [torch.nn.Linear(8, 12, bias=False) for _ in range(3)]
    fused = FusedLinear(8, 12, 3)
    fused.weight.data = torch.cat([part.weight.data for part in parts])
    inputs = torch.randn(5, 8)
    apart, together = torch.nn.ModuleList(parts), torch.nn.ModuleList([fused])
    optimizers = [MuonWithAdamW(model, muon_lr=0.1, weight_decay=0.1) for model in (apart, together)]
    for _ in range(3):
        torch.cat([part(inputs) for part in parts], 1).square().sum().backward()
        fused(inputs).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(fused.weight, torch.cat([part.weight for part in parts]))


def test_state_goes_on_exactly_with_its_schedule(tmp_path):
    def start():
        model = build()
        optimizer = MuonWithAdamW(model)
        return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (k + 1))

    model, optimizer, scheduler = start()
    for _ in range(2):
        step(model, optimizer, scheduler)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    again, second, second_scheduler = start()
    again.load_state_dict(model.state_dict())
    second.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    second_scheduler.load_state_dict(scheduler.state_dict())
    for m, o, s in ((model, optimizer, scheduler), (again, second, second_scheduler)):
        for _ in range(2):
            step(m, o, s)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in second.param_groups]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(6e-3 / 5)


def test_names(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), learning_rate=1e-3, use_cpu=True)
    assert optimizer_class_and_arguments("adamw", args) is None
    assert optimizer_class_and_arguments("muon", args)[1]["muon_lr"] == 2e-3
    with pytest.raises(ValueError, match="'sgd' is unknown: accepted are adamw, muon"):
        optimizer_class_and_arguments("sgd", args)
