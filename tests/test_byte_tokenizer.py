import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BatchEncoding

from modeling_textae import EncodzallTokenizer
from modeling_textae.models.byte_tokenizer import ByteTokenizer, character_starts

TEXTS = [
    "",
    "\x00",
    "a\x00b",
    "\r\n\t",
    "́alone",
    "שלום עולם",
    "👩‍👩‍👧‍👦",
    "<eos><pad>",
    "x" * 1_000_000,
    "é" * 1000,
    "﻿bom",
]


@pytest.fixture(params=[ByteTokenizer, EncodzallTokenizer])
def tokenizer(request):
    return request.param()


@pytest.mark.parametrize("text", TEXTS, ids=lambda t: repr(t[:12]))
def test_every_text_round_trips(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_unicode_round_trips(text):
    tokenizer = EncodzallTokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_a_lone_surrogate_raises_with_its_position(tokenizer):
    with pytest.raises(UnicodeEncodeError, match="position 3"):
        tokenizer("abc\ud800d")


def test_invalid_bytes_decode_to_replacements(tokenizer):
    assert tokenizer.decode([0xFF, 0x61]) == "�a"
    assert tokenizer.decode_bytes([0xFF, 0x61]) == b"\xffa"


def test_ids_out_of_range_are_refused(tokenizer):
    for wrong in (len(tokenizer), -1):
        with pytest.raises(ValueError, match=f"id {wrong} is no token"):
            tokenizer.decode([65, wrong])


def test_special_tokens_stand_above_the_bytes():
    tokenizer = EncodzallTokenizer()
    assert tokenizer.pad_token_id == 256
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id] == [257, 258, 259]
    names = ["<mask>", "<mask_vowel>", "<mask_consonant>", "<mask_other>", "<mask_any>"]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(260, 265))
    assert sorted(tokenizer.all_special_ids) == list(range(256, 265))
    assert len(tokenizer) == tokenizer.vocab_size == 265


def test_literal_special_tokens_are_text_unless_asked_for(tokenizer):
    assert tokenizer("a<eos>")["input_ids"] == list(b"a<eos>")
    assert tokenizer("a<eos>", split_special_tokens=False)["input_ids"] == [97, 258]
    assert tokenizer.decode([97, 258, 98]) == "a<eos>b"
    assert tokenizer.decode([97, 258, 98], skip_special_tokens=True) == "ab"


def test_added_tokens_are_found_and_come_back(tokenizer):
    size = len(tokenizer)
    tokenizer.add_tokens(["[NEW]"])
    assert tokenizer("a[NEW]b")["input_ids"] == [97, size, 98]
    assert tokenizer.decode([97, size, 98]) == "a[NEW]b"


