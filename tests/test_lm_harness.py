"""lm-eval's adapter: the same numbers as its own backend and as a plain sum; tasks from local files."""

import json
import lzma
import math

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from model_cases import abstractinator_config, mlm_encoder_config, with_limits

import modeling_textae as textae
import run_eval
from modeling_textae.evaluation import lm_harness
from modeling_textae.evaluation.lm_harness import HierarchicalAELM, evaluate, local_tasks, result_rows

TEXTS = ["To be or not to be.", "That is the question: whether ’tis nobler", "in the mind to suffer"]
PAIRS = [("To be or", " not to be"), ("", "That is"), ("in the ", "mind"), ("To be or", " to suffer"), ("x", "y" * 40)]
ROWS = {
    "lambada_openai": [{"text": text} for text in TEXTS],
    "hellaswag_validation_2000": [
        {
            "ind": i, "activity_label": "Reading", "ctx_a": text, "ctx_b": "he", "ctx": text, "label": i % 2,
            "endings": ["reads [sic] on.", "stops.", "sleeps.", "sings."], "source_id": "x", "split": "val",
        }
        for i, text in enumerate(TEXTS)
    ],
    "arc_easy_validation": [
        {"id": "a", "question": text, "choices": {"text": ["to be", "not"], "label": ["A", "B"]}, "answerKey": "B"}
        for text in TEXTS
    ],
    "piqa_validation": [{"goal": text, "sol1": "read", "sol2": "write it", "label": 1} for text in TEXTS],
    "winogrande_validation": [
        {"sentence": "The mind beat the heart, for _ was strong.", "option1": "mind", "option2": "heart", "answer": "1"}
    ],
    "blimp_12x300": [
        {"sentence_good": good, "sentence_bad": good[::-1], "UID": uid, "field": "syntax"}
        for uid in ("causative", "adjunct_island")
        for good in TEXTS
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = textae.AbstractinatorForCausalLM(abstractinator_config())
    with_limits(model)
    model.save_pretrained(folder)
    textae.AbstractinatorTokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "lm_eval").mkdir()
    (folder / "cute").mkdir()
    for name, rows in ROWS.items():
        with lzma.open(folder / "lm_eval" / f"{name}.jsonl.xz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    lines = "".join(f"{w}\t{' '.join(w)}\n" for w in ("the", "and", "fox", "dog", "mind", "heart"))
    (folder / "cute" / "spell_rand.tsv").write_text("input1\tlabel\n" + lines)
    (folder / "cute" / "contains_char.tsv").write_text(
        "input1\tinput2\tlabel\n" + "".join(f'"\t{w}"\tYes\n' for w in ("a", "b", "c", "d", "e", "f"))
    )
    return str(folder)


def requests(kind, arguments):
    return [Instance(kind, {}, argument, i) for i, argument in enumerate(arguments)]


def nats(checkpoint, context, continuation):
    """Of a continuation after its context, byte after byte; and whether each byte is the likeliest. As lm-eval does, spaces at
    the context's end are counted with the continuation."""
    bare = context.rstrip()
    context, continuation = bare, context[len(bare) :] + continuation
    model = textae.AbstractinatorForCausalLM.from_pretrained(checkpoint).eval()
    first, second = context.encode(), continuation.encode()
    ids = torch.tensor([[257, *first, *second]])
    with torch.no_grad():
        told = model(ids).logits[0, len(first) : -1].double().log_softmax(-1)
    wanted = torch.tensor(list(second))
    return told[torch.arange(len(second)), wanted].sum().item(), bool((told.argmax(-1) == wanted).all())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_loglikelihoods_are_plain_sums_and_those_of_the_stock_backend(checkpoint, batch_size):
    model = HierarchicalAELM(checkpoint=checkpoint, batch_size=batch_size)
    found = model.loglikelihood(requests("loglikelihood", PAIRS))
    stock = HFLM(pretrained=checkpoint, batch_size=batch_size, device="cpu", dtype="float32")
    for ours, theirs in zip(found, stock.loglikelihood(requests("loglikelihood", PAIRS)), strict=True):
        assert ours == (pytest.approx(theirs[0], abs=1e-4), theirs[1])
    for (told, is_greedy), pair in zip(found, PAIRS, strict=True):
        expected = nats(checkpoint, *pair)
        assert told == pytest.approx(expected[0], abs=1e-3)
        assert is_greedy == expected[1]


def test_a_likely_answer_is_greedy(checkpoint):
    model = HierarchicalAELM(checkpoint=checkpoint)
    with torch.no_grad():  # letters alone, so that what is written is text
        model.model.model.autoencoder.expanders[0].head.bias[ord("a") : ord("z")] += 50.0
    answer = model.model.generate_bytes(["To be"], max_new_bytes=5)[0].decode("ascii")
    told = model.loglikelihood(requests("loglikelihood", [("To be", answer), ("To be", "Z" + answer[1:])]))
    assert [greedy for _, greedy in told] == [True, False]


def test_longer_texts_are_read_as_the_stock_backend_reads_them(checkpoint, tmp_path):
    model = textae.AbstractinatorForCausalLM.from_pretrained(checkpoint, n_positions=64)
    model.save_pretrained(tmp_path)
    textae.AbstractinatorTokenizer().save_pretrained(tmp_path)
    asked = requests("loglikelihood_rolling", [(" ".join(TEXTS * 3),)])
    ours = HierarchicalAELM(checkpoint=str(tmp_path), batch_size=2)
    stock = HFLM(pretrained=str(tmp_path), batch_size=2, device="cpu", dtype="float32")
    assert ours.max_length == stock.max_length == 64
    assert ours.loglikelihood_rolling(asked) == pytest.approx(stock.loglikelihood_rolling(asked), abs=1e-4)


def test_rolling_loglikelihoods_sum_over_whole_texts(checkpoint):
    model = HierarchicalAELM(checkpoint=checkpoint, batch_size=2)
    found = model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS]))
    assert found == pytest.approx([nats(checkpoint, "", text)[0] for text in TEXTS], abs=1e-3)


