import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from model_cases import TEXTS, cta_config
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import modeling_textae as textae
import run_eval
from modeling_textae.evaluation.tokens import (
    byte_accuracy,
    common_tokens,
    compared_tokens,
    decoded_from,
    exactness,
    latent_rows,
    latents_of,
    random_samples,
    read_errors,
    run_report,
    speller,
    stored_bits_per_byte,
    text_samples,
    token_bytes,
    token_errors,
    token_frequencies,
    write_errors,
)


def model():
    torch.manual_seed(0)
    net = textae.CtaModel(cta_config()).eval()
    net.fit_latent_scale(net.encode(torch.randint(1, 257, (1, 400))))
    return net


def test_frequencies_and_the_rarest_tenth():
    counts = token_frequencies([[1, 1, 2], [], [1, 5]], 8)
    assert counts.tolist() == [0, 3, 1, 0, 0, 1, 0, 0]
    assert np.flatnonzero(common_tokens(np.array([5, 0, 9, 1, 1, 2, 3, 4, 6, 7, 8]), 0.1)).tolist() == [
        0,
        2,
        3,
        5,
        6,
        7,
        8,
        9,
        10,
    ]
    with pytest.raises(ValueError, match="token 9 is beyond the vocabulary of 8"):
        token_frequencies([[9]], 8)


def test_samples_are_stretches_of_texts_with_common_tokens_alone():
    rows = [list(range(10, 20)), [1, 2], list(range(30, 45)), [10] * 12 + [99]]
    samples = text_samples(rows, 10, 5000)
    assert samples.shape == (3, 10)
    assert samples[0].tolist() == rows[0]
    for sample, row in zip(samples, [rows[0], rows[2], rows[3]], strict=True):
        assert any(row[i : i + 10] == sample.tolist() for i in range(len(row)))
    places = {text_samples([rows[2]], 10, 1, seed=seed)[0, 0] for seed in range(30)}
    assert places == set(range(30, 36))
    common = np.ones(100, dtype=bool)
    common[15] = False
    assert text_samples(rows, 10, 5000, common).min(1).tolist() in (
        [30, 10],
        [31, 10],
        [32, 10],
        [33, 10],
        [34, 10],
        [35, 10],
    )
    assert len(text_samples(rows, 10, 2)) == 2
    assert np.array_equal(text_samples(rows, 10, 2, seed=3), text_samples(rows, 10, 2, seed=3))
    with pytest.raises(ValueError, match="no text has 16 tokens in a row"):
        text_samples(rows, 16, 5)


def test_random_samples_are_uniform_over_what_is_allowed():
    samples = random_samples([2, 3, 7], (200, 50), seed=1)
    assert samples.shape == (200, 50)
    assert set(np.unique(samples)) == {2, 3, 7}
    assert abs((samples == 7).mean() - 1 / 3) < 0.02


def test_reconstruction_goes_through_stored_and_noisy_latents():
    samples = random_samples(range(1, 257), (5, 18))
    net = model()
    ids = torch.from_numpy(samples)
    with torch.no_grad():
        whole = net.decode(net.round_latents(net.encode(ids)), torch.full((5,), 18)).argmax(-1)[:, :18].numpy()
    latents = latents_of(net, samples, batch_size=2)
    assert np.array_equal(decoded_from(net, latents, 18, batch_size=2), whole)
    noisy = decoded_from(net, latents, 18, noise=3.0)
    assert not np.array_equal(noisy, whole)
    assert np.array_equal(noisy, decoded_from(net, latents, 18, noise=3.0, batch_size=2))  # whatever the batches
    assert (
        stored_bits_per_byte(net, latents, [b"x" * 18] * 5, bits=4) == (5 * 8 * 4 + 32) / 18
    )  # five latents of eight numbers, and a length


def test_tokens_are_spelled_in_their_own_bytes():
    tokenizer = textae.CtaTokenizer.train(["naïve cafés"] * 5, 262)
    spelled = token_bytes(tokenizer)
    text = "naïve cafés – 🙂\n"
    assert b"".join(spelled[i] for i in tokenizer(text)["input_ids"]) == text.encode()
    assert len(set(spelled)) == 262


