"""A text's sketch: equal to a plain one, blind to padding and capitals, and true to counts of runs."""

import math
from collections import Counter

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

import modeling_textae as textae
from modeling_textae.models.ngrams import NgramHashes
from modeling_textae.models.sketch import RUN_BUCKETS, SIZES, TextSketch, signs

TEXTS = ["The river is OLD.", "the\tRiver  was\nnew, naïve 🙂", "", "   ", "a", "old river the is", "x" * 300]


def ids_of(texts, pad=-1):
    rows = [[*text.encode()] for text in texts]
    return torch.tensor([row + [pad] * (max(map(len, rows)) - len(row)) for row in rows], dtype=torch.long)


def plain_sketch(text, size, rarity):
    """Word by word and run by run; `rarity` is a number for each word."""
    small = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in text.encode())
    whole = torch.zeros(size)
    for word in small.split():
        bordered, vector = b" " + word + b" ", torch.zeros(size)
        for n in SIZES:
            for start in range(len(bordered) - n + 1):
                run = torch.tensor([[*bordered[start : start + n]]])
                row = int(NgramHashes([n], RUN_BUCKETS)(run)[0, -1, 0])
                vector += signs(size, torch.device("cpu"))[row]
        whole += vector / vector.norm() * rarity(word)
    return whole


def test_sketches_equal_plain_ones():
    sketch = TextSketch(24)
    sketch.rarity.uniform_(1, 5, generator=torch.Generator().manual_seed(0))

    def rarity(word):
        _, _, _, bucket = sketch.words_of(torch.tensor([[*word]]))
        return sketch.rarity[bucket[0]]

    found = sketch(ids_of(TEXTS))
    for text, vector in zip(TEXTS, found, strict=True):
        torch.testing.assert_close(vector, plain_sketch(text, 24, rarity))
    assert not found[2:4].any()
    for empty in (ids_of(["", ""]), ids_of([""], pad=-1)):
        assert torch.equal(sketch(empty), torch.zeros(len(empty), 24))


def test_padding_special_tokens_and_capitals_change_nothing():
    sketch = TextSketch(32)
    plain = sketch(ids_of(["the old town"]))
    for other in (ids_of(["the old town", "another, much longer text"])[:1], ids_of([" The  OLD\ntown "])):
        torch.testing.assert_close(sketch(other), plain)
    special = ids_of(["the old town"])
    special[special == ord(" ")] = 259
    torch.testing.assert_close(sketch(special), plain)
    assert not torch.allclose(sketch(ids_of(["theold town"])), plain)


def test_cosines_are_nearly_those_of_counted_runs():
    def counted(text):
        runs = Counter()
        for word in text.split():
            mine = Counter(f" {word} "[i : i + n] for n in SIZES for i in range(len(word) + 3 - n))
            length = math.sqrt(sum(count**2 for count in mine.values()))
            runs.update({run: count / length for run, count in mine.items()})
        return runs

    texts = ["the old river runs through the town", "an older river ran by the town", "nobody knows why"]
    counts = [counted(text) for text in texts]
    vectors = torch.nn.functional.normalize(TextSketch(4096)(ids_of(texts)), dim=-1)
    for i in range(3):
        for j in range(i):
            exact = sum(counts[i][run] * counts[j][run] for run in counts[i])
            exact /= math.prod(math.sqrt(sum(x**2 for x in counts[k].values())) for k in (i, j))
            assert float(vectors[i] @ vectors[j]) == pytest.approx(exact, abs=0.06)


def test_rarity_is_counted_in_texts():
    sketch = TextSketch(8)
    texts = ["the river the river", "The town", "the sea", "a b"]
    sketch.fit(texts, batch_size=3)
    words = {"the": 3, "river": 1, "town": 1, "unseen": 0}
    _, _, _, buckets = sketch.words_of(ids_of([" ".join(words)]))
    expected = [math.log(5 / (number + 1)) + 1 for number in words.values()]
    torch.testing.assert_close(sketch.rarity[buckets], torch.tensor(expected))
    assert len(set(buckets.tolist())) == 4
    with pytest.raises(ValueError, match=r"give \[text\]"):
        sketch.fit("a text")
    with pytest.raises(ValueError, match="give one at least"):
        sketch.fit([])


def test_signs_are_the_same_everywhere():
    """Weights are kept beside them: they must not depend on the machine or the release of a library."""
    found = signs(64, torch.device("cpu"))
    assert found.shape == (RUN_BUCKETS, 64)
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    assert "".join("+-"[int(x < 0)] for x in found[0, :32]) == "-+-++++++-----+-++----+-++-++--+"
    assert abs(float((found.T @ found / RUN_BUCKETS - torch.eye(64)).abs().max())) < 0.05


def test_a_size_below_zero_and_a_share_that_is_none_are_refused():
    for fields, message in (({"sketch_size": -1}, "0 and above"), ({"sketch_share": 1.5}, "accepted are 0 to 1")):
        with pytest.raises(StrictDataclassError, match=message):
            textae.EncodzallConfig.nano(**fields)
