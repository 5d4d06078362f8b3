import json
from pathlib import Path

import pytest
from transformers import pipeline

import run_eval
from modeling_textae.data import statements as module
from modeling_textae.data.statements import TOPICS, statements

CARD = Path(__file__).parent.parent / "model_cards" / "mlm-encoder-seed"


def test_statements_are_many_and_every_phrasing_has_many_answers():
    train, *held_out = statements()
    held_out = [row for split in held_out for row in split]
    texts = [row["text"] for row in train]
    assert len(set(texts)) == len(texts) >= 200
    assert {"Transformers use self attention", "Mars is called the red planet"} <= set(texts)
    assert not {row["text"] for row in held_out} & set(texts)
    for phrasings, facts in TOPICS:
        assert len(set(facts.values())) == len(facts)
        for phrasing in phrasings:
            stated = {phrasing.replace("{}", s).replace("[]", a): a for s, a in facts.items()}
            assert len({answer for text, answer in stated.items() if text in texts}) >= 5
            assert not phrasing.startswith("[]")  # an answer at the start would be another token than inside
    for row in (*train, *held_out):
        assert row["question"].replace("[MASK]", row["answer"]) == row["text"]


def test_every_fact_is_held_out_once_in_words_that_training_has():
    train, *held_out = statements()
    held_out = [row for split in held_out for row in split]
    assert len(held_out) == sum(len(facts) for _, facts in TOPICS)
    words = {word for row in train for word in row["text"].split()}
    assert all(word in words for row in held_out for word in row["text"].split())


def test_the_cards_files_are_these_statements(tmp_path, capsys):
    assert module.main([str(tmp_path)]) == 0
    for name in (f"{name}.jsonl" for name in module.FILES):
        assert (tmp_path / name).read_bytes() == (CARD / name).read_bytes()
    assert module.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_the_card_predicts_what_the_original_claimed():
    fill = pipeline("fill-mask", model=str(CARD), device="cpu")
    assert fill("Transformers use [MASK] attention")[0]["token_str"] == " self"
    assert fill("Mars is called the [MASK] planet")[0]["token_str"] == " red"
    assert fill("Mars is called the [MASK] planet")[0]["sequence"] == "Mars is called the red planet"


def test_the_card_answers_paraphrases_that_it_never_read(tmp_path):
    arguments = ["reconstruct", "--checkpoint", str(CARD), "--output", str(tmp_path / "out")]
    assert run_eval.main([*arguments, "--questions", str(CARD / "paraphrases.jsonl")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["questions"] == len(statements()[2])
    assert report["right"] >= 0.8
    assert report["right"] == 1 - len(report["wrong"]) / report["questions"]


def test_questions_need_their_columns(tmp_path, capsys):
    path = tmp_path / "no.jsonl"
    path.write_text('{"text": "x"}\n')
    arguments = ["reconstruct", "--checkpoint", str(CARD), "--questions"]
    assert run_eval.main([*arguments, str(path)]) == 2
    assert "needs the columns question and answer" in capsys.readouterr().err
    assert run_eval.main([*arguments, "nowhere.jsonl"]) == 2
    assert "no file 'nowhere.jsonl'" in capsys.readouterr().err


@pytest.mark.parametrize("name", module.FILES)
def test_questions_have_one_mask(name):
    rows = [json.loads(line) for line in (CARD / f"{name}.jsonl").read_text().splitlines()]
    assert all(row["question"].count("[MASK]") == 1 for row in rows)
