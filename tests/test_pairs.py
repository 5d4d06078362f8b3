import json

import pytest

from modeling_textae.data.pairs import read_pairs


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
