"""Noise control against schedules: PID, a linear rise and three fixed rates, at equal steps and two seeds.

    CORPUS="--train_file corpus.jsonl.xz --validation_file held-out.jsonl.xz"
    python benchmarks/noise_control.py masking $CORPUS
    python benchmarks/noise_control.py denoising $CORPUS --pairs_file pairs.jsonl.xz --first 0.8 --last 0.9

All cells of a phase go on from one checkpoint: masking from that of recipes/encodzall-nano.yaml, denoising from that of
recipes/encodzall-nano-denoise.yaml. Each cell is a run of run_pretraining.py in a process of its own, two at a time; a finished
cell is not run again and an interrupted one goes on. Prints a Markdown table and writes it beside the runs: of what the reports
say of masked validation text, or of the errors that are left in noisy texts, the noise of which is that of the training or of
others. Margins are chosen on every other text and measured on the rest.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
from processes import run_all

from modeling_textae import EncodzallForConditionalGeneration, EncodzallTokenizer
from modeling_textae.data.collators import noisy_texts
from modeling_textae.data.corpora import embedded_corpus, load_corpus, split_passages
from modeling_textae.data.pairs import read_pairs
from modeling_textae.data.text_noise import TextNoise
from modeling_textae.evaluation.denoising import denoising_rows
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.texts import texts_of

ROOT = Path(__file__).parent.parent
STEPS = {"masking": 400, "denoising": 150}
BATCH_SIZE = {"masking": 8, "denoising": 16}  # so that a cell takes six minutes of one thread at most
STRENGTH, PASSAGES = 0.05, 40  # of the noise on validation passages that denoising is measured on
GAINS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]  # nats a changed character
MASKING = {
    "PID, set-point 0.35": "--noise pid --noise_rate 0.2 --loss_setpoint 0.35 --control_warmup_steps 20",
    "linear, 0.1 to 0.4": "--noise linear --noise_rate 0.1 --noise_end 0.4",
    "fixed, 0.1": "--noise fixed --noise_rate 0.1",
    "fixed, 0.2": "--noise fixed --noise_rate 0.2",
    "fixed, 0.4": "--noise fixed --noise_rate 0.4",
}
DENOISING = {
    "PID, set-point 0.3": "--noise pid --noise_rate 0.1 --loss_setpoint 0.3 --control_warmup_steps 10",
    "linear, 0.05 to 0.2": "--noise linear --noise_rate 0.05 --noise_end 0.2",
    "fixed, 0.05": "--noise fixed --noise_rate 0.05",
    "fixed, 0.1": "--noise fixed --noise_rate 0.1",
    "fixed, 0.2": "--noise fixed --noise_rate 0.2",
}
KINDS = {"masking": MASKING, "denoising": DENOISING}
RECIPES = {"masking": "encodzall-nano-long.yaml", "denoising": "encodzall-nano-denoise.yaml"}
INITIAL = {"masking": "runs/encodzall-nano", "denoising": "runs/encodzall-nano-denoise"}
OPTIONS = "--passage_length 256 --warmup_steps 20 --save_steps 50 --disable_tqdm true"


def cell_folder(arguments, kind, seed):
    """Where a cell's run lives."""
    return arguments.output / f"{kind.replace(', ', '-').replace(' ', '-')}-seed-{seed}"


def command_of(arguments, kind, seed):
    """The run of a cell."""
    corpus = []
    for name in ("train_file", "validation_file"):
        if getattr(arguments, name):
            corpus += [f"--{name}", *getattr(arguments, name)]
    return [
        sys.executable, str(ROOT / "run_pretraining.py"), str(ROOT / "recipes" / RECIPES[arguments.phase]),
        *OPTIONS.split(), "--max_steps", str(STEPS[arguments.phase]),
        "--per_device_train_batch_size", str(BATCH_SIZE[arguments.phase]),
        *KINDS[arguments.phase][kind].split(), "--seed", str(seed),
        "--report_passages", "200" if arguments.phase == "masking" else "2",
        "--output_dir", str(cell_folder(arguments, kind, seed)),
        "--initial_checkpoint", arguments.initial_checkpoint, *corpus, "--resume_from_checkpoint", "auto",
    ]  # fmt: skip


