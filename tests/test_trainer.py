import json
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from model_cases import abstractinator_config, cta_config, encodzall_config, mlm_encoder_config
from peft import LoraConfig, get_peft_model
from processes import run as in_processes
from torch.utils.data import DataLoader
from training_run import TEXTS, summary, train, write_summary
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerState, TrainingArguments

import modeling_textae as textae
from modeling_textae.data.collators import EncodzallMaskingCollator, LanguageCollator
from modeling_textae.data.noise import NoiseRate
from modeling_textae.data.numbering import NumberedBatchSampler, NumberedDataset, NumberedIterable
from modeling_textae.training.latents import KlAnnealingCallback
from modeling_textae.training.pid import PIDNoiseCallback
from modeling_textae.training.trainer import TextAETrainer

HERE = Path(__file__).parent


def run(output_dir, processes=1, **arguments):
    """Train in a process of its own, or in several, and give what it wrote."""
    codes, errors = in_processes(write_summary, str(output_dir), arguments, ranks=processes)
    assert not any(codes), errors
    return json.loads((Path(output_dir) / "summary.json").read_text())


def run_under_torchrun(output_dir, processes, **arguments):
    """The same as a user starts it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [sys.executable, *launcher, str(HERE / "training_run.py"), str(output_dir), json.dumps(arguments)],
        capture_output=True, text=True, cwd=HERE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((Path(output_dir) / "summary.json").read_text())


def kill(output_dir, **arguments):
    """Train in a process that dies after seven steps."""
    assert in_processes(write_summary, str(output_dir), arguments | {"kill_at": 7})[0] == [-signal.SIGKILL]


def assert_same_run(first, second, **tolerance):
    assert [log["step"] for log in first["logs"]] == [log["step"] for log in second["logs"]]
    for a, b in zip(first["logs"], second["logs"], strict=True):
        if tolerance and "noise_error" in a:
            # What the loss is away from a set-point is as exact as the loss, however small it is.
            assert a.pop("noise_error") == pytest.approx(b.pop("noise_error"), abs=tolerance["rel"] * b["loss"])
        assert a == (pytest.approx(b, **tolerance) if tolerance else b)
    assert first["weights"] == (pytest.approx(second["weights"], **tolerance) if tolerance else second["weights"])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run of one and a fifth epochs."""
    return summary(train(tmp_path_factory.mktemp("straight"), dropout=0.1))


def test_losses_parts_and_noise_are_logged(straight):
    for log in straight["logs"]:
        assert log["loss"] == pytest.approx(log["sequence_loss"] + log["word_loss"], rel=1e-5)
        assert 0 <= log["noise_rate"] <= 1
    assert straight["logs"][-1]["loss"] < straight["logs"][0]["loss"]
    rates = [log["noise_rate"] for log in straight["logs"]]
    assert rates[:2] == [0.2, 0.2]  # warm-up without control
    assert len(set(rates)) > 5


def test_the_rate_follows_the_controllers_formula(straight):
    from modeling_textae.training.pid import PIDController

    controller = PIDController(5.4, start=0.2, integral=0.02)
    for i, log in enumerate(straight["logs"]):
        if i < 2:
            controller.observe(log["loss"])
        else:
            controller.update(log["loss"])
        assert log["noise_rate"] == pytest.approx(controller.output, abs=1e-6)


def test_a_killed_run_resumes_in_mid_epoch_to_the_very_same_losses(straight, tmp_path):
    kill(tmp_path, dropout=0.1)
    (tmp_path / "checkpoint-6").mkdir()  # one whose writing the kill cut short
    (tmp_path / "checkpoint-6" / "trainer_state.json").write_text('{"global_st')
    resumed = run(tmp_path, resume=True, dropout=0.1)
    assert_same_run(resumed, straight)


@pytest.mark.parametrize("family", ["mlm_encoder", "cta"])
def test_tokens_train_resume_and_spread_over_ranks_alike(tmp_path, family):
    settings = {"family": family, "dropout": 0.1}
    straight = summary(train(tmp_path / "straight", **settings))
    assert straight["logs"][-1]["loss"] < straight["logs"][0]["loss"]
    assert len({log["noise_rate"] for log in straight["logs"]}) > 5  # the PID loop drives the noise
    kill(tmp_path / "killed", **settings)
    assert_same_run(run(tmp_path / "killed", resume=True, **settings), straight)
    two = run(tmp_path / "two", processes=2, batch_size=2, accumulation=2, max_steps=6, family=family)
    one = summary(train(tmp_path / "one", batch_size=4, accumulation=2, max_steps=6, family=family))
    assert_same_run(two, one, rel=5e-4, abs=1e-5)


