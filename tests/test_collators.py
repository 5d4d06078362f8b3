import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling

from modeling_textae import CtaTokenizer, EncodzallTokenizer, MlmEncoderTokenizer
from modeling_textae.data.collators import (
    CtaCollator,
    EncodzallDenoisingCollator,
    EncodzallMaskingCollator,
    MlmEncoderMaskingCollator,
    pad_rows,
    seed_of,
)
from modeling_textae.data.noise import NoiseRate
from modeling_textae.data.ocr_noise import OcrNoiseModel
from modeling_textae.evaluation.metrics import character_error_rate

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


def test_noise_of_the_world_is_put_on_texts_alone(tokenizer):
    batch = EncodzallDenoisingCollator(tokenizer, rate=0.2)(examples(indices=range(20)))
    rows = zip(batch["input_ids"], batch["attention_mask"], batch["word_index"], batch["labels"], strict=True)
    changed = 0
    for i, (ids, mask, words, labels) in enumerate(rows):
        noisy, clean = tokenizer.decode(ids[mask == 1]), tokenizer.decode(labels[labels != -100][:-1])
        assert clean == TEXTS[i % 2]
        assert words[mask == 1].tolist() == tokenizer(noisy)["word_index"]
        changed += noisy != clean
    assert changed > 10
    same = EncodzallDenoisingCollator(tokenizer, rate=0.0)(examples())
    assert [tokenizer.decode(ids[ids < 256]) for ids in same["input_ids"]] == TEXTS


def test_noise_of_the_world_follows_from_seed_epoch_and_index_and_differs_by_text(tokenizer):
    def noisy(**kwargs):
        batch = EncodzallDenoisingCollator(tokenizer, rate=0.2)(examples(**kwargs))
        return [tokenizer.decode(ids[ids < 256]) for ids in batch["input_ids"]]

    assert noisy() == noisy() == noisy(indices=(1, 0))[::-1]
    assert noisy() != noisy(epoch=1)
    texts = noisy(indices=range(0, 400, 2))
    rates = np.array([character_error_rate([text], [TEXTS[0]]) for text in texts])
    assert rates.mean() == pytest.approx(0.2, rel=0.3)
    assert (rates < 0.06).mean() > 0.1
    assert (rates > 0.3).mean() > 0.1


def test_fitted_noise_takes_the_place_of_the_general(tokenizer, tmp_path):
    OcrNoiseModel.fit([("tc be cr nct", "to be or not")] * 5).save_pretrained(tmp_path)
    batch = EncodzallDenoisingCollator(tokenizer, rate=0.1, noise_model=str(tmp_path))(
        examples(indices=range(0, 20, 2))
    )
    noisy = [tokenizer.decode(ids[ids < 256]) for ids in batch["input_ids"]]
    assert {a for text in noisy for a, b in zip(text, TEXTS[0], strict=True) if a != b} == {"c"}


def test_rows_are_padded_on_the_right():
    padded = pad_rows([np.array([1, 2]), np.array([], dtype=int), np.array([3])], -1)
    assert padded.tolist() == [[1, 2], [-1, -1], [3, -1]]


# Masked tokens

BPE_TEXTS = ["to be or not to be, that is the question", "whole words: internationalisation of cafés"]


@pytest.fixture(scope="module")
def bpe():
    return MlmEncoderTokenizer.train([*BPE_TEXTS, "the quick brown fox"] * 2, vocab_size=300)


def numbered(texts, **fields):
    return [{"text": text, "index": i, "epoch": 0, "step": 0} | fields for i, text in enumerate(texts)]


def test_of_masked_tokens_most_become_the_mask_some_another_some_stay(bpe):
    batch = MlmEncoderMaskingCollator(bpe, rate=0.4)(numbered(BPE_TEXTS * 300))
    real, asked = batch["attention_mask"] == 1, batch["labels"] != -100
    ids, labels = batch["input_ids"][asked], batch["labels"][asked]
    assert not (asked & ~real).any()
    assert (asked.sum() / real.sum()).item() == pytest.approx(0.4, abs=0.02)
    assert (ids == bpe.mask_token_id).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (ids == labels).float().mean().item() == pytest.approx(0.1, abs=0.02)
    clean = torch.where(asked, batch["labels"], batch["input_ids"])
    for row, mask, text in zip(clean, real, BPE_TEXTS * 300, strict=True):
        assert bpe.decode(row[mask]) == text


def test_masks_are_those_of_transformers_own_collator(bpe):
    ours = MlmEncoderMaskingCollator(bpe, rate=0.3, seed=5)
    batch = ours([{"text": BPE_TEXTS[0], "index": 7, "epoch": 2}])
    theirs = DataCollatorForLanguageModeling(bpe, mlm_probability=0.3, seed=seed_of(5, 2, 7))
    expected = theirs([bpe(BPE_TEXTS[0], return_special_tokens_mask=True)])
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["labels"], expected["labels"])


def test_masks_follow_from_seed_epoch_and_index_alone(bpe):
    def masked(texts, seed=0, **fields):
        batch = MlmEncoderMaskingCollator(bpe, rate=0.4, seed=seed)(numbered(texts, **fields))
        return [row[mask == 1].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]

    base = masked(BPE_TEXTS)
    assert base == masked(BPE_TEXTS)
    assert base[0] == masked(BPE_TEXTS[:1])[0]  # whatever the company
    for other in (masked(BPE_TEXTS, epoch=1), masked(BPE_TEXTS, seed=1), masked(BPE_TEXTS, index=9)):
        assert all(a != b for a, b in zip(base, other, strict=True))


