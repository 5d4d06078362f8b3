"""AutoEncoderTokenizer beside the word-level and BPE models of the `tokenizers` library: bytes a token, ids used, speed on
one core, and memory; and whether every text comes back.

python benchmarks/fsq_tokenizers.py speed --tokenizer FOLDER --train_file train.jsonl.xz --data_file held-out.jsonl.xz
python benchmarks/fsq_tokenizers.py memory --tokenizer FOLDER --data_file held-out.jsonl.xz
python benchmarks/fsq_tokenizers.py round-trip --tokenizer FOLDER --data_file any.jsonl.xz any.txt enwik8

Without files, what is learned from is one half of the embedded corpus, and what is measured on the other.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

OUTPUT = Path("runs/fsq-tokenizers")
SIZE = 32768
BATCH = 256  # texts a call


def resident():
    """Resident memory of this process, in MB."""
    import psutil

    return psutil.Process().memory_info().rss / 1e6


def texts_of_file(path):
    """The texts of a corpus file; of any other file the whole of it, as Latin-1 where it is no UTF-8."""
    from modeling_textae.data.corpora import FORMATS, load_corpus

    endings = {ending.lstrip(".").lower() for ending in Path(path).suffixes}
    if endings & (set(FORMATS) - {"txt", "text", "md"}):
        return [text for text in load_corpus(train_file=[path], validation_file=[path])["train"]["text"] if text]
    data = Path(path).read_bytes()
    try:
        return [data.decode("utf-8")]
    except UnicodeDecodeError:
        return [data.decode("latin-1")]


def texts_of_files(paths, half):
    """The texts of files, or, without any, the first or second half of the embedded corpus."""
    from modeling_textae.data.corpora import load_corpus

    return [text for path in paths for text in texts_of_file(path)] or load_corpus()["train"]["text"][half::2]


def seconds_of(function, texts):
    """Seconds to run a function over batches of texts."""
    start = time.perf_counter()
    for i in range(0, len(texts), BATCH):
        function(texts[i : i + BATCH])
    return time.perf_counter() - start


def speed(arguments):
    """Megabytes a second, interleaved, warm; and cold, of a tokenizer that was just loaded."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    from peers import BpeTokenizer, word_level
    from transformers import AutoTokenizer

    from modeling_textae import AutoEncoderTokenizer
    from modeling_textae.evaluation.codebook import tokenizer_figures
    from modeling_textae.evaluation.report import show_table

    torch.set_num_threads(1)
    texts, seen = texts_of_files(arguments.data_file, 1), texts_of_files(arguments.train_file, 0)
    size = sum(len(text.encode("utf-8")) for text in texts) / 1e6
    trained = {"BPE": BpeTokenizer.train(seen, SIZE), "word level": word_level(seen, SIZE)}

    class TableAlone(AutoEncoderTokenizer):
        """Without the encoder: the same ids, all by the table."""

        def _owned(self, chunks):
            return [-1] * len(chunks)

    ours = {
        "AutoEncoderTokenizer": AutoTokenizer.from_pretrained(arguments.tokenizer),
        "AutoEncoderTokenizer, int8 encoder": AutoTokenizer.from_pretrained(arguments.tokenizer, int8_encoder=True),
        "AutoEncoderTokenizer, table alone": TableAlone.from_pretrained(arguments.tokenizer),
    }
    functions = {
        "BPE": trained["BPE"]._tokenizer.encode_batch_fast,  # without offsets, as ours
        "word level": trained["word level"].encode_batch_fast,
    } | {name: (lambda batch, t=tokenizer: t(batch, add_special_tokens=False)) for name, tokenizer in ours.items()}
    cold = {name: seconds_of(function, texts) for name, function in functions.items()}
    warm = {name: [] for name in functions}
    for _ in range(arguments.rounds):
        for name, function in functions.items():
            warm[name].append(seconds_of(function, texts))
    rows = []
    for name in functions:
        median = float(np.median(warm[name]))
        figures = {}
        if name != "word level":  # its unknowns are no tokens
            figures = tokenizer_figures(trained.get(name) or ours[name], texts)
        rows.append(
            {
                "tokenizer": name,
                "cold, MB/s": size / cold[name],
                "warm, MB/s": size / median,
                "warm, times BPE": float(np.median(warm["BPE"])) / median,
                "warm, times word level": float(np.median(warm["word level"])) / median,
                "bytes a token": figures.get("bytes_per_token"),
                "ids used": figures.get("ids_used_share"),
            }
        )
    show_table(OUTPUT / "speed", "FSQ tokenizers: speed", rows)
    show_table(OUTPUT / "parts", "FSQ tokenizers: parts", part_rows(ours, texts))


