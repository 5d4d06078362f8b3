"""Training through rounded weights, against the same written out."""

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from modeling_textae.training.stored_weights import StoredWeightsCallback


def test_gradients_are_of_rounded_weights_and_steps_of_exact_ones(tmp_path):
    model, data, rate = torch.nn.Linear(6, 3), torch.randn(5, 6), 1e-4
    model.bias.requires_grad_(False)
    frozen = model.bias.clone()
    weight = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    callback = StoredWeightsCallback()
    told = (TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(), TrainerControl())
    for _ in range(3):
        callback.on_step_begin(*told, model=model)
        version = model.weight._version
        assert torch.equal(model.weight, weight.bfloat16().float())
        for part in data.split(3):
            (model(part).square().sum()).backward()
        callback.on_pre_optimizer_step(*told, model=model)
        assert torch.equal(model.weight, weight)
        assert model.weight._version == version
        optimizer.step()
        optimizer.zero_grad()
        rounded = weight.bfloat16().float().requires_grad_()
        (torch.nn.functional.linear(data, rounded, frozen)).square().sum().backward()
        # Steps far smaller than the rounding still add up.
        weight = weight - rate * rounded.grad
        torch.testing.assert_close(model.weight.detach(), weight)
    callback.on_train_end(*told, model=model)
    assert torch.equal(model.weight, weight.bfloat16().float())
    assert torch.equal(model.bias, frozen)
