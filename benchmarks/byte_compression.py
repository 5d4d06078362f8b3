"""A byte language model as a compressor, beside gzip, xz and zstd: bits a byte, speed, and whether the bytes come back.

    python benchmarks/byte_compression.py --checkpoint model_cards/abstractinator-nano --data_file text --size 1000000
    python benchmarks/byte_compression.py --checkpoint model_cards/abstractinator-nano --data_file enwik8 --offset 95000000 \\
        --scored --prime_file wikipedia.jsonl.xz novels.jsonl.xz

The model has read its training text; the others have not, which is unequal. With `--prime_file` they get that text before the
bytes, and what it costs alone is taken off; gzip looks back no further than 32 KB of it. The model's own size is in no figure.
`--scored` takes the model's bits as the likelihood has them, without coding: files are within 1 % of these, and coding takes many
times as long. The model begins anew every `--stream_length` bytes.
"""

import argparse
import gzip
import lzma
import math
import time
from pathlib import Path

import pyarrow
import torch
from transformers import AutoModelForCausalLM

import modeling_textae  # noqa: F401  registers the classes
from modeling_textae.data.corpora import load_corpus
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.texts import texts_of
from modeling_textae.models.arithmetic_coding import coder, streams_of

OUTPUT = Path("runs/byte-compression")
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**27}]
ZSTD = pyarrow.Codec("zstd", compression_level=22)
CODECS = {
    "gzip -9": (lambda data: gzip.compress(data, 9), lambda packed, size: gzip.decompress(packed)),
    "xz -9e": (lambda data: lzma.compress(data, filters=XZ), lambda packed, size: lzma.decompress(packed)),
    "zstd -22": (
        lambda data: ZSTD.compress(data, asbytes=True),
        lambda packed, size: ZSTD.decompress(packed, size, True),
    ),
}


def timed(function, *arguments):
    """A call's result and its seconds."""
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def row_of(name, data, packed, seconds=None, back=None, back_seconds=None):
    """A row of the table.

    Raises:
        SystemExit: where other bytes came back.
    """
    if back is not None and bytes(back) != data:
        raise SystemExit(f"{name} did not give the bytes back")
    return {
        "compressor": name,
        "bytes": packed,
        "bits a byte": 8 * packed / len(data),
        "in, kB/s": seconds and len(data) / seconds / 1e3,
        "out, kB/s": back_seconds and len(data) / back_seconds / 1e3,
        "scored, kB/s": None,
    }


@torch.no_grad()
def scored_bits(model, data, stream_length, batch_size=8):
    """Bits of bytes under the likelihood, every stream after a start of its own."""
    nats = 0.0
    rows = [data[start:end] for start, end in streams_of(len(data), stream_length)]
    for at in range(0, len(rows), batch_size):
        batch = rows[at : at + batch_size]
        width = max(map(len, batch))
        wanted = torch.tensor([[*row, *[-100] * (width - len(row))] for row in batch])
        ids = torch.nn.functional.pad(wanted, (1, 0), value=model.config.bos_token_id)
        logits = model(ids.clamp(min=0), attention_mask=(ids >= 0).long(), use_cache=False).logits[:, :-1]
        nats += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), wanted.flatten(), reduction="sum"
        ).item()
        print(f"\rscored {min(at + batch_size, len(rows))} of {len(rows)} streams", end="", flush=True)
    print()
    return nats / math.log(2)


def rows_of(data, arguments):
    """A row for every compressor."""
    model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32, use_safetensors=True)
    model, length = model.eval(), arguments.stream_length or model.config.n_positions
    if not arguments.scored:
        coder()  # refuses before anything is computed
    rows = []
    for name, (pack, unpack) in CODECS.items():
        packed, seconds = timed(pack, data)
        back, back_seconds = timed(unpack, packed, len(data))
        rows.append(row_of(name, data, len(packed), seconds, back, back_seconds))
    if arguments.prime_file:
        corpus = load_corpus(train_file=arguments.prime_file, validation_file=arguments.prime_file)["train"]
        prime = "\n".join(texts_of(corpus)).encode()
        for name, (pack, _) in CODECS.items():
            rows.append(row_of(f"{name}, primed", data, len(pack(prime + data)) - len(pack(prime))))
    bits, seconds = timed(scored_bits, model, data, length)
    rows.append(
        row_of("model, its likelihood", data, math.ceil(bits / 8)) | {"scored, kB/s": len(data) / seconds / 1e3}
    )
    if not arguments.scored:
        packed, seconds = timed(model.compress, data, length)
        back, back_seconds = timed(model.decompress, packed)
        rows.append(row_of("model, compress()", data, len(packed), seconds, back, back_seconds))
    return rows


def main():
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data_file", required=True, help="any file: its bytes as they are")
    parser.add_argument("--offset", type=int, default=0, help="where in it to begin")
    parser.add_argument("--size", type=int, help="how many of its bytes; by default to its end")
    parser.add_argument(
        "--stream_length", type=int, help="bytes after which the model begins anew; by default n_positions"
    )
    parser.add_argument("--scored", action="store_true")
    parser.add_argument("--prime_file", nargs="*", default=[])
    arguments = parser.parse_args()
    data = Path(arguments.data_file).read_bytes()[arguments.offset :][: arguments.size]
    if not data:
        parser.error(f"nothing is left of {arguments.data_file} from byte {arguments.offset} on")
    name = f"{Path(arguments.data_file).name}-{arguments.offset}-{len(data)}-{Path(arguments.checkpoint).name}"
    show_table(OUTPUT / name, f"Compression of {len(data)} bytes", rows_of(data, arguments))


if __name__ == "__main__":
    main()
