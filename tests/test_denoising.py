import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import encodzall_config
from rapidfuzz.distance import Levenshtein

import modeling_textae as textae
import run_eval
from modeling_textae.data.collators import pad_rows
from modeling_textae.evaluation.metrics import character_error_rate, word_error_rate
from modeling_textae.models.denoising import SuggestedEdit, apply_suggested, changed_characters, windows_of, word_edits

WORDS = ["the", "old", "river", "boat", "a", "by"]
CLEAN = ["the old river", "a boat by the river", "the boat by the old river", "a old boat", "by the river"]


def noisy_of(text):
    return text.replace("the", "tbe").replace("old", "o1d")


NOISY = [noisy_of(text) for text in CLEAN]


@pytest.fixture
def tokenizer():
    return textae.EncodzallTokenizer()


@pytest.fixture(scope="module")
def model():
    """A model that writes `the` for `tbe` and `old` for `o1d`, and everything else as it is."""
    torch.manual_seed(0)
    tokenizer = textae.EncodzallTokenizer()
    model = textae.EncodzallForConditionalGeneration(encodzall_config(hidden_size=64, num_attention_heads=4))
    optimizer, draw = torch.optim.Adam(model.parameters(), lr=3e-3), random.Random(0)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 500)
        text = " ".join(draw.choices(WORDS, k=120))
        windows = windows_of(text, draw.randint(16, 26), 8)[:32]
        # A text's last word has no white space behind it.
        clean = [window.text if draw.random() < 0.5 else window.text.rstrip() for window in windows]
        inputs = dict(
            tokenizer([noisy_of(t) if draw.random() < 0.8 else t for t in clean], padding=True, return_tensors="pt")
        )
        labels = pad_rows([[*t.encode(), 258] for t in clean], -100)
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@settings(max_examples=200, deadline=None)
@given(st.text("ab \n日🙂", max_size=120), st.integers(16, 40), st.integers(0, 20))
def test_windows_cover_a_text_and_their_cores_part_it(text, length, overlap):
    windows = windows_of(text, length, overlap)
    assert "".join(text[slice(*window.core)] for window in windows) == text
    for window in windows:
        assert len(window.text.encode()) <= length
        assert text[window.start : window.start + len(window.text)] == window.text
        assert window.start <= window.core[0] <= window.core[1] <= window.start + len(window.text)


def test_neighbouring_windows_have_whole_words_in_common():
    text = "one two three four five six seven eight nine ten"
    first, second, *_ = windows_of(text, 20, 8)
    assert first.text == "one two three four "
    assert second.text.startswith("four five ")
    assert text[first.core[0] : first.core[1]] == "one two three "


def test_windows_begin_with_words_and_each_goes_beyond_the_one_before():
    text = " ".join([*["a"] * 50, "b" * 200, *["c"] * 50])
    windows = windows_of(text, 256, 64)
    assert len(windows) <= 4
    ends = [window.start + len(window.text) for window in windows]
    assert ends == sorted(set(ends))
    assert not any(window.text[0].isspace() for window in windows)


@settings(max_examples=200, deadline=None)
@given(st.text("ab ", max_size=20), st.text("ab ", max_size=20))
def test_edits_of_words_lead_from_one_text_to_the_other(noisy, restored):
    edits = [SuggestedEdit(*edit, 1.0) for edit in word_edits(noisy, restored)]
    assert apply_suggested(noisy, edits, 0.0) == restored


def test_words_that_were_parted_or_joined_are_one_edit():
    assert word_edits("the acc sed said so", "the accused said so") == [(4, 11, "accused")]
    assert word_edits("oi ly persob of", "only person of") == [(0, 5, "only"), (6, 12, "person")]
    assert word_edits("inthe tbe house", "in the the house") == [(0, 5, "in the"), (6, 9, "the")]
    assert word_edits("one * two", "one two") == [(4, 9, "two")]


def test_edits_of_long_runs_end_where_the_texts_agree():
    noisy, restored = "".join(f"word{i:02d}" for i in range(20)), "".join(f"word{i:02d}" for i in range(20))
    edits = word_edits(noisy[:12] + "X" + noisy[13:], restored)
    assert [(start, end) for start, end, _ in edits] == [(12, 13)]