def test_batches_pad_on_either_side_to_tensors(tokenizer):
    batch = tokenizer(["abc", "d", ""], padding=True, return_tensors="pt")
    assert isinstance(batch, BatchEncoding)
    assert batch["input_ids"].tolist() == [[97, 98, 99], [100, 256, 256], [256, 256, 256]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    left = tokenizer(["abc", "d"], padding=True, padding_side="left", return_tensors="pt")
    assert left["input_ids"].tolist() == [[97, 98, 99], [256, 256, 100]]
    fixed = tokenizer(["abc"], padding="max_length", max_length=5, pad_to_multiple_of=4)
    assert fixed["input_ids"] == [[97, 98, 99, 256, 256, 256, 256, 256]]


def test_one_text_gives_a_row_and_tensors_a_batch(tokenizer):
    assert tokenizer("ab")["input_ids"] == [97, 98]
    assert torch.equal(tokenizer("ab", return_tensors="pt")["input_ids"], torch.tensor([[97, 98]]))
    assert tokenizer(["ab"])["input_ids"] == [[97, 98]]
    assert tokenizer([])["input_ids"] == []
    assert tokenizer.encode("ab") == [97, 98]


def test_ragged_batches_are_no_tensor(tokenizer):
    with pytest.raises(ValueError, match="padding"):
        tokenizer(["a", "bc"], return_tensors="pt")


def test_collating_pads_derived_inputs_too():
    tokenizer = EncodzallTokenizer()
    rows = [tokenizer("ab cd"), tokenizer("e")]
    padded = tokenizer.pad(rows, return_tensors="pt")
    direct = tokenizer(["ab cd", "e"], padding=True, return_tensors="pt")
    for name in direct:
        assert torch.equal(padded[name], direct[name]), name


@pytest.mark.parametrize("length", range(1, 9))
def test_truncation_never_cuts_a_character(tokenizer, length):
    text = "é日🙂a"
    ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    whole = [text[:n].encode() for n in range(len(text) + 1)]
    assert bytes(ids) == max((b for b in whole if len(b) <= length), key=len)


@pytest.mark.parametrize("length", range(1, 9))
def test_truncation_on_the_left_keeps_the_end(tokenizer, length):
    text = "aé日🙂é"
    tokenizer.truncation_side = "left"
    ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    whole = [text[n:].encode() for n in range(len(text) + 1)]
    assert bytes(ids) == max((b for b in whole if len(b) <= length), key=len)


def test_pairs_and_ends(tokenizer):
    assert tokenizer("a", "b")["input_ids"] == [97, 259, 98]
    assert tokenizer([("a", "b")])["input_ids"] == [[97, 259, 98]]
    assert tokenizer("aaaa", "bb", truncation=True, max_length=5)["input_ids"] == [97, 97, 259, 98, 98]
    ends = type(tokenizer)(starts_with_bos=True, ends_with_eos=True)
    assert ends("abc", truncation=True, max_length=4)["input_ids"] == [257, 97, 98, 258]
    assert ends("abc", add_special_tokens=False)["input_ids"] == [97, 98, 99]
    assert ends("a", return_special_tokens_mask=True)["special_tokens_mask"] == [1, 0, 1]
    with pytest.raises(ValueError, match="one second text for each"):
        tokenizer(["a", "b"], ["c"])


def test_words_split_by_the_caller_and_ids(tokenizer):
    assert tokenizer(["a ", "b"], is_split_into_words=True)["input_ids"] == [97, 32, 98]
    assert tokenizer([[97, 98], [99]])["input_ids"] == [[97, 98], [99]]
    with pytest.raises(ValueError, match="ids must be from 0 to"):
        tokenizer([[9999, -5]])
    with pytest.raises(ValueError, match="truncate with longest_first"):
        tokenizer("a", "bbbbbb", truncation="only_first", max_length=4)
    with pytest.raises(ValueError, match="must be a str"):
        tokenizer([3.5])


def test_what_a_byte_tokenizer_has_not_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no overflowing tokens"):
        tokenizer("abc", return_offsets_mapping=True)


def test_saved_tokenizers_come_back(tmp_path):
    EncodzallTokenizer(max_word_length=8, ends_with_eos=True).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is EncodzallTokenizer
    assert loaded("abc defg hijk")["input_ids"][-1] == 258
    assert loaded.max_word_length == 8
    assert loaded.get_vocab() == EncodzallTokenizer().get_vocab()


def naive_character_starts(ids):
    starts, since = [], 4
    for i in ids:
        since = 0 if not 0x80 <= i < 0xC0 else since + 1
        starts.append(since == 0 or since > 3)
    return starts


@settings(deadline=None)
@given(st.lists(st.integers(0, 264)))
def test_character_starts_equal_the_naive_rule(ids):
    assert character_starts(np.array(ids, dtype=np.int64)).tolist() == naive_character_starts(ids)


@settings(deadline=None)
@given(st.text())
def test_character_starts_of_text_are_its_characters(text):
    starts = character_starts(np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64))
    assert starts.sum() == len(text)
