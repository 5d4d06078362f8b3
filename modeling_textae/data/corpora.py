"""Corpora: the embedded one, any dataset or file of the user's, and the passages that models read."""

import ast
import hashlib
import os
import pydoc_data.topics
import shutil
import sys
import sysconfig
import tempfile
from itertools import compress
from pathlib import Path

import datasets
import numpy as np

from ..models.byte_tokenizer import character_starts
from ..models.tokenization_encodzall import WHITE_SPACE

SHINGLE = 50
EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data"}  # folders of the library
MIN_DOCSTRING = 200  # characters; shorter ones are mostly signatures
FORMATS = {
    "txt": "text",
    "text": "text",
    "md": "text",
    "json": "json",
    "jsonl": "json",
    "csv": "csv",
    "parquet": "parquet",
    "arrow": "arrow",
}
COMPRESSIONS = ("gz", "xz", "bz2", "zst", "lz4", "zip")


def split_of(text, held_out=0.05):
    """Split that a document belongs to, by hash of its text: `"test"`, `"validation"` or `"train"`.

    Args:
        text (`str`).
        held_out (`float`, defaults to 0.05): share of documents in each of test and validation.
    """
    share = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    return "test" if share < held_out else "validation" if share < 2 * held_out else "train"


def shingle_hashes(data, length=SHINGLE):
    """Hash every window of `length` bytes.

    Args:
        data (`bytes`).
        length (`int`, defaults to 50).

    Returns:
        `np.ndarray` of uint64, shape `(max(len(data) - length + 1, 0),)`.
    """
    values = np.frombuffer(data, dtype=np.uint8).astype(np.uint64) + np.uint64(1)
    if len(values) < length:
        return np.zeros(0, dtype=np.uint64)
    # Windows of powers of two by doubling, joined to windows of `length`: hash(ab) = hash(a) * base^len(b) + hash(b).
    base = 0x9E3779B97F4A7C15
    joined, joined_length = None, 0
    window, window_length = values, 1
    while True:
        if length & window_length:
            if joined is None:
                joined = window
            else:
                factor = np.uint64(pow(base, window_length, 2**64))
                joined = joined[: len(values) - joined_length - window_length + 1] * factor + window[joined_length:]
            joined_length += window_length
            if joined_length == length:
                return joined
        factor = np.uint64(pow(base, window_length, 2**64))
        window = window[:-window_length] * factor + window[window_length:]
        window_length *= 2


def overlap(text, seen):
    """Share of the bytes of a text that lie in windows of 50 bytes which occur among sorted hashes."""
    data = text.encode("utf-8")
    hashes = shingle_hashes(data)
    if not len(hashes) or not len(seen):
        return 0.0
    place = np.minimum(np.searchsorted(seen, hashes), len(seen) - 1)
    known = np.flatnonzero(seen[place] == hashes)
    change = np.zeros(len(data) + 1, dtype=np.int64)
    np.add.at(change, known, 1)
    np.add.at(change, known + SHINGLE, -1)
    return float((np.cumsum(change)[:-1] > 0).mean())


def sorted_shingles(texts):
    """Sorted distinct hashes of the 50-byte windows of texts."""
    hashes = [shingle_hashes(text.encode("utf-8")) for text in texts]
    return np.unique(np.concatenate(hashes)) if hashes else np.zeros(0, dtype=np.uint64)


def without_near_duplicates(documents, seen, share=0.01):
    """Documents of which at most a share lies in 50-byte windows that occur among sorted hashes."""
    return [text for text in documents if overlap(text, seen) <= share]


def embedded_documents():
    """Yield the documents that every CPython brings: the help topics and the standard library's longer docstrings.

    Sources are parsed, nothing is imported but the topics. The order is that of the files' names.
    """
    for _, text in sorted(pydoc_data.topics.topics.items()):
        yield text
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if EXCLUDED & set(path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # files that test or template something else than this Python
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text) >= MIN_DOCSTRING:
                    yield text


