"""Correctors of OCR side by side: error rates and kB of noisy text a second. They are greedy `generate()`, `denoise()` with its
margin and without any; where a language model and a noise model are given, what the model suggests as a noisy channel judges it,
with and without the channel's own search; and symspellpy, which takes the commonest word within one or two edits. Or one long
text through `denoise()`: speed and memory.

    pip install symspellpy
    python benchmarks/ocr_correctors.py table --checkpoint model_cards/encodzall-nano-denoise --data_file pairs.jsonl \\
        --first 0.9 --train_file wikipedia.jsonl.xz novels.jsonl.xz
    python benchmarks/ocr_correctors.py memory --checkpoint model_cards/encodzall-nano-denoise --data_file long.txt

symspellpy corrects words of three letters and more, with the frequencies that it brings and, where `--train_file` is given, with
those of that text.
"""

import argparse
import math
import re
import threading
import time
from collections import Counter
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import psutil
from tqdm.auto import trange
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import modeling_textae  # noqa: F401  registers the classes
from modeling_textae.data.corpora import load_corpus, split_passages
from modeling_textae.data.noisy_channel import NoisyChannel
from modeling_textae.data.ocr_noise import OcrNoiseModel
from modeling_textae.data.pairs import read_pairs
from modeling_textae.evaluation.denoising import figures_of, reduction_of
from modeling_textae.evaluation.report import show_table
from modeling_textae.evaluation.texts import texts_of

OUTPUT = Path("runs/ocr-correctors")
WORD = re.compile(r"[^\W\d_]{3,}")
EDITS, LEAST_COUNT = (1, 2), 3  # of a correction at most; how often a word of the training text must stand there
EVERY = 0.2  # seconds between looks at the memory


def symspell(edits, counts=None):
    """A corrector of texts by symspellpy within so many edits, with its own English frequencies or with counts of words."""
    from symspellpy import SymSpell, Verbosity

    speller = SymSpell(max_dictionary_edit_distance=edits)
    if counts is None:
        speller.load_dictionary(files("symspellpy") / "frequency_dictionary_en_82_765.txt", 0, 1)
    else:
        for word, count in counts.items():
            if count >= LEAST_COUNT:
                speller.create_dictionary_entry(word, count)

    def best(match):
        found = speller.lookup(match[0], Verbosity.TOP, max_edit_distance=edits, transfer_casing=True)
        return found[0].term if found else match[0]

    return lambda texts: [WORD.sub(best, text) for text in texts]


def written(texts, model, tokenizer, window, batch_size=32):
    """What the model writes freely, passage by passage, as many at once as `denoise()` has windows."""
    passages = [(i, passage) for i, text in enumerate(texts) for passage in split_passages(text, window)]
    order = sorted(range(len(passages)), key=lambda k: len(passages[k][1]))
    found = [""] * len(passages)
    for start in trange(0, len(order), batch_size, desc="generate()", leave=False):
        rows = order[start : start + batch_size]
        for k, text in zip(rows, model.reconstruct([passages[k][1] for k in rows], tokenizer), strict=True):
            found[k] = text
    whole = [""] * len(texts)
    for (i, _), text in zip(passages, found, strict=True):
        whole[i] += text
    return whole


