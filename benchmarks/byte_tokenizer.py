"""Speed of EncodzallTokenizer beside ByT5Tokenizer: 4 kB texts, one core, one run.

python benchmarks/byte_tokenizer.py
"""

import torch
from timing import interleaved_seconds
from transformers import ByT5Tokenizer

from modeling_textae import EncodzallTokenizer
from modeling_textae.data.corpora import embedded_corpus, split_passages
from modeling_textae.evaluation.report import table, write_report

TEXT_BYTES = 4096
TEXTS = 256


def main():
    """Time both, one text a call and all texts in one call, and print megabytes a second."""
    torch.set_num_threads(1)
    text = "\n".join(embedded_corpus()["train"]["text"])
    texts = split_passages(text[: TEXTS * TEXT_BYTES], TEXT_BYTES)
    size = sum(len(t.encode("utf-8")) for t in texts) / 1e6
    tokenizers = {"EncodzallTokenizer": EncodzallTokenizer(), "ByT5Tokenizer": ByT5Tokenizer()}
    functions = {}
    for name, tokenizer in tokenizers.items():
        functions[name, "one text a call"] = lambda t=tokenizer: [t(x) for x in texts]
        functions[name, "one batch"] = lambda t=tokenizer: t(texts)
    seconds = interleaved_seconds(functions)
    rows = []
    for name in tokenizers:
        row = {"tokenizer": name}
        for way in ("one text a call", "one batch"):
            row[f"{way}, MB/s"] = size / seconds[name, way]
            row[f"{way}, ratio"] = seconds["ByT5Tokenizer", way] / seconds[name, way]
        rows.append(row)
    body = table(rows, list(rows[0]))
    write_report("runs/benchmarks/byte_tokenizer", "Byte tokenizers", {"rows": rows}, body)
    print(body)


if __name__ == "__main__":
    main()
