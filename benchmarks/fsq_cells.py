"""Codebooks side by side on the same chunks: finite scalar quantization and a learned codebook (EMA-VQ) of 2^10 to 2^16
codes, one code a chunk; decoders of several widths; one code and two, convolutions and perceptrons.

python benchmarks/fsq_cells.py codebooks --train_file train.jsonl.xz --validation_file held-out.jsonl.xz --data_file test.jsonl.xz
python benchmarks/fsq_cells.py shapes --train_file train.jsonl.xz --validation_file held-out.jsonl.xz --data_file test.jsonl.xz

Each cell is a run of `run_pretraining.py`, two at a time, each on one thread; a finished one is not trained again.
`codebooks` also trains a language model on the tokens of each.
"""

import argparse
import json
import sys
from pathlib import Path

from processes import run_all
from transformers import AutoTokenizer

import modeling_textae
from modeling_textae.data.corpora import load_corpus
from modeling_textae.evaluation.codebook import chunk_report
from modeling_textae.evaluation.language import language_figures
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.texts import sample_passages, texts_of

OUTPUT = Path("runs/fsq-cells")
LEVELS = {10: [8, 5, 5, 5], 12: [7, 5, 5, 5, 5], 14: [8, 8, 8, 6, 5], 16: [8, 8, 8, 5, 5, 5]}
PASSAGE_LENGTH = 1024
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


def autoencoder_command(folder, config, steps, arguments):
    """The run of an autoencoder."""
    return [
        sys.executable, "run_pretraining.py", "recipes/fsq-autoencoder-nano.yaml", "--config", json.dumps(config),
        "--train_file", *arguments.train_file, "--validation_file", *arguments.validation_file,
        "--output_dir", str(folder), "--max_steps", str(steps), "--disable_tqdm", "true", "--resume_from_checkpoint",
    ]  # fmt: skip


def language_command(folder, start, config, steps, arguments):
    """The run of a language model on the tokens of a cell's codes."""
    return [
        sys.executable, "run_pretraining.py", "recipes/fsq-autoencoder-nano-lm.yaml", "--config", json.dumps(config),
        "--train_file", *arguments.train_file, "--validation_file", *arguments.validation_file, "--noise_rate", "0",
        "--initial_checkpoint", str(start), "--output_dir", str(folder), "--max_steps", str(steps),
        "--disable_tqdm", "true", "--resume_from_checkpoint",
    ]  # fmt: skip


def share_token_list(folders):
    """Choose the strings worth a token once: runs that begin with such a list take it over."""
    lists = [folder / "token_list.json" for folder in folders if (folder / "token_list.json").is_file()]
    for folder in folders if lists else ():
        if not (folder / "token_list.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "token_list.json").write_text(lists[0].read_text())


def seconds_of(folder):
    """How long a run trained."""
    state = json.loads((folder / "trainer_state.json").read_text())
    return next(log["train_runtime"] for log in reversed(state["log_history"]) if "train_runtime" in log)


def run_autoencoders(cells, steps, arguments):
    """Run what is missing of cells, the first alone where there is no token list yet; give their folders."""
    folders = {
        name: OUTPUT / str(name).strip("()").replace("'", "").replace(", ", "-").replace(" ", "-") for name in cells
    }
    missing = [name for name in cells if not (folders[name] / "report.json").is_file()]
    share_token_list(folders.values())
    if missing and not (folders[missing[0]] / "token_list.json").is_file():
        run_all([autoencoder_command(folders[missing[0]], cells[missing[0]], steps, arguments)])
        share_token_list(folders.values())
        missing = missing[1:]
    run_all([autoencoder_command(folders[name], cells[name], steps, arguments) for name in missing])
    return folders


def measured(folder, texts):
    """A cell's figures on held-out texts, as columns."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = modeling_textae.FsqAutoencoderModel.from_pretrained(folder, use_safetensors=True).eval()
    report = chunk_report(model, tokenizer, texts)
    return {
        "parameters, M": model.num_parameters() / 1e6,
        "seconds": seconds_of(folder),
        "byte accuracy": report["chunks"]["byte_accuracy"],
        "exact chunks": report["chunks"]["exact_chunks"],
        "perplexity": report["chunks"]["perplexity"],
        "use of codebook or levels": report["chunks"]["level_use"],
        "tokens": len(tokenizer),
        "bytes a token": report["tokenizer"]["bytes_per_token"],
        "ids used": report["tokenizer"]["ids_used_share"],
    }


def codebooks(arguments, texts):
    """The table of quantizers and sizes, with the language models on their tokens."""
    folders = run_autoencoders(CODEBOOKS, arguments.steps, arguments)
    language = {name: folder.with_name(folder.name + "-lm") for name, folder in folders.items()}
    run_all(
        language_command(language[name], folder, CODEBOOKS[name], arguments.language_steps, arguments)
        for name, folder in folders.items()
        if not (language[name] / "report.json").is_file()
    )
    passages = sample_passages(texts, PASSAGE_LENGTH, 300, 0)
    rows = []
    for (kind, bits), folder in folders.items():
        tokenizer = AutoTokenizer.from_pretrained(language[kind, bits])
        model = modeling_textae.FsqAutoencoderForCausalLM.from_pretrained(language[kind, bits], use_safetensors=True)
        figures = language_figures(model.eval(), tokenizer, passages)
        rows.append(
            {"quantizer": kind, "codes": 2**bits if kind == "VQ" else model.config.codebook_size}
            | measured(folder, texts)
            | {"language model, bits per byte": figures["bits_per_byte"]}
        )
    show_table(OUTPUT / "codebooks", "FSQ cells: codebooks", rows)


def shapes(arguments, texts):
    """The table of shapes."""
    folders = run_autoencoders(SHAPES, arguments.steps, arguments)
    rows = [{"shape": name} | measured(folder, texts) for name, folder in folders.items()]
    show_table(OUTPUT / "shapes", "FSQ cells: shapes", rows)


def main():
    """Run the cells that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["codebooks", "shapes"])
    parser.add_argument("--train_file", nargs="+", required=True)
    parser.add_argument("--validation_file", nargs="+", required=True)
    parser.add_argument("--data_file", nargs="+", required=True, help="held-out text that the table measures on")
    parser.add_argument("--texts", type=int, default=1000, help="of that text")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--language_steps", type=int, default=600)
    arguments = parser.parse_args()
    held_out = load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)["train"]
    {"codebooks": codebooks, "shapes": shapes}[arguments.table](arguments, texts_of(held_out)[: arguments.texts])


if __name__ == "__main__":
    main()