def test_errors_name_their_places(tmp_path):
    tokenizer = textae.CtaTokenizer()
    samples = np.array(tokenizer(["abcd", "efgh"])["input_ids"])
    decoded = samples.copy()
    decoded[1, 2] = samples[0, 0]
    assert exactness(samples, decoded) == {"token_accuracy": 7 / 8, "sequence_accuracy": 0.5, "samples": 2, "length": 4}
    write_errors(tmp_path / "errors.jsonl", token_errors(tokenizer, samples, decoded, 8))
    (error,) = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert (error["sample"], error["wrong"], error["text"], error["decoded_text"]) == (1, [2], "efgh", "efah")


def test_a_variational_models_latents_cost_their_divergence():
    torch.manual_seed(0)
    net = textae.CtaModel(cta_config(kl_weight=0.1, latent_norm=False)).eval()
    net.fit_latent_scale(net.encode(torch.randint(1, 257, (1, 400))))
    tokenizer = textae.CtaTokenizer()
    row, *others = latent_rows(net, tokenizer, TEXTS, (8,), batch_size=1)[0]
    assert (row["what"], [other["what"] for other in others]) == ("latents, sampled, KL / ln 2", ["latents, int8"])
    bits = sum(net.information_bits(**tokenizer(text, return_tensors="pt")).item() for text in TEXTS)
    size = sum(len(text.encode()) for text in TEXTS)
    assert row["bits per byte of text"] == pytest.approx((bits + 32 * len(TEXTS)) / size, rel=1e-5)  # and the lengths


