import gzip
import json
import lzma

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_textae.data import corpora
from modeling_textae.data.corpora import (
    embedded_corpus,
    load_corpus,
    overlap,
    passage_dataset,
    shingle_hashes,
    sorted_shingles,
    split_of,
    split_passages,
)

DOCUMENTS = [f"{i} documents speak of {i * i * 7919} different things, number {i**3}." for i in range(60)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def embedded(cache):
    return embedded_corpus(cache)


def test_embedded_corpus_is_real_and_split_by_hash(embedded):
    assert sum(len(t) for t in embedded["train"]["text"]) > 1_000_000
    for name, split in embedded.items():
        assert len(split) > 50
        assert all(split_of(text) == name for text in split["text"])


@pytest.mark.slow
def test_embedded_corpus_is_built_alike_each_time(embedded, tmp_path):
    again = embedded_corpus(tmp_path)
    assert all(again[name]["text"] == embedded[name]["text"] for name in embedded)


def test_embedded_corpus_is_built_once(embedded, cache, monkeypatch):
    monkeypatch.setattr(corpora, "embedded_documents", lambda: pytest.fail("built although it is cached"))
    assert embedded_corpus(cache)["test"]["text"] == embedded["test"]["text"]


def test_a_damaged_cache_is_removed_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "embedded_documents", lambda: [f"{d} {'x' * 20_000}" for d in DOCUMENTS])
    monkeypatch.setattr(corpora, "without_near_duplicates", lambda documents, seen: documents)
    embedded_corpus(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "dataset_dict.json").unlink()
    with pytest.raises(RuntimeError, match="was damaged and is removed: run again"):
        embedded_corpus(tmp_path)
    assert set(embedded_corpus(tmp_path)) == {"train", "validation", "test"}


def test_embedded_corpus_is_held_out(embedded):
    seen = set()
    for text in embedded["train"]["text"]:
        data = text.encode()
        seen.update(data[i : i + 50] for i in range(len(data) - 49))
    for name in ("validation", "test"):
        inside = total = 0
        for text in embedded[name]["text"]:
            data = text.encode()
            covered = np.zeros(len(data), dtype=bool)
            for i in range(len(data) - 49):
                if data[i : i + 50] in seen:
                    covered[i : i + 50] = True
            inside, total = inside + covered.sum(), total + len(data)
        assert inside / total <= 0.01


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(1, 60))
def test_equal_windows_have_equal_hashes_and_others_do_not(data, length):
    hashes = shingle_hashes(data, length).tolist()
    windows = [data[i : i + length] for i in range(max(len(data) - length + 1, 0))]
    assert len(hashes) == len(windows)
    assert len(set(hashes)) == len(set(windows))
    by_window = dict(zip(windows, hashes, strict=True))
    assert all(by_window[w] == h for w, h in zip(windows, hashes, strict=True))


def test_overlap_counts_covered_bytes():
    known = "x" * 10 + "".join(chr(33 + i % 90) for i in range(100))
    text = "a" * 60 + known[20:90] + "b" * 70
    assert overlap(text, sorted_shingles([known])) == pytest.approx(70 / 200)
    assert overlap("short", sorted_shingles([known])) == 0


def write_files(folder):
    lines = "\n".join(json.dumps({"title": i, "text": d}) for i, d in enumerate(DOCUMENTS))
    (folder / "plain.jsonl").write_text(lines)
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "packed.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    datasets.Dataset.from_dict({"text": DOCUMENTS}).to_parquet(str(folder / "table.parquet"))
    (folder / "text.txt").write_text("\n".join(DOCUMENTS))


@pytest.mark.parametrize("name", ["plain.jsonl", "packed.jsonl.gz", "packed.jsonl.xz", "table.parquet"])
def test_files_of_any_format_hold_documents_out_by_hash(tmp_path, name):
    write_files(tmp_path)
    corpus = load_corpus(train_file=[tmp_path / name])
    train, validation = set(corpus["train"]["text"]), set(corpus["validation"]["text"])
    assert train | validation <= set(DOCUMENTS)
    assert train == {d for d in DOCUMENTS if split_of(d) != "validation"}
    assert train.isdisjoint(validation)
    assert validation


def test_a_text_file_is_one_document_whose_tail_is_held_out(tmp_path):
    write_files(tmp_path)
    corpus = load_corpus(train_file=[tmp_path / "text.txt"])
    assert corpus["train"]["text"][0] + corpus["validation"]["text"][0] == "\n".join(DOCUMENTS)


def test_files_with_other_columns_join(tmp_path):
    write_files(tmp_path)
    corpus = load_corpus(
        train_file=[tmp_path / "plain.jsonl", tmp_path / "table.parquet"], validation_file=[tmp_path / "table.parquet"]
    )
    assert corpus["train"]["text"] == DOCUMENTS * 2
    assert corpus["validation"]["text"] == DOCUMENTS


def test_streams_hold_out_their_first_documents(tmp_path):
    write_files(tmp_path)
    corpus = load_corpus(train_file=[tmp_path / "plain.jsonl"], streaming=True, validation_documents=5)
    assert [e["text"] for e in corpus["validation"]] == DOCUMENTS[:5]
    assert [e["text"] for e in corpus["train"]] == DOCUMENTS[5:]
    passages = list(passage_dataset(corpus["train"], 20))
    assert "".join(p["text"] for p in passages) == "".join(DOCUMENTS[5:])


def test_hub_datasets_load_by_name(tmp_path):
    write_files(tmp_path)
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "train.jsonl").write_text((tmp_path / "plain.jsonl").read_text())
    corpus = load_corpus(dataset_name=str(folder), text_column="text")
    assert len(corpus["train"]) + len(corpus["validation"]) == len(DOCUMENTS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"train_file": ["missing.txt"]}, FileNotFoundError, "no file 'missing.txt'"),
        ({"train_file": ["x.docx"]}, ValueError, "accepted are arrow, csv"),
        ({"dataset_name": "a/b", "train_file": ["x.txt"]}, ValueError, "not both"),
        ({"validation_file": ["x.txt"]}, ValueError, "needs a train_file"),
        ({"train_file": ["plain.jsonl"], "text_column": "body"}, ValueError, "give --text_column one of"),
        ({"train_file": ["empty.jsonl"]}, ValueError, "the corpus has no text"),
    ],
)
def test_wrong_corpora_are_refused(tmp_path, monkeypatch, arguments, error, message):
    write_files(tmp_path)
    (tmp_path / "x.docx").write_text("x")
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n{"text": " "}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_corpus(**arguments)


@settings(deadline=None)
@given(st.text(max_size=300), st.integers(4, 40))
def test_passages_join_to_the_text_and_cut_no_character(text, length):
    passages = split_passages(text, length)
    assert "".join(passages) == text
    assert all(0 < len(p.encode()) <= length for p in passages)


def test_passages_end_behind_white_space_where_there_is_any():
    assert split_passages("aaa bbb cccccccccccc", 8) == ["aaa bbb ", "cccccccc", "cccc"]
    with pytest.raises(ValueError, match="passages of 3 bytes"):
        split_passages("abc", 3)


def test_short_ends_are_left_out():
    dataset = datasets.Dataset.from_dict({"text": ["aaaa bbbb cc", "", "dd"]})
    assert passage_dataset(dataset, 5, min_length=3)["text"] == ["aaaa ", "bbbb "]
    assert passage_dataset(dataset, 5, min_length=3)["ends_document"] == [False, False]
    assert passage_dataset(dataset, 5)["ends_document"] == [False, False, True, True]
