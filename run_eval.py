"""Evaluate a checkpoint: tables as Markdown and JSON beside each other, the command that made them inside.

python run_eval.py COMMAND [SETTINGS.yaml] [--field value ...]

reconstruct      teacher-forced and free-running accuracy, and accuracy on hidden bytes
rate-distortion  stored bits for each byte of text against what comes back
report           how well a run's noise control held its loss, and the curve
packing          a picture of how words are packed into rows

python run_eval.py COMMAND --help lists the fields of each.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForPreTraining, AutoTokenizer, HfArgumentParser

from modeling_textae import EncodzallConfig, EncodzallTokenizer
from modeling_textae.data.corpora import embedded_corpus, load_corpus
from modeling_textae.evaluation.control import control_figures
from modeling_textae.evaluation.plots import plot_packing, plot_training
from modeling_textae.evaluation.rate_distortion import rate_distortion
from modeling_textae.evaluation.reconstruction import (
    reconstruction_report,
    reconstruction_rows,
    sample_passages,
    texts_of,
)
from modeling_textae.evaluation.report import report_file, table, write_report
from modeling_textae.models.packing import pack_rows
from modeling_textae.training.recipe import read_recipe_file, unknown_field


@dataclass
class CheckpointArguments:
    """A checkpoint and the held-out text to measure it on."""

    checkpoint: str = field(metadata={"help": "Folder or Hub name."})
    output: str | None = field(default=None, metadata={"help": "Path of the report, without an ending."})
    data_file: list[str] = field(
        default_factory=list, metadata={"help": "Held-out text; by default the embedded corpus's test split."}
    )
    passage_length: int = field(default=400, metadata={"help": "Bytes in a passage at most."})
    passages: int = field(default=500, metadata={"help": "Passages drawn."})
    seed: int = field(default=0, metadata={"help": "Of the draw and the masks."})
    batch_size: int = field(default=32, metadata={"help": "Passages at once."})


@dataclass
class ReconstructArguments(CheckpointArguments):
    """What is measured, and beside what."""

    control: str | None = field(default=None, metadata={"help": "A checkpoint trained with use_memory=False."})
    rates: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.4], metadata={"help": "Mask rates."})


@dataclass
class ReportArguments:
    """A finished run."""

    run: str = field(metadata={"help": "Output folder of run_pretraining.py."})
    output: str | None = field(default=None, metadata={"help": "Path of the report, without an ending."})
    setpoint: float | None = field(default=None, metadata={"help": "The held loss; by default the run's own."})


@dataclass
class PackingArguments:
    """A text."""

    text: str = field(metadata={"help": "The text to pack."})
    output: str | None = field(default=None, metadata={"help": "Path of the picture, without an ending."})


def load(checkpoint):
    """Model, in evaluation and float32, and tokenizer of a checkpoint folder or Hub name."""
    model = AutoModelForPreTraining.from_pretrained(checkpoint, dtype="float32")
    return model.eval(), AutoTokenizer.from_pretrained(checkpoint)


def held_out_passages(arguments):
    """Passages of the given files, or of the embedded corpus's test split, and a sentence on them."""
    if arguments.data_file:
        corpus = load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)
        texts = texts_of(corpus["validation"])
    else:
        texts = texts_of(embedded_corpus()["test"])
    passages = sample_passages(texts, arguments.passage_length, arguments.passages, arguments.seed)
    size = sum(len(p.encode("utf-8")) for p in passages)
    return passages, (
        f"{len(passages)} passages of {arguments.passage_length // 2} to {arguments.passage_length} bytes ({size} bytes), "
        f"seed {arguments.seed}."
    )


def reconstruct(arguments):
    """Teacher-forced and free-running accuracy, and accuracy on hidden bytes, beside a control without memory."""
    passages, head = held_out_passages(arguments)
    measure = {"rates": arguments.rates, "batch_size": arguments.batch_size, "seed": arguments.seed}
    results = {"model": reconstruction_report(*load(arguments.checkpoint), passages, **measure)}
    if arguments.control:
        results["control"] = reconstruction_report(*load(arguments.control), passages, **measure, generate=False)
    rows = reconstruction_rows(results)
    return results, f"{head} Latents rounded to int8.\n\n{table(rows, ['figure', *results])}"


