from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_textae.data.corpora import embedded_documents
from modeling_textae.data.edits import Edits, StringTable, apply_edits, code_points, text_of
from modeling_textae.data.text_noise import KINDS, Confusions, TextNoise
from modeling_textae.evaluation.metrics import character_error_rate

SENTENCE = "The café by the river, “quoted”, was full; and rn or cl are read as m and d 🙂. "


@pytest.fixture(scope="module")
def english():
    return "\n".join(islice(embedded_documents(), 60))[:60_000]


def generator(seed=0):
    return np.random.default_rng(seed)


def edits_of(listed):
    starts, ends = (np.array([edit[i] for edit in listed], dtype=np.int64) for i in (0, 1))
    return Edits.of(starts, ends, StringTable([edit[2] for edit in listed]), np.arange(len(listed)))


def naive_edits(text, listed):
    """The same, one character after the other."""
    kept, reached = [], -1
    for start, end, replacement in sorted(listed, key=lambda edit: edit[0]):
        if start >= reached:
            kept.append((start, end, replacement))
            reached = max(end, start + 1)
    found, source, place = "", [], 0
    for start, end, replacement in [*kept, (len(text), len(text), "")]:
        found += text[place:start] + replacement
        source += [*range(place, start), *[start] * len(replacement)]
        place = end
    return found, [*source, len(text)]


@settings(max_examples=300, deadline=None)
@given(
    st.text("abcdé 🙂", max_size=12),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.text("XYZ", max_size=3)), max_size=6),
)
def test_edits_equal_those_made_one_by_one(text, drawn):
    listed = [(min(a, len(text)), min(a + n, len(text)), new) for a, n, new in drawn]
    found, source = apply_edits(code_points(text), edits_of(listed))
    assert (text_of(found), source.tolist()) == naive_edits(text, listed)


@pytest.mark.parametrize("strength", [0.02, 0.1, 0.3])
def test_noise_says_where_each_character_comes_from(strength):
    text = SENTENCE * 30
    noisy = TextNoise()(text, strength, generator())
    assert len(noisy.source) == len(noisy.text) + 1
    assert noisy.source[-1] == len(text)
    assert (np.diff(noisy.source) >= 0).all()
    # What stands for itself, and nothing else, is as it was.
    alone = (np.diff(noisy.source) == 1) & (np.diff(noisy.source, prepend=-1)[:-1] > 0)
    same = [noisy.text[i] == text[noisy.source[i]] for i in np.flatnonzero(alone)]
    assert np.mean(same) > 1 - 1.2 * strength
    assert len(same) > (1 - 2 * strength) * len(text)


@pytest.mark.parametrize("strength", [0.01, 0.05, 0.1])
def test_strength_is_about_the_character_error_rate(english, strength):
    noisy = TextNoise()(english, strength, generator()).text
    assert character_error_rate([noisy], [english]) == pytest.approx(strength, rel=0.35)


def test_noise_is_the_generators():
    noise = TextNoise()
    first, again, other = (noise(SENTENCE, 0.3, generator(seed)).text for seed in (1, 1, 2))
    assert first == again != other
    assert noise(SENTENCE, 0.0, generator()).text == SENTENCE
    assert noise("", 0.5, generator()).text == ""
    assert noise("\ud800 lone", 0.0, generator()).text == "\ud800 lone"


# What each kind does to a text of its own, where there is nothing else for it to do.
ONE_KIND = {
    "ocr confusions": ("rn", {"m"}),
    "split words": ("ab", {"a b"}),
    "joined words": ("a b", {"ab"}),
    "lost punctuation": ("a.", {"a"}),
    "hyphen breaks": ("abcd", {"ab-\ncd", "ab- cd"}),
    "keyboard slips": ("q", {"w", "a"}),
    "deletions": ("a", {""}),
    "transpositions": ("ab", {"ba"}),
    "doublings": ("a", {"aa"}),
    "phonetic": ("ph", {"f"}),
}


@pytest.mark.parametrize("kind", ONE_KIND)
def test_each_kind_does_what_it_says(kind):
    text, expected = ONE_KIND[kind]
    noise = TextNoise({kind: KINDS[kind]})
    found = {noise(text, 1.0, generator(seed)).text for seed in range(60)}
    assert expected <= found
    others = found - expected - {text}
    if kind in ("ocr confusions", "phonetic"):  # single letters have confusions, too
        assert all(len(other) <= 4 for other in others)
    else:
        assert not others


@pytest.mark.parametrize("kind", ["speckle", "insertions"])
def test_insertions_keep_all_there_was(kind, english):
    noisy = TextNoise({kind: KINDS[kind]})(english, 0.05, generator())
    first = np.flatnonzero(np.diff(noisy.source) == 1)
    assert "".join(noisy.text[i] for i in first) == english
    assert len(noisy.text) - len(english) == pytest.approx(0.05 * len(english), rel=0.1)


def test_noise_reaches_a_texts_end_and_other_scripts():
    speckle = TextNoise({"speckle": KINDS["speckle"]})
    assert any(speckle("ab", 0.5, generator(seed)).text.startswith("ab") for seed in range(40) for _ in "a"
               if speckle("ab", 0.5, generator(seed)).text != "ab")  # fmt: skip
    text = "하나의 문장입니다 그리고 " * 40
    letters = TextNoise({kind: KINDS[kind] for kind in ("deletions", "transpositions", "doublings")})
    assert character_error_rate([letters(text, 0.1, generator()).text], [text]) == pytest.approx(0.12, rel=0.4)


@pytest.mark.parametrize("mean", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_strengths_of_texts_differ_about_their_mean(mean):
    drawn = [TextNoise().draw_strength(mean, generator(seed)) for seed in range(2000)]
    assert 0 <= min(drawn) <= max(drawn) <= 1
    assert np.mean(drawn) == pytest.approx(mean, abs=0.01)


def test_doubled_letters_are_undoubled():
    noise = TextNoise({"doublings": KINDS["doublings"]})
    assert "leter" in {noise("letter", 0.5, generator(seed)).text for seed in range(40)}


def test_the_shares_of_kinds_hold():
    text = "a. " * 20_000
    kinds = {"lost punctuation": (KINDS["lost punctuation"][0], 3.0), "deletions": (KINDS["deletions"][0], 1.0)}
    noisy = TextNoise(kinds)(text, 0.04, generator()).text
    lost = [text.count(c) - noisy.count(c) for c in ".a"]
    assert lost[0] / lost[1] == pytest.approx(3, rel=0.15)
    assert sum(lost) / len(text) == pytest.approx(0.04, rel=0.1)


def test_confusions_prefer_no_length_and_keep_case():
    confusions = TextNoise({"one": (Confusions([("ph", "f"), ("p", "b")], match_case=True), 1.0)})
    found = {confusions("Ph", 1.0, generator(seed)).text for seed in range(40)}
    assert found == {"F", "Bh"} | (found & {"Ph"})


def test_bad_noise_is_refused():
    with pytest.raises(ValueError, match=r"noise rate 1\.5 is no probability"):
        TextNoise()(SENTENCE, 1.5, generator())
    with pytest.raises(ValueError, match=r"shares .* of noise are none"):
        TextNoise({"deletions": (KINDS["deletions"][0], -1.0)})
    with pytest.raises(ValueError, match="confusion of 'abcd' cannot be"):
        Confusions([("abcd", "e")])
