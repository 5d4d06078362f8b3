"""Codebooks of the Abstractinator side by side: sizes, cuts by entropy and every so many bytes, and two levels of codes.

    python benchmarks/hierarchical_codebooks.py --train_file train.jsonl.xz --validation_file held-out.jsonl.xz \\
        --data_file test.jsonl.xz

Each cell is recipes/abstractinator-nano-codes.yaml with so many steps, two at a time, each on one thread; a finished one is not
trained again, one that was cut short goes on. A byte costs at most 4.7 bits of codes: what it does cost stands beside what comes
back, since cells differ in it. `not seen` are codes that no segment of the measured passages has.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch
from processes import run_all

from modeling_textae import AbstractinatorConfig, AbstractinatorModel, AbstractinatorTokenizer
from modeling_textae.data.corpora import load_corpus
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.segments import given_back, segment_figures
from modeling_textae.evaluation.texts import sample_passages, texts_of

RUNS = Path("runs/hierarchical-codebooks")
RECIPE = "recipes/abstractinator-nano-codes.yaml"
PASSAGE_LENGTH = 1024


def one_level(codes, length, rule):
    """A configuration of one level."""
    return {"codebook_sizes": [codes], "target_segment_lengths": [length], "segmentations": [rule]}


CELLS = {
    "512, every 2 bytes": one_level(512, 2, "fixed"),
    "512, entropy": one_level(512, 2.0, "rise_or_threshold"),
    "4,096, every 3 bytes": one_level(4096, 3, "fixed"),
    "4,096, entropy": one_level(4096, 2.6, "rise_or_threshold"),
    "16,384, every 3 bytes": one_level(16384, 3, "fixed"),
    "16,384, entropy": one_level(16384, 3.05, "rise_or_threshold"),
    "two levels, 16,384 and 16,384": {
        "level_sizes": [128, 128], "level_heads": [4, 4], "level_intermediate_sizes": [256, 256],
        "compressor_layers": [1, 1], "expander_layers": [1, 1], "windows": [32, 32],
        "segmentations": ["fixed", "fixed"], "target_segment_lengths": [3, 2],
        "min_segment_lengths": [1, 1], "max_segment_lengths": [24, 8], "codebook_sizes": [16384, 16384],
    },
}  # fmt: skip


def output_folder(arguments):
    """Where the cells of some files, recipe and configurations live."""
    shapes = {name: AbstractinatorConfig.nano(**config).to_diff_dict() for name, config in CELLS.items()}
    digest = hashlib.sha256(json.dumps(shapes, sort_keys=True, default=str).encode())
    for path in (RECIPE, *arguments.train_file, *arguments.validation_file):
        digest.update(Path(path).read_bytes())
    return RUNS / digest.hexdigest()[:12]


def command_of(folder, config, arguments):
    """The run of a cell."""
    return [
        sys.executable, "run_pretraining.py", RECIPE, "--config", json.dumps(config | {"history_dropout": 0.5}),
        "--train_file", *arguments.train_file, "--validation_file", *arguments.validation_file,
        "--output_dir", str(folder), "--max_steps", str(arguments.steps), "--warmup_steps", str(-(-arguments.steps // 20)),
        "--disable_tqdm", "true", "--resume_from_checkpoint", "auto",
    ]  # fmt: skip


def course(folder, steps):
    """How a cell's top codes fared in training: restarts after each quarter, and perplexity then."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    logged = [entry for entry in log if "code_restarts" in entry]
    quarters = [next((e for e in logged if e["step"] >= steps * q // 4), logged[-1]) for q in (1, 2, 3)] + logged[-1:]

    def told(name):
        return " · ".join(f"{float(entry[name]):.0f}" for entry in quarters)

    return {"restarts, by quarters": told("code_restarts"), "perplexity in training": told("code_perplexity")}


def measured(name, folder, passages, arguments):
    """A row of the table: use of codes by all passages, and what some of them give back."""
    model = AbstractinatorModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    tokenizer = AbstractinatorTokenizer.from_pretrained(folder)
    found = segment_figures(model, tokenizer, passages)
    back = given_back(model, tokenizer, passages[: arguments.given_back])
    return {
        "codes": name,
        "bytes a segment": found["bytes_per_segment"],
        "code bits a byte": found["code_bits_per_byte"],
        "bytes right, codes alone": back["bytes_right"],
        "codes used": found["codes_used"],
        "perplexity": found["perplexity"],
        "segments": found["segments"],
        "not seen": round((1 - found["codes_used"]) * found["codebook_size"]),
        **course(folder, arguments.steps),
    }


def main():
    """Run the cells that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", nargs="+", required=True)
    parser.add_argument("--validation_file", nargs="+", required=True)
    parser.add_argument("--data_file", nargs="+", required=True, help="held-out text that the table measures on")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--passages", type=int, default=5000, help="whose codes are counted")
    parser.add_argument("--given_back", type=int, default=200, help="passages that are reconstructed")
    arguments = parser.parse_args()
    output = output_folder(arguments)
    texts = texts_of(load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)["train"])
    folders = {
        name: output / f"{name.replace(', ', '-').replace(' ', '-')}-{arguments.steps}" for name in arguments.cells
    }
    run_all(
        command_of(folder, CELLS[name], arguments)
        for name, folder in folders.items()
        if not (folder / "report.json").is_file()
    )
    passages = sample_passages(texts, PASSAGE_LENGTH, arguments.passages, 0)
    show_table(
        RUNS / "table",
        "Codebooks of the Abstractinator",
        [measured(name, folder, passages, arguments) for name, folder in folders.items()],
    )


if __name__ == "__main__":
    main()
