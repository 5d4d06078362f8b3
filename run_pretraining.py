"""Pretrain a text autoencoder: a recipe's corpus, tokenizer, collator, model and trainer, wired to a saved checkpoint.

python run_pretraining.py recipes/encodzall-nano-demo.yaml [--field value ...]
"""

import json
import sys
from pathlib import Path

from transformers import set_seed
from transformers.utils import logging

from modeling_textae.data.corpora import load_corpus, passage_dataset
from modeling_textae.evaluation.plots import plot_training
from modeling_textae.evaluation.reconstruction import reconstruction_report, restored_samples, sample_passages, texts_of
from modeling_textae.evaluation.report import figure, write_report
from modeling_textae.training.optimizers import optimizer_class_and_arguments
from modeling_textae.training.recipe import check_resumed, checkpoint_to_resume, parse_recipe
from modeling_textae.training.trainer import TextAETrainer

REPORT = "report"


def finished(output_dir, fields):
    """Whether the folder holds the finished run of these very fields."""
    path = Path(output_dir) / f"{REPORT}.json"
    return path.is_file() and json.loads(path.read_text()).get("fields") == fields


def build(recipe):
    """Make the trainer of a recipe, and draw the validation passages for the report."""
    data, training = recipe.data, recipe.training
    corpus = load_corpus(
        data.dataset_name,
        data.dataset_config,
        data.train_file,
        data.validation_file,
        data.text_column,
        data.streaming,
    )
    passages = passage_dataset(corpus["train"], data.passage_length, data.min_passage_length)
    if not data.streaming and not len(passages):
        raise ValueError(f"the corpus has no passage of {data.min_passage_length} bytes: lower --min_passage_length")
    # What the final report needs is drawn now, so that nothing can be missing once the model is trained.
    held_out = sample_passages(
        texts_of(corpus["validation"], limit=2000), data.passage_length, data.report_passages, training.seed
    )
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    if not data.streaming and len(passages) < per_step:
        raise ValueError(
            f"{len(passages)} passages are too few for one step of {per_step}: give more text or a smaller batch"
        )
    set_seed(training.seed)
    tokenizer = recipe.family.tokenizer()
    if recipe.model.initial_checkpoint:
        model = recipe.family.model.from_pretrained(recipe.model.initial_checkpoint, dtype="float32")
    else:
        model = recipe.family.model(recipe.config)
    collator = recipe.family.collator(tokenizer, recipe.noise.noise_rate, training.seed)
    trainer = TextAETrainer(
        model=model,
        args=training,
        data_collator=collator,
        eval_collator=recipe.family.collator(tokenizer, recipe.noise.noise_rate, training.seed),
        train_dataset=passages,
        eval_dataset=passage_dataset(corpus["validation"], data.passage_length, data.min_passage_length),
        processing_class=tokenizer,
        callbacks=recipe.noise.callbacks(),
        optimizer_cls_and_kwargs=optimizer_class_and_arguments(
            training.optimizer, training, training.muon_learning_rate
        ),
    )
    return trainer, held_out


def report_run(recipe, trainer, passages):
    """Measure the trained model on held-out text; write the report and the picture, and print them."""
    model, tokenizer, output = trainer.model, trainer.processing_class, Path(recipe.training.output_dir)
    model.eval()
    report = reconstruction_report(model, tokenizer, passages)
    samples = restored_samples(model, tokenizer, passages, rate=0.2)
    free = report["free_running"]
    lines = [
        f"validation passages: {report['passages']} of at most {recipe.data.passage_length} bytes",
        f"byte accuracy, teacher-forced: {figure(report['clean']['byte_accuracy'])}",
        f"free-running: character error rate {figure(free['character_error_rate'])}, exact {figure(free['exact_rate'])}",
    ]
    for rate, masked in report["masked"].items():
        lines.append(
            f"hidden bytes told right at mask rate {rate}: characters {figure(masked['hidden_character_accuracy'])}, "
            f"words {figure(masked['hidden_word_accuracy'])}"
        )
    for sample in samples:
        lines += [
            "",
            f"clean:    {sample['clean']!r}",
            f"noisy:    {sample['noisy']!r}",
            f"restored: {sample['restored']!r}",
        ]
    setpoint = recipe.noise.loss_setpoint if recipe.noise.noise == "pid" else None
    plot_training(trainer.state.log_history, output / "training.png", setpoint)
    figures = {"fields": recipe.fields(), **report, "samples": samples}
    write_report(
        output / REPORT, f"Run {output.name}", figures, "```\n" + "\n".join(lines) + "\n```\n\n![](training.png)"
    )
    print("\n".join(lines))
    print(f"\ncheckpoint, report.md and training.png: {output}")


def main(arguments=None):
    """Train, report and save; exit 2 for bad input and 130 when interrupted."""
    try:
        recipe = parse_recipe(arguments)
        training = recipe.training
        if training.resume_from_checkpoint and finished(training.output_dir, recipe.fields()):
            print((Path(training.output_dir) / f"{REPORT}.md").read_text())
            print(f"this run is finished already; remove {training.output_dir} to train it anew")
            return 0
        checkpoint = checkpoint_to_resume(training)
        trainer, passages = build(recipe)
        if trainer.is_world_process_zero():
            check_resumed(recipe)
    except (ValueError, OSError) as error:
        print(f"run_pretraining: {error}", file=sys.stderr)
        return 2
    logging.set_verbosity_warning()
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        print(
            f"\ninterrupted at step {trainer.state.global_step}; the same command with --resume_from_checkpoint goes on "
            f"from the last checkpoint in {training.output_dir}",
            file=sys.stderr,
        )
        return 130
    if trainer.is_world_process_zero():
        trainer.save_model(training.output_dir)
        trainer.state.save_to_json(str(Path(training.output_dir) / "trainer_state.json"))
        report_run(recipe, trainer, passages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
