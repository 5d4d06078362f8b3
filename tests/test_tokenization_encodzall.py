import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_textae import EncodzallTokenizer
from modeling_textae.models.tokenization_encodzall import split_words


def words_of(text, **kwargs):
    encoded = EncodzallTokenizer(**kwargs)(text)
    index, data = np.array(encoded["word_index"]), text.encode()
    return [bytes(np.frombuffer(data, np.uint8)[index == i]) for i in range(index.max() + 1)] if data else []


def naive_words(ids, longest):
    """The rule in plain loops: cut behind white space, split long words evenly, group short neighbours."""
    space = set(b" \t\n\r\v\f")
    inside = [False] * len(ids)
    run = 4
    for i, b in enumerate(ids):
        run = 0 if not 0x80 <= b < 0xC0 else run + 1
        inside[i] = 0 < run <= 3
    words = []  # (start, end, alone)
    for i, b in enumerate(ids):
        fresh = i == 0 or b > 255 or ids[i - 1] > 255 or (ids[i - 1] in space and b not in space)
        if fresh:
            words.append([i, i + 1])
        else:
            words[-1][1] += 1
    parts = []
    for start, end in words:
        length = end - start
        if length <= longest:
            parts.append((start, end))
            continue
        room = longest - 3 if any(inside[start:end]) else longest
        number = -(-length // room)
        cuts = []
        for k in range(number):
            cut = start + k * length // number
            while cut > start and inside[cut]:
                cut -= 1
            cuts.append(cut)
        cuts = sorted(set(cuts))
        parts += list(zip(cuts, [*cuts[1:], end], strict=True))
    index, group, size, alone = [], -1, 0, True
    for start, end in parts:
        special = ids[start] > 255
        if special or alone or size + end - start > longest:
            group, size = group + 1, 0
        size += end - start
        alone = special
        index += [group] * (end - start)
    return index


def test_the_seeds_rule():
    assert words_of("to be or not to be, ") == [b"to be or ", b"not to be, "]
    assert words_of("internationalisation of") == [b"internatio", b"nalisation ", b"of"]
    assert words_of("  leading") == [b"  leading"]
    assert words_of("a" + " " * 30) == [b"a" + b" " * 9, b" " * 10, b" " * 11]
    assert [word.decode() for word in words_of("日本語のテキスト")] == ["日本", "語のテ", "キスト"]
    assert words_of("") == []


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(st.integers(0, 264), st.sampled_from([32, 97, 98, 0xE6, 0x97, 0xA5]))), st.integers(4, 16))
def test_split_words_equals_plain_loops(ids, longest):
    index = split_words(np.array(ids, dtype=np.int64), np.zeros(1, dtype=np.int64), longest)
    assert index.tolist() == naive_words(ids, longest)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.sampled_from(list("ab é日🙂\n")), max_size=80), st.integers(4, 16))
def test_words_are_short_and_hold_whole_characters(text, longest):
    words = words_of(text, max_word_length=longest)
    assert b"".join(words) == text.encode()
    assert all(1 <= len(word) <= longest for word in words)
    for word in words:
        word.decode()  # raises where a character is cut


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_a_batch_equals_its_texts(texts):
    tokenizer = EncodzallTokenizer()
    assert tokenizer(texts)["word_index"] == [tokenizer(text)["word_index"] for text in texts]


def test_special_tokens_are_words_of_their_own():
    ids = np.array([97, 260, 260, 98, 32, 99])
    assert split_words(ids, np.zeros(1, dtype=np.int64)).tolist() == [0, 1, 2, 3, 3, 3]


def test_padding_has_no_word():
    batch = EncodzallTokenizer()(["ab cd", "e"], padding=True)
    assert batch["word_index"] == [[0] * 5, [0, -1, -1, -1, -1]]


def test_words_too_short_for_a_character_are_refused():
    with pytest.raises(ValueError, match="max_word_length 3"):
        EncodzallTokenizer(max_word_length=3)
