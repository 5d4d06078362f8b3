"""Masking noise on bytes: pure functions of ids, a rate and a random generator, and the rate that steps share."""

import numpy as np
import torch

from ..models.byte_tokenizer import NUM_BYTES, character_starts
from ..models.tokenization_encodzall import WHITE_SPACE

# Shares of the common rate: a word is masked with 0.2 of it, a character with 0.8. Source: Encodzall.
WORD_SHARE = 0.2
CHARACTER_SHARE = 0.8
# Half of the masked runs tell nothing of what they hide, half tell each character's class. Source: Encodzall.
GENERAL_MASK_SHARE = 0.5

MASK, MASK_VOWEL, MASK_CONSONANT, MASK_OTHER, MASK_ANY = range(260, 265)

# The mask of each single byte's class; characters of several bytes are of class other.
CLASS_MASK = np.full(NUM_BYTES, MASK_OTHER)
CLASS_MASK[np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)] = MASK_CONSONANT
CLASS_MASK[np.frombuffer(b"aeiouAEIOU", dtype=np.uint8)] = MASK_VOWEL

NOT_HIDDEN, HIDDEN_CHARACTER, HIDDEN_WORD = range(3)


def check_rate(rate):
    """Return a rate, or raise `ValueError` where it is no probability."""
    if not 0 <= rate <= 1:
        raise ValueError(f"noise rate {rate} is no probability: accepted are 0 to 1")
    return rate


def mask_characters(ids, rate, generator):
    """Mask characters in runs of one or two; white space and special tokens stay.

    Runs begin with the probability at which each character is masked with probability `rate`. All bytes of a character
    become the mask, so that the length stays. Source: Encodzall, whose masks could cut a UTF-8 character.

    Args:
        ids (`np.ndarray` of int, shape `(n,)`).
        rate (`float`): from 0 to 1.
        generator (`np.random.Generator`).

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the masked ids, and which of them are masked, each of shape `(n,)`.
    """
    check_rate(rate)
    character = np.cumsum(character_starts(ids)) - 1
    number = int(character[-1]) + 1 if len(ids) else 0
    # A character escapes if no run begins at it and none of two begins before it: (1 - s) (1 - s / 2) = 1 - rate.
    begin = (3 - np.sqrt(9 - 8 * rate)) / 2
    begins = generator.random(number) < begin
    double = generator.random(number) < 0.5
    general = generator.random(number) < GENERAL_MASK_SHARE
    continued = np.zeros(number, dtype=bool)
    continued[1:] = (begins & double)[:-1] & ~begins[1:]
    general[1:] = np.where(continued[1:], general[:-1], general[1:])

    is_byte = ids < NUM_BYTES
    byte = np.where(is_byte, ids, 0)
    masked = (begins | continued)[character] & is_byte & ~WHITE_SPACE[byte]
    return np.where(masked, np.where(general[character], MASK_ANY, CLASS_MASK[byte]), ids), masked


def mask_words(ids, word_index, rate, generator):
    """Replace whole words by one mask each; special tokens stay.

    Args:
        ids (`np.ndarray` of int, shape `(n,)`).
        word_index (`np.ndarray` of int, shape `(n,)`): the word of each id, from 0 without gaps.
        rate (`float`): probability of each word, from 0 to 1.
        generator (`np.random.Generator`).

    Returns:
        `tuple`: the ids and word index that remain, shape `(m,)` with `m <= n`, and which of the original ids are
        hidden, shape `(n,)`.
    """
    check_rate(rate)
    number = int(word_index[-1]) + 1 if len(ids) else 0
    special = (ids >= NUM_BYTES) & (ids < MASK)
    hidden = (generator.random(number) < rate)[word_index] & ~special
    first = np.ones(len(ids), dtype=bool)
    first[1:] = word_index[1:] != word_index[:-1]
    kept = ~hidden | first
    return np.where(hidden, MASK, ids)[kept], word_index[kept], hidden


def mask_text(ids, word_index, rate, generator):
    """Mask characters and words at one common rate.

    Args:
        ids, word_index (`np.ndarray` of int, shape `(n,)`).
        rate (`float`): words are masked with probability `0.2 * rate`, characters with `0.8 * rate`.
        generator (`np.random.Generator`).

    Returns:
        `tuple`: noisy ids and word index, shape `(m,)`, and what hides each original id, shape `(n,)`: `NOT_HIDDEN`,
        `HIDDEN_CHARACTER` or `HIDDEN_WORD`.
    """
    noisy, hidden_character = mask_characters(ids, CHARACTER_SHARE * check_rate(rate), generator)
    noisy, noisy_index, hidden_word = mask_words(noisy, word_index, WORD_SHARE * rate, generator)
    return (
        noisy,
        noisy_index,
        np.where(hidden_word, HIDDEN_WORD, np.where(hidden_character, HIDDEN_CHARACTER, NOT_HIDDEN)),
    )


class NoiseRate:
    """The noise rate of every step, in memory that data loader workers share.

    A controller sets the rate that holds after a step; the batch of step `k` (from 0) reads what held once `k - delay`
    steps were done, so that it is the same however early a worker prepares the batch.

    Args:
        rate (`float`): rate of all steps until one is set.
        delay (`int`, defaults to 1): steps between the last loss that a rate has seen and the batch that uses it; at
            least 1.

    Raises:
        ValueError: where the rate is no probability or the delay is below 1.
    """

    LENGTH = 4096  # rates kept; far more than any prefetch depth

    def __init__(self, rate, delay=1):
        self.delay = delay
        self.rates = torch.full((self.LENGTH,), float(check_rate(rate)), dtype=torch.float64).share_memory_()

    @property
    def delay(self):
        """Steps from a loss to the first batch whose rate it moves."""
        return self._delay

    @delay.setter
    def delay(self, delay):
        if not 1 <= delay < self.LENGTH // 2:
            raise ValueError(f"a delay of {delay} steps cannot be kept: accepted are 1 to {self.LENGTH // 2 - 1}")
        self._delay = delay

    def __call__(self, step):
        """The rate for the batch of a step, counted from 0."""
        return float(self.rates[max(step - self.delay, 0) % self.LENGTH])

    def set(self, steps_done, rate):
        """Set the rate that holds once `steps_done` steps are done."""
        self.rates[steps_done % self.LENGTH] = check_rate(rate)