def loss_figures(folder, steps):
    """How a finished cell's training loss stood in the second half of its steps."""
    logs = [log for log in json.loads((folder / "trainer_state.json").read_text())["log_history"] if "loss" in log]
    late = [float(log["loss"]) for log in logs if log["step"] > steps // 2]
    means = [part.mean() for part in np.array_split(late, 2)]
    return {
        "noise at the end": float(logs[-1].get("noise_rate", np.nan)),
        "loss, last half": float(np.mean(late)),
        f"range of its {steps // 4}-step means": float(np.ptp(means)),
    }


def masking_figures(folder):
    """What a finished cell's report says."""
    report = json.loads((folder / "report.json").read_text())
    masked = report["masked"]["0.2"]
    return {
        "masked 0.2": masked["byte_accuracy"],
        "clean": report["clean"]["byte_accuracy"],
        "hidden characters": masked["hidden_character_accuracy"],
        "hidden words": masked["hidden_word_accuracy"],
    }


def denoising_figures(folder, pairs, passages):
    """What a finished cell restores of noisy texts, and of passages that noise of the training is put on."""
    model = EncodzallForConditionalGeneration.from_pretrained(folder, dtype="float32", use_safetensors=True).eval()
    suggest_edits = partial(model.suggest_edits, tokenizer=EncodzallTokenizer.from_pretrained(folder))
    found = {}
    for name, texts in (("of the pairs", pairs), ("of such noise", passages)):
        tried = denoising_rows(suggest_edits, texts[::2], GAINS)[0][1:]
        margin = min(tried, key=lambda row: row["character_error_rate"])["min_gain"]
        found[f"errors {name} gone"] = denoising_rows(suggest_edits, texts[1::2], [margin])[0][1]["reduction"]
        found[f"margin {name}"] = margin
    return found


def noisy_passages(files, seed=0):
    """Held-out passages with noise, `(noisy, clean)`."""
    documents = (
        load_corpus(train_file=files, validation_file=files)["validation"] if files else embedded_corpus()["test"]
    )
    clean = [split_passages(text, 256)[0] for text in texts_of(documents, PASSAGES)]
    return list(zip(noisy_texts(clean, TextNoise(), STRENGTH, seed), clean, strict=True))


def main():
    """Run the cells that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=KINDS)
    parser.add_argument("--train_file", nargs="+", default=[], help="corpus; by default the embedded one")
    parser.add_argument("--validation_file", nargs="+", default=[], help="held-out text that reports measure on")
    parser.add_argument("--pairs_file", help="noisy and clean texts that denoising is measured on")
    parser.add_argument("--first", type=float, default=0.0, help="from this share of its records on")
    parser.add_argument("--last", type=float, default=1.0, help="up to this one")
    parser.add_argument(
        "--pairs", type=int, default=300, help="of these, chosen evenly, at most; a half chooses the margin"
    )
    parser.add_argument("--initial_checkpoint", help="where all cells begin")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--at_once", type=int, default=2, help="cells, each with one thread")
    parser.add_argument("--output_dir", default="runs/noise-control")
    arguments = parser.parse_args()
    arguments.initial_checkpoint = arguments.initial_checkpoint or INITIAL[arguments.phase]
    arguments.output = Path(arguments.output_dir) / arguments.phase
    figures_of = masking_figures
    if arguments.phase == "denoising":
        if arguments.pairs_file is None:
            parser.error("denoising is measured on a --pairs_file")
        pairs = read_pairs(arguments.pairs_file, first=arguments.first, last=arguments.last)
        figures_of = partial(
            denoising_figures,
            pairs=pairs[:: -(-len(pairs) // arguments.pairs)],
            passages=noisy_passages(arguments.validation_file),
        )
    kinds = KINDS[arguments.phase]
    folders = {(kind, seed): cell_folder(arguments, kind, seed) for seed in arguments.seeds for kind in kinds}
    missing = [cell for cell, folder in folders.items() if not (folder / "report.json").is_file()]
    run_all((command_of(arguments, *cell) for cell in missing), arguments.at_once)
    rows = []
    for kind in kinds:
        finished = [folders[kind, seed] for seed in arguments.seeds]
        found = [figures_of(folder) | loss_figures(folder, STEPS[arguments.phase]) for folder in finished]
        means = {name: float(np.mean([cell[name] for cell in found])) for name in found[0]}
        first = next(iter(means))  # what a phase is about
        rows.append({"noise": kind, **means, "seeds differ by": float(np.ptp([cell[first] for cell in found]))})
    show_table(arguments.output / "table", f"Noise control against schedules: {arguments.phase}", rows)


if __name__ == "__main__":
    main()
