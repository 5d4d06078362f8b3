"""Noise at several strengths on held-out text: the character error rate that was asked for beside what came of it, and megabytes
a second of one core.

    python benchmarks/text_noise.py
    python benchmarks/text_noise.py --noise_model runs/ocr-noise --pairs_file pairs.jsonl.xz --first 0.9

Without pairs, the text is the embedded corpus's test split; of pairs, the clean side.
"""

import argparse
import time

import numpy as np

from modeling_textae.data.corpora import embedded_corpus
from modeling_textae.data.ocr_noise import OcrNoiseModel
from modeling_textae.data.pairs import read_pairs
from modeling_textae.data.text_noise import TextNoise
from modeling_textae.evaluation.metrics import character_error_rate
from modeling_textae.evaluation.report import show_table

STRENGTHS = [0.01, 0.02, 0.05, 0.1, 0.2]
ROUNDS = 5  # of a strength, each with a generator of its own; the first is not timed


def main():
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise_model", help="folder of a fitted one, to be measured as well")
    parser.add_argument("--pairs_file", help="noisy and clean texts that it was not fitted to")
    parser.add_argument("--first", type=float, default=0.0, help="from this share of its records on")
    arguments = parser.parse_args()
    if arguments.first and not arguments.pairs_file:
        parser.error("--first says which pairs: give a --pairs_file")
    if arguments.pairs_file:
        texts = [clean for _, clean in read_pairs(arguments.pairs_file, first=arguments.first)]
    else:
        texts = embedded_corpus()["test"]["text"]
    text, noises = "\n".join(texts), {"synthetic": TextNoise()}
    if arguments.noise_model:
        noises["fitted"] = OcrNoiseModel.from_pretrained(arguments.noise_model)
    rows = []
    for name, noise in noises.items():
        for strength in STRENGTHS:
            seconds, errors = [], []
            for seed in range(ROUNDS):
                start = time.perf_counter()
                noisy = noise(text, strength, np.random.default_rng(seed)).text
                seconds.append(time.perf_counter() - start)
                errors.append(character_error_rate([noisy], [text]))
            rows.append(
                {
                    "noise": name,
                    "asked for": strength,
                    "character error rate": float(np.mean(errors)),
                    "MB/s": len(text.encode()) / 1e6 / float(np.median(seconds[1:])),
                }
            )
    show_table("runs/benchmarks/text_noise", f"Noise on {len(text.encode())} bytes", rows)


if __name__ == "__main__":
    main()
