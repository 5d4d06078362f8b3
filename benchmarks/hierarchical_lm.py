"""Byte language models of equal training seconds: the Abstractinator of one level and two, with codes and without, of white-space
patches, and a flat Llama with windowed attention, on bytes alone and on bytes with hashed n-grams.

    CORPUS="--train_file wikipedia.jsonl.xz novels.jsonl.xz --data_file held-out.jsonl.xz --data_dir data"
    python benchmarks/hierarchical_lm.py equal $CORPUS     # all of about equally many parameters
    python benchmarks/hierarchical_lm.py tuned $CORPUS     # sizes chosen freely, the best of several

Rates, and with `tuned` sizes and batches, are chosen by training text held out, which is neither trained nor reported on. All
trials of a table take the same seconds, and each model of `equal`, each kind of `tuned` (flat, flat with n-grams, hierarchical)
has as many; beside them the nano shape comes from some thirty earlier ones of 90 to 120 s on that text. Contexts are 1,024
bytes. `--data_dir` has BLiMP and CUTE as `run_eval.py lm --data_dir` reads them. What other configurations or settings have made
lies in a folder of its own: nothing old is measured as new.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from flat_llama import flat_config, flat_llama, load_flat_llama
from language_cells import Cells, batch_of, digest_of, store_rows, stored_rows, train_for, training_step
from lm_eval.models.huggingface import HFLM
from timing import interleaved_seconds

from modeling_textae import AbstractinatorConfig, AbstractinatorForCausalLM, AbstractinatorTokenizer, ByteTokenizer
from modeling_textae.data.corpora import load_corpus, split_passages
from modeling_textae.evaluation.language import language_figures
from modeling_textae.evaluation.lm_harness import HierarchicalAELM, evaluate
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.segments import segment_figures
from modeling_textae.evaluation.texts import sample_passages, texts_of
from modeling_textae.training.optimizers import MuonWithAdamW

RUNS = Path("runs/hierarchical-lm")
PASSAGE_LENGTH = 1024
RATES = (2e-3, 5e-3, 1.2e-2)
WRITTEN, PROMPT = 128, 64  # bytes
TASKS = ("blimp", "cute")


def nano(**fields):
    """A configuration of the Abstractinator."""
    return AbstractinatorConfig.nano(**fields)


def two_levels(**fields):
    """Two levels, fewer parameters at the top."""
    twice = {
        "level_sizes": [128, 192], "level_heads": [4, 4], "level_intermediate_sizes": [256, 384],
        "compressor_layers": [0, 1], "expander_layers": [1, 1], "windows": [32, 32],
        "segmentations": ["rise_or_threshold", "fixed"], "target_segment_lengths": [4.0, 2.0],
        "min_segment_lengths": [1, 1], "max_segment_lengths": [24, 4], "codebook_sizes": [0, 0],
        "hidden_size": 192, "num_hidden_layers": 1, "intermediate_size": 448,
    }  # fmt: skip
    return nano(**twice | fields)


def small(size):
    """One narrow level and a narrow top."""
    return nano(level_sizes=[size], level_intermediate_sizes=[2 * size], hidden_size=128, intermediate_size=256)


NGRAMS = {name: getattr(nano(), name) for name in ("ngram_sizes", "ngram_buckets", "ngram_embedding_size")}
EQUAL = {
    "flat": flat_config(256, 4, 4, 608),
    "flat, n-grams": flat_config(192, 4, 4, 430, ngrams=NGRAMS),
    "one level, no n-grams": nano(ngram_sizes=[], compressor_layers=[1], num_hidden_layers=4, intermediate_size=472),
    "one level": nano(),
    "one level, codes": nano(codebook_sizes=[4096]),
    "one level, white space": nano(segmentations=["white_space"]),
    "two levels": two_levels(),
    "two levels, codes": two_levels(codebook_sizes=[4096, 4096]),
}
FLAT_SIZES = {
    "flat 64 x 4": flat_config(64, 4, 2, 172),
    "flat 96 x 4": flat_config(96, 4, 3, 256),
    "flat 96 x 6": flat_config(96, 6, 3, 256),
    "flat 128 x 4": flat_config(128, 4, 4, 344),
    "flat 128 x 4, batches of 2": flat_config(128, 4, 4, 344),
    "flat 192 x 4": flat_config(192, 4, 4, 512),
}
FLAT_NGRAMS = {
    "flat 64 x 2, n-grams": flat_config(64, 2, 2, 172, ngrams=NGRAMS),
    "flat 96 x 2, n-grams": flat_config(96, 2, 3, 256, ngrams=NGRAMS),
    "flat 128 x 2, n-grams": flat_config(128, 2, 4, 344, ngrams=NGRAMS),
    "flat 128 x 4, n-grams": flat_config(128, 4, 4, 344, ngrams=NGRAMS),
    "flat 128 x 4, n-grams, batches of 2": flat_config(128, 4, 4, 344, ngrams=NGRAMS),
    "flat 192 x 4, n-grams": flat_config(192, 4, 4, 512, ngrams=NGRAMS),
}
HIERARCHIES = {
    "one level, as nano": EQUAL["one level"],
    "one level, batches of 2": EQUAL["one level"],
    "one level, top 192 x 2": nano(hidden_size=192, num_hidden_layers=2, intermediate_size=384),
    "one level, top 192 x 3": nano(hidden_size=192, num_hidden_layers=3, intermediate_size=384),
    "one level 96 wide, top 128 x 2": small(96),
    "one level 64 wide, top 128 x 2": small(64),
}
TABLES = {"equal": (EQUAL,), "tuned": (FLAT_SIZES, FLAT_NGRAMS, HIERARCHIES)}
CELLS = {name: config for kinds in TABLES.values() for kind in kinds for name, config in kind.items()}


def is_flat(cell):
    """Whether a cell is a flat model."""
    return CELLS[cell].model_type == "llama"


def model_of(cell):
    """A new model of a cell."""
    return flat_llama(CELLS[cell]) if is_flat(cell) else AbstractinatorForCausalLM(CELLS[cell])


def load_cell(cell, folder):
    """A trained cell."""
    load = load_flat_llama if is_flat(cell) else AbstractinatorForCausalLM.from_pretrained
    return load(folder).eval()


def tokenizer_of(cell):
    """What a cell reads with: bytes, either way; the start that a flat model needs is added by the Abstractinator itself."""
    return ByteTokenizer(starts_with_bos=True) if is_flat(cell) else AbstractinatorTokenizer()


def batch_size_of(cell, arguments):
    """Passages in a step of a cell."""
    return 2 if cell.endswith("batches of 2") else arguments.batch_size


def output_folder(arguments):
    """Where the cells of a table of some files, settings and configurations live."""
    shapes = {name: config.to_diff_dict() for kind in TABLES[arguments.table] for name, config in kind.items()}
    return RUNS / digest_of(arguments.train_file, arguments.passages, arguments.batch_size, shapes)


def prepare(arguments):
    """Passages of the training text as rows of bytes, in an order of their own."""
    path = arguments.output / "bytes.npz"
    if not path.is_file():
        texts = texts_of(load_corpus(train_file=arguments.train_file, validation_file=arguments.train_file)["train"])
        passages = [p for text in texts for p in split_passages(text, PASSAGE_LENGTH) if len(p.encode()) >= 128]
        order = np.random.default_rng(0).permutation(len(passages))[: arguments.passages]
        bos = ByteTokenizer().bos_token_id
        store_rows(path, [[bos, *passages[i].encode()] for i in order.tolist()], pad=ByteTokenizer().pad_token_id)


def train_cell(arguments):
    """Train one cell and keep it."""
    torch.manual_seed(arguments.seed)
    rows, stored = stored_rows(arguments.output / "bytes.npz")
    model = model_of(arguments.cell)
    cell = arguments.cell, arguments.rate, arguments.seconds, arguments.seed
    pad = int(stored["pad"])
    batch_size = batch_size_of(arguments.cell, arguments)
    result = train_for(arguments.seconds, model, rows, pad, arguments.rate, arguments.seed, batch_size, arguments.cell)
    Cells(__file__, arguments.output).save(cell, model, result)


def training_rates(models, arguments):
    """Bytes a second of a training step of each model, on batches of its size from the same passages, all in turn."""
    rows, stored = stored_rows(arguments.output / "bytes.npz")
    batches = {name: batch_of(rows[: batch_size_of(name, arguments)], int(stored["pad"])) for name in models}

    def stepper(name, model):
        optimizer = MuonWithAdamW(model.train(), 0.0, 0.0)
        return lambda: training_step(model, optimizer, batches[name])

    seconds = interleaved_seconds({name: stepper(name, model) for name, model in models.items()}, rounds=7)
    return {name: int((batches[name]["labels"] != -100).sum()) / seconds[name] for name in models}


def writing_seconds(models, prompts):
    """Seconds in which each model writes so many bytes after prompts of equal length, all in turn."""
    ids = torch.tensor([[ByteTokenizer().bos_token_id, *prompt] for prompt in prompts])

    def writer(model):
        options = {"do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": ByteTokenizer().pad_token_id}
        return lambda: model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=WRITTEN, **options)

    with torch.no_grad():
        return interleaved_seconds({name: writer(model.eval()) for name, model in models.items()}, rounds=3)


def harness_of(model, tokenizer):
    """A model as lm-eval asks it."""
    kind = HFLM if model.config.model_type == "llama" else HierarchicalAELM
    return kind(pretrained=model, tokenizer=tokenizer, batch_size=16, max_length=4096, device="cpu")


def cute_nats(results):
    """Nats of an answer, the mean over CUTE's tasks, of lm-eval's results."""
    tasks = [row for task, row in results["results"].items() if task.startswith("cute_")]
    return float(np.mean([math.log(row["perplexity,none"]) for row in tasks]))


def task_figures(cell, model, arguments):
    """The share of BLiMP that a trained model gets right, and the mean over CUTE's tasks of the nats of an answer, of which so
    small a model gives none right."""
    found = evaluate(
        harness_of(model, tokenizer_of(cell)),
        None,
        list(TASKS),
        arguments.data_dir,
        limit=arguments.limit,
        bootstrap_iters=0,
    )
    return {"BLiMP": found["groups"]["blimp"]["acc,none"], "CUTE, nats an answer": cute_nats(found)}


def show(names, best, cells, results, passages, arguments):
    """Measure trained cells and print the table."""
    prompts = [p.encode()[:PROMPT] for p in passages if len(p.encode()) >= PROMPT][:32]
    first = {name: load_cell(name, cells.folder(*next(c for c in results if c[0] == name))) for name in names}
    single, many = writing_seconds(first, prompts[:1]), writing_seconds(first, prompts)
    rows = []
    for name in names:
        mine = [cell for cell in results if cell[0] == name]
        models = [load_cell(name, cells.folder(*cell)) for cell in mine]
        bits = [language_figures(model, tokenizer_of(name), passages)["bits_per_byte"] for model in models]
        tasks = [task_figures(name, model, arguments) for model in models]
        row = {
            "model": name,
            "parameters, M": models[0].num_parameters() / 1e6,
            "rate": best[name],
            "steps": float(np.mean([results[cell]["steps"] for cell in mine])),
            "bits per byte": float(np.mean(bits)),
            "spread of seeds": float(np.ptp(bits)),
        }
        row["bytes a segment"] = None
        if not is_flat(name):
            row["bytes a segment"] = segment_figures(models[0], tokenizer_of(name), passages[:100])["bytes_per_segment"]
        row["writing, B/s"] = WRITTEN / single[name]
        row["32 at once, B/s"] = len(prompts) * WRITTEN / many[name]
        rows.append(row | {column: float(np.mean([found[column] for found in tasks])) for column in tasks[0]})
    # Last, since it leaves the models in training.
    rates = training_rates(first, arguments)
    for row in rows:
        row["training, B/s"] = rates[row["model"]]
    show_table(RUNS / arguments.table, f"Byte language models: {arguments.table}", rows)


def compare(arguments):
    """Tune, train and measure."""
    torch.set_num_threads(1)
    texts = texts_of(load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)["train"])
    passages = sample_passages(texts, PASSAGE_LENGTH, arguments.test_passages, 0)
    if not Path(arguments.data_dir).is_dir():
        raise SystemExit(f"{arguments.data_dir} is no folder: --data_dir has the files of BLiMP and CUTE")
    arguments.output = output_folder(arguments)
    prepare(arguments)
    cells = Cells(__file__, arguments.output, batch_size=arguments.batch_size)
    if arguments.table == "equal":
        names = list(EQUAL)
        best = cells.best_rates(names, RATES, arguments.trial_seconds)
    else:
        names, best = [], {}  # as many trials for each kind
        for kind in TABLES["tuned"]:
            trials = cells.run([(name, rate, arguments.trial_seconds, 0) for name in kind for rate in RATES])
            chosen = min(trials, key=lambda row: row["validation nats"])
            names.append(chosen["cell"])
            best[chosen["cell"]] = chosen["rate"]
    finals = [(name, best[name], arguments.seconds, seed) for seed in arguments.seeds for name in names]
    show(names, best, cells, dict(zip(finals, cells.run(finals), strict=True)), passages, arguments)


def main():
    """One cell where one is named, else a whole table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", choices=["equal", "tuned"], default="equal")
    parser.add_argument("--train_file", nargs="+")
    parser.add_argument("--data_file", nargs="+", help="held-out text that the table measures on")
    parser.add_argument("--data_dir", help="folder with the files of BLiMP and CUTE")
    parser.add_argument("--passages", type=int, default=60000, help="of the training text")
    parser.add_argument("--test_passages", type=int, default=500)
    parser.add_argument("--batch_size", type=int, default=4, help="passages a step")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--trial_seconds", type=float, default=60)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--limit", type=int, default=100, help="questions of a task")
    parser.add_argument("--cell", choices=CELLS)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.cell:
        train_cell(arguments)
    elif arguments.train_file and arguments.data_file and arguments.data_dir:
        compare(arguments)
    else:
        parser.error("--train_file, --data_file and --data_dir are needed")


if __name__ == "__main__":
    main()