def test_generation_stops_where_it_is_told(checkpoint):
    model = HierarchicalAELM(checkpoint=checkpoint, batch_size=2)
    with torch.no_grad():
        model.model.model.autoencoder.expanders[0].head.bias[ord("a") : ord("z")] += 50.0
    expected = [answer.decode("ascii") for answer in model.model.generate_bytes(TEXTS, max_new_bytes=12)]
    until = expected[0][5:7]
    options = {"until": [until], "max_gen_toks": 12, "do_sample": False}
    found = model.generate_until(requests("generate_until", [(text, options) for text in TEXTS]))
    assert found == [answer.split(until)[0] for answer in expected]
    assert len(found[0]) <= 5


def test_every_task_runs_and_gives_the_stock_backend_s_numbers(checkpoint, data_dir):
    tasks = ["lambada_openai", "hellaswag", "arc_easy", "piqa", "winogrande", "blimp", "cute", "text_bits"]
    found = {}
    for name, arguments in (("hier_ae", f"checkpoint={checkpoint}"), ("hf", f"pretrained={checkpoint},dtype=float32")):
        results = evaluate(name, arguments, tasks, data_dir, batch_size=4, device="cpu", bootstrap_iters=0)
        found[name] = {(row["task"], row["metric"]): row["value"] for row in result_rows(results)}
    assert found["hier_ae"] == pytest.approx(found["hf"], rel=1e-4)
    for key in (
        ("lambada_openai", "acc"), ("hellaswag", "acc_norm"), ("arc_easy", "acc"), ("piqa", "acc_norm"), ("blimp", "acc"),
        ("winogrande", "acc"), ("blimp_causative", "acc"), ("cute", "acc"), ("cute_spell_rand", "perplexity"),
    ):  # fmt: skip
        assert math.isfinite(found["hier_ae"][key]), key
    total = sum(nats(checkpoint, "", text)[0] for text in TEXTS)
    size = sum(len(text.encode()) for text in TEXTS)
    assert found["hier_ae"]["text_bits", "bits_per_byte"] == pytest.approx(-total / size / math.log(2), rel=1e-4)
    assert found["hier_ae"]["text_bits", "byte_perplexity"] == pytest.approx(math.exp(-total / size), rel=1e-4)