def rate_distortion_table(arguments):
    """Stored bits for each byte of text against what comes back, beside whole-text compressors."""
    passages, head = held_out_passages(arguments)
    rows = rate_distortion(*load(arguments.checkpoint), passages, arguments.batch_size)
    return {"rows": rows}, f"{head}\n\n{table(rows, list(rows[0]))}"


def report(arguments):
    """What a run's log says of its loss and its noise: how well control held the set-point; draws the curve."""
    run = Path(arguments.run)
    if not (run / "trainer_state.json").is_file():
        raise FileNotFoundError(f"{arguments.run!r} holds no finished run: it has no trainer_state.json")
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    fields = json.loads((run / "report.json").read_text())["fields"] if (run / "report.json").is_file() else {}
    if arguments.setpoint is None and fields.get("noise") != "pid":
        raise ValueError(f"{arguments.run!r} is no run under PID control: give the loss to compare with as --setpoint")
    setpoint = fields["loss_setpoint"] if arguments.setpoint is None else arguments.setpoint
    figures = control_figures(history, setpoint, fields.get("noise_minimum", 0.0), fields.get("noise_maximum", 1.0))
    picture = report_file(arguments.output, ".png")
    plot_training(history, picture, setpoint)
    rows = [{"figure": name.replace("_", " "), "value": value} for name, value in figures.items()]
    return figures, f"{table(rows, ['figure', 'value'])}\n\n![]({picture.name})"


def packing(arguments):
    """Draw how encoder 1 packs the words of a text into rows, and the mask that keeps them apart."""
    config, tokenizer = EncodzallConfig(), EncodzallTokenizer()
    config._attn_implementation = "sdpa"
    inputs = tokenizer(arguments.text, return_tensors="pt")
    ids, index = inputs["input_ids"][0], inputs["word_index"][0]
    if not len(ids):
        raise ValueError("an empty text has no words to pack")
    rows = pack_rows(index.bincount(), config.row_length, config.max_word_length)
    mask = rows.attention_mask(config, torch.zeros(*rows.segments.shape, 1))[0, 0]
    shown = {tokenizer.pad_token_id: "", 32: "␣"} | {i: chr(i) for i in range(33, 127)}
    symbols = [[shown.get(i, f"{i:02x}") for i in row] for row in rows.lay(ids, tokenizer.pad_token_id).tolist()]
    picture = report_file(arguments.output, ".png")
    plot_packing(symbols, rows.segments, mask, picture)
    words = [tokenizer.decode(ids[index == i]) for i in range(int(index.max()) + 1)]
    figures = {"words": words, "rows": rows.segments.tolist(), "row_length": config.row_length}
    return figures, f"words: {' | '.join(words)}\n\n![]({picture.name})"


COMMANDS = {
    "reconstruct": (reconstruct, ReconstructArguments),
    "rate-distortion": (rate_distortion_table, CheckpointArguments),
    "report": (report, ReportArguments),
    "packing": (packing, PackingArguments),
}


def parse(command, arguments):
    """Fields of a command: a YAML file first, if any, then fields that override it."""
    function, kind = COMMANDS[command]
    parser = HfArgumentParser(kind, prog=f"run_eval.py {command}", description=function.__doc__)
    if arguments and not arguments[0].startswith("-"):
        defaults = read_recipe_file(arguments[0], parser)
        for action in parser._actions:  # what the file gives is no longer required
            action.required = action.required and action.dest not in defaults
        parser.set_defaults(**defaults)
        arguments = arguments[1:]
    fields, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        raise ValueError(unknown_field(unknown[0].split("=")[0].lstrip("-"), parser))
    fields.output = fields.output or f"runs/eval/{command}"
    return fields


def main(arguments=None):
    """Run one command; exit 2 for bad input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        wanted = arguments and arguments[0] in ("-h", "--help")
        print(__doc__, file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else 2
    command = arguments[0]
    try:
        fields = parse(command, arguments[1:])
        figures, body = COMMANDS[command][0](fields)
    except (ValueError, OSError) as error:
        print(f"run_eval: {error}", file=sys.stderr)
        return 2
    write_report(fields.output, command, figures, body)
    print(body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