@pytest.mark.parametrize(
    "family",
    [
        "fsq_autoencoder_joint",
        "abstractinator_lm",
        pytest.param("abstractinator_codes", marks=pytest.mark.slow),
        pytest.param("fsq_autoencoder", marks=pytest.mark.slow),
        pytest.param("fsq_autoencoder_vq", marks=pytest.mark.slow),
        pytest.param("fsq_autoencoder_lm", marks=pytest.mark.slow),
    ],
)
def test_models_with_statistics_and_language_models_resume_and_spread_over_ranks_alike(tmp_path, family):
    straight = summary(train(tmp_path / "straight", family=family))
    assert straight["logs"][-1]["loss"] < straight["logs"][0]["loss"]
    kill(tmp_path / "killed", family=family)
    assert_same_run(run(tmp_path / "killed", resume=True, family=family), straight)
    if family in ("fsq_autoencoder_vq", "abstractinator_codes"):
        return  # its codebook starts from what one rank sees first
    two = run(tmp_path / "two", processes=2, batch_size=2, accumulation=2, max_steps=6, family=family)
    one = summary(train(tmp_path / "one", batch_size=4, accumulation=2, max_steps=6, family=family))
    assert_same_run(two, one, rel=5e-4, abs=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_four_times_four_equals_sixteen(tmp_path, optimizer):
    parts = summary(train(tmp_path / "parts", batch_size=4, accumulation=4, max_steps=6, optimizer=optimizer))
    whole = summary(train(tmp_path / "whole", batch_size=16, accumulation=1, max_steps=6, optimizer=optimizer))
    assert_same_run(parts, whole, rel=5e-4, abs=1e-5)
    assert len({log["noise_rate"] for log in whole["logs"]}) > 3


def test_two_ranks_equal_one_with_twice_the_batch(tmp_path):
    two = run_under_torchrun(tmp_path / "two", processes=2, batch_size=2, accumulation=2, max_steps=6)
    one = run(tmp_path / "one", batch_size=4, accumulation=2, max_steps=6)
    assert_same_run(two, one, rel=5e-4, abs=1e-5)
    assert len({log["noise_rate"] for log in one["logs"]}) > 3


@pytest.mark.slow
def test_workers_only_delay_the_rate(tmp_path):
    first, second = (summary(train(tmp_path / str(i), workers=2, max_steps=16)) for i in range(2))
    assert_same_run(first, second)


def test_codebooks_and_limits_move_under_plain_trainer_as_it_is(tmp_path):
    """With its default optimizer, which is fused."""
    torch.manual_seed(0)
    model = textae.AbstractinatorForCausalLM(abstractinator_config(codebook_sizes=[32]))
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model, arguments, data_collator=LanguageCollator(textae.AbstractinatorTokenizer()),
        train_dataset=datasets.Dataset.from_dict({"text": TEXTS}),
    )  # fmt: skip
    trainer.train()
    compressor = model.model.autoencoder.compressors[0]
    # The rate of the first step is 0 or not: what waits for the next pass is one step's or two.
    assert compressor.quantizer.steps >= 5
    assert compressor.limit.steps >= 4


def test_plain_trainer_trains_and_is_controlled_by_its_logs(tmp_path):
    trainer = train(tmp_path, max_steps=12, trainer_class=Trainer)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len({log["noise_rate"] for log in logs}) > 5
    assert logs[-1]["loss"] < logs[0]["loss"]


def test_a_collator_without_noise_rate_is_refused(tmp_path):
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        train(tmp_path, trainer_class=Trainer, remove_unused_columns=True)


def test_evaluation_logs_parts_and_repeats_itself(tmp_path):
    trainer = train(tmp_path, max_steps=2)
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first["eval_loss"] == pytest.approx(first["eval_sequence_loss"] + first["eval_word_loss"], rel=1e-5)
    assert first["eval_loss"] == second["eval_loss"]


