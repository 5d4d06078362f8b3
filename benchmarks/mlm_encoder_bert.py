"""The MLM encoder beside a BertForMaskedLM of its size: tuned, trained and timed alike, in one run.

    CORPUS="--train_file wikipedia.jsonl.xz --validation_file held-out.jsonl.xz"
    python benchmarks/mlm_encoder_bert.py tune $CORPUS        # learning rates, both models at each
    python benchmarks/mlm_encoder_bert.py train $CORPUS       # recipes/mlm-encoder-nano.yaml and its twin, at once
    python benchmarks/mlm_encoder_bert.py throughput          # training steps, taken in turn

The twin has the same width, depth, heads, feed-forward, vocabulary, steps, optimizer and batches, mask for mask; what it does not
share is BERT's: learned positions, two kinds of segment, a norm after the embeddings, GELU, and a layer before the output. Every
run is a process of its own with one thread, two at a time; a finished one is not run again and an interrupted one goes on.
"""

import json
import sys
from pathlib import Path

import torch
from processes import run_all
from timing import interleaved_seconds
from transformers import BertConfig, BertForMaskedLM
from transformers.modeling_outputs import MaskedLMOutput

from modeling_textae import MlmEncoderConfig, MlmEncoderForMaskedLM
from modeling_textae.evaluation.report import show_table, write_report
from modeling_textae.evaluation.run_report import REPORTS
from modeling_textae.evaluation.texts import sample_passages, texts_of
from modeling_textae.training.build import build_trainer, load_recipe_corpus
from modeling_textae.training.optimizers import MuonWithAdamW
from modeling_textae.training.recipe import check_resumed, checkpoint_to_resume, parse_recipe

ROOT = Path(__file__).parent.parent
RECIPE = str(ROOT / "recipes" / "mlm-encoder-nano.yaml")
OUTPUT = Path("runs/mlm-encoder-bert")
MODELS = ("mlm", "bert")
LEARNING_RATES = (7.5e-4, 1.5e-3, 3e-3)
# Long enough to tell rates apart, though BERT has not quite left the plateau of token frequencies by then.
TUNING = ("--max_steps", "1500")
BEST_RATES = {"mlm": 3e-3, "bert": 1.5e-3}  # what `tune` found


class SparseBertForMaskedLM(BertForMaskedLM):
    """BertForMaskedLM that while training computes scores only where there is a label: the same loss in less time."""

    def forward(self, input_ids, attention_mask, labels=None, **kwargs):
        """Score tokens; with labels while training, only the loss."""
        if labels is None or not self.training:
            return super().forward(input_ids, attention_mask, labels=labels)
        states = self.bert(input_ids, attention_mask).last_hidden_state
        asked = labels != -100
        loss = torch.nn.functional.cross_entropy(self.cls(states[asked]).float(), labels[asked])
        return MaskedLMOutput(loss=loss)


def bert(config, vocab_size, positions, attention="eager", kind=BertForMaskedLM):
    """A BertForMaskedLM of the sizes of an [`MlmEncoderConfig`]."""
    return kind._from_config(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.attention_dropout,
            max_position_embeddings=positions,
            pad_token_id=config.pad_token_id,
        ),
        attn_implementation=attention,
    )


def run_one(model, arguments):
    """Train one model by the recipe, resume it where it stopped, and report on validation text."""
    recipe = parse_recipe([RECIPE, *arguments])
    output = Path(recipe.training.output_dir)
    if (output / "report.json").is_file():
        differing = recipe.differing(json.loads((output / "report.json").read_text())["fields"])
        if differing:
            raise SystemExit(f"{output} holds a run of another recipe: {', '.join(differing)}; remove it")
        return
    checkpoint = checkpoint_to_resume(recipe.training)
    corpus = load_recipe_corpus(recipe)
    data = recipe.data
    passages = sample_passages(texts_of(corpus.validation), data.passage_length, data.report_passages, 0)
    make = None
    if model == "bert":

        def make(tokenizer):
            return bert(recipe.config, len(tokenizer), data.passage_length, kind=SparseBertForMaskedLM)

    trainer = build_trainer(recipe, corpus, checkpoint, make)
    check_resumed(recipe)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(output)
    trainer.state.save_to_json(str(output / "trainer_state.json"))
    figures, lines = REPORTS["mlm_encoder"](trainer.model.eval(), trainer.processing_class, passages, samples=0)
    write_report(output / "report", output.name, {"fields": recipe.fields(), **figures}, "\n".join(lines))


