import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from modeling_textae.data.corpora import embedded_documents
from modeling_textae.data.edits import code_points, text_of
from modeling_textae.data.ocr_noise import (
    CONTEXT_WEIGHT,
    FILE_NAME,
    RUN_WEIGHT,
    OcrNoiseModel,
    aligned_edits,
    edits_between,
    key_of,
    occurrences_of,
    scale_to,
)
from modeling_textae.data.text_noise import TextNoise
from modeling_textae.evaluation.metrics import character_error_rate


@pytest.fixture(scope="module")
def english():
    return "\n".join(islice(embedded_documents(), 60))[:120_000]


@pytest.fixture(scope="module")
def fitted(english):
    lines = [english[i : i + 80] for i in range(0, 60_000, 80)]
    noise, generator = TextNoise(), np.random.default_rng(0)
    return OcrNoiseModel.fit([(noise(line, 0.08, generator).text, line) for line in lines])


@pytest.mark.parametrize(
    ("clean", "noisy", "edits"),
    [
        ("the river", "tlie river", [(1, 2, "li")]),
        ("modern", "modem", [(4, 6, "m")]),
        ("a word", "aword", [(1, 2, "")]),
        ("word", "wo-rd", [(2, 2, "-")]),
        ("same", "same", []),
    ],
)
def test_differences_are_runs(clean, noisy, edits):
    assert edits_between(clean, noisy) == edits


@pytest.mark.parametrize(
    "noisy", ["", "xxxxxxxx", "the best of times and more", "thebestoftimes", "ſhe befl of tirnes"]
)
def test_edits_lead_from_clean_to_noisy(noisy):
    clean = "the best of times"
    place, found = 0, ""
    for start, end, target in edits_between(clean, noisy):
        assert max(end - start, len(target)) <= 3
        found += clean[place:start] + target
        place = end
    assert found + clean[place:] == noisy


def test_aligned_texts_need_no_alignment():
    edits, clean = aligned_edits("the mod@rn", "tlie@modem"[:10], "@")
    assert clean == "the modrn"
    place, found = 0, ""
    for start, end, target in edits:
        found += clean[place:start] + target
        place = end
    assert found + clean[place:] == "tliemodem"
    with pytest.raises(ValueError, match="as long as each other: got 3 and 4"):
        aligned_edits("the", "tlie", "@")
    with pytest.raises(ValueError, match="pad '@@' is not one character"):
        OcrNoiseModel.fit([("a", "b")], aligned=True, pad="@@")
    model = OcrNoiseModel.fit([("tl@ e", "thh e")] * 3, aligned=True)
    assert model.counts["", "hh", "l"] == 3


def test_rates_are_those_of_the_counts():
    # After t, h is read li 30 times of 100; after s never, 100 times.
    pairs = [("tlia", "tha")] * 30 + [("tha", "tha")] * 70 + [("sha", "sha")] * 100
    model = OcrNoiseModel.fit(pairs)
    assert model.counts == {("", "h", "li"): 30, ("t", "h", "li"): 30}
    general = 30 / (200 + RUN_WEIGHT)
    after_t = (30 + CONTEXT_WEIGHT * general) / (100 + CONTEXT_WEIGHT)
    places = np.array([1])
    found = [model.looked_up(code_points(text), places, 1)[0][0] for text in ("tha", "xha", "tea")]
    assert found == pytest.approx([after_t, general, 0])


