"""Pretrain a text autoencoder: a recipe's corpus, tokenizer, collator, model and trainer, wired to a saved checkpoint.

python run_pretraining.py recipes/encodzall-nano-demo.yaml [--field value ...]
"""

import json
import sys
from pathlib import Path

from transformers.utils import logging

from modeling_textae.evaluation.plots import plot_training
from modeling_textae.evaluation.report import write_report
from modeling_textae.evaluation.run_report import run_report
from modeling_textae.evaluation.texts import sample_passages, texts_of
from modeling_textae.training.build import build_trainer, load_recipe_corpus
from modeling_textae.training.codes import commonest_chunks, export_again, keep_codes
from modeling_textae.training.latents import fit_latent_scale, some_passages
from modeling_textae.training.recipe import check_resumed, checkpoint_to_resume, parse_recipe

REPORT = "report"
FITTED_PASSAGES = 1000


def finished(recipe):
    """Whether the output folder holds the finished run of this very recipe."""
    path = Path(recipe.training.output_dir) / f"{REPORT}.json"
    return path.is_file() and not recipe.differing(json.loads(path.read_text()).get("fields", {}))


def report_run(recipe, trainer, passages, **kwargs):
    """Measure the trained model on held-out text; write the report and the picture, and print them."""
    output = Path(recipe.training.output_dir)
    figures, lines = run_report(trainer.model.eval(), trainer.processing_class, passages, **kwargs)
    lines.insert(0, f"validation passages: {len(passages)} of at most {recipe.data.passage_length} bytes")
    setpoint = recipe.noise.loss_setpoint if recipe.noise.noise == "pid" else None
    plot_training(trainer.state.log_history, output / "training.png", setpoint)
    body = "```\n" + "\n".join(lines) + "\n```\n\n![](training.png)"
    write_report(output / REPORT, f"Run {output.name}", {"fields": recipe.fields(), **figures}, body)
    print("\n".join(lines))
    print(f"\ncheckpoint, report.md and training.png: {output}")


def trained_tokenizer(recipe, corpus, trainer):
    """The tokenizer that training has made, where the family makes one; else the one it was trained with."""
    model, tokenizer = trainer.model, trainer.processing_class
    if recipe.family.reads_chunks:
        counted, number = corpus.passages.counted, recipe.data.kept_codes
        candidates = corpus.passages.tokens or commonest_chunks(counted, 2 * number)
        tokenizer, found = keep_codes(model, candidates, counted, number)
        print(
            f"of {found['candidates']} strings {found['owned']} are owned by their codes; {found['kept']} become tokens"
        )
        if not found["kept"]:
            print("run_pretraining: no code decodes to its string yet: the tokenizer is of bare bytes", file=sys.stderr)
    elif recipe.family.needs_tokenizer and model.config.tokenizer_fingerprint is None:
        tokenizer = export_again(model, tokenizer)
    return tokenizer


def main(arguments=None):
    """Train, report and save; exit 2 for bad input and 130 when interrupted."""
    try:
        recipe = parse_recipe(arguments)
        training = recipe.training
        if training.resume_from_checkpoint and finished(recipe):
            print((Path(training.output_dir) / f"{REPORT}.md").read_text())
            print(f"this run is finished already; remove {training.output_dir} to train it anew")
            return 0
        checkpoint = checkpoint_to_resume(training)
        corpus = load_recipe_corpus(recipe)
        # What the final report needs is drawn now, so that nothing can be missing once the model is trained.
        passages = sample_passages(
            texts_of(corpus.validation, limit=2000),
            recipe.data.passage_length,
            recipe.data.report_passages,
            training.seed,
        )
        # Training text on which the grids of stored latents are fitted.
        stores = hasattr(recipe.family.model, "fit_latent_scale")
        fitted = some_passages(corpus.passages, FITTED_PASSAGES, training.seed) if stores else []
        trainer = build_trainer(recipe, corpus, checkpoint)
        if trainer.is_world_process_zero():
            check_resumed(recipe)
    except (ValueError, OSError) as error:
        print(f"run_pretraining: {error}", file=sys.stderr)
        return 2
    logging.set_verbosity_warning()
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        saved = any(Path(training.output_dir).glob("checkpoint-*"))
        where = "goes on from the last checkpoint" if saved else "begins anew: there was no checkpoint yet"
        print(
            f"\ninterrupted at step {trainer.state.global_step}; the same command with --resume_from_checkpoint {where} "
            f"in {training.output_dir}",
            file=sys.stderr,
        )
        return 130
    if trainer.is_world_process_zero():
        if fitted:
            fit_latent_scale(trainer.model, trainer.processing_class, fitted)
        trainer.processing_class = trained_tokenizer(recipe, corpus, trainer)
        trainer.save_model(training.output_dir)
        trainer.state.save_to_json(str(Path(training.output_dir) / "trainer_state.json"))
        told, collator = {}, trainer.data_collator
        if recipe.family.reads_chunks:
            told = {"tokens": corpus.passages.tokens}
        elif hasattr(collator, "noise"):
            told = {"noise": collator.noise, "strength": collator.noise_rate(trainer.state.global_step)}
        report_run(recipe, trainer, passages, **told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
