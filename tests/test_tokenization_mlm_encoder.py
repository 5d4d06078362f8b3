import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import modeling_textae as textae

TEXTS = ["the red planet and the red house", "Mars is called the red planet", "naïve cafés are red – “quoted”"] * 3


@pytest.fixture(scope="module")
def trained():
    return textae.MlmEncoderTokenizer.train(TEXTS, vocab_size=300)


def test_training_learns_words(trained):
    assert len(trained) == 300
    assert len(trained(" planet")["input_ids"]) == 1
    assert len(textae.MlmEncoderTokenizer()(" planet")["input_ids"]) == 7
    assert (trained.pad_token_id, trained.mask_token_id) == (0, 1)


def test_training_is_deterministic_and_can_be_repeated_on_the_result(trained):
    assert textae.MlmEncoderTokenizer.train(TEXTS, vocab_size=300).get_vocab() == trained.get_vocab()
    again = trained.train_new_from_iterator(iter(["other words altogether"] * 3), 270)
    assert type(again) is textae.MlmEncoderTokenizer
    assert len(again) == 270
    assert again.mask_token_id == 1
    assert len(again(" words [MASK]")["input_ids"]) < len(trained(" words [MASK]")["input_ids"])


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=60))
def test_every_string_round_trips(trained, text):
    for tokenizer in (trained, textae.MlmEncoderTokenizer()):
        assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text


@pytest.mark.parametrize(
    "text", ["", "\0", " ", "\n\t ", "e\u0301", "🙂" * 50, "שלום", "a" * 100_000, "x\r\ny", "  two  spaces "]
)
def test_strange_strings_round_trip(trained, text):
    assert trained.decode(trained(text)["input_ids"]) == text


def test_the_mask_takes_its_space_along(trained):
    ids = trained("the [MASK] planet")["input_ids"]
    assert ids == [*trained("the")["input_ids"], trained.mask_token_id, *trained(" planet")["input_ids"]]
    (answer,) = trained(" red")["input_ids"]
    assert trained.decode([answer if i == trained.mask_token_id else i for i in ids]) == "the red planet"


def test_a_literal_mask_can_be_read_as_text(trained):
    ids = trained("the [MASK] token", split_special_tokens=True)["input_ids"]
    assert trained.mask_token_id not in ids
    assert trained.decode(ids) == "the [MASK] token"


def test_offsets_leave_out_the_space_before_a_word(trained):
    text = "Mars is naïve"
    encoded = trained(text, return_offsets_mapping=True)
    pieces = [text[a:b] for a, b in encoded["offset_mapping"]]
    assert pieces[0].startswith("M")
    assert "is" in pieces
    assert not any(piece.startswith(" ") for piece in pieces)


def test_saving_and_loading_change_nothing(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.pkl"))
    for loaded in (textae.MlmEncoderTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert type(loaded) is textae.MlmEncoderTokenizer
        assert loaded.get_vocab() == trained.get_vocab()
        for text in (*TEXTS[:3], "a [MASK] b", "  x"):
            assert loaded(text, return_offsets_mapping=True) == trained(text, return_offsets_mapping=True)


@pytest.mark.parametrize("text", ["ab\ud800c", ["fine", "ab\udfffc"]])
def test_lone_surrogates_raise_with_their_position(trained, text):
    with pytest.raises(UnicodeEncodeError, match="position 2"):
        trained(text)


@pytest.mark.parametrize(
    ("size", "message"),
    [(257, "cannot hold every byte: accepted is 258"), (5000, "too large for this text, which has")],
)
def test_impossible_vocabularies_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        textae.MlmEncoderTokenizer.train(TEXTS, size)
