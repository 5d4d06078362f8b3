"""Encoder throughput of Encodzall beside byte encoders of transformers with as many parameters, in one run.

    python benchmarks/encodzall_throughput.py

Peers: the encoder of a T5 of ByT5's shape, and CANINE. Batches of 16 x 512 bytes, float32 and bfloat16 weights, inference.
Then Encodzall alone at equal bytes a batch and growing texts, with the peak of resident memory, each in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from timing import interleaved_seconds
from transformers import CanineConfig, CanineModel, T5Config, T5EncoderModel

from modeling_textae import EncodzallConfig, EncodzallModel, EncodzallTokenizer
from modeling_textae.data.corpora import embedded_corpus
from modeling_textae.evaluation.report import table, write_report

BATCH, LENGTH = 16, 512
LONG = (1024, 4096, 16384)
LONG_BATCH = 32768  # bytes


def parameters(model):
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def nearest(build, target, choices):
    """The model whose number of parameters is nearest to a target."""
    with torch.device("meta"):
        sizes = {choice: parameters(build(choice)) for choice in choices}
    return build(min(sizes, key=lambda choice: abs(sizes[choice] - target)))


def t5(width_and_layers):
    """The encoder of a T5 of ByT5's shape: feed-forward 2.4 times the width, gated, heads of 64."""
    width, layers = width_and_layers
    return T5EncoderModel(
        T5Config(
            vocab_size=384,
            d_model=width,
            d_kv=64,
            num_heads=max(width * 6 // 1472, width // 64),
            d_ff=round(width * 3584 / 1472 / 8) * 8,
            num_layers=layers,
            feed_forward_proj="gated-gelu",
        )
    )


def canine(width_and_layers):
    """A CANINE whose hash and position tables keep their share of the parameters, a fifth, as in the published model."""
    width, layers = width_and_layers
    return CanineModel(
        CanineConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            num_hash_buckets=1408,
            max_position_embeddings=1408,
        )
    )


def bytes_of(texts, length):
    """Texts of exactly `length` bytes of the embedded corpus, as ids."""
    return torch.tensor([list(text.encode("utf-8")[:length]) for text in texts])


def corpus_texts(number, length):
    """ASCII texts of at least `length` bytes."""
    text = "\n".join(embedded_corpus()["train"]["text"]).encode("ascii", "ignore").decode()
    return [text[i * length : (i + 1) * length] for i in range(number)]


def compare(dtype, rounds):
    """Bytes a second of Encodzall-xs and its peers, their parameters, and the ratios."""
    tokenizer = EncodzallTokenizer()
    texts = corpus_texts(BATCH, LENGTH)
    encodzall = EncodzallModel(EncodzallConfig.xs())
    target = parameters(encodzall)
    models = {
        "EncodzallModel xs": encodzall,
        "T5EncoderModel, ByT5 shape": nearest(t5, target, [(w, n) for w in (256, 320) for n in range(2, 12)]),
        "CanineModel": nearest(canine, target, [(w, n) for w in (192, 256) for n in range(1, 12)]),
    }
    ids = bytes_of(texts, LENGTH)
    functions = {}
    for name, model in models.items():
        model.eval().to(dtype)
        if name.startswith("Encodzall"):
            inputs = dict(tokenizer(texts, return_tensors="pt"))
        else:
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        functions[name] = lambda m=model, x=inputs: m(**x)
    with torch.no_grad():
        seconds = interleaved_seconds(functions, rounds, warmup=2)
    first = seconds["EncodzallModel xs"]
    return [
        {
            "model": name,
            "weights": str(dtype).removeprefix("torch."),
            "parameters, M": parameters(models[name]) / 1e6,
            "kB/s": BATCH * LENGTH / seconds[name] / 1e3,
            "Encodzall is faster by": seconds[name] / first,
        }
        for name in models
    ]


def memory(field):
    """A field of /proc/self/status, in MiB; Linux only."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field)]
    return int(line.split()[1]) / 1024


def long_texts(length, rounds):
    """Bytes a second and peak memory of Encodzall-xs on texts of one length; run in a process of its own."""
    tokenizer = EncodzallTokenizer()
    inputs = dict(tokenizer(corpus_texts(LONG_BATCH // length, length), return_tensors="pt"))
    model = EncodzallModel(EncodzallConfig.xs()).eval().to(torch.bfloat16)
    Path("/proc/self/clear_refs").write_text("5")  # begin to record the peak anew
    before = memory("VmRSS")
    with torch.no_grad():
        seconds = interleaved_seconds({"run": lambda: model(**inputs)}, rounds, warmup=2)["run"]
    grown = memory("VmHWM") - before
    return {"bytes a text": length, "kB/s": LONG_BATCH / seconds / 1e3, "memory grown by, MiB": grown}


def main():
    """Run both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--length", type=int, help="only time texts of this length, and print JSON")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.length:
        print(json.dumps(long_texts(arguments.length, arguments.rounds)))
        return
    rows = [row for dtype in (torch.float32, torch.bfloat16) for row in compare(dtype, arguments.rounds)]
    long_rows = []
    for length in LONG:
        command = [sys.executable, __file__, "--length", str(length), "--rounds", str(arguments.rounds)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        long_rows.append(json.loads(output.splitlines()[-1]))
    for row in long_rows:
        row["of the speed at 1,024"] = row["kB/s"] / long_rows[0]["kB/s"]
    body = (
        f"{torch.get_num_threads()} threads.\n\n{table(rows, list(rows[0]))}\n\n"
        f"Batches of {LONG_BATCH} bytes, bfloat16:\n\n{table(long_rows, list(long_rows[0]))}"
    )
    write_report("runs/benchmarks/encodzall_throughput", "Encoder throughput", {"rows": rows, "long": long_rows}, body)
    print(body)


if __name__ == "__main__":
    main()
