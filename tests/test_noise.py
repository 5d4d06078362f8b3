import numpy as np
import pytest
import torch

from modeling_textae import EncodzallTokenizer
from modeling_textae.data.noise import (
    CLASS_MASK,
    HIDDEN_CHARACTER,
    HIDDEN_WORD,
    MASK,
    MASK_ANY,
    MASK_CONSONANT,
    MASK_OTHER,
    MASK_VOWEL,
    NOT_HIDDEN,
    NoiseRate,
    mask_characters,
    mask_text,
    mask_words,
)

TEXT = "The naïve café – “quoted”, 日本語 text 🙂 has 12 words, and\tmore.\n" * 200


@pytest.fixture(scope="module")
def encoded():
    tokenized = EncodzallTokenizer()(TEXT)
    return np.array(tokenized["input_ids"]), np.array(tokenized["word_index"])


def generator(seed=0):
    return np.random.default_rng(seed)


def test_mask_ids_are_the_tokenizers():
    names = ["<mask>", "<mask_vowel>", "<mask_consonant>", "<mask_other>", "<mask_any>"]
    ids = [MASK, MASK_VOWEL, MASK_CONSONANT, MASK_OTHER, MASK_ANY]
    assert EncodzallTokenizer().convert_tokens_to_ids(names) == ids


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_characters_are_masked_at_the_rate(encoded, rate):
    noisy, masked = mask_characters(encoded[0], rate, generator())
    eligible = 0
    hidden = 0
    position = 0
    for character in TEXT:
        length = len(character.encode())
        span = masked[position : position + length]
        assert span.all() or not span.any()  # whole or not at all
        if character in " \t\n":
            assert not span.any()
        else:
            eligible += 1
            hidden += bool(span.any())
        position += length
    assert abs(hidden / eligible - rate) < 0.02
    assert np.array_equal(noisy[~masked], encoded[0][~masked])
    assert (noisy[masked] >= MASK_VOWEL).all()


def test_class_masks_tell_the_class_and_half_tell_nothing(encoded):
    noisy, masked = mask_characters(encoded[0], 0.4, generator())
    general = noisy[masked] == MASK_ANY
    assert abs(general.mean() - 0.5) < 0.03
    told = noisy[masked][~general]
    assert np.array_equal(told, CLASS_MASK[encoded[0][masked][~general]])
    assert CLASS_MASK[list(b"aEz1-")].tolist() == [MASK_VOWEL, MASK_VOWEL, MASK_CONSONANT, MASK_OTHER, MASK_OTHER]
    assert CLASS_MASK["é".encode()[0]] == MASK_OTHER


def test_runs_are_of_one_or_two_at_low_rates():
    ids = np.frombuffer(b"a" * 200_000, dtype=np.uint8).astype(np.int64)
    _, masked = mask_characters(ids, 0.01, generator())
    change = np.diff(np.concatenate(([0], masked.astype(int), [0])))
    runs = np.flatnonzero(change == -1) - np.flatnonzero(change == 1)
    assert abs((runs == 1).mean() - 0.5) < 0.05
    assert (runs > 2).mean() < 0.05


def test_words_become_one_mask_each(encoded):
    ids, index = encoded
    noisy, noisy_index, hidden = mask_words(ids, index, 0.3, generator())
    number = index[-1] + 1
    assert np.array_equal(np.unique(noisy_index), np.arange(number))  # no word is lost
    masked_words = np.unique(index[hidden])
    assert abs(len(masked_words) / number - 0.3) < 0.02
    assert np.array_equal(noisy_index[noisy == MASK], masked_words)
    assert np.array_equal(noisy[noisy != MASK], ids[~hidden])


def test_text_shares_the_rate_between_words_and_characters(encoded):
    ids, index = encoded
    noisy, noisy_index, hidden = mask_text(ids, index, 0.5, generator())
    assert abs((hidden == HIDDEN_WORD).mean() - 0.1) < 0.02
    spaces = np.isin(ids, list(b" \t\n"))
    outside = ~spaces & (hidden != HIDDEN_WORD)
    assert abs((hidden[outside] == HIDDEN_CHARACTER).mean() - 0.4) < 0.02
    assert np.array_equal(noisy[noisy < 256], ids[hidden == NOT_HIDDEN])
    assert len(noisy) == len(noisy_index)


def test_noise_follows_from_the_generator_alone(encoded):
    first, second, other = (mask_text(*encoded, 0.3, generator(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[2], other[2])


def test_no_noise_changes_nothing_and_empty_text_stays_empty(encoded):
    noisy, index, hidden = mask_text(*encoded, 0.0, generator())
    assert np.array_equal(noisy, encoded[0])
    assert np.array_equal(index, encoded[1])
    assert not hidden.any()
    empty = np.zeros(0, dtype=np.int64)
    assert [len(part) for part in mask_text(empty, empty, 0.5, generator())] == [0, 0, 0]


def test_special_tokens_are_never_masked():
    ids = np.array([257, 97, 259, 98, 258])
    noisy, masked = mask_characters(ids, 1.0, generator())
    assert masked.tolist() == [False, True, False, True, False]
    assert noisy[[0, 2, 4]].tolist() == [257, 259, 258]
    index = np.arange(5)
    assert mask_words(ids, index, 1.0, generator())[0].tolist() == [257, MASK, 259, MASK, 258]
    assert mask_text(ids, index, 1.0, generator())[0][[0, 2, 4]].tolist() == [257, 259, 258]


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_that_are_no_probability_are_refused(encoded, rate):
    for call in (lambda: mask_text(*encoded, rate, generator()), lambda: NoiseRate(rate)):
        with pytest.raises(ValueError, match="accepted are 0 to 1"):
            call()


def test_a_step_reads_the_rate_that_held_delay_steps_before():
    rate = NoiseRate(0.1, delay=2)
    for steps_done in range(1, 6):
        rate.set(steps_done, steps_done / 10)
    assert [rate(step) for step in range(2, 8)] == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.4, 0.5])
    with pytest.raises(ValueError, match="delay of 0"):
        rate.delay = 0


def _read(rate, results):
    results.put([rate(step) for step in (3, 4)])


def test_rates_reach_other_processes():
    rate = NoiseRate(0.1)
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    rate.set(3, 0.7)
    process = context.Process(target=_read, args=(rate, results))
    process.start()
    assert results.get(timeout=60) == pytest.approx([0.1, 0.7])
    process.join()
