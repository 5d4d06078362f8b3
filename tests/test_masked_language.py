import json
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from model_cases import mlm_encoder_config
from transformers import BertConfig, BertForMaskedLM

import modeling_textae as textae
import run_eval
from modeling_textae.evaluation.masked_language import (
    mask_each_token,
    mask_texts,
    masked_language_rows,
    model_scores,
    ngram_models,
    ngram_scores,
    run_report,
    sentences_of,
)
from modeling_textae.evaluation.ngrams import DISCOUNT, ByteNgrams, TokenCounts

TEXTS = ["the red planet is called Mars", "the blue planet is called Earth", "naïve words", ""]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return textae.MlmEncoderForMaskedLM(mlm_encoder_config()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return textae.MlmEncoderTokenizer()


def test_masks_are_seeded_and_at_least_one_a_text(tokenizer):
    masked = mask_texts(TEXTS * 200, tokenizer, rate=0.15)
    assert len(masked) == 600  # none for the empty text
    assert [m.hidden.tolist() for m in masked[:9]] == [m.hidden.tolist() for m in mask_texts(TEXTS * 3, tokenizer)]
    assert all(m.hidden.any() for m in masked)
    assert np.concatenate([m.hidden for m in masked]).mean() == pytest.approx(0.15, abs=0.01)
    assert all(m.hidden.sum() == 1 for m in mask_texts(TEXTS, tokenizer, rate=0.0))


def test_special_tokens_in_a_text_are_never_asked_for(tokenizer):
    masked = mask_texts(["a [MASK] b", "[MASK]"], tokenizer, rate=1.0)
    assert len(masked) == 1
    assert masked[0].hidden.tolist() == [True, False, True, True]
    assert len(mask_each_token(["a [MASK] b", "[MASK]"], tokenizer)) == 3
    with pytest.raises(ValueError, match="noise rate 15"):
        mask_texts(TEXTS, tokenizer, rate=15)


def test_each_token_is_hidden_once(tokenizer):
    masked = mask_each_token(TEXTS[:1], tokenizer)
    assert len(masked) == len(TEXTS[0])
    assert torch.equal(torch.tensor(np.stack([m.hidden for m in masked])), torch.eye(len(masked)).bool())


@torch.no_grad()
def test_scores_equal_a_plain_loop(model, tokenizer):
    masked = mask_texts(TEXTS, tokenizer, rate=0.3)
    scores, correct = model_scores(model, tokenizer, masked, batch_size=2)
    expected = []
    for text in masked:
        ids = torch.tensor(text.ids)
        logits = model(torch.where(torch.tensor(text.hidden), tokenizer.mask_token_id, ids)[None]).logits[0]
        for place in np.flatnonzero(text.hidden):
            expected.append((logits[place].log_softmax(-1)[ids[place]].item(), logits[place].argmax() == ids[place]))
    assert scores.tolist() == pytest.approx([score for score, _ in expected], rel=1e-4)
    assert correct.tolist() == [bool(hit) for _, hit in expected]


def naive_after(texts, left, size):
    """Discounted bigrams in plain loops."""
    unigram = [1 + sum(text.count(x) for text in texts) for x in range(size)]
    unigram = [u / sum(unigram) for u in unigram]
    pairs = [(a, b) for text in texts for a, b in pairwise(text)]
    followers = [b for a, b in pairs if a == left]
    if not followers:
        return unigram
    freed = DISCOUNT * len(set(followers)) / len(followers)
    return [max(followers.count(x) - DISCOUNT, 0) / len(followers) + freed * unigram[x] for x in range(size)]


def test_ngrams_equal_plain_loops():
    texts = [[0, 1, 2, 1, 2, 3], [3, 3, 1], [2], []]
    counts = TokenCounts([np.array(text, dtype=int) for text in texts], 6)
    given = np.array([-1, 0, 1, 2, 3, 4, 5])
    after = counts.after(given)
    np.testing.assert_allclose(after.sum(1), 1)
    np.testing.assert_allclose(after[0], counts.unigram)
    for row, token in zip(after[1:], given[1:]):
        np.testing.assert_allclose(row, naive_after(texts, token, 6))
    backwards = [text[::-1] for text in texts]
    between = counts.between(np.array([1]), np.array([3]))[0]
    product = [
        a * b / u
        for a, b, u in zip(naive_after(texts, 1, 6), naive_after(backwards, 3, 6), counts.unigram, strict=True)
    ]
    np.testing.assert_allclose(between, np.array(product) / sum(product))


def test_ngrams_see_only_what_is_not_hidden(tokenizer):
    ids = [np.array(row) for row in tokenizer(TEXTS)["input_ids"]]
    counts = TokenCounts(ids, len(tokenizer))
    seen = []

    def probabilities(left, right):
        seen.append((left, right))
        return ngram_models(counts)["bigrams (both neighbours)"](left, right)

    masked = mask_texts(TEXTS, tokenizer, rate=0.5)
    scores, _ = ngram_scores(probabilities, masked, rows=7)
    left, right = (np.concatenate(side) for side in zip(*seen, strict=True))
    place = 0
    for text in masked:
        for i in np.flatnonzero(text.hidden):
            assert left[place] == (text.ids[i - 1] if i and not text.hidden[i - 1] else -1)
            last = i + 1 == len(text.ids)
            assert right[place] == (-1 if last or text.hidden[i + 1] else text.ids[i + 1])
            place += 1
    assert place == len(scores)
    assert (scores < 0).all()


def test_tables_hold_accuracy_cross_entropy_and_pseudo_perplexity(model, tokenizer):
    scorers = {"model": lambda masked: model_scores(model, tokenizer, masked)}
    (row,) = masked_language_rows(scorers, tokenizer, TEXTS, TEXTS[:2], rates=(0.15, 0.3))
    scores, correct = scorers["model"](mask_texts(TEXTS, tokenizer, 0.3))
    assert row[f"accuracy, rate 0.3 (n = {len(scores)})"] == correct.mean()
    assert row[f"cross-entropy, rate 0.3 (n = {len(scores)})"] == pytest.approx(-scores.mean())
    each, _ = scorers["model"](mask_each_token(TEXTS[:2], tokenizer))
    assert row[f"pseudo-perplexity (n = {len(each)})"] == pytest.approx(math.exp(-each.mean()))


def test_sentences_begin_with_a_capital_and_end_with_a_mark():
    text = (
        "A first sentence that is long enough to be taken. a second, which is not begun well at all. Short. "
        "Is this the third one that counts, then?\n"
    )
    found = sentences_of([text, "No end of a sentence is in this text anywhere at all"], 10)
    assert found == [
        "A first sentence that is long enough to be taken.",
        "Is this the third one that counts, then?",
    ]
    assert sentences_of([text] * 50, 5, seed=1) == sentences_of([text] * 50, 5, seed=1)
    with pytest.raises(ValueError, match="no sentence of 40 to 200 bytes"):
        sentences_of(["Short."], 10)


def test_a_run_reports_its_figures_and_samples(model, tokenizer):
    figures, lines = run_report(model, tokenizer, TEXTS[:3])
    assert any(line.startswith("accuracy") for line in lines)
    assert [sample["clean"] for sample in figures["samples"]] == TEXTS[:3]
    assert all("[MASK]" in sample["masked"] for sample in figures["samples"])
    assert not any("[MASK]" in sample["filled"] for sample in figures["samples"])


@pytest.fixture(scope="module")
def checkpoints(model, tokenizer, tmp_path_factory):
    """Ours, and a peer of transformers with the same tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    peer = BertForMaskedLM(BertConfig(vocab_size=258, max_position_embeddings=512, **sizes))
    for name, model_ in (("ours", model), ("peer", peer)):
        model_.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_reconstruct_compares_masked_models_and_ngrams(checkpoints, tmp_path):
    held_out, train = tmp_path / "held-out.jsonl", tmp_path / "train.jsonl"
    sentence = "This is a sentence of the held-out text, long enough for the draw. "
    held_out.write_text(json.dumps({"text": sentence * 20}) + "\n")
    train.write_text(json.dumps({"text": sentence.upper() * 20}) + "\n")
    arguments = [
        "reconstruct", "--checkpoint", str(checkpoints / "ours"), "--control", str(checkpoints / "peer"),
        "--data_file", str(held_out), "--train_file", str(train), "--passages", "3", "--sentences", "2",
        "--passage_length", "200", "--output", str(tmp_path / "out.md"),
    ]  # fmt: skip
    assert run_eval.main(arguments) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["model"].split(",")[0] for row in report["rows"]] == [
        "model: MlmEncoderForMaskedLM", "control: BertForMaskedLM", "unigram", "bigram (left neighbour)",
        "bigrams (both neighbours)",
    ]  # fmt: skip
    assert len(report["sentences"]) == 2
    assert all(value is not None for row in report["rows"] for value in row.values())


def test_models_without_latents_have_no_rate(checkpoints, capsys):
    assert run_eval.main(["rate-distortion", "--checkpoint", str(checkpoints / "ours"), "--passages", "2"]) == 2
    assert "stores no latents" in capsys.readouterr().err


def test_another_vocabulary_cannot_be_compared(checkpoints, tmp_path, capsys):
    other = tmp_path / "other"
    BertForMaskedLM.from_pretrained(checkpoints / "peer").save_pretrained(other)
    textae.MlmEncoderTokenizer.train(["other words"] * 3, 262).save_pretrained(other)
    arguments = ["reconstruct", "--checkpoint", str(checkpoints / "ours"), "--control", str(other), "--passages", "2"]
    assert run_eval.main(arguments) == 2
    assert "has another vocabulary" in capsys.readouterr().err


TRAINING = [b"to be or not to be", b"that is", b"", b"to be"]


def naive_bits(text, order):
    """Witten and Bell's shares, one byte and one context after the other."""
    counts = Counter()
    for training in TRAINING:
        symbols = [None] * (order - 1) + list(training)
        for i in range(order - 1, len(symbols)):
            counts.update(tuple(symbols[i - length : i + 1]) for length in range(order))
    bits, symbols = 0.0, [None] * (order - 1) + list(text)
    for i in range(order - 1, len(symbols)):
        share = 1 / 256
        for length in range(order):
            context = tuple(symbols[i - length : i])
            followers = {run[-1]: n for run, n in counts.items() if run[:-1] == context}
            if followers:
                total = sum(followers.values())
                share = (followers.get(symbols[i], 0) + len(followers) * share) / (total + len(followers))
        bits -= math.log2(share)
    return bits


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_counts_of_bytes_equal_those_written_out(order):
    counts = ByteNgrams(TRAINING, order)
    texts = [b"to be", b"xyz", b"not that", b"", b"o", bytes(range(256))]
    for text in texts:
        assert counts.bits([text]) == pytest.approx(naive_bits(text, order))
    assert counts.bits(texts) == pytest.approx(sum(naive_bits(text, order) for text in texts))
    after = [counts.bits([b"to b" + bytes([byte])]) - counts.bits([b"to b"]) for byte in range(256)]
    assert sum(2**-bits for bits in after) == pytest.approx(1)
    with pytest.raises(ValueError, match="order 7 is none"):
        ByteNgrams(TRAINING, 7)
    assert ByteNgrams([]).bits([b"ab"]) == pytest.approx(16)
