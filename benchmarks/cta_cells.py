"""Tables of short CTA runs: rate and distortion by ratio, latent dim and rounding; Muon beside AdamW.

    CORPUS="--train_file wikipedia.jsonl.xz --validation_file held-out.jsonl.xz"
    python benchmarks/cta_cells.py rate $CORPUS --data_file test.jsonl.xz
    python benchmarks/cta_cells.py optimizer $CORPUS --data_file test.jsonl.xz

Each cell is recipes/cta-nano.yaml, shortened to some three minutes of one thread, in a process of its own, with two seeds; a
finished cell is not run again, one that was cut short begins anew, so that its seconds are whole. All have the tokenizer of
model_cards/cta-nano. Prints a Markdown table and draws it.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from processes import run_all
from transformers import AutoModel, AutoTokenizer

matplotlib.use("agg")
from matplotlib import pyplot as plt

from modeling_textae.data.corpora import load_corpus
from modeling_textae.evaluation.rate_distortion import token_rate_distortion
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.texts import sample_passages, texts_of

ROOT = Path(__file__).parent.parent
OUTPUT = Path("runs/cta-cells")
SEEDS = (1, 2)
PASSAGES, PASSAGE_LENGTH = 100, 2048
ROUNDINGS = (16, 8, 6, 4, 3, 2, 1)
# Noise in training, by the numbers for each token: somewhat more than four bits and than two bits round away (0.11 and 0.34 of
# normal numbers), so that a token costs 30 bits.
LATENT_NOISE = {7.5: 0.15, 15: 0.5}
# Steps that take equally long: more levels have more channels. A step has as many places for bytes as for tokens, so that it
# has a quarter of the text.
STEPS = {4: 300, 8: 278, 16: 262}
BYTE_STEPS = 262
BYTE_PASSAGES = ["--passage_length", "128", "--min_passage_length", "32"]
NANO = ("BPE", 4, 60)
TOKENIZER = ["--tokenizer", str(ROOT / "model_cards" / "cta-nano")]
COMMON = "--warmup_steps 75 --save_steps 300 --report_passages 100 --logging_steps 25"


def command_of(folder, corpus, *arguments):
    """The command that runs a cell, or finds it finished; what an interrupted one left is removed."""
    if folder.is_dir() and not (folder / "report.json").is_file():
        shutil.rmtree(folder)
    return [
        sys.executable, str(ROOT / "run_pretraining.py"), str(ROOT / "recipes" / "cta-nano.yaml"), *COMMON.split(), *corpus,
        "--output_dir", str(folder), *arguments,
        "--resume_from_checkpoint",
    ]  # fmt: skip


def seconds_of(folder):
    """How long a cell trained."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return next(entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry)


def measured(folder, passages):
    """The rate–distortion rows of a finished cell, kept beside it."""
    asked = hashlib.sha256(json.dumps([passages, ROUNDINGS]).encode()).hexdigest()[:8]
    path = folder / f"rate-{asked}.json"
    if not path.is_file():
        torch.set_num_threads(2)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
        rows = token_rate_distortion(
            model, AutoTokenizer.from_pretrained(folder), passages, batch_size=8, roundings=ROUNDINGS
        )
        path.write_text(json.dumps(rows))
    return json.loads(path.read_text())


def mean_rows(folders, passages):
    """The mean of several cells' rows, and how far their token accuracies lie apart."""
    cells = [measured(folder, passages) for folder in folders]
    rows = []
    for same in zip(*cells, strict=True):
        names = [name for name, value in same[0].items() if isinstance(value, float)]
        means = {name: float(np.mean([row[name] for row in same])) for name in names}
        spread = float(np.ptp([row["token accuracy"] for row in same]))
        rows.append({"what": same[0]["what"], **means, "spread of seeds": spread})
    return rows


def rate_cells():
    """Configuration and steps of every cell, by what it is called in the table."""
    cells = {}
    for ratio, steps in STEPS.items():
        for numbers, noise in LATENT_NOISE.items():
            dim = round(numbers * ratio)
            sizes = {"num_levels": ratio.bit_length() - 1, "latent_dim": dim, "latent_noise": noise}
            cells["BPE", ratio, dim] = sizes | {"num_negatives": 512}, steps
    sizes = {"vocab_size": 257, "num_levels": 4, "latent_dim": 60}
    cells["bytes", 16, 60] = sizes | {"latent_noise": 0.5, "num_negatives": None}, BYTE_STEPS
    return cells


def rate_folder(tokens, ratio, numbers, seed):
    """Where a cell of the table of rates lives."""
    return OUTPUT / f"{tokens}-{ratio}x-{numbers}-seed-{seed}"


def rate(corpus, passages):
    """Every ratio with every number of numbers for a token, and the byte variant."""
    folders, commands = {}, []
    for (tokens, ratio, numbers), (config, steps) in rate_cells().items():
        folders[tokens, ratio, numbers] = []
        for seed in SEEDS:
            folder = rate_folder(tokens, ratio, numbers, seed)
            folders[tokens, ratio, numbers].append(folder)
            # Without a tokenizer, 257 tokens are the bare bytes.
            settings_of_tokens = BYTE_PASSAGES if tokens == "bytes" else TOKENIZER
            settings = ["--config", json.dumps(config), "--max_steps", str(steps), "--seed", str(seed)]
            commands.append(command_of(folder, corpus, *settings_of_tokens, *settings))
    run_all(commands)
    rows = []
    for (tokens, ratio, numbers), cells in folders.items():
        means = mean_rows(cells, passages)
        seconds = float(np.mean([*map(seconds_of, cells)]))
        shared = {"tokens": tokens, "ratio": ratio, "numbers": numbers, "seconds": seconds}
        rows += [shared | row for row in means if row["what"].startswith("latents")]
        if tokens == "BPE":
            references = [row for row in means if not row["what"].startswith("latents")]
    draw_rates(rows, references, OUTPUT / "rate.png")
    show_table(OUTPUT / "rate", "CTA cells: rate", rows + references)


