import json
import math

import numpy as np
import pytest
import torch
from model_cases import encodzall_config

import modeling_textae as textae
import run_eval
from modeling_textae.data.collators import EncodzallMaskingCollator
from modeling_textae.evaluation.control import control_figures
from modeling_textae.evaluation.plots import plot_training
from modeling_textae.evaluation.reconstruction import (
    free_running,
    latent_rate,
    reconstruction_report,
    restored_samples,
    teacher_forced,
)
from modeling_textae.evaluation.report import table
from modeling_textae.evaluation.texts import sample_passages

PASSAGES = ["the first passage of text, naïve", "another passage", "a third one is here"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint that has learned its three passages."""
    torch.manual_seed(0)
    model, tokenizer = textae.EncodzallForPreTraining(encodzall_config(hidden_size=64)), textae.EncodzallTokenizer()
    batch = EncodzallMaskingCollator(tokenizer, rate=0.0)([{"text": text} for text in PASSAGES])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("trained")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer, folder


def test_teacher_forced_accuracy_equals_a_plain_count(trained):
    model, tokenizer, _ = trained
    right = asked = 0
    for text in PASSAGES:
        inputs = tokenizer(text, return_tensors="pt")
        labels = torch.cat((inputs["input_ids"], torch.tensor([[258]])), 1)
        with torch.no_grad():
            logits = model(
                **inputs, labels=labels, target_word_index=torch.cat((inputs["word_index"], torch.tensor([[-1]])), 1)
            ).logits
        right += (logits.argmax(-1) == labels).sum().item()
        asked += labels.numel()
    found = teacher_forced(model, tokenizer, PASSAGES, batch_size=2, stored=False)
    assert found == {"byte_accuracy": right / asked}
    assert right / asked > 0.9


def test_hidden_bytes_are_those_that_masks_hide(trained):
    model, tokenizer, _ = trained
    result = teacher_forced(model, tokenizer, PASSAGES * 40, rate=1.0)
    total = 40 * sum(len(t.encode()) for t in PASSAGES)
    spaces = 40 * sum(t.count(" ") for t in PASSAGES)
    assert abs(result["hidden_word_bytes"] / total - 0.2) < 0.08
    assert abs(result["hidden_character_bytes"] / (total - spaces) - 0.64) < 0.08
    assert teacher_forced(model, tokenizer, PASSAGES, 0.5, batch_size=1) == teacher_forced(
        model, tokenizer, PASSAGES, 0.5
    )


def test_free_running_and_rate(trained):
    model, tokenizer, _ = trained
    figures, texts = free_running(model, tokenizer, PASSAGES)
    assert texts == PASSAGES
    assert figures == {"character_error_rate": 0.0, "exact_rate": 1.0}
    rate = latent_rate(model, tokenizer, PASSAGES)
    words = sum(max(tokenizer(t)["word_index"]) + 1 for t in PASSAGES)
    size = sum(len(t.encode()) for t in PASSAGES)
    assert rate["bits_per_byte"] == pytest.approx((words * (64 * 8 + 4) + 16 * len(PASSAGES)) / size)
    assert rate["bytes_per_word"] == pytest.approx(size / words)


def test_samples_show_masks_and_what_became_of_them(trained):
    model, tokenizer, _ = trained
    samples = restored_samples(model, tokenizer, PASSAGES, rate=0.0, number=2)
    assert (
        [s["clean"] for s in samples]
        == [s["noisy"] for s in samples]
        == [s["restored"] for s in samples]
        == PASSAGES[:2]
    )
    assert "_" in restored_samples(model, tokenizer, PASSAGES, rate=0.9, number=1)[0]["noisy"]


def test_reports_leave_the_model_in_its_mode(trained):
    model, tokenizer, _ = trained
    model.train()
    reconstruction_report(model, tokenizer, PASSAGES, rates=(), generate=False)
    assert model.training
    model.eval()


def test_sampled_passages_are_seeded_and_long():
    documents = ["word " * n for n in range(1, 60)]
    first = sample_passages(documents, 40, 20, seed=1)
    assert first == sample_passages(documents, 40, 20, seed=1) != sample_passages(documents, 40, 20, seed=2)
    assert all(20 <= len(p) <= 40 for p in first)
    with pytest.raises(ValueError, match="no document has a passage"):
        sample_passages(["short"], 400, 5)


def history(rates, losses, every=10):
    return [
        {"step": (i + 1) * every, "loss": loss, "noise_rate": rate}
        for i, (rate, loss) in enumerate(zip(rates, losses, strict=True))
    ]


def test_control_figures():
    losses = np.full(40, 0.3)
    losses[30:40] = 0.33
    rates = np.full(40, 0.5)
    rates[20:25] = 1.0
    figures = control_figures(history(rates, losses), 0.3)
    assert figures["100-step_means"] == 2
    assert figures["largest_deviation_of_a_100-step_mean"] == pytest.approx(0.1)
    assert figures["share_of_rates_inside_bounds"] == pytest.approx(0.75)
    assert figures["share_of_rates_inside_bounds_whole_run"] == pytest.approx(35 / 40)
    with pytest.raises(ValueError, match="no controlled run"):
        control_figures([{"step": 1, "loss": 1.0}], 0.3)
    with pytest.raises(ValueError, match="too few"):
        control_figures(history(rates[:8], losses[:8]), 0.3)


def test_pictures_are_drawn(tmp_path):
    plot_training(history([0.1, 0.2], [2.0, 1.0]), tmp_path / "a.png", setpoint=1.0)
    plot_training([{"step": 1, "loss": 1.0, "word_loss": 0.5}], tmp_path / "b.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("a.png", "b.png"))


def test_the_packing_picture_is_drawn_from_real_rows(tmp_path):
    assert run_eval.main(["packing", "--text", "to be or not to be", "--output", str(tmp_path / "out")]) == 0
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["words"] == ["to be or ", "not to be"]
    assert saved["row_length"] == 64
    assert (tmp_path / "out.png").stat().st_size > 5000


def test_tables_are_markdown():
    assert table([{"a": 0.5, "b": None}, {"a": "x"}], ["a", "b"]) == "| a | b |\n|---|---|\n| 0.5000 | – |\n| x | – |"


# The script


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(json.dumps({"text": t}) for t in PASSAGES))
    return path


def test_reconstruct_writes_json_and_markdown(trained, tmp_path, data_file, capsys):
    folder = str(trained[2])
    arguments = ["reconstruct", "--checkpoint", folder, "--control", folder, "--data_file", str(data_file)]
    assert (
        run_eval.main([*arguments, "--passage_length", "40", "--output", str(tmp_path / "out"), "--rates", "0.2"]) == 0
    )
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["model"]["clean"] == saved["control"]["clean"]
    assert saved["model"]["free_running"]["exact_rate"] == 1.0
    printed = capsys.readouterr().out
    assert "| bytes hidden by character masks, rate 0.2" in printed
    assert printed.strip() in (tmp_path / "out.md").read_text()
    assert "command" in saved


def test_rate_distortion_has_compressors_beside_latents(trained, tmp_path, data_file):
    arguments = ["rate-distortion", "--checkpoint", str(trained[2]), "--data_file", str(data_file)]
    assert run_eval.main([*arguments, "--passage_length", "32", "--output", str(tmp_path / "out")]) == 0
    rows = {row["what"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert set(rows) == {"latents, int8", "latents, float32", "gzip -9", "xz -9"}
    assert 3.9 < rows["latents, float32"]["bits per byte of text"] / rows["latents, int8"]["bits per byte of text"] < 4
    assert math.isfinite(rows["gzip -9"]["bits per byte of text"])


def test_report_reads_a_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    state = {"log_history": history(np.full(40, 0.5), np.full(40, 0.3))}
    (run / "trainer_state.json").write_text(json.dumps(state))
    assert run_eval.main(["report", "--run", str(run), "--setpoint", "0.3", "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["mean_loss"] == pytest.approx(0.3)
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--run", "nowhere"], "holds no finished run"),
        (
            ["reconstruct", "--checkpoint", "x", "--data_file", "missing.txt"],
            "no file 'missing.txt'|x is not a local folder",
        ),
    ],
)
def test_wrong_input_ends_with_a_sentence(arguments, message, capsys):
    import re

    assert run_eval.main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_settings_file_comes_first_and_the_command_line_overrides_it(tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text("text: from the file\n")
    run_eval.main(["packing", str(settings), "--output", str(tmp_path / "file-0.1")])
    run_eval.main(["packing", str(settings), "--text", "other", "--output", str(tmp_path / "file-0.2")])
    words = [json.loads((tmp_path / f"file-0.{i}.json").read_text())["words"] for i in (1, 2)]
    assert words == [["from the ", "file"], ["other"]]


def test_help_lists_the_commands(capsys):
    assert run_eval.main(["--help"]) == 0
    assert run_eval.main(["no-command"]) == 2
    printed = capsys.readouterr().err
    assert all(name in printed for name in run_eval.COMMANDS)
