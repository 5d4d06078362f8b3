import numpy as np
import pytest
import torch
from model_cases import encodzall_config
from rapidfuzz.distance import Levenshtein

import modeling_textae as textae
from modeling_textae.models.following import SourceFollower

BOS, PAD = 257, 256


def padded(rows, fill):
    width = max(map(len, rows))
    return torch.tensor([[*row] + [fill] * (width - len(row)) for row in rows])


def plain_place(source, written):
    """The longest of the beginnings of a source that resemble what is written most."""
    edits = [Levenshtein.distance(source[:end], written) for end in range(len(source) + 1)]
    return max(end for end in range(len(source) + 1) if edits[end] == min(edits))


def test_places_are_where_the_source_resembles_what_is_written_most():
    generator = np.random.default_rng(0)
    draw = lambda: bytes(generator.integers(97, 100, generator.integers(1, 12)).tolist())  # noqa: E731
    sources, texts = ([draw() for _ in range(40)] for _ in range(2))
    ids = padded([[BOS, *text] for text in texts], PAD)
    found = SourceFollower(padded(sources, -1))(ids)
    for row, source, text in zip(found.tolist(), sources, texts, strict=True):
        expected = [plain_place(source, text[:end]) for end in range(len(text) + 1)]
        assert row[: len(text) + 1] == expected
        assert set(row[len(text) + 1 :]) <= {expected[-1]}  # padding moves nothing


@pytest.mark.parametrize(
    ("source", "text", "places"),
    [
        ("tlie end", "the end", [0, 1, 2, 4, 5, 6, 7, 8]),
        ("te end", "the end", [0, 1, 2, 2, 3, 4, 5, 6]),
        ("the  end", "the end", [0, 1, 2, 3, 4, 6, 7, 8]),
    ],
)
def test_places_pass_over_what_noise_has_put_in_and_left_out(source, text, places):
    follower = SourceFollower(padded([source.encode()], -1))
    assert follower(torch.tensor([[BOS, *text.encode()]])).tolist() == [places]


def test_ids_one_by_one_are_followed_as_all_at_once_and_other_ids_anew():
    follower = SourceFollower(padded([b"abcabc", b"bca"], -1))
    ids, others = (torch.tensor([[BOS, *a], [BOS, *b]]) for a, b in ((b"acab", b"ccca"), (b"abab", b"bcab")))
    expected = follower(ids)
    for end in range(1, 6):
        assert torch.equal(follower(ids[:, :end]), expected[:, :end])
    assert torch.equal(follower(others), SourceFollower(padded([b"abcabc", b"bca"], -1))(others))
    assert torch.equal(follower(ids[:, :3]), expected[:, :3])


def models(**fields):
    """A model that counts in what it writes, and one with its weights that counts in its source."""
    torch.manual_seed(0)
    plain = textae.EncodzallForConditionalGeneration(encodzall_config(**fields)).eval()
    following = textae.EncodzallForConditionalGeneration(encodzall_config(follows_source=True, **fields)).eval()
    following.load_state_dict(plain.state_dict())
    return plain, following


def inputs_of(noisy, clean, side="right"):
    tokenizer = textae.EncodzallTokenizer()
    inputs = tokenizer(noisy, padding=True, padding_side=side, return_tensors="pt")
    return dict(inputs), padded([[*text.encode(), 258] for text in clean], -100)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_that_is_its_source_is_scored_as_without(side):
    plain, following = models()
    inputs, labels = inputs_of(["to be or not", "a boat"], ["to be or not", "a boat"], side)
    asked = labels != -100
    found, expected = (model(**inputs, labels=labels).logits[asked] for model in (following, plain))
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_words_are_asked_for_where_they_stand_in_the_source():
    """Given the places by hand, the plain decoder's every step is that of a text of which as much is written."""
    plain, following = models()
    inputs, labels = inputs_of(["tlie old riuer"], ["the old river"])
    found = following(**inputs, labels=labels).logits
    encoded = plain.model(**inputs, return_dict=True)
    places = [0, 1, 2, *range(4, 15)]
    expected = plain.decode(
        encoded.last_hidden_state,
        plain.shift_right(labels),
        encoded.word_mask,
        encoded.word_positions,
        source_positions=torch.tensor([places]),
    )
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain(**inputs, labels=labels).logits, atol=1e-3)