def draw_rates(rows, references, path):
    """Stored bits against the characters that are wrong, a line for each model."""
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    colours = {("BPE", 4): "tab:blue", ("BPE", 8): "tab:orange", ("BPE", 16): "tab:green", ("bytes", 16): "tab:red"}
    for tokens, ratio, numbers in rate_cells():
        points = [row for row in rows if (row["tokens"], row["ratio"], row["numbers"]) == (tokens, ratio, numbers)]
        axis.plot(
            [row["bits per byte of text"] for row in points],
            [max(row["character error rate"], 1e-5) for row in points],
            color=colours[tokens, ratio],
            marker="o" if numbers == 15 * ratio else "^",
            linewidth=1,
            markersize=4,
            label=f"{tokens}, {ratio}×, {numbers} numbers",
        )
    for row, style in zip(references, (":", "--", "-."), strict=True):
        axis.axvline(row["bits per byte of text"], color="black", linewidth=0.8, linestyle=style, label=row["what"])
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("stored bits a byte of text")
    axis.set_ylabel("character error rate")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def optimizer(corpus, passages, rates):
    """Muon beside AdamW at several learning rates, at equal steps and, at that which is best on validation text, at equal
    seconds."""
    cells = {("Muon", "the recipe's", STEPS[4]): ["--optimizer", "muon"]}
    for learning_rate in rates:
        cells["AdamW", learning_rate, STEPS[4]] = ["--optimizer", "adamw", "--learning_rate", str(learning_rate)]
    rows = optimizer_rows(cells, corpus, passages)
    best = max(rows[1:], key=lambda row: row["validation, 2 bits"])
    if best["learning rate"] in (min(rates), max(rates)):
        print(
            f"AdamW is best at {best['learning rate']}, the edge of what was tried: give more --adamw_rates",
            file=sys.stderr,
        )
    steps = round(best["steps"] * rows[0]["seconds"] / best["seconds"])
    arguments = ["--optimizer", "adamw", "--learning_rate", str(best["learning rate"])]
    cells = {("AdamW", best["learning rate"], steps): arguments}
    rows += optimizer_rows(cells, corpus, passages)
    show_table(OUTPUT / "optimizer", "CTA cells: optimizer", rows)


def optimizer_rows(cells, corpus, passages):
    """Run what is missing of cells, by name, learning rate and steps, and give their rows."""
    folders, commands = {}, []
    for (name, learning_rate, steps), arguments in cells.items():
        folders[name, learning_rate, steps] = []
        for seed in SEEDS:
            # Muon's cell is the table of rates' own.
            own = OUTPUT / f"{name}-{learning_rate}-{steps}-seed-{seed}"
            folder = rate_folder(*NANO, seed) if name == "Muon" else own
            folders[name, learning_rate, steps].append(folder)
            config = json.dumps(rate_cells()[NANO][0])
            settings = ["--config", config, "--max_steps", str(steps), "--seed", str(seed), *arguments]
            commands.append(command_of(folder, corpus, *TOKENIZER, *settings))
    run_all(commands)
    rows = []
    for (name, learning_rate, steps), finished in folders.items():
        means = {row["what"]: row for row in mean_rows(finished, passages)}
        reports = [json.loads((folder / "report.json").read_text())["rows"] for folder in finished]
        validation = [row["token accuracy"] for report in reports for row in report if row["what"] == "latents, int2"]
        shared = {"optimizer": name, "learning rate": learning_rate, "steps": steps}
        rows.append(
            shared
            | {
                "seconds": float(np.mean([*map(seconds_of, finished)])),
                "validation, 2 bits": float(np.mean(validation)),
                "token accuracy, 8 bits": means["latents, int8"]["token accuracy"],
                "token accuracy, 2 bits": means["latents, int2"]["token accuracy"],
                "its spread of seeds": means["latents, int2"]["spread of seeds"],
            }
        )
    return rows


def main():
    """Run the cells that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["rate", "optimizer"])
    parser.add_argument("--train_file", nargs="+", required=True)
    parser.add_argument("--validation_file", nargs="+", required=True)
    parser.add_argument("--data_file", nargs="+", required=True, help="held-out text that the table measures on")
    parser.add_argument(
        "--adamw_rates", nargs="+", type=float, default=[1e-3, 2e-3, 4e-3], help="learning rates of AdamW"
    )
    arguments = parser.parse_args()
    corpus = ["--train_file", *arguments.train_file, "--validation_file", *arguments.validation_file]
    held_out = load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)["train"]
    passages = sample_passages(texts_of(held_out), PASSAGE_LENGTH, PASSAGES, 0)
    if arguments.table == "rate":
        rate(corpus, passages)
    else:
        optimizer(corpus, passages, arguments.adamw_rates)


if __name__ == "__main__":
    main()
