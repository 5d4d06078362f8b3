from collections import Counter

import numpy as np
import pytest

from modeling_textae.data.chunk_lists import ChunkDraws, count_chunks, pieces_of, spans_of, token_list, token_uses
from modeling_textae.data.numbering import NumberedDataset
from modeling_textae.models.chunks import chunks_of

TEXTS = ["the end of the river of the land", "the rivers and the end of the sea", " of the of the"] * 5


def test_chunks_are_counted_and_texts_kept_apart():
    chunks, counts, stream = count_chunks(TEXTS)
    expected = Counter(chunk.encode() for text in TEXTS for chunk in chunks_of(text))
    assert dict(zip(chunks, counts.tolist(), strict=True)) == expected
    assert (stream == -1).sum() == len(TEXTS)
    assert [chunks[i].decode() for i in stream[: int(np.flatnonzero(stream == -1)[0])]] == chunks_of(TEXTS[0])


def test_pieces_are_parts_of_whole_characters():
    chunks, counts, _ = count_chunks(["naïve naïve"])
    pieces = pieces_of(chunks, counts * 2, 100)
    assert "ïv".encode() in pieces
    assert all(piece.decode() and len(piece) > 1 for piece in pieces)


def test_spans_are_counted_as_a_plain_loop_counts_them():
    chunks, _, stream = count_chunks(TEXTS)
    expected = Counter()
    for text in TEXTS:
        row = chunks_of(text)
        for start in range(len(row)):
            for end in range(start + 2, len(row) + 1):
                if len("".join(row[start:end]).encode()) <= 16:
                    expected["".join(row[start:end]).encode()] += 1
    assert spans_of(chunks, stream, 5) == {span: n for span, n in expected.items() if n >= 5}


def test_uses_are_those_of_the_tokenization():
    tokens = [b" the", b" of the", b"the", b" end", b" of", b"iver"]
    counted = count_chunks(["the end of the river"])
    uses, without = token_uses(tokens, *counted)
    found = {(bytes([i]) if i < 256 else tokens[i - 256]): n for i, n in enumerate(uses.tolist()) if n}
    # " river" is three tokens: a space, an r, and the rest.
    assert found == {b"the": 1, b" end": 1, b" of the": 1, b" ": 1, b"r": 1, b"iver": 1}
    # Without it: " of" and " the"; three bytes; and so on.
    assert without[256:].tolist() == [1, 1, 2, 3, 2, 3]


def test_the_list_saves_more_tokens_than_the_commonest_chunks():
    tokens, counted = token_list(TEXTS, 12)
    assert len(tokens) <= 12
    chunks, counts, _ = counted
    commonest = [chunks[i] for i in np.argsort(-counts) if len(chunks[i]) > 1][:12]
    assert token_uses(tokens, *counted)[0].sum() < token_uses(commonest, *counted)[0].sum()
    assert any(len(chunks_of(token.decode())) > 1 for token in tokens)
    uses, _ = token_uses(tokens, *counted)
    assert (np.diff(uses[256:]) <= 0).all()


def test_draws_follow_shares_and_frequencies():
    counted = count_chunks(TEXTS)
    draws = ChunkDraws(counted, [b"zz", b"yy"], 0.5, size=20_000, seed=1)
    found = Counter(draws[i]["text"] for i in range(len(draws)))
    assert found["zz"] == found["yy"] == 5000
    chunks, counts, _ = counted
    for chunk, count in zip(chunks, counts, strict=True):
        expected = 10_000 * count / counts.sum()
        assert abs(found[chunk.decode()] - expected) < 6 * expected**0.5
    tempered = ChunkDraws(counted, [], 0.0, temper=0.0, size=9000)
    even = Counter(tempered[i]["text"] for i in range(9000))
    assert all(abs(n - 9000 / len(chunks)) < 6 * (9000 / len(chunks)) ** 0.5 for n in even.values())
    again = ChunkDraws(counted, [b"zz", b"yy"], 0.5, size=20_000, seed=1)
    assert (again.draws == draws.draws).all()
    again.set_epoch(3)
    assert (again.draws != draws.draws).any()
    draws.set_epoch(3)
    assert (again.draws == draws.draws).all()
    NumberedDataset(draws).set_epoch(0)
    assert (again.draws != draws.draws).any()


def test_draws_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="share"):
        ChunkDraws(count_chunks(TEXTS), [], 0.5)
    with pytest.raises(ValueError, match="no chunk"):
        ChunkDraws(count_chunks([]), [b"ab"], 0.5)