@torch.no_grad()
def test_what_is_not_written_yet_moves_nothing():
    _, following = models()
    inputs, labels = inputs_of(["tlie old riuer"], ["the old river"])
    _, others = inputs_of(["tlie old riuer"], ["the old boats"])
    same = (labels == others).int().cumprod(1).sum()
    first, second = (following(**inputs, labels=rows).logits[:, : same + 1] for rows in (labels, others))
    torch.testing.assert_close(first, second)


@torch.no_grad()
def test_masked_words_take_their_usual_length():
    _, following = models()
    ids = torch.tensor([[*b"a ", 260, *b"boat"]])
    encoded = following.model(ids, return_dict=True)
    assert encoded.source_positions.tolist() == [[0, 1, 2, 11, 12, 13, 14, 15]]


@torch.no_grad()
def test_what_the_mask_hides_from_the_decoder_moves_nothing():
    _, following = models()
    inputs, labels = inputs_of(["tlie old riuer"], ["the old river"])
    ids = following.shift_right(labels)
    expected = following(**inputs, decoder_input_ids=ids, use_cache=False).logits
    hidden = torch.cat((torch.full((1, 2), 65), ids), 1)
    mask = torch.cat((torch.zeros(1, 2, dtype=torch.long), torch.ones_like(ids)), 1)
    found = following(**inputs, decoder_input_ids=hidden, decoder_attention_mask=mask, use_cache=False).logits[:, 2:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_follows_a_noisy_source_as_a_whole_pass_does(num_beams):
    _, following = models()
    inputs, _ = inputs_of(["tlie old riuer by tbe sea", "a boat"], ["", ""])
    encoded = following.model(**inputs, return_dict=True)
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "num_beams": num_beams, "do_sample": False}
    first = following.generate(encoder_outputs=following.model(**inputs, return_dict=True), **options)
    assert torch.equal(first, following.generate(**inputs, **options))
    assert torch.equal(first, following.generate(**inputs, use_cache=False, **options))
    if num_beams == 1:
        logits = following(encoder_outputs=encoded, decoder_input_ids=first, use_cache=False).logits
        logits[:, :, following.config.eos_token_id] = -torch.inf  # min_new_tokens
        assert torch.equal(logits[:, :-1].argmax(-1), first[:, 1:])


@torch.no_grad()
def test_what_is_encoded_may_be_a_tuple_or_a_dict():
    for model in models(byte_memory=True):
        inputs, labels = inputs_of(["tlie old riuer"], ["the old river"])
        encoded = model.model(**inputs, return_dict=True)
        expected = model(encoder_outputs=encoded, labels=labels).logits
        for form in (encoded.to_tuple(), dict(encoded)):
            torch.testing.assert_close(model(encoder_outputs=form, labels=labels).logits, expected)
        options = {"max_new_tokens": 5, "do_sample": False}
        written = model.generate(encoder_outputs=dict(encoded), **options)
        assert torch.equal(written, model.generate(**inputs, **options))


def test_a_follower_is_of_the_texts_that_are_there_now():
    _, following = models()
    inputs, _ = inputs_of(["tlie old riuer", "the old river"], ["", ""])
    encoded = following.model(**inputs, return_dict=True)
    ids = torch.tensor([[BOS, *b"the ol"]] * 2)
    first = encoded.followed(ids)
    for name in ("source_ids", "source_positions"):
        encoded[name] = encoded[name].flip(0)
    assert torch.equal(encoded.followed(ids), first.flip(0))
    with pytest.raises(ValueError, match="2 texts are encoded, and 1"):
        encoded.followed(ids[:1])


def test_what_hides_what_is_written_is_refused():
    _, following = models()
    inputs, labels = inputs_of(["a boat"], ["a boat"])
    labels[:, :2] = -100
    with pytest.raises(ValueError, match="give decoder_input_ids"):
        following(**inputs, labels=labels)
    start = torch.tensor([[BOS, *b"a bo"]])
    with pytest.raises(ValueError, match="give source_positions"):
        following.generate(**inputs, decoder_input_ids=start, prefill_chunk_size=2, max_new_tokens=4)


def test_decoding_without_places_is_refused():
    _, following = models()
    inputs, labels = inputs_of(["a boat"], ["a boat"])
    encoded = following.model(**inputs, return_dict=True)
    memory, mask, positions = encoded.memory()
    with pytest.raises(ValueError, match="give source_positions"):
        following.decode(memory, following.shift_right(labels), mask, positions)
    past = following(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[BOS]]), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="give source_positions"):
        following(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[97]]), past_key_values=past)