def test_edits_are_applied_where_they_gain_enough_and_the_better_of_two():
    edits = [SuggestedEdit(0, 3, "ONE", 2.0), SuggestedEdit(4, 7, "TWO", 0.5), SuggestedEdit(6, 9, "?", 3.0)]
    assert apply_suggested("one two 3", edits, 0.5) == "ONE tw?"
    assert apply_suggested("one two 3", edits[:2], 0.1) == "ONE TWO 3"
    assert apply_suggested("one two 3", edits, 9.0) == "one two 3"


def test_margins_are_of_each_character_that_changes():
    one, three = SuggestedEdit(0, 3, "the", 5.0), SuggestedEdit(4, 7, "xyz", 5.0)
    for margin, expected in ((-1.0, "the xyz"), (0.0, "the xyz"), (1.6, "the xyz"), (1.7, "the o1d"), (5.1, "tbe o1d")):
        assert apply_suggested("tbe o1d", [one, three], margin) == expected
    assert apply_suggested("tbe o1d", [SuggestedEdit(0, 3, "the", -2.0)], -1.0) == "tbe o1d"
    assert apply_suggested("tbe o1d", [one], math.inf) == "tbe o1d"


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_changed_characters_are_counted_as_a_library_does(first, second):
    assert changed_characters(first, second) == Levenshtein.distance(first, second)


def test_texts_are_restored_and_clean_ones_left_alone(model, tokenizer):
    assert model.denoise(NOISY, tokenizer, min_gain=0.5) == CLEAN
    assert model.denoise(CLEAN, tokenizer, min_gain=0.5) == CLEAN
    assert model.denoise(NOISY, tokenizer, min_gain=float("inf")) == NOISY
    assert model.denoise([""], tokenizer) == [""]
    assert model.denoise([], tokenizer) == []
    model.config.min_gain = float("inf")
    assert model.denoise(NOISY, tokenizer) == NOISY
    model.config.min_gain = 1.0


def test_long_texts_are_restored_window_by_window(model, tokenizer):
    noisy, clean = " ".join(NOISY * 3), " ".join(CLEAN * 3)
    found = model.suggest_edits([noisy, NOISY[0]], tokenizer, window=24, overlap=8, batch_size=3)
    right = {("tbe", "the"), ("o1d", "old")}
    for text, edits in zip([noisy, NOISY[0]], found, strict=True):
        assert {(text[edit.start : edit.end], edit.replacement) for edit in edits if edit.gain > 1} <= right
    assert apply_suggested(noisy, found[0], 1.0) == clean


@torch.no_grad()
def test_gains_are_those_of_whole_texts(model, tokenizer):
    """Against the loss of the model, one text after the other."""

    def nats(noisy, text):
        inputs = tokenizer([noisy], return_tensors="pt")
        labels = torch.tensor([[*text.encode(), 258]])
        return model(**inputs, labels=labels).loss.item() * labels.shape[1]

    (edits,) = model.suggest_edits([NOISY[2]], tokenizer)
    assert len(edits) == 3
    for edit in edits:
        changed = NOISY[2][: edit.start] + edit.replacement + NOISY[2][edit.end :]
        assert edit.gain == pytest.approx(nats(NOISY[2], NOISY[2]) - nats(NOISY[2], changed), abs=1e-3)


