"""Noise control against schedules: PID, a linear rise and three fixed rates, at equal steps and two seeds.

    python benchmarks/noise_control.py --train_file corpus.jsonl.xz --validation_file held-out.jsonl.xz

All cells go on from one checkpoint, that of recipes/encodzall-nano.yaml. Each cell is a run of run_pretraining.py in a process
of its own; a finished cell is not run again and an interrupted one goes on. Prints a Markdown table of what the reports of the
runs say, and writes it beside them.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from modeling_textae.evaluation.report import table, write_report

ROOT = Path(__file__).parent.parent
STEPS = 400
SETPOINT = 0.35
KINDS = {
    "PID, set-point 0.35": f"--noise pid --noise_rate 0.2 --loss_setpoint {SETPOINT} --control_warmup_steps 20",
    "linear, 0.1 to 0.4": "--noise linear --noise_rate 0.1 --noise_end 0.4",
    "fixed, 0.1": "--noise fixed --noise_rate 0.1",
    "fixed, 0.2": "--noise fixed --noise_rate 0.2",
    "fixed, 0.4": "--noise fixed --noise_rate 0.4",
}
RECIPE = f"--max_steps {STEPS} --passage_length 256 --warmup_steps 20 --save_steps 200 --report_passages 200"


def cell_folder(output, kind, seed):
    """Where a cell's run lives."""
    return Path(output) / f"{kind.replace(', ', '-').replace(' ', '-')}-seed-{seed}"


def run_cell(output, kind, seed, initial_checkpoint, corpus):
    """Run or continue one cell."""
    command = [
        sys.executable, str(ROOT / "run_pretraining.py"), str(ROOT / "recipes" / "encodzall-nano-long.yaml"),
        *RECIPE.split(), *KINDS[kind].split(), "--seed", str(seed), "--output_dir", str(cell_folder(output, kind, seed)),
        "--initial_checkpoint", initial_checkpoint, *corpus, "--resume_from_checkpoint",
    ]  # fmt: skip
    subprocess.run(command, check=True)


def read_cell(output, kind, seed):
    """The figures of a finished cell, or `None`."""
    folder = cell_folder(output, kind, seed)
    if not (folder / "report.json").is_file():
        return None
    report = json.loads((folder / "report.json").read_text())
    logs = [log for log in json.loads((folder / "trainer_state.json").read_text())["log_history"] if "loss" in log]
    late = [log["loss"] for log in logs if log["step"] > STEPS // 2]
    means = np.array(late[: len(late) // 10 * 10]).reshape(-1, 10).mean(1)
    masked = report["masked"]["0.2"]
    return {
        "clean": report["clean"]["byte_accuracy"],
        "masked 0.2": masked["byte_accuracy"],
        "hidden characters": masked["hidden_character_accuracy"],
        "hidden words": masked["hidden_word_accuracy"],
        "loss, last half": float(np.mean(late)),
        "its 100-step range": float(means.max() - means.min()),
    }


def main():
    """Run the cells that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", nargs="+", default=[], help="corpus; by default the embedded one")
    parser.add_argument("--validation_file", nargs="+", default=[], help="held-out text that the reports measure on")
    parser.add_argument("--initial_checkpoint", default="runs/encodzall-nano", help="where all cells begin")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--output_dir", default="runs/noise-control")
    parser.add_argument("--table_only", action="store_true", help="print the table of what is finished")
    arguments = parser.parse_args()
    corpus = []
    for name in ("train_file", "validation_file"):
        if getattr(arguments, name):
            corpus += [f"--{name}", *getattr(arguments, name)]
    if not arguments.table_only:
        for seed in arguments.seeds:
            for kind in KINDS:
                run_cell(arguments.output_dir, kind, seed, arguments.initial_checkpoint, corpus)
    rows = []
    for kind in KINDS:
        cells = [read_cell(arguments.output_dir, kind, seed) for seed in arguments.seeds]
        cells = [cell for cell in cells if cell]
        if cells:
            means = {name: float(np.mean([cell[name] for cell in cells])) for name in cells[0]}
            spread = float(np.ptp([cell["masked 0.2"] for cell in cells]))
            rows.append({"noise": kind, "seeds": len(cells), **means, "spread of masked": spread})
    body = table(rows, list(rows[0])) if rows else "no cell is finished"
    write_report(Path(arguments.output_dir) / "table", "Noise control against schedules", {"rows": rows}, body)
    print(body)


if __name__ == "__main__":
    main()