def test_local_tasks_are_those_whose_files_are_there(data_dir, tmp_path):
    names = local_tasks(data_dir, tmp_path)
    assert {"blimp", "blimp_causative", "blimp_adjunct_island", "cute", "cute_spell_rand", "piqa"} <= set(names)
    assert "cute_sem" not in names
    rows = [json.loads(line) for line in (tmp_path / "cute_contains_char.jsonl").read_text().splitlines()]
    assert rows[0] == {"input1": '"', "input2": 'e"', "label": "Yes"}
    with pytest.raises(FileNotFoundError, match="has none of the tasks' files"):
        local_tasks(tmp_path / "nowhere", tmp_path)


def test_cute_s_prompts_show_four_solved_examples(checkpoint, data_dir, monkeypatch):
    asked = []
    whole = HierarchicalAELM.loglikelihood
    monkeypatch.setattr(
        HierarchicalAELM, "loglikelihood", lambda self, r, *a, **k: asked.extend(r) or whole(self, r, *a, **k)
    )
    evaluate("hier_ae", f"checkpoint={checkpoint}", ["cute_spell_rand"], data_dir, device="cpu", bootstrap_iters=0)
    context, answer = asked[0].args
    solved = "".join(
        f"Spell {w}, its letters parted by spaces.\nAnswer: {' '.join(w)}\n" for w in ("the", "and", "fox", "dog")
    )
    assert context.replace("\n\n", "\n") == solved + "Spell mind, its letters parted by spaces.\nAnswer:"
    assert answer == " m i n d\n"


def test_use_accelerate_is_accepted_with_a_note(checkpoint, caplog, monkeypatch):
    monkeypatch.setattr(lm_harness.logger, "propagate", True)
    HierarchicalAELM(checkpoint=checkpoint, use_accelerate=True)
    assert "use_accelerate is no argument of lm-eval any more" in caplog.text


def test_what_cannot_be_run_is_refused(tmp_path, data_dir, checkpoint):
    with pytest.raises(ValueError, match="hier_ae needs a checkpoint"):
        HierarchicalAELM()
    other = textae.MlmEncoderForMaskedLM(mlm_encoder_config())
    with pytest.raises(ValueError, match="hier_ae is for the Abstractinator, not for 'mlm_encoder'"):
        HierarchicalAELM(checkpoint=other, tokenizer=textae.MlmEncoderTokenizer())
    with pytest.raises(ValueError, match="task 'no_such_task' is unknown"):
        evaluate("hier_ae", f"checkpoint={checkpoint}", ["no_such_task"], data_dir)


def test_the_command_without_a_name_means_lm(checkpoint, data_dir, tmp_path, capsys):
    output = tmp_path / "table"
    arguments = ["--model", "hier_ae", "--model_args", f"checkpoint={checkpoint}", "--tasks", "piqa,text_bits"]
    assert run_eval.main([*arguments, "--data_dir", data_dir, "--limit", "2", "--output", str(output)]) == 0
    results = json.loads(output.with_suffix(".json").read_text())
    assert set(results["results"]) == {"piqa", "text_bits"}
    assert results["n-samples"]["piqa"]["effective"] == 2
    assert "| piqa | acc_norm |" in output.with_suffix(".md").read_text()
    assert "bits_per_byte" in capsys.readouterr().out
    assert run_eval.main([*arguments[:2], "--tasks", "piqa", "--data_dir", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "text.jsonl").write_text('{"text": "to be"}\n')
    capsys.readouterr()
    assert run_eval.main([*arguments[:2], "--tasks", "piqa", "--data_dir", str(tmp_path)]) == 2
    assert "has no lm_eval/piqa_validation.jsonl.xz, which piqa is read from" in capsys.readouterr().err
    assert run_eval.main([*arguments[:2], "--tasks", "nothing_like_it", "--data_dir", data_dir]) == 2
