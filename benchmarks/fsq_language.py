"""Language models on the tokens of AutoEncoderTokenizer, BPE, whole words and bytes: the same Llama, text, context in bytes,
training seconds and tuning trials; bits for each byte of held-out text, and how likely an external byte model, counts of runs of
bytes of the training text, finds what each writes.

python benchmarks/fsq_language.py --tokenizer model_cards/fsq-autoencoder-nano --train_file train.jsonl.xz --data_file
held-out.jsonl.xz

What an AutoEncoderTokenizer and the other settings make lies in a folder of their own: nothing old is measured as new.
Rates are chosen by validation text, which is neither trained nor reported on.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from language_cells import NEGATIVES, Cells, digest_of, store_rows, stored_rows, train_for
from peers import bpe, of_transformers, raw_bytes, words
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from modeling_textae import FsqAutoencoderConfig, FsqAutoencoderForCausalLM
from modeling_textae.data.corpora import load_corpus, split_passages
from modeling_textae.evaluation.language import language_figures
from modeling_textae.evaluation.ngrams import ByteNgrams
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.texts import sample_passages, texts_of

RUNS = Path("runs/fsq-language")
SIZE = 32768
PASSAGE_LENGTH, BATCH = 1024, 8
TRUNK = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 344}
WITHIN_WORDS = "autoencoder, within words"  # no token over a space
READERS = ("autoencoder", WITHIN_WORDS, "BPE", "words", "bytes")
# What is trained beside the plain Llama on each reader's tokens: the autoencoder's with embeddings and scores built from codes.
WITH_CODES = {f"{name}, with codes": name for name in ("autoencoder", WITHIN_WORDS)}
CELLS = {name: name for name in READERS} | WITH_CODES
RATES = (3e-3, 6e-3, 1.2e-2, 2.4e-2)
JUDGE_BYTES = 30_000_000  # of the training text, that the judge of samples counts
SAMPLES, SAMPLE_BYTES = 48, 384


def output_folder(arguments):
    """Where the cells of one tokenizer, corpus and number of passages live.

    Raises:
        SystemExit: for a tokenizer that was saved without spans, which are switched on and off here.
    """
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    if not tokenizer.join_spans:
        raise SystemExit(f"the tokenizer of {arguments.tokenizer} was saved with join_spans=False: save it with True")
    fingerprint = tokenizer.fingerprint
    return RUNS / digest_of(arguments.train_file, fingerprint, arguments.passages, TRUNK, BATCH, SIZE, NEGATIVES)


def reader_of(name, tokenizer, train_file):
    """The named reader; what is learned is learned from the training text."""
    if name in ("autoencoder", WITHIN_WORDS):
        return of_transformers(AutoTokenizer.from_pretrained(tokenizer, join_spans=name != WITHIN_WORDS))
    if name == "bytes":
        return raw_bytes()
    texts = texts_of(load_corpus(train_file=train_file, validation_file=train_file)["train"])
    return {"BPE": bpe, "words": words}[name](texts, SIZE)


def prepare(arguments):
    """Tokenize passages of the training text once for each reader; the last fiftieth validates."""
    texts = texts_of(load_corpus(train_file=arguments.train_file, validation_file=arguments.train_file)["train"])
    passages = [p for text in texts for p in split_passages(text, PASSAGE_LENGTH) if len(p.encode()) >= 128]
    order = np.random.default_rng(0).permutation(len(passages))[: arguments.passages]
    for name in READERS:
        path = arguments.output / f"{name}.npz"
        if not path.is_file():
            reader = reader_of(name, arguments.tokenizer, arguments.train_file)
            rows = [[reader.bos_token_id, *ids] for ids in reader.encode([passages[i] for i in order.tolist()])]
            store_rows(path, rows, pad=reader.pad_token_id, size=len(reader))
            print(f"{name}: {sum(map(len, rows)) / 1e6:.1f} M tokens of {len(rows)} passages")


def model_of(cell, size, tokenizer):
    """A new model of a cell."""
    if cell in WITH_CODES:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        fields = tokenizer.autoencoder.config.autoencoder_fields() | TRUNK | {"code_scores": True}
        model = FsqAutoencoderForCausalLM(FsqAutoencoderConfig(**fields, vocab_size=size, max_position_embeddings=2048))
        model.model.load_state_dict(tokenizer.autoencoder.state_dict())
        model.adopt(tokenizer)
        return model
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=size, tie_word_embeddings=True, max_position_embeddings=2048, **TRUNK)
    )


def train_cell(arguments):
    """Train one cell and keep it."""
    torch.manual_seed(arguments.seed)
    rows, stored = stored_rows(arguments.output / f"{CELLS[arguments.cell]}.npz")
    model = model_of(arguments.cell, int(stored["size"]), arguments.tokenizer)
    cell = arguments.cell, arguments.rate, arguments.seconds, arguments.seed
    result = train_for(
        arguments.seconds, model, rows, int(stored["pad"]), arguments.rate, arguments.seed, BATCH, arguments.cell
    )
    Cells(__file__, arguments.output).save(cell, model, result)


@torch.no_grad()
def write_samples(model, reader, seed=0):
    """What a model writes after `<bos>`, drawn at temperature 1, and the characters it writes a second."""
    # Bytes of one each are as many as are wanted; of larger tokens, half as many are enough.
    length = SAMPLE_BYTES if len(reader) < 1000 else SAMPLE_BYTES // 2
    ids = torch.full((SAMPLES, 1), reader.bos_token_id)
    options = {"do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": reader.pad_token_id}
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, **options)  # the first calls are slow
    torch.manual_seed(seed)
    start = time.perf_counter()
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, **options)
    seconds = time.perf_counter() - start
    texts = [reader.decode(row[1:].tolist()) for row in written]
    return [cut_bytes(text) for text in texts], sum(map(len, texts)) / seconds


def cut_bytes(text):
    """The first so many bytes of a sample, whole characters."""
    return text.encode("utf-8")[:SAMPLE_BYTES].decode("utf-8", "ignore")


def judge_of(train_file):
    """The judge of samples: counts of the training text's runs of bytes."""
    texts = texts_of(load_corpus(train_file=train_file, validation_file=train_file)["train"])
    parts, size = [], 0
    for text in texts:
        if size >= JUDGE_BYTES:
            break
        parts.append(text.encode("utf-8"))
        size += len(parts[-1])
    return ByteNgrams(parts)


