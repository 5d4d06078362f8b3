"""Evaluate a checkpoint: tables as Markdown and JSON beside each other, the command that made them inside.

python run_eval.py reconstruct --checkpoint model_cards/encodzall-nano --data_file test.jsonl
python run_eval.py rate-distortion --checkpoint model_cards/encodzall-nano --data_file test.jsonl
python run_eval.py report --run runs/encodzall-nano
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForPreTraining, AutoTokenizer

from modeling_textae import EncodzallConfig, EncodzallTokenizer
from modeling_textae.data.corpora import embedded_corpus, load_corpus
from modeling_textae.evaluation.control import control_figures
from modeling_textae.evaluation.plots import plot_packing, plot_training
from modeling_textae.evaluation.rate_distortion import rate_distortion
from modeling_textae.evaluation.reconstruction import reconstruction_report, sample_passages, texts_of
from modeling_textae.evaluation.report import table, write_report
from modeling_textae.models.packing import pack_rows


def held_out_texts(arguments):
    """Texts of the given files, or the test split of the embedded corpus."""
    if not arguments.data_file:
        return list(embedded_corpus()["test"]["text"])
    corpus = load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)
    return texts_of(corpus["validation"])


def load(checkpoint):
    """Model, in evaluation, and tokenizer of a checkpoint folder or Hub name."""
    return AutoModelForPreTraining.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)


def reconstruct(arguments):
    """Teacher-forced and free-running accuracy, and accuracy on hidden bytes, beside a control without memory."""
    texts = held_out_texts(arguments)
    results, columns = {}, ["figure", "model"]
    model, tokenizer = load(arguments.checkpoint)
    passages = sample_passages(texts, arguments.passage_length, arguments.passages, arguments.seed)
    results["model"] = reconstruction_report(model, tokenizer, passages, arguments.rates, arguments.batch_size)
    if arguments.control:
        columns.append("control")
        control, _ = load(arguments.control)
        results["control"] = reconstruction_report(
            control, tokenizer, passages, arguments.rates, arguments.batch_size, generate=False
        )
    rows = [{"figure": "byte accuracy, teacher-forced, clean"}]
    names = [("clean", "byte_accuracy")]
    for rate in arguments.rates:
        for kind in ("character", "word"):
            count = results["model"]["masked"][f"{rate:g}"][f"hidden_{kind}_bytes"]
            rows.append({"figure": f"bytes hidden by {kind} masks, rate {rate:g} (n = {count})"})
            names.append(("masked", f"{rate:g}", f"hidden_{kind}_accuracy"))
    rows += [{"figure": "free-running: character error rate"}, {"figure": "free-running: exact texts"}]
    names += [("free_running", "character_error_rate"), ("free_running", "exact_rate")]
    for row, path in zip(rows, names, strict=True):
        for name, result in results.items():
            value = result
            for key in path:
                value = value.get(key) if value else None
            row[name] = value
    head = (
        f"{len(passages)} passages of {arguments.passage_length // 2} to {arguments.passage_length} bytes "
        f"({results['model']['bytes']} bytes), seed {arguments.seed}; latents rounded to int8."
    )
    return results, f"{head}\n\n{table(rows, columns)}"


def rate_distortion_table(arguments):
    """Stored bits for each byte of text against what comes back, beside whole-text compressors."""
    model, tokenizer = load(arguments.checkpoint)
    passages = sample_passages(held_out_texts(arguments), arguments.passage_length, arguments.passages, arguments.seed)
    rows = rate_distortion(model, tokenizer, passages, arguments.batch_size)
    head = f"{len(passages)} passages of at most {arguments.passage_length} bytes, seed {arguments.seed}."
    return {"rows": rows}, f"{head}\n\n{table(rows, list(rows[0]))}"


def report(arguments):
    """What a run's log says of its loss and its noise: how well control held the set-point; draws the curve."""
    run = Path(arguments.run)
    state = run / "trainer_state.json"
    if not state.is_file():
        raise FileNotFoundError(f"{arguments.run!r} holds no finished run: it has no trainer_state.json")
    history = json.loads(state.read_text())["log_history"]
    fields = json.loads((run / "report.json").read_text())["fields"] if (run / "report.json").is_file() else {}
    setpoint = arguments.setpoint if arguments.setpoint is not None else fields.get("loss_setpoint")
    plot_training(history, Path(arguments.output).with_suffix(".png"), setpoint)
    figures = control_figures(history, setpoint, fields.get("noise_minimum", 0.0), fields.get("noise_maximum", 1.0))
    rows = [{"figure": name.replace("_", " "), "value": value} for name, value in figures.items()]
    return figures, f"{table(rows, ['figure', 'value'])}\n\n![]({Path(arguments.output).with_suffix('.png').name})"


def packing(arguments):
    """Draw how encoder 1 packs the words of a text into rows, and the mask that keeps them apart."""
    config, tokenizer = EncodzallConfig(), EncodzallTokenizer()
    config._attn_implementation = "sdpa"
    inputs = tokenizer(arguments.text, return_tensors="pt")
    ids, index = inputs["input_ids"][0], inputs["word_index"][0]
    rows = pack_rows(index.bincount(), config.row_length, config.max_word_length)
    mask = rows.attention_mask(config, torch.zeros(*rows.segments.shape, 1))[0, 0]
    laid = rows.lay(ids, tokenizer.pad_token_id)
    symbols = [
        [("" if i > 255 else "␣" if i == 32 else chr(i) if 32 < i < 127 else f"{i:02x}") for i in row]
        for row in laid.tolist()
    ]
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    picture = Path(arguments.output).with_suffix(".png")
    plot_packing(symbols, rows.segments, mask, picture)
    words = [tokenizer.decode(ids[index == i]) for i in range(int(index.max()) + 1)]
    figures = {"words": words, "rows": rows.segments.tolist(), "row_length": config.row_length}
    return figures, f"words: {' | '.join(words)}\n\n![]({picture.name})"


COMMANDS = {
    "reconstruct": reconstruct,
    "rate-distortion": rate_distortion_table,
    "report": report,
    "packing": packing,
}


def build_parser():
    """The command line: a sub-command for each table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.add_argument("--output", default=f"runs/eval/{name}", help="path of the report, without an ending")
        if name == "packing":
            command.add_argument("--text", required=True, help="the text to pack")
            continue
        if name == "report":
            command.add_argument("--run", required=True, help="output folder of a finished run")
            command.add_argument("--setpoint", type=float, help="held loss; by default the run's own")
            continue
        command.add_argument("--checkpoint", required=True, help="folder or Hub name")
        command.add_argument(
            "--data_file", nargs="+", help="held-out text; by default the embedded corpus's test split"
        )
        command.add_argument("--passage_length", type=int, default=400, help="bytes in a passage at most")
        command.add_argument("--passages", type=int, default=500, help="passages drawn")
        command.add_argument("--seed", type=int, default=0, help="of the draw")
        command.add_argument("--batch_size", type=int, default=32)
        if name == "reconstruct":
            command.add_argument("--control", help="checkpoint trained with use_memory=False, to stand beside")
            command.add_argument("--rates", nargs="+", type=float, default=[0.1, 0.2, 0.4], help="mask rates")
    return parser


def main(arguments=None):
    """Run one sub-command; exit 2 for bad input."""
    arguments = build_parser().parse_args(arguments)
    torch.manual_seed(0)
    try:
        figures, body = COMMANDS[arguments.command](arguments)
    except (ValueError, OSError) as error:
        print(f"run_eval: {error}", file=sys.stderr)
        return 2
    write_report(arguments.output, f"{arguments.command}", figures, body)
    print(body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