def embedded_corpus(cache_dir=None):
    """The corpus that needs no download: English documentation out of the running Python, about 3 MB.

    Split by hash of the document (90, 5 and 5 %); exact duplicates are dropped, and so are held-out documents of which more
    than 1 % of the bytes lie in 50-byte windows that earlier splits have. Built once for each Python and cached.

    Args:
        cache_dir (path, *optional*): by default the cache of `datasets`.

    Returns:
        `datasets.DatasetDict` with the splits `train`, `validation` and `test` and one column, `text`.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / f"textae-embedded-1-python-{version}"
    if not cache.exists():
        splits = {"train": [], "validation": [], "test": []}
        for text in dict.fromkeys(embedded_documents()):
            splits[split_of(text)].append(text)
        if sum(map(len, splits["train"])) < 500_000:
            raise RuntimeError(
                f"this Python's library in {sysconfig.get_paths()['stdlib']} has hardly any documentation: is it stripped? "
                "Give a corpus of your own with --train_file or --dataset_name"
            )
        seen = sorted_shingles(splits["train"])
        for name in ("validation", "test"):
            splits[name] = without_near_duplicates(splits[name], seen)
            seen = np.union1d(seen, sorted_shingles(splits[name]))
        corpus = datasets.DatasetDict({k: datasets.Dataset.from_dict({"text": v}) for k, v in splits.items()})
        cache.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed, so that an interrupted build is never taken for a whole one.
        with tempfile.TemporaryDirectory(dir=cache.parent) as aside:
            corpus.save_to_disk(os.path.join(aside, "corpus"))
            try:
                os.rename(os.path.join(aside, "corpus"), cache)
            except OSError:  # another process was first
                if not cache.exists():
                    raise
    try:
        return datasets.load_from_disk(str(cache))
    except (FileNotFoundError, ValueError) as error:
        shutil.rmtree(cache)
        raise RuntimeError(f"the cached corpus at {cache} was damaged and is removed: run again") from error


def file_format(path):
    """Name of the `datasets` builder that reads a file, by its ending.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where its ending is unknown, naming those that are read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    endings = [ending.lower().lstrip(".") for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSIONS:
        endings.pop()
    if not endings or endings[-1] not in FORMATS:
        raise ValueError(
            f"cannot tell the format of {str(path)!r} by its ending: accepted are {', '.join(sorted(FORMATS))}, "
            f"each also compressed ({', '.join(COMPRESSIONS)})"
        )
    return FORMATS[endings[-1]]


def _load_files(paths, column, streaming):
    """Files one after the other, each of its own format and with its own other columns."""
    parts = []
    for path in map(str, paths):
        format = file_format(path)
        options = {"sample_by": "document"} if format == "text" and not streaming else {}
        part = datasets.load_dataset(format, data_files=path, split="train", streaming=streaming, **options)
        parts.append(_only_text(part, column, path))
    return datasets.concatenate_datasets(parts)


def _only_text(dataset, column, name):
    names = dataset.column_names
    if names is not None and column not in names:
        raise ValueError(f"{name} has no column {column!r}: give --text_column one of {names}")
    dataset = dataset.select_columns([column])
    return dataset if column == "text" else dataset.rename_column(column, "text")


def load_corpus(
    dataset_name=None,
    dataset_config=None,
    train_file=None,
    validation_file=None,
    text_column="text",
    streaming=False,
    validation_documents=200,
):
    """Load a corpus: the embedded one, a dataset of the Hub, or files.

    Args:
        dataset_name, dataset_config (`str`, *optional*): of the Hub.
        train_file, validation_file (`list` of paths, *optional*): text (a document a file, or a line where streamed),
            json lines, csv, parquet or arrow, each also compressed.
        text_column (`str`, defaults to `"text"`).
        streaming (`bool`, defaults to `False`): read while training instead of first.
        validation_documents (`int`, defaults to 200): of a stream without a validation split, the first so many documents
            are held out.

    Returns:
        `dict` of datasets with one column, `text`: `train` and, where the corpus has or allows one, `validation`. Without a
        validation split, about 5 % of the documents are held out by hash of their text, less those of which more than 1 %
        repeats training text, or, of fewer than 20 documents, the last twentieth of each.

    Raises:
        ValueError: for both a dataset and files, an unknown format, a missing column, or a corpus without text.
        FileNotFoundError: for a missing file.
    """
    if dataset_name and train_file:
        raise ValueError("give a dataset_name or a train_file, not both")
    if validation_file and not train_file:
        raise ValueError("a validation_file needs a train_file")
    if dataset_name:
        loaded = datasets.load_dataset(dataset_name, dataset_config, streaming=streaming)
        if "train" not in loaded:
            raise ValueError(f"dataset {dataset_name!r} has no train split, only {list(loaded)}")
        splits = {
            name: _only_text(loaded[name], text_column, f"{dataset_name}, {name},")
            for name in ("train", "validation")
            if name in loaded
        }
    elif train_file:
        splits = {"train": _load_files(train_file, text_column, streaming)}
        if validation_file:
            splits["validation"] = _load_files(validation_file, text_column, streaming)
    else:
        corpus = embedded_corpus()
        return {"train": corpus["train"], "validation": corpus["validation"]}
    if streaming:
        if "validation" not in splits:
            splits["validation"] = splits["train"].take(validation_documents)
            splits["train"] = splits["train"].skip(validation_documents)
        return splits
    if not any(text and not text.isspace() for text in splits["train"]["text"]):
        raise ValueError(f"the corpus has no text: {len(splits['train'])} documents, all empty")
    if "validation" not in splits:
        splits |= hold_out(splits["train"])
    return splits


def hold_out(documents):
    """Split a dataset without validation split as [`load_corpus`] says."""
    if len(documents) >= 20:
        names = [split_of(text) for text in documents["text"]]
        held = [i for i, name in enumerate(names) if name == "validation"] or [len(documents) - 1]
        train = documents.select(sorted(set(range(len(documents))) - set(held)))
        kept = without_near_duplicates(documents.select(held)["text"], sorted_shingles(train["text"]))
        if not kept:
            raise ValueError("all documents that would be held out repeat training text: give a --validation_file")
        return {"train": train, "validation": datasets.Dataset.from_dict({"text": kept})}
    texts = [text for text in documents["text"] if text]
    cuts = [len(text) * 19 // 20 for text in texts]
    return {
        "train": datasets.Dataset.from_dict({"text": [t[:c] for t, c in zip(texts, cuts, strict=True)]}),
        "validation": datasets.Dataset.from_dict({"text": [t[c:] for t, c in zip(texts, cuts, strict=True)]}),
    }


def split_passages(text, length):
    """Cut a text into passages of at most `length` bytes, behind white space where there is any, whose join is the text.

    Args:
        text (`str`).
        length (`int`): at least 4, the longest character.

    Returns:
        `list[str]`; empty for an empty text.

    Raises:
        ValueError: where the length is too small.
    """
    if length < 4:
        raise ValueError(f"passages of {length} bytes cannot hold every character: accepted is 4 and above")
    data = text.encode("utf-8")
    ids = np.frombuffer(data, dtype=np.uint8)
    places = np.arange(1, len(ids) + 1)
    after_space = np.maximum.accumulate(np.where(WHITE_SPACE[ids], places, 0)) if len(ids) else places
    whole = np.append(character_starts(ids.astype(np.int64)), True)
    passages, start = [], 0
    while start < len(data):
        end = min(start + length, len(data))
        if end < len(data):
            spaced = int(after_space[end - 1])
            if spaced > start:
                end = spaced
            else:
                while not whole[end]:
                    end -= 1
        passages.append(data[start:end].decode("utf-8"))
        start = end
    return passages


def passage_dataset(documents, length, min_length=1):
    """Turn a dataset of documents into one of passages.

    Args:
        documents: a `datasets` dataset, streamed or not, with the column `text`.
        length (`int`): bytes in a passage at most.
        min_length (`int`, defaults to 1): shorter passages, the ends of documents, are left out.

    Returns:
        A dataset of the same kind with the columns `text` and `ends_document`, whether it is the last of its document.
    """

    def cut(batch):
        passages, ends = [], []
        for text in filter(None, batch["text"]):
            passages += split_passages(text, length)
            ends += [False] * (len(passages) - len(ends) - 1) + [True]
        long_enough = [len(p.encode("utf-8")) >= min_length for p in passages]
        return {"text": list(compress(passages, long_enough)), "ends_document": list(compress(ends, long_enough))}

    return documents.map(cut, batched=True, remove_columns=["text"])