def test_batches_are_numbered_cover_an_epoch_and_follow_the_seed():
    dataset = NumberedDataset([{"text": text} for text in TEXTS])
    sampler = NumberedBatchSampler(dataset, batch_size=4, batches_per_step=3, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 9  # whole steps only
    assert [key[0] for batch in batches for key in batch] == [i // 12 for i in range(36)]
    assert len({key[2] for batch in batches for key in batch}) == 36
    assert list(sampler) == batches
    dataset.set_epoch(1)
    assert list(sampler) != batches
    assert next(iter(sampler))[0][:2] == (3, 1)
    step, epoch, index = batches[5][2]
    assert dataset[step, epoch, index] == {"text": TEXTS[index], "step": step, "epoch": epoch, "index": index}


def test_streams_are_counted_through_and_need_one_process():
    class Stream:
        def __iter__(self):
            return iter({"text": text} for text in TEXTS[:10])

    numbered = NumberedIterable(Stream(), step_size=4)
    assert [e["step"] for e in numbered] == [i // 4 for i in range(10)]
    numbered.set_epoch(1)
    second = list(numbered)
    assert [e["step"] for e in second] == [(10 + i) // 4 for i in range(10)]
    assert [(e["epoch"], e["index"]) for e in second] == [(1, i) for i in range(10)]


def test_streamed_training_sees_the_controlled_rate(tmp_path):
    trainer = train(tmp_path / "stream", max_steps=8, streamed=True)
    rates = [log["noise_rate"] for log in trainer.state.log_history if "loss" in log]
    assert len(set(rates)) > 3
    with pytest.raises(ValueError, match="dataloader_num_workers 0 with streaming"):
        train(tmp_path / "workers", max_steps=2, streamed=True, workers=1)


def test_evaluation_parts_are_means_over_examples(tmp_path):
    trainer = train(tmp_path, max_steps=1, per_device_eval_batch_size=4)
    for prefix in ("eval", "eval_other"):
        metrics = trainer.evaluate(metric_key_prefix=prefix)
        parts = metrics[f"{prefix}_sequence_loss"] + metrics[f"{prefix}_word_loss"]
        assert metrics[f"{prefix}_loss"] == pytest.approx(parts, rel=1e-5)
    several = trainer.evaluate({"a": trainer.eval_dataset, "b": trainer.eval_dataset})
    assert several["eval_a_word_loss"] == several["eval_b_word_loss"]


def test_transformers_own_arguments_serve_too(tmp_path):
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, remove_unused_columns=False, use_cpu=True, report_to="none"
    )
    tokenizer = textae.EncodzallTokenizer()
    trainer = TextAETrainer(
        model=textae.EncodzallForPreTraining(encodzall_config()),
        args=args,
        data_collator=EncodzallMaskingCollator(tokenizer),
        train_dataset=[{"text": text} for text in TEXTS],
    )
    assert trainer.train().global_step == 2


def test_the_seq2seq_model_has_an_evaluation_loss_under_plain_trainer(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), remove_unused_columns=False, use_cpu=True, report_to="none")
    trainer = Trainer(
        model=textae.EncodzallForConditionalGeneration(encodzall_config()),
        args=args,
        data_collator=EncodzallMaskingCollator(textae.EncodzallTokenizer()),
        eval_dataset=[{"text": text} for text in TEXTS[:6]],
    )
    assert trainer.evaluate()["eval_loss"] > 0


def test_recent_rates_keep_their_order_through_sorted_json():
    callback = PIDNoiseCallback(0.3)
    callback.noise_rate = NoiseRate(0.1)
    for step in (8, 9, 10):
        callback.set_rate(step, step / 100)
    again = PIDNoiseCallback.from_state(json.loads(json.dumps(callback.state(), sort_keys=True)))
    collator = EncodzallMaskingCollator(textae.EncodzallTokenizer())
    loader = DataLoader([], collate_fn=collator)
    args = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none")
    again.on_train_begin(args, TrainerState(global_step=10), None, train_dataloader=loader)
    assert again.logs()["noise_rate"] == 0.1
    assert [collator.noise_rate(step) for step in (10, 11)] == [0.09, 0.1]
    again.set_rate(11, 0.11)
    assert sorted(again.recent) == [10, 11]


def test_corpora_too_small_for_a_step_are_refused():
    with pytest.raises(ValueError, match="40 examples are too few for one step of 64"):
        NumberedBatchSampler(NumberedDataset(TEXTS), batch_size=16, batches_per_step=4)


def test_control_that_takes_every_mask_away_stays_finite(tmp_path):
    trainer = train(tmp_path, family="mlm_encoder", setpoint=0.5, max_steps=10)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert min(log["noise_rate"] for log in logs) == 0
    assert all(log["loss"] >= 0 and log["noise_rate"] >= 0 for log in logs)  # NaN is neither


def test_transformers_own_trainer_and_collator_train_the_mlm_encoder(tmp_path):
    tokenizer = textae.MlmEncoderTokenizer()
    dataset = datasets.Dataset.from_dict({"text": TEXTS}).map(
        lambda row: tokenizer(row["text"], return_special_tokens_mask=True), remove_columns=["text"]
    )
    trainer = Trainer(
        model=textae.MlmEncoderForMaskedLM(mlm_encoder_config()),
        args=TrainingArguments(
            output_dir=str(tmp_path), max_steps=15, learning_rate=5e-3, use_cpu=True, report_to="none",
            gradient_accumulation_steps=2, logging_steps=1, disable_tqdm=True,
        ),
        data_collator=DataCollatorForLanguageModeling(tokenizer, seed=1),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(4)),
    )  # fmt: skip
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[0] == pytest.approx(5.6, abs=1.0)  # one nat count a label, however many micro-batches: log 258
    assert losses[-1] < 0.9 * losses[0]
    assert trainer.evaluate()["eval_loss"] < losses[0]
    assert trainer.predict(dataset.select(range(4))).predictions.shape[-1] == 258


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_weight_of_a_divergence_grows_over_the_first_steps(wrapped):
    model = textae.CtaModel(cta_config(kl_weight=0.1, latent_norm=False))
    outer = get_peft_model(model, LoraConfig(r=2, target_modules=["conv1"])) if wrapped else model
    callback = KlAnnealingCallback(4)
    for step, factor in ((0, 0.0), (1, 0.25), (4, 1.0), (9, 1.0)):
        callback.on_step_begin(None, TrainerState(global_step=step), None, model=outer)
        assert model.kl_annealing == factor
    with pytest.raises(ValueError, match="0 steps are no time"):
        KlAnnealingCallback(0)