def test_windows_in_which_nothing_gains_enough_are_not_written(model, tokenizer):
    found = model.suggest_edits(NOISY, tokenizer)
    gains = sorted(edit.gain for edits in found for edit in edits)
    for least in (gains[len(gains) // 2], gains[-1], gains[-1] + 1):
        fewer = model.suggest_edits(NOISY, tokenizer, min_gain=least)
        assert all(set(some) <= set(edits) for some, edits in zip(fewer, found, strict=True))
        for text, some, edits in zip(NOISY, fewer, found, strict=True):
            assert apply_suggested(text, some, least) == apply_suggested(text, edits, least)
    assert model.suggest_edits(NOISY, tokenizer, min_gain=1e9) == [[] for _ in NOISY]


def test_what_is_left_to_write_is_written_in_full_batches(model, tokenizer):
    rows = []
    hook = model.model.register_forward_hook(lambda module, inputs, output: rows.append(len(output.last_hidden_state)))
    try:
        model.suggest_edits([CLEAN[0], NOISY[0], CLEAN[1], NOISY[1], CLEAN[2], NOISY[2]], tokenizer, batch_size=3)
    finally:
        hook.remove()
    assert rows == [3, 3, 3, 3, 3]  # six windows read, three written, their six edits weighed


def test_what_a_batch_holds_changes_nothing(model, tokenizer):
    texts = [*NOISY, *CLEAN]
    together = model.suggest_edits(texts, tokenizer)
    for text, edits in zip(texts, together, strict=True):
        (alone,) = model.suggest_edits([text], tokenizer)
        assert [(a.start, a.end, a.replacement) for a in alone] == [(b.start, b.end, b.replacement) for b in edits]
        assert [a.gain for a in alone] == pytest.approx([b.gain for b in edits], abs=1e-3)


def test_a_text_restored_to_nothing_is_scored(model, tokenizer):
    encoded = model.model(**tokenizer(["the old", "*"], padding=True, return_tensors="pt"), return_dict=True)
    nats, agrees = model.told(encoded, ["", ""], tokenizer)
    assert nats.shape == agrees.shape == (2,)
    assert nats.isfinite().all()


def test_the_tokenizers_padding_side_changes_nothing(model, tokenizer):
    left = textae.EncodzallTokenizer(padding_side="left")
    for found, expected in zip(model.suggest_edits(NOISY, left), model.suggest_edits(NOISY, tokenizer), strict=True):
        assert [edit.gain for edit in found] == pytest.approx([edit.gain for edit in expected], abs=1e-3)


def test_a_text_alone_is_refused(model, tokenizer):
    for method in (model.denoise, model.suggest_edits, model.reconstruct):
        with pytest.raises(ValueError, match=r"give \[text\]"):
            method("tbe river", tokenizer)


def test_a_model_in_training_restores_without_dropout(model, tokenizer):
    model.config.attention_dropout, model.config.dropout = 0.5, 0.5
    model.train()
    try:
        assert model.denoise(NOISY, tokenizer, min_gain=0.5) == CLEAN
        assert model.training
    finally:
        model.eval()
        model.config.attention_dropout = model.config.dropout = 0.0


def test_windows_that_cannot_be_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="overlap 20 of a window of 32 bytes"):
        model.denoise(NOISY, tokenizer, window=32, overlap=20)
    with pytest.raises(ValueError, match="a window of 8 bytes"):
        model.denoise(NOISY, tokenizer, window=8, overlap=0)


def test_the_command_counts_errors_before_and_after(model, tokenizer, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"noisy": a, "clean": b} for a, b in zip(NOISY, CLEAN, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["denoise", "--checkpoint", str(tmp_path / "model"), "--data_file", str(tmp_path / "pairs.jsonl")]
    output = tmp_path / "found"
    assert run_eval.main([*arguments, "--min_gain", "0.5", "1e9", "--output", str(output)]) == 0
    noisy, restored, untouched = json.loads(output.with_suffix(".json").read_text())["rows"]
    assert noisy["character_error_rate"] == character_error_rate(NOISY, CLEAN) > 0
    assert noisy["word_error_rate"] == word_error_rate(NOISY, CLEAN)
    assert (restored["character_error_rate"], restored["reduction"], restored["changed"]) == (0, 1, 1)
    assert (untouched["reduction"], untouched["changed"]) == (0, 0)
    tune = [*arguments, "--min_gain", "1e9", "0.5", "--save_min_gain", "true", "--output", str(output)]
    assert run_eval.main(tune) == 0
    assert textae.EncodzallConfig.from_pretrained(tmp_path / "model").min_gain == 0.5
    assert run_eval.main([*arguments, "--min_gain", "1e9", "--save_min_gain", "true"]) == 0
    assert "none is saved" in capsys.readouterr().out
    assert textae.EncodzallConfig.from_pretrained(tmp_path / "model").min_gain == 0.5
    assert run_eval.main([*arguments, "--clean_column", "noisy", "--output", str(output)]) == 0
    assert json.loads(output.with_suffix(".json").read_text())["rows"][0]["character_error_rate"] == 0
    assert run_eval.main([*arguments, "--every", "2", "--output", str(output)]) == 0
    found = json.loads(output.with_suffix(".json").read_text())["rows"][0]
    assert found["character_error_rate"] == character_error_rate(NOISY[::2], CLEAN[::2])
    assert run_eval.main([*arguments, "--every", "0"]) == 2
    assert "every 0th record" in capsys.readouterr().err
    assert run_eval.main([*arguments, "--noisy_column", "none"]) == 2
    assert "has no column 'none'" in capsys.readouterr().err
