import json

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_textae.data.pairs import aligned_passages, read_pairs, with_pairs
from modeling_textae.data.text_noise import TextNoise
from modeling_textae.evaluation.metrics import character_error_rate


@pytest.fixture
def path(tmp_path):
    rows = [{"noisy": f"tlie {i}", "clean": f"the {i}"} for i in range(10)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_pairs_are_read_from_a_share_of_the_records_to_another(path):
    assert read_pairs(path) == [(f"tlie {i}", f"the {i}") for i in range(10)]
    assert read_pairs(path, first=0.9) == [("tlie 9", "the 9")]
    assert read_pairs(path, last=0.9)[-1] == ("tlie 8", "the 8")
    assert read_pairs(path, clean="noisy", first=0.9) == [("tlie 9", "tlie 9")]


def test_aligned_texts_lose_what_fills_gaps_and_what_is_ignored(tmp_path):
    path = tmp_path / "aligned.jsonl"
    path.write_text(json.dumps({"a": "tlie@ b##t x", "b": "t@he@ boat #"}))
    assert read_pairs(path, "a", "b", pad="@") == [("tlie bt ", "the bt ")]
    path.write_text(json.dumps({"a": "tlie", "b": "the"}))
    with pytest.raises(ValueError, match="got 4 and 3 characters"):
        read_pairs(path, "a", "b", pad="@")


def test_files_without_pairs_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="no column 'truth', only noisy, clean"):
        read_pairs(path, clean="truth")
    with pytest.raises(ValueError, match=r"from 0\.9 to 0\.5 there are no records"):
        read_pairs(path, first=0.9, last=0.5)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_pairs(tmp_path / "nowhere.jsonl")
    path.write_text(json.dumps({"noisy": "x", "clean": ""}))
    with pytest.raises(ValueError, match="no clean text"):
        read_pairs(path)


def test_empty_cells_are_texts_of_nothing_and_numbers_are_none(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("noisy,clean\n,the\n*,\ntbe,the\n")
    assert read_pairs(path) == [("", "the"), ("*", ""), ("tbe", "the")]
    path.write_text("noisy,clean\n1,the\n2,a\n")
    with pytest.raises(ValueError, match="'noisy' of record 0 is 1, and no text"):
        read_pairs(path)


def test_pairs_mix_with_passages_of_other_types(tmp_path):
    passages = datasets.Dataset.from_dict({"text": ["the river " * 4] * 4, "ends_document": [True] * 4})
    passages = passages.cast_column("text", datasets.Value("large_string"))
    mixed = with_pairs(passages, [("tbe boat", "the boat")] * 4, 64, 4, 0.5, 0)
    assert {"the boat", "the river " * 4} == set(mixed["text"])


WORDS = st.lists(st.sampled_from(["the", "river", "a", "boat", "naïve", "internationalisation"]), max_size=12)


@settings(max_examples=200, deadline=None)
@given(WORDS, st.integers(0, 5), st.integers(8, 40))
def test_pairs_are_cut_where_both_have_white_space(words, seed, length):
    clean = " ".join(f"{word}{i}" for i, word in enumerate(words))
    noisy = TextNoise()(clean, 0.1, np.random.default_rng(seed)).text
    passages = aligned_passages(noisy, clean, length)
    assert all(len(part.encode()) <= length for _, part in passages)
    place = 0
    for _, part in passages:  # in order, and only what is too long is missing
        found = clean.index(part, place)
        assert not clean[place:found].strip() or len(clean[place:found].encode()) > length
        place = found + len(part)
    if len(clean.encode()) <= length:
        assert passages == ([(noisy, clean)] if clean or noisy else [])


@pytest.mark.parametrize(
    ("noisy", "clean", "expected"),
    [
        ("h TeE January sessions", "THE January sessions", ("h TeE January sessions", "THE January sessions")),
        ("was taken into cus", "was taken into custody", ("was taken into cus", "was taken into custody")),
        ("was taken", "was taken to the town", ("was ", "was ")),
        ("in tbc", "in the", ("in tbc", "in the")),
        ("Monday. Is he was taken", "he was taken", ("was taken", "was taken")),
        (
            "Monday. Is he was kept in it and fe",
            "he was kept in it and fed by his wife",
            ("was kept in it and ", "was kept in it and "),
        ),
        ("qqqqqqqq zz", "the river", ("qqqqqqqq zz", "the river")),
    ],
)
def test_ends_that_are_hardly_each_others_are_left_out(noisy, clean, expected):
    assert aligned_passages(noisy, clean, 100) == [(noisy, clean)]
    assert aligned_passages(noisy, clean, 100, loose_ends=False) == [expected]


def test_parts_of_pairs_belong_together():
    clean = "the old river runs by the old town and on to the sea"
    noisy = "tbe o1d river rnns hy the o1dtown and on to tbe sca"
    passages = aligned_passages(noisy, clean, 24)
    assert "".join(part for part, _ in passages) == noisy
    assert "".join(part for _, part in passages) == clean
    assert all(character_error_rate([a], [b]) < 0.3 for a, b in passages)


def test_passages_and_pairs_are_mixed():
    passages = datasets.Dataset.from_dict(
        {"text": [f"passage {i}" for i in range(2000)], "ends_document": [False] * 2000}
    )
    pairs = [(f"nolsy {i}", f"noisy {i}") for i in range(20)]
    mixed = with_pairs(passages, pairs, 40, 4, 0.25, seed=0)
    paired = [row for row in mixed if row["noisy"] is not None]
    assert len(paired) / len(mixed) == pytest.approx(0.25, abs=0.03)
    assert {(row["noisy"], row["text"]) for row in paired} == set(pairs)
    assert {row["text"] for row in mixed if row["noisy"] is None} == set(passages["text"])
    assert len(with_pairs(passages, pairs, 40, 4, 1.0, seed=0)) == 20
    with pytest.raises(ValueError, match="no pair has a part of 30 to 40 bytes"):
        with_pairs(passages, pairs, 40, 30, 0.5, seed=0)
