import json

import datasets
import numpy as np
import pytest
import torch
from fsq_training import TEXT, language_model, trained_autoencoder, trained_tokenizer

import run_eval
from modeling_textae.evaluation.codebook import chunk_figures, growth_rows, level_use, rate_rows, space_between

HELD_OUT = [TEXT[i : i + 300] + "a thermal landscape" for i in range(0, 900, 150)]


NEVER_LEARNED = [b"zqxjkvbw", b"QZX~~JW!", b"\x01\x02\x03\x04\x05"]  # which no code gives back


def listed():
    """The strings that were chosen as worth a token, and some that no code owns."""
    return [*trained_autoencoder()[1], *NEVER_LEARNED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model with its tokenizer, held-out text, and the strings that were chosen as worth a token."""
    path = tmp_path_factory.mktemp("fsq")
    model, tokenizer = language_model()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    datasets.Dataset.from_dict({"text": HELD_OUT}).to_parquet(path / "held_out.parquet")
    (path / "token_list.json").write_text(json.dumps([token.decode("latin-1") for token in listed()]))
    return path


def evaluated(command, folder, *arguments):
    """What a command of run_eval writes."""
    files = ["--data_file", str(folder / "held_out.parquet"), "--output", str(folder / command)]
    assert run_eval.main([command, "--checkpoint", str(folder), *files, *arguments]) == 0
    return json.loads((folder / f"{command}.json").read_text())


def test_the_token_list_is_measured_whole_and_not_what_was_kept_of_it(folder):
    report = evaluated(
        "tokens",
        folder,
        "--token_list",
        str(folder / "token_list.json"),
        "--train_file",
        str(folder / "held_out.parquet"),
    )
    model, tokens = trained_tokenizer().autoencoder, listed()
    assert report["token_list"]["distinct_chunks"] == len(tokens) > len(trained_tokenizer().kept)
    with torch.no_grad():
        exact = model.reconstruct([token.decode() for token in tokens], Whole())
    assert not any(e.encode() == t for e, t in zip(exact[-3:], tokens[-3:], strict=True))
    assert report["token_list"]["exact_chunks"] == pytest.approx(
        np.mean([e.encode() == t for e, t in zip(exact, tokens, strict=True)])
    )
    assert report["tokenizer"]["bytes"] == sum(len(text.encode()) for text in HELD_OUT)
    assert 0 <= report["unseen_share"] <= 1
    beside = report["space_between"]
    assert beside["codes"] == 4096
    assert 0 <= beside["owned"] <= 1
    assert 0 <= beside["unseen"] <= 1
    assert len(report["neighbours"]) == len(run_eval.WORDS)
    assert (folder / "tokens.png").stat().st_size > 1000


class Whole:
    """Takes each text for one chunk."""

    def chunks(self, text):
        return [text]


def test_a_language_model_is_reported_by_its_bits(folder):
    report = evaluated("reconstruct", folder, "--passage_length", "200", "--passages", "4")
    assert 0 < report["bits_per_byte"] < 20
    rows = evaluated("rate-distortion", folder, "--passage_length", "200", "--passages", "4")["rows"]
    by_name = {row["what"]: row["bits per byte of text"] for row in rows}
    assert by_name["ids, under the language model"] == pytest.approx(report["bits_per_byte"])
    assert by_name["ids, adaptive code"] > 0
    assert "xz -9" in by_name


def test_fields_of_other_families_are_refused(folder, capsys):
    arguments = ["--data_file", str(folder / "held_out.parquet"), "--rates", "0.1"]
    assert run_eval.main(["reconstruct", "--checkpoint", str(folder), *arguments]) == 2
    assert "rates is for families that hide" in capsys.readouterr().err
    for name, value in (("noise", "0.9"), ("bits", "3"), ("samples", "7")):
        assert run_eval.main(["tokens", "--checkpoint", str(folder), f"--{name}", value]) == 2
        assert f"{name} is for CTA" in capsys.readouterr().err


def test_rows_without_a_text_are_left_out(folder):
    datasets.Dataset.from_dict({"text": [None, *HELD_OUT, ""]}).to_parquet(folder / "gaps.parquet")
    arguments = ["tokens", "--checkpoint", str(folder), "--output", str(folder / "gaps")]
    files = ["--data_file", str(folder / "gaps.parquet"), "--train_file", str(folder / "gaps.parquet")]
    assert run_eval.main([*arguments, *files]) == 0
    report = json.loads((folder / "gaps.json").read_text())
    assert report["tokenizer"]["bytes"] == sum(len(text.encode()) for text in HELD_OUT)


def test_strings_beside_tokens_are_unseen_where_no_text_has_them():
    tokenizer = trained_tokenizer()
    found = space_between(tokenizer, TEXT, number=50, seed=3)
    nothing = space_between(tokenizer, "", number=50, seed=3)
    assert found["owned"] == nothing["owned"]
    assert nothing["unseen"] == (nothing["owned"] > 0)
    assert found["unseen"] <= nothing["unseen"]


def test_figures_of_chunks_weigh_each_by_how_often_it_occurs():
    model, tokens, _ = trained_autoencoder()
    some = tokens[:9]
    once, often = chunk_figures(model, some, [1] * 9), chunk_figures(model, some + some[:1], [1] * 8 + [2, 4])
    assert often["chunks"] == 14
    repeated = chunk_figures(model, some[:8] + some[8:9] * 2 + some[:1] * 4, [1] * 14)
    assert often["perplexity"] == pytest.approx(repeated["perplexity"])
    assert once["distinct_codes"] == 1


def test_levels_used_evenly_have_a_use_of_one():
    assert level_use([4, 2], torch.arange(8).unsqueeze(1)) == pytest.approx(1)
    assert level_use([4, 2], torch.zeros(8, 1, dtype=torch.long)) == 0


def test_use_grows_with_text_and_ends_with_all_of_it():
    tokenizer = trained_tokenizer()
    rows = growth_rows(tokenizer, HELD_OUT, parts=3)
    assert [row["bytes"] for row in rows] == sorted(row["bytes"] for row in rows)
    used = {i for ids in tokenizer(HELD_OUT)["input_ids"] for i in ids}
    assert rows[-1]["ids used"] == len(used) / len(tokenizer)
    assert rate_rows(trained_autoencoder()[0], tokenizer, HELD_OUT)[0]["bits per byte of text"] > 0
