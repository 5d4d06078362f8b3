"""lm-eval's tasks for a trained Abstractinator and its flat twin: a Llama of as many parameters that reads the same n-grams
and was trained on the same text for as many seconds of the processor.

    python benchmarks/hierarchical_tasks.py --checkpoint model_cards/abstractinator-nano --data_dir data \\
        --train_file wikipedia.jsonl.xz novels.jsonl.xz --data_file held-out.jsonl.xz

The twin is a cell of hierarchical_lm.py, trained on one thread, of one seed, at the rate that was best in trials of 60 seconds; a
finished one is not trained again. `--seconds` are those that the checkpoint took, of all its threads together. Bits a byte are of
passages of `--data_file`.
"""

import argparse
from pathlib import Path

import hierarchical_lm
import torch
from hierarchical_lm import CELLS, PASSAGE_LENGTH, cute_nats, harness_of, load_cell, prepare, tokenizer_of
from language_cells import Cells, digest_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_textae.data.corpora import load_corpus
from modeling_textae.evaluation.language import language_figures
from modeling_textae.evaluation.lm_harness import evaluate, result_rows
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.texts import sample_passages, texts_of

RUNS = Path("runs/hierarchical-tasks")
TWIN, SEED = "flat, n-grams", 1
TASKS = ("lambada_openai", "hellaswag", "arc_easy", "piqa", "winogrande", "blimp", "cute")
METRICS = ("acc", "acc_norm", "perplexity")


def flat_twin(arguments):
    """The trained flat model."""
    shape = CELLS[TWIN].to_diff_dict()
    arguments.output = RUNS / digest_of(arguments.train_file, arguments.passages, arguments.batch_size, TWIN, shape)
    prepare(arguments)
    cells = Cells(hierarchical_lm.__file__, arguments.output, batch_size=arguments.batch_size)
    cell = TWIN, arguments.rate, arguments.seconds, SEED
    (result,) = cells.run([cell])
    print(f"{TWIN}: {result['steps']} steps, {result['tokens'] / 1e6:.1f} MB")
    return load_cell(TWIN, cells.folder(*cell))


def figures_of(harness, passages, arguments):
    """Figures of a model, and their standard errors, by task and metric."""
    found = evaluate(harness, None, list(TASKS), arguments.data_dir, limit=arguments.limit)
    bits = language_figures(harness.model, harness.tokenizer, passages)["bits_per_byte"]
    told = {("held-out text", "bits per byte"): (bits, None), ("cute", "nats an answer"): (cute_nats(found), None)}
    return told | {
        (row["task"], row["metric"]): (row["value"], row["standard error"])
        for row in result_rows(found)
        if row["task"] in TASKS and row["metric"] in METRICS
    }


def main():
    """Train the twin where it is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--train_file", nargs="+", required=True)
    parser.add_argument("--data_file", nargs="+", required=True, help="held-out text")
    parser.add_argument("--data_dir", required=True, help="folder with the tasks' files")
    parser.add_argument("--passages", type=int, default=60000, help="of the training text")
    parser.add_argument("--test_passages", type=int, default=500)
    parser.add_argument("--batch_size", type=int, default=4, help="passages a step")
    parser.add_argument("--rate", type=float, default=5e-3, help="hierarchical_lm.py's best for the twin")
    parser.add_argument("--seconds", type=float, default=6600, help="of the processor")
    parser.add_argument("--limit", type=int, default=300, help="questions of a task")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = texts_of(load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)["train"])
    passages = sample_passages(texts, PASSAGE_LENGTH, arguments.test_passages, 0)
    twin = flat_twin(arguments)
    ours = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32, use_safetensors=True)
    found = {
        "Abstractinator": harness_of(ours, AutoTokenizer.from_pretrained(arguments.checkpoint)),
        "flat twin": harness_of(twin, tokenizer_of(TWIN)),
    }
    found = {name: figures_of(harness, passages, arguments) for name, harness in found.items()}
    rows = []
    for task, metric in found["Abstractinator"]:
        row = {"task": task, "metric": metric}
        for name, figures in found.items():
            row[name], row[f"{name}, standard error"] = figures[task, metric]
        rows.append(row)
    show_table(RUNS / "table", "lm-eval: the Abstractinator and its flat twin", rows)


if __name__ == "__main__":
    main()
