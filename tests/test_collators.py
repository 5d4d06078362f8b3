import numpy as np
import pytest
import torch

from modeling_textae import EncodzallTokenizer
from modeling_textae.data.collators import EncodzallMaskingCollator, pad_rows
from modeling_textae.data.noise import NoiseRate

TEXTS = ["to be or not to be, that is the question", "internationalisation of naïve cafés"]


def examples(epoch=0, step=0, indices=(0, 1)):
    return [{"text": TEXTS[i % 2], "index": i, "epoch": epoch, "step": step} for i in indices]


@pytest.fixture
def tokenizer():
    return EncodzallTokenizer()


def test_labels_are_the_clean_text_and_its_end(tokenizer):
    batch = EncodzallMaskingCollator(tokenizer, rate=0.5)(examples())
    for text, labels, words in zip(TEXTS, batch["labels"], batch["target_word_index"], strict=True):
        kept = labels[labels != -100]
        assert kept[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(kept[:-1]) == text
        assert words[labels != -100][:-1].tolist() == tokenizer(text)["word_index"]
        assert words[len(kept) - 1] == -1


def test_noisy_and_clean_text_have_the_same_words(tokenizer):
    batch = EncodzallMaskingCollator(tokenizer, rate=0.9)(examples())
    assert torch.equal(batch["word_index"].amax(1), batch["target_word_index"].amax(1))
    assert torch.equal(batch["attention_mask"] == 1, batch["word_index"] >= 0)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()


def test_noise_follows_from_seed_epoch_and_index_alone(tokenizer):
    def noisy(seed=0, **kwargs):
        batch = EncodzallMaskingCollator(tokenizer, rate=0.5, seed=seed)(examples(**kwargs))
        return [row[mask == 1].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]

    base = noisy()
    assert base == noisy()
    assert base[::-1] == noisy(indices=(1, 0))  # whatever the order and the company
    for other in (noisy(epoch=1), noisy(seed=1), noisy(indices=(2, 3))):
        assert all(a != b for a, b in zip(base, other, strict=True))


def test_the_rate_is_that_of_the_step(tokenizer):
    rate = NoiseRate(0.0)
    rate.set(4, 1.0)
    collator = EncodzallMaskingCollator(tokenizer, rate)
    assert (collator(examples(step=4))["input_ids"] <= 256).all()
    assert (collator(examples(step=5))["input_ids"] > 256).any()


def test_numbering_is_optional(tokenizer):
    collator = EncodzallMaskingCollator(tokenizer, rate=0.5)
    first, second = (collator([{"text": TEXTS[0]}])["input_ids"].tolist() for _ in range(2))
    assert first != second


def test_long_texts_are_cut_and_missing_texts_refused(tokenizer):
    batch = EncodzallMaskingCollator(tokenizer, rate=0.0, max_length=10)([{"text": TEXTS[0]}])
    assert batch["input_ids"].shape == (1, 10)
    with pytest.raises(ValueError, match="need a text, not only"):
        EncodzallMaskingCollator(tokenizer)([{"line": "x"}])


def test_rows_are_padded_on_the_right():
    padded = pad_rows([np.array([1, 2]), np.array([], dtype=int), np.array([3])], -1)
    assert padded.tolist() == [[1, 2], [-1, -1], [3, -1]]
