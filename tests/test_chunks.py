import random
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_textae.models.chunks import SpanTrie, chunks_of, cut, fewest_parts, segments_of

TEXTS = {
    "It's the river's end, 1984.\n": ["It", "'s", " the", " river", "'s", " end", ",", " 1984", ".", "\n"],
    " a  b\n\n c": [" a", " ", " b", "\n\n", " c"],
    "naïve_word—日本語": ["naïve", "_", "word", "—", "日本語"],
    "internationalisations": ["internationalisa", "tions"],
    "": [],
}


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_cut_as_gpt2_cuts_it_but_for_spaces(text):
    assert chunks_of(text) == TEXTS[text]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.sampled_from([4, 7, 16]))
def test_chunks_join_to_the_text_and_are_short(text, longest):
    text = text.encode("utf-8", "replace").decode()
    assert "".join(chunks_of(text, longest)) == text
    assert all(0 < len(chunk.encode()) <= longest for chunk in chunks_of(text, longest))
    assert "".join(segments_of(text)) == text
    # A segment is cut alike wherever it stands: what caches rely on.
    assert chunks_of(text, longest) == [c for s in segments_of(text) for c in chunks_of(s, longest)]


def test_long_words_are_cut_between_characters():
    assert cut("é" * 9, 4) == ["éé"] * 4 + ["é"]
    assert [len(part.encode()) for part in cut("日本" * 4, 16)] == [15, 9]


def test_chunks_that_cannot_hold_a_character_are_refused():
    with pytest.raises(ValueError, match="chunks of 3 bytes"):
        cut("🙂", 3)


def brute_force(data, tokens):
    """The fewest tokens by trying all ways to split."""
    best = None
    for cuts in product([False, True], repeat=len(data) - 1):
        bounds = [0, *(i + 1 for i, c in enumerate(cuts) if c), len(data)]
        parts = [data[a:b] for a, b in pairwise(bounds)]
        if all(part in tokens for part in parts):
            # Of equally few, the longest first.
            key = (len(parts), [-len(part) for part in parts])
            best = min(best or (key, parts), (key, parts))
    return best[1]


def test_the_fewest_parts_are_those_of_a_search_over_all_splits():
    draw = random.Random(0)
    for _ in range(60):
        tokens = {bytes([i]): i for i in b"abc"}
        for _ in range(8):
            tokens.setdefault(bytes(draw.choices(b"abc", k=draw.randint(2, 4))), 300 + len(tokens))
        data = bytes(draw.choices(b"abc", k=9))
        assert fewest_parts(data, tokens) == tuple(tokens[part] for part in brute_force(data, tokens))


def fewest_by_search(ids, spans):
    """The fewest ids after joining spans, by recursion."""
    if not ids:
        return 0
    taken = [1 + fewest_by_search(ids[len(path) :], spans) for path in spans if tuple(ids[: len(path)]) == path]
    return min([1 + fewest_by_search(ids[1:], spans), *taken])


def test_spans_join_to_the_fewest_ids_and_spell_the_same():
    draw = random.Random(1)
    for _ in range(200):
        spans = {tuple(draw.choices(range(4), k=draw.randint(2, 4))): 4 + i for i in range(6)}
        trie = SpanTrie(spans, 10)
        ids = draw.choices(range(4), k=draw.randint(0, 12))
        merged = trie.merge(np.array(ids, dtype=np.int64)).tolist()
        spelled = {token: path for path, token in spans.items()} | {i: (i,) for i in range(4)}
        assert [i for token in merged for i in spelled[token]] == ids
        assert len(merged) == fewest_by_search(ids, spans)
        # The same again from what was remembered, and beside other texts.
        both = np.array([*ids, 10, *ids], dtype=np.int64)
        assert trie.merge(both).tolist() == [*merged, 10, *merged]


def test_long_runs_of_overlapping_spans_are_solved():
    trie = SpanTrie({(0, 1): 2, (1, 0): 3}, 4)
    assert trie.merge(np.array([0, 1] * 5000)).tolist() == [2] * 5000


def test_a_trie_without_spans_changes_nothing():
    assert SpanTrie({}, 4).merge(np.array([1, 2, 3])).tolist() == [1, 2, 3]