def test_each_place_is_edited_at_its_rate(fitted):
    """Against the rates written out: every run, one by one."""
    text = "the modern clown ran\nfrom them"
    codes, number = code_points(text), 4000
    wanted = np.zeros(len(text) + 1)
    for place in range(len(text)):
        before = text[place - 1] if place else "\n"
        for length in range(4):
            run = text[place : place + length]
            if len(run) < length:
                continue
            context = before if any(key[:2] == (before, run) for key in fitted.counts) else ""
            row = (fitted.known if context else fitted.general)[length]
            for (a, b, target), _ in fitted.counts.items():
                if (a, b) == ("", run):
                    seen = fitted.occurrences["", run]
                    rate = fitted.counts["", run, target] / (seen + RUN_WEIGHT)
                    if context:
                        own = fitted.counts.get((context, run, target), 0)
                        rate = (own + CONTEXT_WEIGHT * rate) / (fitted.occurrences[context, run] + CONTEXT_WEIGHT)
                    wanted[place] += rate
            assert len(row.keys)
    rates = sum(fitted.looked_up(codes, np.arange(len(codes)), length)[0] for length in range(4))
    np.testing.assert_allclose(rates, wanted[:-1], rtol=1e-9)
    # And as often as these say, each run is what is drawn there.
    generator, written = np.random.default_rng(0), Counter()
    for length in range(4):
        place = np.full(number, 4)
        _, _, row, known = fitted.looked_up(codes, place, length)
        if row[0] < 0:
            continue
        drawn = fitted.drawn(place, length, row, known, generator)
        offsets = np.cumsum(drawn.lengths)
        written.update((length, text_of(part)) for part in np.split(drawn.codes, offsets[:-1]))
    for (length, target), count in written.items():
        run, channel = text[4 : 4 + length], fitted.known[length]
        row = int(channel.rows(np.array([key_of(" ", run)]))[0])
        if row < 0:
            continue
        general = fitted.counts["", run, target] / (fitted.occurrences["", run] + RUN_WEIGHT)
        own = fitted.counts.get((" ", run, target), 0)
        rate = (own + CONTEXT_WEIGHT * general) / (fitted.occurrences[" ", run] + CONTEXT_WEIGHT)
        assert count / number == pytest.approx(rate / channel.rates[row], abs=0.03)


@pytest.mark.parametrize("strength", [0.01, 0.02, 0.05, 0.1, 0.2])
def test_the_character_error_rate_is_the_one_asked_for(fitted, english, strength):
    held_out = english[60_000:]
    noisy = fitted(held_out, strength, np.random.default_rng(3))
    assert character_error_rate([noisy.text], [held_out]) == pytest.approx(strength, rel=0.1)
    assert noisy.source[-1] == len(held_out)
    assert (np.diff(noisy.source) >= 0).all()


def test_what_is_learned_is_what_happens_again(english):
    lines = [line for line in english[:60_000].split("\n") if line]
    model = OcrNoiseModel.fit([(line.replace("e", "c").replace("th", "tli"), line) for line in lines])
    noisy = model(english[60_000:], 0.05, np.random.default_rng(0)).text
    for block in edits_between(english[60_000:], noisy):
        assert set(block[2]) <= set("cli")


def test_noise_is_the_generators(fitted):
    text = "the modern river" * 20
    first, again, other = (fitted(text, 0.2, np.random.default_rng(seed)).text for seed in (1, 1, 2))
    assert first == again != other
    assert fitted(text, 0.0, np.random.default_rng()).text == text
    assert fitted("", 0.5, np.random.default_rng()).text == ""
    assert fitted("日本語", 0.1, np.random.default_rng(0)).text  # nothing of it was seen
    with pytest.raises(ValueError, match="noise rate -1 is no probability"):
        fitted(text, -1, np.random.default_rng())


def test_strengths_are_drawn_as_the_pairs_had_them():
    model = OcrNoiseModel.fit([("a boat", "a boat")] * 50 + [("a bqqt", "a boat")] * 50)
    generator = np.random.default_rng(0)
    drawn = np.array([model.draw_strength(0.1, generator) for _ in range(1000)])
    assert np.mean(drawn < 0.01) == pytest.approx(0.5, abs=0.05)
    assert drawn.mean() == pytest.approx(0.1, rel=0.1)
    assert drawn.max() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("mean", [0.05, 0.1, 0.4])