def compare(model, tokenizer, arguments):
    """Print the table."""
    a = arguments
    pairs = read_pairs(a.data_file, a.noisy_column, a.clean_column, a.aligned_pad, first=a.first, last=a.last)[
        :: a.every
    ]
    noisy, clean = map(list, zip(*pairs, strict=True))
    counted = {"its frequencies": None}
    if a.train_file:
        texts = texts_of(load_corpus(train_file=a.train_file, validation_file=a.train_file)["train"])
        counted["the training text's"] = Counter(word.lower() for text in texts for word in WORD.findall(text))
    correctors = {
        f"symspellpy, {name}, within {edits}": symspell(edits, counts)
        for name, counts in counted.items()
        for edits in EDITS
    }
    correctors["generate()"] = partial(written, model=model, tokenizer=tokenizer, window=a.window)
    options = {"window": a.window, "show_progress": True}
    margin = model.config.min_gain if a.min_gain is None else a.min_gain
    for name, gain in (("no margin", -math.inf), (f"margin {margin:g}", margin)):
        correctors[f"denoise(), {name}"] = partial(model.denoise, tokenizer=tokenizer, min_gain=gain, **options)
    if a.language_model:
        language_model = AutoModelForCausalLM.from_pretrained(a.language_model, dtype="float32", use_safetensors=True)
        noise = OcrNoiseModel.from_pretrained(a.noise_model)
        suggest = partial(model.suggest_edits, tokenizer=tokenizer)
        for name, beams in (("its suggestions judged by the noisy channel", 0), ("and the channel's own", a.num_beams)):
            channel = NoisyChannel(language_model.eval(), noise, suggest, beams)
            correctors[f"{name}, margin {a.channel_gain:g}"] = partial(
                channel.denoise, min_gain=a.channel_gain, **options
            )
    before = figures_of(noisy, clean)
    rows = [{"corrector": "none"} | before | {"reduction": None, "kB/s": None}]
    size = sum(len(text.encode()) for text in noisy) / 1e3
    for name, correct in correctors.items():
        start = time.perf_counter()
        restored = correct(noisy)
        seconds = time.perf_counter() - start
        after = figures_of(restored, clean)
        rows.append({"corrector": name} | after | {"reduction": reduction_of(before, after), "kB/s": size / seconds})
    show_table(OUTPUT / "table", "Correctors of OCR", rows)


def measure_memory(model, tokenizer, arguments):
    """One text through `denoise()`, its first tenth and the whole: resident memory before, and the most of each quarter of the
    time."""
    whole, process = Path(arguments.data_file).read_text(encoding="utf-8"), psutil.Process()
    model.denoise([whole[:10_000]], tokenizer, window=arguments.window)
    rows = []
    for text in (whole[: len(whole) // 10], whole):
        seen, done = [], threading.Event()

        def look(seen=seen, done=done):
            while not done.wait(EVERY):
                seen.append(process.memory_info().rss / 1e6)

        before, start = process.memory_info().rss / 1e6, time.perf_counter()
        watch = threading.Thread(target=look)
        watch.start()
        try:
            model.denoise([text], tokenizer, window=arguments.window, show_progress=True)
        finally:
            done.set()
            watch.join()
        size = len(text.encode())
        row = {"bytes": size, "kB/s": size / 1e3 / (time.perf_counter() - start), "MB before": before}
        parts = enumerate(np.array_split(seen, 4), 1)
        rows.append(row | {f"MB, quarter {i}": float(part.max()) if len(part) else None for i, part in parts})
    show_table(OUTPUT / "memory", "One long text", rows)


def main():
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["table", "memory"])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data_file", required=True, help="pairs; with `memory`, a text")
    parser.add_argument("--noisy_column", default="noisy")
    parser.add_argument("--clean_column", default="clean")
    parser.add_argument("--aligned_pad")
    parser.add_argument("--first", type=float, default=0.0)
    parser.add_argument("--last", type=float, default=1.0)
    parser.add_argument("--every", type=int, default=1, help="of these, every so manieth alone")
    parser.add_argument("--train_file", nargs="+", help="text whose words' frequencies symspellpy gets as well")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--min_gain", type=float, help="of denoise(), by default the checkpoint's own")
    parser.add_argument(
        "--language_model", help="an Abstractinator, to restore by with --noise_model, a fitted one's folder"
    )
    parser.add_argument("--noise_model")
    parser.add_argument("--num_beams", type=int, default=16, help="of the noisy channel's own search")
    parser.add_argument("--channel_gain", type=float, default=0.0, help="its margin, in nats")
    arguments = parser.parse_args()
    if arguments.every < 1:
        parser.error(f"--every {arguments.every}: accepted is 1 and above")
    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.checkpoint, use_safetensors=True).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    {"table": compare, "memory": measure_memory}[arguments.what](model, tokenizer, arguments)


if __name__ == "__main__":
    main()
