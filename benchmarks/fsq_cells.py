"""Codebooks side by side on the same chunks: finite scalar quantization and a learned codebook (EMA-VQ) of 2^10 to 2^16
codes, one code a chunk; decoders of several widths; one code and two, convolutions and perceptrons.

python benchmarks/fsq_cells.py codebooks --train_file train.jsonl.xz --validation_file held-out.jsonl.xz --data_file test.jsonl.xz
python benchmarks/fsq_cells.py shapes --train_file train.jsonl.xz --validation_file held-out.jsonl.xz --data_file test.jsonl.xz

Each cell is a run of `run_pretraining.py`, two at a time, each on one thread; a finished one is not trained again. All take the
same seconds: how many steps those are is measured first, all cells in turn. `codebooks` also trains a language model on the
tokens of each, all for the same steps. What the same files, recipes and seconds have made lies in a folder of their own: nothing
old is measured as new.
"""

import argparse
import hashlib
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch
from processes import run_all
from timing import interleaved_seconds
from transformers import AutoTokenizer

import modeling_textae
from modeling_textae.data.corpora import load_corpus
from modeling_textae.evaluation.codebook import chunk_report
from modeling_textae.evaluation.language import language_figures
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.texts import sample_passages, texts_of
from modeling_textae.training.optimizers import MuonWithAdamW, bfloat16_is_fast

RUNS = Path("runs/fsq-cells")
RECIPES = "recipes/fsq-autoencoder-nano.yaml", "recipes/fsq-autoencoder-nano-lm.yaml"
LEVELS = {10: [8, 5, 5, 5], 12: [7, 5, 5, 5, 5], 14: [8, 8, 8, 6, 5], 16: [8, 8, 8, 5, 5, 5]}
PASSAGE_LENGTH, BATCH = 1024, 1024
CODEBOOKS = {
    (kind, bits): {"num_codes": 1} | ({"levels": levels} if kind == "FSQ" else {"vq_codes": 2**bits})
    for bits, levels in LEVELS.items()
    for kind in ("FSQ", "VQ")
}
SHAPES = {
    "two codes, perceptrons": {},
    "decoder 64 wide": {"decoder_hidden_size": 64},
    "decoder 128 wide": {"decoder_hidden_size": 128},
    "decoder 256 wide": {"decoder_hidden_size": 256},
    "without waves": {"num_frequencies": 0},
    "one code": {"num_codes": 1},
    "two codes, convolutions": {"block_type": "conv", "decoder_hidden_size": 256},
}