def part_rows(ours, texts):
    """What an uncached chunk costs in batches of 256, and decoding a token: cold, by the decoder, and by the table."""
    import torch

    from modeling_textae.data.chunk_lists import count_chunks

    chunks = [chunk.decode() for chunk in count_chunks(texts[:500])[0][:8192]]
    rows = []
    for name, tokenizer in ours.items():
        start = time.perf_counter()
        tokenizer._codes([chunk.encode() for chunk in chunks], tokenizer._encoder)
        encoder = (time.perf_counter() - start) / len(chunks)
        start = time.perf_counter()
        tokenizer.encode_chunks(chunks)
        whole = (time.perf_counter() - start) / len(chunks)
        codes = tokenizer.kept[:4096]
        start = time.perf_counter()
        tokenizer._spell(codes)
        decoder = (time.perf_counter() - start) / len(codes)
        ids = [tokenizer(text)["input_ids"] for text in texts[:500]]
        start = time.perf_counter()
        for row in ids:
            tokenizer.decode(row)
        table = (time.perf_counter() - start) / sum(map(len, ids))
        rows.append(
            {
                "tokenizer": name,
                "encoder, ms a chunk": 1e3 * encoder,
                "chunk to ids uncached, ms": 1e3 * whole,
                "decoder, ms a token": 1e3 * decoder,
                "table, ms a token": f"{1e3 * table:.6f}",
                "threads": torch.get_num_threads(),
            }
        )
    return rows


def memory(arguments):
    """Growth of resident memory when this package is imported, when the tokenizer is loaded, after the texts, and with full
    caches; over a process that has imported transformers, and over one that has also run a model of transformers. The texts
    themselves are not counted."""
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    imported = resident()
    from transformers import LlamaConfig, LlamaForCausalLM

    # What transformers and torch load with the first pass of any model is not the tokenizer's.
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).generate(torch.ones(1, 1, dtype=torch.long), max_new_tokens=2)
    run, rows, others = resident(), [], 0

    def add(state, remembered=0):
        now = resident() - others
        over = {"MB over transformers imported": now - imported, "MB over a model of it run": now - run}
        rows.append({"state": state} | over | {"strings remembered": remembered})

    import modeling_textae  # noqa: F401 (registers the tokenizer)

    add("package imported")
    before = resident()
    from modeling_textae.evaluation.report import show_table

    texts = texts_of_files(arguments.data_file, 1)
    others = resident() - before
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    add("tokenizer loaded")
    caches = tokenizer._words, tokenizer._chunks
    for state in ("after the texts", "full caches"):
        seconds_of(tokenizer._texts_ids, texts)
        if state == "full caches":
            fill(tokenizer)
            share = sum(map(len, caches)) / sum(cache.size for cache in caches)
            if share < 0.9:
                raise SystemExit(f"the caches are only {share:.0%} full")
        add(state, sum(map(len, caches)))
    show_table(OUTPUT / "memory", "FSQ tokenizers: memory", rows)


def fill(tokenizer):
    """Fill a tokenizer's caches with words that no text has, every other one of three bytes a character."""
    for start in range(0, 3 * tokenizer.cache_size, 10_000):
        numbers = [[i // 64**place % 64 for place in range(3)] for i in range(start, start + 10_000)]
        wide = ["".join(chr(0x4E00 + digit) for digit in digits) for digits in numbers[::2]]
        narrow = ["".join(chr(97 + digit // 8) + chr(97 + digit % 8) for digit in digits) for digits in numbers[1::2]]
        tokenizer._texts_ids([" ".join([*wide, *narrow])])


def round_trip(arguments):
    """Encode and decode every text of the given files; exit 1 where one does not come back."""
    from tqdm.auto import tqdm
    from transformers import AutoTokenizer

    import modeling_textae  # noqa: F401 (registers the tokenizer)
    from modeling_textae.data.corpora import split_passages
    from modeling_textae.evaluation.report import show_table

    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    rows = []
    for path in arguments.data_file:
        exact, size, tokens = 0, 0, 0
        texts = texts_of_file(path)
        # A file of one text is read in pieces of a megabyte, each a string of its own.
        texts = [p for text in texts for p in (split_passages(text, 1_000_000) if len(text) > 1_000_000 else [text])]
        for text in tqdm(texts, desc=Path(path).name, leave=False):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            exact += tokenizer.decode(ids) == text
            size, tokens = size + len(text.encode("utf-8")), tokens + len(ids)
        rows.append(
            {
                "file": Path(path).name,
                "texts": len(texts),
                "exact": exact,
                "MB": size / 1e6,
                "bytes a token": size / tokens,
            }
        )
    show_table(OUTPUT / "round-trip", "FSQ tokenizers: round trip", rows)
    return int(any(row["exact"] < row["texts"] for row in rows))


def main():
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "round-trip"])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--data_file", nargs="+", default=[])
    parser.add_argument("--train_file", nargs="+", default=[], help="what the peers learn from; of speed")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what == "speed" and bool(arguments.train_file) != bool(arguments.data_file):
        parser.error("speed needs --train_file and --data_file, or neither")
    if arguments.what == "round-trip" and not arguments.data_file:
        parser.error("round-trip needs --data_file")
    return {"speed": speed, "memory": memory, "round-trip": round_trip}[arguments.what](arguments)


if __name__ == "__main__":
    sys.exit(main())
