"""Samples that a language model writes while it is trained."""

import pytest
import torch
from model_cases import abstractinator_config
from transformers import TrainerControl, TrainerState, TrainingArguments

import modeling_textae as textae
from modeling_textae.training.recipe import parse_recipe
from modeling_textae.training.samples import SamplesCallback


def test_samples_are_written_where_it_is_time_and_training_does_not_feel_them(tmp_path):
    torch.manual_seed(0)
    model = textae.AbstractinatorForCausalLM(abstractinator_config()).train()
    path = tmp_path / "run" / "samples.md"
    callback = SamplesCallback(textae.AbstractinatorTokenizer(), ["", "one\ntwo"], 2, path, max_new_tokens=5)
    told = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    random = torch.get_rng_state()
    for step in range(1, 5):
        callback.on_step_end(told, TrainerState(global_step=step), TrainerControl(), model=model)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(module.training for module in model.modules())
    written = path.read_text()
    first, second = written.split("# Step 4\n")
    assert first.startswith("# Step 2\n")
    assert first.removeprefix("# Step 2\n") == second  # the same weights write the same
    assert "    one\n    two⟶" in second
    callback.on_step_end(told, TrainerState(global_step=6, is_world_process_zero=False), TrainerControl(), model=model)
    assert path.read_text() == written
    with pytest.raises(ValueError, match="every 0 steps"):
        SamplesCallback(None, [], 0, path)


def test_only_language_models_write_samples(tmp_path):
    arguments = ["--output_dir", str(tmp_path), "--sample_steps", "5"]
    assert parse_recipe([*arguments, "--family", "abstractinator_lm"]).training.sample_steps == 5
    for family in ("abstractinator", "cta", "encodzall", "fsq_autoencoder", "mlm_encoder"):
        with pytest.raises(ValueError, match="which the family"):
            parse_recipe([*arguments, "--family", family])
    with pytest.raises(ValueError, match="sample_steps -1"):
        parse_recipe([*arguments[:-1], "-1", "--family", "abstractinator_lm"])