def judged(judge, texts):
    """Bits of the judge for each byte of texts."""
    texts = [text.encode("utf-8") for text in texts]
    return judge.bits(texts) / sum(map(len, texts))


def load_cell(cell, folder):
    """A trained cell."""
    kind = FsqAutoencoderForCausalLM if cell in WITH_CODES else LlamaForCausalLM
    return kind.from_pretrained(folder, use_safetensors=True).eval()


def compare(arguments):
    """Tune, train, measure, and print the table."""
    torch.set_num_threads(1)
    texts = texts_of(load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)["train"])
    passages = sample_passages(texts, PASSAGE_LENGTH, arguments.test_passages, 0)
    arguments.output = output_folder(arguments)
    prepare(arguments)
    cells = Cells(__file__, arguments.output, tokenizer=arguments.tokenizer)
    best = cells.best_rates(list(CELLS), RATES, arguments.trial_seconds)
    finals = [(cell, best[cell], arguments.seconds, seed) for seed in arguments.seeds for cell in CELLS]
    results = cells.run(finals)
    judge = judge_of(arguments.train_file)
    real = judged(judge, [cut_bytes(p) for p in passages[:SAMPLES]])
    rows = []
    for cell in CELLS:
        reader = reader_of(CELLS[cell], arguments.tokenizer, arguments.train_file)
        found = []
        for (name, *rest), result in zip(finals, results, strict=True):
            if name != cell:
                continue
            model = load_cell(cell, cells.folder(name, *rest))
            figures = language_figures(model, reader, passages)
            samples, speed = write_samples(model, reader)
            scored = judged(judge, samples)
            found.append((figures["bits_per_byte"], scored, speed, result["tokens"], figures["bytes_per_token"], model))
        bits = [row[0] for row in found]
        rows.append(
            {
                "tokens": cell,
                "trained parameters, M": sum(p.numel() for p in found[0][5].parameters() if p.requires_grad) / 1e6,
                "rate": best[cell],
                "bits per byte": float(np.mean(bits)),
                "spread of seeds": float(np.ptp(bits)),
                "samples, bits per byte of the judge": float(np.mean([row[1] for row in found])),
                "characters written a second": float(np.mean([row[2] for row in found])),
                "bytes a token": found[0][4],
                "training, MB at that": float(np.mean([row[3] * row[4] for row in found])) / 1e6,
            }
        )
    rows.append({"tokens": "held-out text itself", "samples, bits per byte of the judge": real})
    show_table(RUNS / "table", "FSQ language models", rows)


def main():
    """One cell where one is named, else the whole table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--train_file", nargs="+")
    parser.add_argument("--data_file", nargs="+", help="held-out text that the table measures on")
    parser.add_argument("--passages", type=int, default=30000, help="of the training text")
    parser.add_argument("--test_passages", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--trial_seconds", type=float, default=60)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--cell", choices=CELLS)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.cell:
        train_cell(arguments)
    elif arguments.train_file and arguments.data_file:
        compare(arguments)
    else:
        parser.error("--train_file and --data_file are needed")


if __name__ == "__main__":
    main()
