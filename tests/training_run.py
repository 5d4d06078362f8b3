"""A short training run in this process, or in others of its own, alone or under torchrun; writes what it did as JSON."""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import datasets
import torch
from model_cases import (
    abstractinator_config,
    cta_config,
    encodzall_config,
    fsq_autoencoder_config,
    mlm_encoder_config,
    with_codes,
)
from transformers import TrainerCallback, set_seed

import modeling_textae as textae
from modeling_textae.data.collators import (
    CtaCollator,
    EncodzallMaskingCollator,
    FsqChunkCollator,
    LanguageCollator,
    MlmEncoderMaskingCollator,
)
from modeling_textae.training.optimizers import optimizer_class_and_arguments
from modeling_textae.training.pid import PIDNoiseCallback
from modeling_textae.training.recipe import checkpoint_to_resume
from modeling_textae.training.trainer import TextAETrainer, TextAETrainingArguments

# Of each family: the model class, its tiny configuration, the tokenizer and the collator.
FAMILIES = {
    "abstractinator_lm": (
        textae.AbstractinatorForCausalLM, abstractinator_config, textae.AbstractinatorTokenizer, LanguageCollator
    ),
    "abstractinator_codes": (
        textae.AbstractinatorForCausalLM,
        partial(abstractinator_config, codebook_sizes=[32], code_weight=0.5, reconstruction_weight=0.5),
        textae.AbstractinatorTokenizer, LanguageCollator,
    ),
    "cta": (textae.CtaModel, cta_config, textae.CtaTokenizer, CtaCollator),
    "encodzall": (
        textae.EncodzallForPreTraining, encodzall_config, textae.EncodzallTokenizer, EncodzallMaskingCollator
    ),
    "fsq_autoencoder": (
        textae.FsqAutoencoderModel, fsq_autoencoder_config, textae.AutoEncoderTokenizer, FsqChunkCollator
    ),
    "fsq_autoencoder_vq": (
        textae.FsqAutoencoderModel, partial(fsq_autoencoder_config, vq_codes=32, vq_dim=4), textae.AutoEncoderTokenizer,
        FsqChunkCollator,
    ),
    "fsq_autoencoder_joint": (
        textae.FsqAutoencoderForCausalLM,
        partial(fsq_autoencoder_config, frozen="nothing", reconstruction_weight=0.5), textae.AutoEncoderTokenizer,
        partial(LanguageCollator, with_bytes=True),
    ),
    "fsq_autoencoder_lm": (
        textae.FsqAutoencoderForCausalLM, fsq_autoencoder_config, textae.AutoEncoderTokenizer, LanguageCollator
    ),
    "mlm_encoder": (
        textae.MlmEncoderForMaskedLM, mlm_encoder_config, textae.MlmEncoderTokenizer, MlmEncoderMaskingCollator
    ),
}  # fmt: skip
WITHOUT_NOISE = {"abstractinator_codes", "abstractinator_lm", "fsq_autoencoder", "fsq_autoencoder_vq"}
TEXTS = [f"Passage {i}: {'naïve words ' * (i % 4)}and the number {i * i}." for i in range(40)]


class KillAt(TrainerCallback):
    """Dies as a machine would: at once, with nothing saved on the way."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    output_dir, batch_size=4, accumulation=1, max_steps=12, kill_at=None, resume=False, workers=0, optimizer="muon",
    setpoint=5.4, dropout=0.0, trainer_class=TextAETrainer, streamed=False, family="encodzall", **fields
):  # fmt: skip
    """Train a tiny model under PID control and return the trainer."""
    model_class, config, tokenizer_class, collator = FAMILIES[family]
    args = TextAETrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=max_steps,
        learning_rate=3e-3,
        logging_steps=1,
        save_steps=4,
        seed=3,
        use_cpu=True,
        dataloader_num_workers=workers,
        resume_from_checkpoint="auto" if resume else None,
        disable_tqdm=True,
        **fields,
    )
    set_seed(args.seed)
    tokenizer, corpus = tokenizer_class(), datasets.Dataset.from_dict({"text": TEXTS})
    noisy = family not in WITHOUT_NOISE
    callbacks = [PIDNoiseCallback(setpoint, start=0.2, integral=0.02, warmup_steps=2)] if noisy else []
    if kill_at:
        callbacks.append(KillAt(kill_at))
    model = model_class(config(**{"dropout": dropout} if dropout else {}))
    if family == "fsq_autoencoder_joint":
        with_codes(model)
    trainer = trainer_class(
        model=model,
        args=args,
        data_collator=collator(tokenizer, 0.2 if noisy else 0.0, args.seed),
        train_dataset=corpus.to_iterable_dataset() if streamed else corpus,
        eval_dataset=datasets.Dataset.from_dict({"text": TEXTS[:6]}),
        callbacks=callbacks,
        optimizer_cls_and_kwargs=optimizer_class_and_arguments(optimizer, args),
    )
    checkpoint = checkpoint_to_resume(args) if resume else None
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def summary(trainer):
    """Losses and noise rates of every step, and a sum over the weights."""
    logs = [log for log in trainer.state.log_history if "loss" in log]
    keys = ("step", "loss", "sequence_loss", "word_loss", "noise_rate", "noise_error")
    return {
        "logs": [{key: log[key] for key in keys if key in log} for log in logs],
        "weights": {
            # A key's bias adds the same to all scores of a query: its gradient is rounding noise, which AdamW amplifies.
            n: float(p.detach().double().abs().sum())
            for n, p in trainer.model.named_parameters()
            if not n.endswith("k_proj.bias")
        },
    }


def write_summary(output_dir, arguments):
    """Train and write what came of it: all that a process of its own does."""
    trainer = train(output_dir, **arguments)
    if trainer.is_world_process_zero():
        Path(output_dir, "summary.json").write_text(json.dumps(summary(trainer)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_summary(sys.argv[1], json.loads(sys.argv[2]))