def autoencoder_command(folder, config, steps, seed, arguments):
    """The run of an autoencoder."""
    return [
        sys.executable, "run_pretraining.py", RECIPES[0], "--config", json.dumps(config),
        "--train_file", *arguments.train_file, "--validation_file", *arguments.validation_file, "--seed", str(seed),
        "--per_device_train_batch_size", str(BATCH), "--output_dir", str(folder), "--max_steps", str(steps),
        "--warmup_steps", str(-(-steps // 20)), "--disable_tqdm", "true", "--resume_from_checkpoint",
    ]  # fmt: skip


def language_command(folder, start, config, seed, arguments):
    """The run of a language model on the tokens of a cell's codes."""
    return [
        sys.executable, "run_pretraining.py", RECIPES[1], "--config", json.dumps(config),
        "--train_file", *arguments.train_file, "--validation_file", *arguments.validation_file, "--seed", str(seed),
        "--noise_rate", "0", "--initial_checkpoint", str(start), "--output_dir", str(folder),
        "--per_device_train_batch_size", "4", "--max_steps", str(arguments.language_steps),
        "--warmup_steps", str(-(-arguments.language_steps // 20)), "--disable_tqdm", "true", "--resume_from_checkpoint",
    ]  # fmt: skip


def output_folder(arguments):
    """Where the cells of some files, recipes and seconds live."""
    cells = (CODEBOOKS | SHAPES).items()
    shapes = {str(name): modeling_textae.FsqAutoencoderConfig.nano(**config).to_diff_dict() for name, config in cells}
    digest = hashlib.sha256(json.dumps([arguments.seconds, BATCH, shapes], sort_keys=True, default=str).encode())
    for path in (*RECIPES, *arguments.train_file, *arguments.validation_file):
        digest.update(Path(path).read_bytes())
    return RUNS / digest.hexdigest()[:12]


def steps_of(cells, arguments):
    """How many steps of each cell take so many seconds on one thread; measured once, all cells in turn."""
    path = arguments.output / "seconds_of_a_step.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    missing = {name: config for name, config in cells.items() if str(name) not in known}
    if missing:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        labels = torch.randint(0, 256, (BATCH, 16)).masked_fill(
            torch.arange(16) >= torch.randint(2, 12, (BATCH, 1)), -100
        )
        batch = {"input_ids": labels.clamp(min=0), "attention_mask": (labels >= 0).long(), "labels": labels}

        def stepper(config):
            model = modeling_textae.FsqAutoencoderModel(modeling_textae.FsqAutoencoderConfig.nano(**config)).train()
            optimizer = MuonWithAdamW(model)

            def step():
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16_is_fast()):
                    loss = model(**batch).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            return step

        found = interleaved_seconds({str(name): stepper(config) for name, config in missing.items()}, rounds=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known := known | found, indent=2))
    return {name: round(arguments.seconds / known[str(name)]) for name in cells}


def share_token_list(folders):
    """Choose the strings worth a token once: runs that begin with such a list take it over."""
    lists = [folder / "token_list.json" for folder in folders if (folder / "token_list.json").is_file()]
    for folder in folders if lists else ():
        if not (folder / "token_list.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "token_list.json").write_text(lists[0].read_text())


def run_autoencoders(cells, arguments):
    """Run what is missing of cells and seeds, the first alone where there is no token list yet; give folders and steps."""
    steps = steps_of(cells, arguments)
    folders, commands = {}, []
    for name, config in cells.items():
        for seed in arguments.seeds:
            label = "-".join(re.findall(r"[\w.]+", str(name)))
            folder = folders[name, seed] = arguments.output / f"{label}-{steps[name]}-steps-seed-{seed}"
            if not (folder / "report.json").is_file():
                commands.append((folder, autoencoder_command(folder, config, steps[name], seed, arguments)))
    share_token_list(folders.values())
    if commands and not (commands[0][0] / "token_list.json").is_file():
        run_all([commands.pop(0)[1]])
        share_token_list(folders.values())
    run_all([command for _, command in commands])
    return folders, steps


def measured(folder, texts):
    """A cell's figures on held-out texts, as columns."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = modeling_textae.FsqAutoencoderModel.from_pretrained(folder, use_safetensors=True).eval()
    tokens = [token.encode("latin-1") for token in json.loads((folder / "token_list.json").read_text())]
    report = chunk_report(model, tokenizer, texts, tokens)
    return {
        "parameters, M": model.num_parameters() / 1e6,
        "byte accuracy": report["chunks"]["byte_accuracy"],
        "exact chunks": report["chunks"]["exact_chunks"],
        "perplexity": report["chunks"]["perplexity"],
        "codes used": report["chunks"]["codes_used"],
        "exact of the token list": report["token_list"]["exact_chunks"],
        "tokens": len(tokenizer),
        "bytes a token": report["tokenizer"]["bytes_per_token"],
        "ids used": report["tokenizer"]["ids_used_share"],
    }


def mean_of(rows, watched):
    """The mean of several seeds' rows, and how far one figure lies apart."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return means | {f"{watched}, spread of seeds": float(np.ptp([row[watched] for row in rows]))}


def codebooks(arguments, texts):
    """The table of quantizers and sizes, with the language models on their tokens."""
    folders, steps = run_autoencoders(CODEBOOKS, arguments)
    language = {
        key: folder.with_name(f"{folder.name}-lm-{arguments.language_steps}") for key, folder in folders.items()
    }
    run_all(
        language_command(language[name, seed], folder, CODEBOOKS[name], seed, arguments)
        for (name, seed), folder in folders.items()
        if not (language[name, seed] / "report.json").is_file()
    )
    passages = sample_passages(texts, PASSAGE_LENGTH, 300, 0)
    rows = []
    for name, config in CODEBOOKS.items():
        found = []
        for seed in arguments.seeds:
            tokenizer = AutoTokenizer.from_pretrained(language[name, seed])
            kind = modeling_textae.FsqAutoencoderForCausalLM
            model = kind.from_pretrained(language[name, seed], use_safetensors=True).eval()
            bits = language_figures(model, tokenizer, passages)["bits_per_byte"]
            found.append(measured(folders[name, seed], texts) | {"language model, bits per byte": bits})
        size = config.get("vq_codes") or math.prod(config["levels"])
        row = {"quantizer": name[0], "codes": size, "steps": steps[name]}
        rows.append(row | mean_of(found, "language model, bits per byte"))
    show_table(RUNS / "codebooks", "FSQ cells: codebooks", rows)


def shapes(arguments, texts):
    """The table of shapes."""
    folders, steps = run_autoencoders(SHAPES, arguments)
    rows = []
    for name in SHAPES:
        found = [measured(folders[name, seed], texts) for seed in arguments.seeds]
        rows.append({"shape": name, "steps": steps[name]} | mean_of(found, "exact chunks"))
    show_table(RUNS / "shapes", "FSQ cells: shapes", rows)


def main():
    """Run the cells that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["codebooks", "shapes"])
    parser.add_argument("--train_file", nargs="+", required=True)
    parser.add_argument("--validation_file", nargs="+", required=True)
    parser.add_argument("--data_file", nargs="+", required=True, help="held-out text that the table measures on")
    parser.add_argument("--texts", type=int, default=1000, help="of that text")
    parser.add_argument("--seconds", type=float, default=120, help="of one thread, for each autoencoder")
    parser.add_argument("--language_steps", type=int, default=250)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    arguments = parser.parse_args()
    arguments.output = output_folder(arguments)
    held_out = load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)["train"]
    {"codebooks": codebooks, "shapes": shapes}[arguments.table](arguments, texts_of(held_out)[: arguments.texts])


if __name__ == "__main__":
    main()