def test_the_mean_of_drawn_strengths_is_as_asked_where_a_few_pairs_are_far_worse_than_the_rest(mean):
    pairs = [("a boat", "a boat")] * 10 + [("a bqat", "a boat")] * 60 + [("xxxxxxxxxxxx", "a boat")] * 3
    model, generator = OcrNoiseModel.fit(pairs), np.random.default_rng(0)
    drawn = np.array([model.draw_strength(mean, generator) for _ in range(20_000)])
    assert drawn.max() <= 1
    assert drawn.mean() == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([("zazb", "xaxb")] * 4 + [("xaxb", "xaxb")] * 4, "xaxbxcxdxexf" * 500),
        ([("tlie end of tbe river", "the end of the river")] * 3, "the then that this thick " * 300),
        ([("tlie end of tbe river", "the end of the river")] * 3, "the river and the town; " * 300),
    ],
)
@pytest.mark.parametrize("strength", [0.02, 0.1, 0.2])
def test_models_of_few_confusions_are_as_strong_as_asked_where_the_text_lets_them(pairs, text, strength):
    model = OcrNoiseModel.fit(pairs)
    noisy = model(text, strength, np.random.default_rng(0)).text
    most = character_error_rate([model(text, 1.0, np.random.default_rng(0)).text], [text])
    assert character_error_rate([noisy], [text]) == pytest.approx(min(strength, most), rel=0.12)


def test_scales_reach_what_is_wanted_as_far_as_rates_go():
    rates, costs = np.array([0.5, 0.1, 0.0, 0.2]), np.array([1.0, 2.0, 5.0, 0.5])
    for wanted in (0.1, 0.8, 1.5, 2.5, 3.2, 3.5):
        assert (np.minimum(scale_to(rates, costs, wanted) * rates, 1) * costs).sum() == pytest.approx(wanted)
    assert scale_to(rates, costs, 9) == pytest.approx(10)  # all that there is
    assert scale_to(rates * 0, costs, 1) == 0


def test_a_texts_end_is_a_place_as_well():
    model = OcrNoiseModel.fit([("abc.", "abc")] * 5)
    found = {model("abc", 0.3, np.random.default_rng(seed)).text for seed in range(60)}
    assert "abc." in found


def test_a_model_is_stored_as_json(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    again = OcrNoiseModel.from_pretrained(tmp_path)
    text = "the modern river" * 20
    assert again(text, 0.2, np.random.default_rng(5)).text == fitted(text, 0.2, np.random.default_rng(5)).text
    assert json.loads((tmp_path / FILE_NAME).read_text())["overlap"] == fitted.overlap
    OcrNoiseModel.fit([("a\ud800c", "abc")]).save_pretrained(tmp_path)  # whatever Python's strings can hold
    assert ("", "b", "\ud800") in OcrNoiseModel.from_pretrained(tmp_path).counts
    (tmp_path / FILE_NAME).write_text('{"edits": 3}')
    with pytest.raises(ValueError, match="is no stored OcrNoiseModel"):
        OcrNoiseModel.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        OcrNoiseModel.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("pairs", [["ab"], [("a",)], [("a", "b", "c")]])
def test_what_is_no_pair_is_refused(pairs):
    with pytest.raises(ValueError, match=r"is no pair: give \(noisy, clean\)"):
        OcrNoiseModel.fit(pairs)


def test_no_noise_teaches_nothing():
    with pytest.raises(ValueError, match="no pair differs"):
        OcrNoiseModel.fit([("same", "same")])


def test_occurrences_are_counted_at_every_place():
    found = occurrences_of({("", "a"), ("b", "a"), ("\n", "ab"), ("", "")}, ["abab", "a"])
    assert found == {("", "a"): 3, ("b", "a"): 1, ("\n", "ab"): 1, ("", ""): 7}


def test_rates_and_sources_say_what_noise_makes_of_what():
    counts = {("", "h", "li"): 3, ("t", "h", "li"): 3, ("", "", "."): 2}
    model = OcrNoiseModel(counts, {("", "h"): 10, ("t", "h"): 5, ("", ""): 50}, [0.0, 0.1])
    general = 3 / (10 + RUN_WEIGHT)
    assert model.rate("", "h", "li") == model.rate("s", "h", "li") == pytest.approx(general)
    assert model.rate("t", "h", "li") == pytest.approx((3 + CONTEXT_WEIGHT * general) / (5 + CONTEXT_WEIGHT))
    assert model.rate("t", "h", "b") == model.rate("t", "x", "li") == 0
    assert model.sources == {"li": ["h"], ".": [""]}