def test_other_tokenizers_are_spelled_by_the_text_they_decode():
    tokenizer = textae.CtaTokenizer()
    tokenizer.add_tokens(["    "])
    ids = tokenizer("a    é", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("    ") in ids
    assert speller(tokenizer)([*ids, 9999]) == "a    é".encode()
    words = Tokenizer(WordLevel({"[UNK]": 0, "the": 1, "réd": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    assert speller(words)(np.array([1, 2])) == "the réd".encode()


def test_two_texts_are_compared_by_whole_characters():
    tokenizer = textae.CtaTokenizer()
    ids = tokenizer("é or è.", add_special_tokens=False)["input_ids"]
    decoded = tokenizer("ê or è!", add_special_tokens=False)["input_ids"]
    first, second = compared_tokens(tokenizer, ids, decoded)
    assert first == [("é", "lost"), (" or è", None), (".", "lost")]
    assert second == [("ê", "wrong"), (" or è", None), ("!", "wrong")]


def test_two_texts_are_compared_place_by_place():
    tokenizer = textae.CtaTokenizer()
    ids = tokenizer("some text", add_special_tokens=False)["input_ids"]
    decoded = [*ids[:2], *tokenizer("xy", add_special_tokens=False)["input_ids"], *ids[4:]]
    first, second = compared_tokens(tokenizer, ids, decoded)
    assert first == [("so", None), ("me", "lost"), (" text", None)]
    assert second == [("so", None), ("xy", "wrong"), (" text", None)]


def test_error_files_are_read_back_and_refused_by_line(tmp_path):
    tokenizer = textae.CtaTokenizer()
    samples = np.array([tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("abc", "abd")])
    errors = token_errors(tokenizer, samples, np.roll(samples, 1, axis=0), 2)
    write_errors(tmp_path / "errors.jsonl", errors)
    assert read_errors(tmp_path / "errors.jsonl") == [
        {"sample": i, "bits": 2, "text": text, "ids": samples[i].tolist(), "wrong": [2]}
        for i, text in enumerate(("abc", "abd"))
    ]
    for text, message in (
        ("", "has no error cases"),
        ('{"sample": 1}\n', "line 1 is no error"),
        ("\n", "line 1 is no"),
        (json.dumps(read_errors(tmp_path / "errors.jsonl")[0] | {"bits": 9}), "bits 9 are no way"),
    ):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_errors(tmp_path / "bad.jsonl")


def test_bytes_are_compared_where_they_stand():
    assert byte_accuracy([b"abcd", b"\xff"], [b"abXd", b"\xfe"]) == 3 / 5
    assert byte_accuracy([b"abcd"], [b"ab"]) == 0.5


def test_the_report_of_a_run_agrees_with_its_texts():
    passages = [*TEXTS, "x" * 50]
    figures, lines = run_report(model(), textae.CtaTokenizer(), passages, batch_size=2)
    size = sum(len(p.encode()) for p in passages)
    for row, bits in zip(figures["rows"], (8, 4, 2), strict=True):
        assert row["what"] == f"latents, int{bits}"
        latents = sum(-(-len(p.encode()) // 4) for p in passages)
        assert row["bits per byte of text"] == pytest.approx((latents * 8 * bits + 32 * len(passages)) / size)
        assert 0 <= row["token accuracy"] < 0.1
        assert row["exact"] == 0
        assert row["character error rate"] > 0.5
    assert len(figures["reconstructed"]) == 3
    assert "clean:" in "\n".join(lines)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A card, and files of training and held-out text."""
    folder = tmp_path_factory.mktemp("card")
    model().save_pretrained(folder)
    textae.CtaTokenizer().save_pretrained(folder)
    texts = [f"Document {i * 7919} is about {i**5} words. " * 3 for i in range(40)]
    for name, part in (("train", texts[:30]), ("test", texts[30:])):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in part))
    return folder


def tokens_command(checkpoint, *arguments):
    files = ["--train_file", str(checkpoint / "train.jsonl"), "--data_file", str(checkpoint / "test.jsonl")]
    where = ["--checkpoint", str(checkpoint), "--output", str(checkpoint / "out")]
    return run_eval.main(["tokens", *where, *files, "--length", "20", *arguments])


def test_the_command_measures_text_and_random_tokens_and_writes_errors(checkpoint, capsys):
    assert tokens_command(checkpoint, "--bits", "4", "8", "--noise", "0.3", "--rarest", "0") == 0
    report = json.loads((checkpoint / "out.json").read_text())
    assert len(report["rows"]) == 3 * 2 * 2
    for row in report["rows"]:
        assert row["samples"].endswith("(n = 10)")
        assert row["bits per byte of text"] == pytest.approx((5 * 8 * row["bits"] + 32) / 20)
    errors = [json.loads(line) for line in (checkpoint / "out.jsonl").read_text().splitlines()]
    assert len(errors) == report["errors"] == 10  # an untrained model gets nothing right
    printed = capsys.readouterr().out
    assert "10 samples of text with errors at 4 bits" in printed
    assert "of 10 texts that are as long" in printed
    with open(checkpoint / "out.csv", encoding="utf-8", newline="") as file:
        frequencies = [(row["token"], int(row["count"])) for row in csv.DictReader(file)]
    training = (json.loads(line)["text"] for line in (checkpoint / "train.jsonl").read_text().splitlines())
    expected = Counter(token for text in training for token in textae.CtaTokenizer().tokenize(text))
    assert {token: count for token, count in frequencies if count} == expected
    assert [count for _, count in frequencies] == sorted((count for _, count in frequencies), reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "9"], "bits 9 are no way"),
        (["--rarest", "-0.5"], "rarest -0.5 is no share"),
        (["--rarest", "1"], "rarest 1.0 is no share"),
        (["--noise", "-1"], "noise -1.0 is negative"),
        (["--length", "0"], "length 0 is too small"),
        (["--samples", "0"], "samples 0 is too small"),
        (["--length", "5000"], "no text has 5000 tokens in a row"),
    ],
)
def test_the_command_refuses_what_cannot_be(checkpoint, arguments, message, capsys):
    assert tokens_command(checkpoint, *arguments) == 2
    assert message in capsys.readouterr().err


def test_reconstruction_and_rate_of_a_token_autoencoder(checkpoint, capsys):
    where = ["--checkpoint", str(checkpoint), "--data_file", str(checkpoint / "test.jsonl"), "--passage_length", "40"]
    assert run_eval.main(["reconstruct", *where, "--output", str(checkpoint / "r")]) == 0
    row = json.loads((checkpoint / "r.json").read_text())["rows"][0]
    assert row["bits per byte of text"] == pytest.approx(17, rel=0.1)
    assert run_eval.main(["reconstruct", *where, "--rates", "0.1", "--output", str(checkpoint / "r")]) == 2
    assert "families that hide" in capsys.readouterr().err
    assert run_eval.main(["rate-distortion", *where, "--output", str(checkpoint / "d")]) == 0
    rows = {row["what"]: row for row in json.loads((checkpoint / "d.json").read_text())["rows"]}
    assert rows["latents, int4"]["bits per byte of text"] < rows["latents, float32"]["bits per byte of text"] / 7
    assert 3 < rows["tokens, adaptive code"]["bits per byte of text"] < 5  # single bytes of plain text
    assert rows["xz -9"]["token accuracy"] == 1