@pytest.mark.parametrize("text", [BPE_TEXTS[1], "naïve 日本語 caf🙂é x"])
def test_whole_words_are_masked_whole(bpe, text):
    batch = MlmEncoderMaskingCollator(bpe, rate=0.5, whole_words=True)(numbered([text] * 200))
    words = [" " * (i > 0) + word for i, word in enumerate(text.split())]
    of_token = np.repeat(np.arange(len(words)), [len(bpe(word)["input_ids"]) for word in words])
    assert len(of_token) == batch["labels"].shape[1] > len(words)
    asked = (batch["labels"] != -100).numpy()
    for word in range(len(words)):
        of_word = asked[:, of_token == word]
        assert (of_word.all(1) == of_word.any(1)).all()
        assert 0.3 < of_word.any(1).mean() < 0.7
    assert (batch["input_ids"].numpy()[asked] == bpe.mask_token_id).all()


@pytest.mark.parametrize("whole_words", [False, True])
def test_empty_texts_and_literal_masks_are_not_asked_for(bpe, whole_words):
    collator = MlmEncoderMaskingCollator(bpe, rate=1.0, whole_words=whole_words)
    batch = collator(numbered(["", "a [MASK] b[PAD]"]))
    assert batch["attention_mask"].sum(1).tolist() == [0, len(bpe("a [MASK] b[PAD]")["input_ids"])]
    special = torch.tensor([bpe.pad_token_id, bpe.mask_token_id])
    assert (batch["labels"][0] == -100).all()
    assert not torch.isin(batch["labels"], special).any()
    assert (batch["labels"][1] != -100).sum() == batch["attention_mask"][1].sum() - 2


def test_the_mask_rate_is_that_of_the_step(bpe):
    rate = NoiseRate(0.0)
    rate.set(4, 1.0)
    collator = MlmEncoderMaskingCollator(bpe, rate)
    assert (collator(numbered(BPE_TEXTS, step=4))["labels"] == -100).all()
    batch = collator(numbered(BPE_TEXTS, step=5))
    assert torch.equal(batch["labels"] != -100, batch["attention_mask"] == 1)


def test_workers_make_noise_of_their_own_in_every_epoch(tokenizer):
    """Under transformers' own Trainer, where examples have no numbers."""
    data = [{"text": TEXTS[0]}] * 6
    collator = EncodzallDenoisingCollator(tokenizer, rate=0.3)
    collator = pickle.loads(pickle.dumps(collator))  # as workers that are spawned get it

    def epoch():
        loader = DataLoader(data, 1, num_workers=2, collate_fn=collator)
        return [tokenizer.decode(batch["input_ids"][0]) for batch in loader]

    torch.manual_seed(0)
    first, second = epoch(), epoch()
    assert len({*first, *second}) > 9  # a text may come out as another did
    torch.manual_seed(0)
    assert epoch() == first


def test_pairs_that_would_be_cut_apart_and_special_tokens_are_refused(tokenizer):
    with pytest.raises(ValueError, match="cannot be cut where they are"):
        EncodzallDenoisingCollator(tokenizer, max_length=8)([{"text": TEXTS[0], "noisy": TEXTS[0]}])
    tokenizer = EncodzallTokenizer(split_special_tokens=False)
    with pytest.raises(ValueError, match="special tokens are none"):
        EncodzallDenoisingCollator(tokenizer)([{"text": "the end<eos>"}])


def test_long_texts_are_cut_to_tokens_and_missing_texts_refused(bpe):
    assert MlmEncoderMaskingCollator(bpe, max_length=5)(numbered(BPE_TEXTS))["input_ids"].shape == (2, 5)
    with pytest.raises(ValueError, match="need a text, not only"):
        MlmEncoderMaskingCollator(bpe)([{"line": "x"}])


def test_cta_labels_every_token_with_itself():
    tokenizer = CtaTokenizer()
    batch = CtaCollator(tokenizer)(examples())
    for text, ids, mask, labels in zip(
        TEXTS, *(batch[k] for k in ("input_ids", "attention_mask", "labels")), strict=True
    ):
        assert tokenizer.decode(ids[mask == 1]) == text
        assert torch.equal(labels[mask == 1], ids[mask == 1])
        assert (labels[mask == 0] == -100).all()
    assert CtaCollator(tokenizer, max_length=5)(examples())["input_ids"].shape == (2, 5)
    assert CtaCollator(tokenizer)([{"text": ""}])["input_ids"].shape == (1, 0)


def test_cta_replaces_tokens_in_inputs_and_labels_alike():
    tokenizer = CtaTokenizer()
    text = "e" * 2000

    def ids(**numbers):
        batch = CtaCollator(tokenizer, rate=0.25, seed=3)([{"text": text} | numbers])
        assert torch.equal(batch["input_ids"], batch["labels"])
        return batch["input_ids"][0]

    replaced = ids(index=1) != tokenizer("e")["input_ids"][0]
    assert 0.2 < replaced.float().mean() < 0.3
    assert len(set(ids(index=1).tolist())) > 150
    assert tokenizer.pad_token_id not in ids(index=1)
    assert torch.equal(ids(index=1), ids(index=1))
    assert not torch.equal(ids(index=1), ids(index=2))
    assert not torch.equal(ids(index=1), ids(index=1, epoch=1))