def run_both(runs):
    """Run or continue `(model, arguments)` pairs, two at a time."""
    run_all(
        [sys.executable, __file__, "one", model, *arguments, "--resume_from_checkpoint"] for model, arguments in runs
    )


def figures(folder):
    """Held-out figures of a finished run, by name without the count."""
    row = json.loads((folder / "report.json").read_text())["masked"]
    return {name.split(",")[0]: value for name, value in row.items() if name != "model"}


def tune(arguments):
    """Every model at each learning rate: a table of what validation text says."""
    cells = [(model, rate, OUTPUT / f"tune-{model}-{rate:g}") for rate in LEARNING_RATES for model in MODELS]
    run_both(
        (model, [*arguments, *TUNING, "--learning_rate", str(rate), "--output_dir", str(folder)])
        for model, rate, folder in cells
    )
    rows = [{"model": model, "learning rate": rate, **figures(folder)} for model, rate, folder in cells]
    show("tune", rows)


def train(arguments):
    """The recipe and its twin, each at its best learning rate, at once."""
    cells = [("mlm", Path("runs/mlm-encoder-nano")), ("bert", OUTPUT / "bert")]
    run_both(
        (model, [*arguments, "--learning_rate", str(BEST_RATES[model]), "--output_dir", str(folder)])
        for model, folder in cells
    )
    rows = []
    for model, folder in cells:
        log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        seconds = log[-1]["train_runtime"]  # of the last process, where a run was resumed
        rows.append({"model": model, "learning rate": BEST_RATES[model], "seconds": seconds, **figures(folder)})
    show("train", rows)


def throughput():
    """Tokens a second of whole training steps: forward, backward and optimizer.

    32 texts of 64 to 128 tokens, padded; 15 % of the tokens are masked.
    """
    torch.set_num_threads(1)
    config = MlmEncoderConfig.nano()
    ids = torch.randint(2, config.vocab_size, (32, 128))
    lengths = torch.linspace(64, 128, len(ids)).round()
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    labels = torch.where((torch.rand(ids.shape) < 0.15) & (mask == 1), ids, -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    models = {
        "MlmEncoderForMaskedLM": MlmEncoderForMaskedLM(config),
        "… sparse_prediction=False": MlmEncoderForMaskedLM(MlmEncoderConfig.nano(sparse_prediction=False)),
        "BertForMaskedLM, sdpa": bert(config, config.vocab_size, 448, "sdpa"),
        "BertForMaskedLM, eager": bert(config, config.vocab_size, 448),
        "BertForMaskedLM, eager, scores only at labels": bert(
            config, config.vocab_size, 448, kind=SparseBertForMaskedLM
        ),
    }
    rows = [{"model": name, "parameters, M": model.num_parameters() / 1e6} for name, model in models.items()]
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        steps = {key: step_of(model, batch, dtype) for key, model in models.items()}
        seconds = interleaved_seconds(steps, rounds=15)
        for row in rows:
            row[f"tokens/s, {name}"] = round(int(mask.sum()) / seconds[row["model"]])
        fastest = min(seconds[key] for key in models if key.startswith("Bert"))
        for row in rows:
            row[f"beside the faster BERT, {name}"] = round(fastest / seconds[row["model"]], 2)
    show("throughput", rows)


def step_of(model, batch, dtype):
    """A function that takes one training step."""
    optimizer = MuonWithAdamW(model.train())

    def step():
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def show(name, rows):
    """Print a table and write it beside the runs."""
    show_table(OUTPUT / name, f"MLM encoder beside BertForMaskedLM: {name}", rows)


def main():
    """Run the named part."""
    part, *arguments = sys.argv[1:] or [""]
    if part == "one":
        run_one(arguments[0], arguments[1:])
    elif part in ("tune", "train"):
        {"tune": tune, "train": train}[part](arguments)
    elif part == "throughput":
        throughput()
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
