import math

import pytest
import torch

from modeling_textae.evaluation.metrics import (
    adaptive_code_bits,
    character_error_rate,
    count_correct,
    exact_rate,
    share,
    word_error_rate,
)


def naive_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_character_error_rate_is_edits_over_the_references_characters():
    pairs = [("kitten", "sitting"), ("", "abc"), ("naïve", "naive"), ("same", "same")]
    edits = sum(naive_distance(p, r) for p, r in pairs)
    rate = character_error_rate([p for p, _ in pairs], [r for _, r in pairs])
    assert rate == pytest.approx(edits / sum(len(r) for _, r in pairs))


def test_word_error_rate_counts_words_whatever_is_between_them():
    assert word_error_rate(["to  be or\nnot", "x"], ["to be or not", "y z"]) == 2 / 6
    with pytest.raises(ValueError, match="no word to be wrong about"):
        word_error_rate(["a"], [" "])


def test_exact_rate():
    assert exact_rate(["a", "b"], ["a", "c"]) == 0.5


def test_wrong_numbers_of_texts_are_refused():
    with pytest.raises(ValueError, match="1 predictions but 2"):
        character_error_rate(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no character"):
        character_error_rate([""], [""])
    with pytest.raises(ValueError, match="at least one"):
        exact_rate([], [])


def test_count_correct_asks_only_where_it_should():
    labels = torch.tensor([1, 2, -100, 0])
    logits = torch.eye(4)[[1, 3, 2, 0]]
    assert count_correct(logits, labels) == (2, 3)
    assert count_correct(logits, labels, torch.tensor([False, True, True, True])) == (1, 2)
    assert share(*count_correct(logits, labels)) == pytest.approx(2 / 3)
    assert share(0, 0) is None


def test_an_adaptive_code_costs_what_coding_symbol_by_symbol_costs():
    symbols, size = [0, 1, 0, 0, 2, 0, 1], 5
    counts = [symbols.count(i) for i in range(size)]
    costs = []
    for start in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005):
        seen, bits = [start] * size, 0.0
        for symbol in symbols:
            bits -= math.log2(seen[symbol] / sum(seen))
            seen[symbol] += 1
        costs.append(bits)
    assert adaptive_code_bits(counts) == pytest.approx(min(costs) + 3)
    assert adaptive_code_bits([9]) == pytest.approx(3)
    assert adaptive_code_bits([0, 0]) == pytest.approx(3)
