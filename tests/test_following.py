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


def test_a_cache_without_places_is_refused():
    _, following = models()
    inputs, labels = inputs_of(["a boat"], ["a boat"])
    encoded = following.model(**inputs, return_dict=True)
    memory, mask, positions = encoded.memory()
    with pytest.raises(ValueError, match="give source_positions"):
        following.decode(memory, following.shift_right(labels), mask, positions)
    past = following(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[BOS]]), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="give source_positions"):
        following(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[97]]), past_key_values=past)
