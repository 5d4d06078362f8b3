import json
import math

import pytest
import torch
from model_cases import abstractinator_config
from transformers import LlamaConfig, LlamaForCausalLM

import modeling_textae as textae
import run_eval
from modeling_textae.data.ocr_noise import OcrNoiseModel
from modeling_textae.models.noisy_channel import NoisyChannel

CLEAN = ["the old river", "a boat by the river", "the old boat", "by the old river"] * 3
NOISY = [text.replace("the", "tlie").replace("old ", "old, ").replace("boat by", "boatby") for text in CLEAN]


def trained(model):
    """A model that knows these sentences and little else."""
    torch.manual_seed(0)
    ids = torch.tensor([[257, *text.encode()][:14] + [256] * (14 - 1 - len(text)) for text in CLEAN])
    labels = ids.masked_fill(ids == 256, -100)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=ids, attention_mask=(ids != 256).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return trained(textae.AbstractinatorForCausalLM(abstractinator_config()))


@pytest.fixture(scope="module")
def noise():
    return OcrNoiseModel.fit(list(zip(NOISY, CLEAN, strict=True)))


def everything(channel, text):
    """All clean texts that the readings of a noisy one allow, with what each takes."""
    told = channel.told_before(text, channel.nats([text])[0])
    readings, ends = channel.readings(text, told)
    found = {}

    def go(place, written, cost):
        if ends[place] < math.inf:
            whole = cost + ends[place]
            found[written] = min(found.get(written, math.inf), whole)
        for reading in readings[place]:
            go(reading.end, written + reading.written, cost + reading.cost)

    go(0, b"", 0.0)
    return {
        written: cost + (channel.nats([written.decode()])[0].sum() if written else 0) for written, cost in found.items()
    }


@pytest.mark.parametrize("text", ["tlie", "tlie o", "old, b", "tlie, a", "a,"])
def test_the_search_finds_what_trying_all_finds(model, noise, text):
    # Nothing dropped, of which there might be any number.
    kept = OcrNoiseModel(
        {key: count for key, count in noise.counts.items() if key[2]}, noise.occurrences, noise.strengths
    )
    channel = NoisyChannel(model, kept, num_beams=10_000, beam_width=math.inf, slack=math.inf, edit_cost=0.0)
    with torch.no_grad():
        tried, (found,) = everything(channel, text), channel.likeliest([text])
    assert len(tried) > 1
    assert tried[found.encode()] == pytest.approx(min(tried.values()), abs=1e-3)


def test_noisy_sentences_are_restored_and_clean_ones_stay(model, noise):
    channel = NoisyChannel(model, noise)
    assert channel.denoise(["tlie old, river", "a boatby"]) == ["the old river", "a boat by"]
    assert channel.denoise(CLEAN[:4]) == CLEAN[:4]


def test_a_language_model_of_another_kind_will_do(noise):
    config = LlamaConfig(
        vocab_size=261, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, pad_token_id=256,
        bos_token_id=257, eos_token_id=258,
    )  # fmt: skip
    torch.manual_seed(0)
    channel = NoisyChannel(trained(LlamaForCausalLM(config)), noise)
    assert channel.denoise(["tlie old, river"]) == ["the old river"]


def test_texts_beside_each_other_change_nothing(model, noise):
    channel = NoisyChannel(model, noise)
    texts = ["tlie old, river", "a boatby tlie river", "the old, boat", "x"]
    alone = [channel.suggest_edits([text])[0] for text in texts]
    for mine, others in zip(alone, channel.suggest_edits(texts), strict=True):
        assert [(e.start, e.end, e.replacement) for e in mine] == [(e.start, e.end, e.replacement) for e in others]
        assert [e.gain for e in mine] == pytest.approx([e.gain for e in others], abs=1e-3)


def test_gains_are_by_how_much_texts_and_their_noise_are_likelier(model, noise):
    channel = NoisyChannel(model, noise)
    (edit,) = channel.suggest_edits(["tlie river"])[0]
    assert (edit.start, edit.end, edit.replacement) == (0, 4, "the")
    with torch.no_grad():
        before, after = (nats.sum() for nats in channel.nats(["tlie river", "the river"]))
    cost = -math.log(noise.rate("t", "h", "li")) + channel.edit_cost
    assert edit.gain == pytest.approx(before - after - cost, abs=1e-3)


def test_what_the_gain_does_not_reach_stays(model, noise):
    channel = NoisyChannel(model, noise)
    assert channel.denoise(["tlie river"], min_gain=math.inf) == ["tlie river"]


def test_texts_that_are_no_utf8_and_empty_ones_come_back(model, noise):
    texts = ["", "\udcff日🙂", " "]
    assert NoisyChannel(model, noise).denoise(texts, min_gain=math.inf) == texts


@pytest.mark.parametrize("fields", [{"num_beams": 0}, {"lookahead": 0}])
def test_sizes_that_cannot_be_are_refused(model, noise, fields):
    with pytest.raises(ValueError, match="1 and above"):
        NoisyChannel(model, noise, **fields)


def test_a_text_alone_is_refused(model, noise):
    with pytest.raises(ValueError, match="list"):
        NoisyChannel(model, noise).denoise("tlie river")


def test_the_command_counts_errors_before_and_after(model, noise, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    textae.AbstractinatorTokenizer().save_pretrained(tmp_path / "model")
    noise.save_pretrained(tmp_path / "noise")
    rows = [{"noisy": "tlie old, river", "clean": "the old river"}, {"noisy": "a boat", "clean": "a boat"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["denoise", "--checkpoint", str(tmp_path / "model"), "--data_file", str(tmp_path / "pairs.jsonl")]
    named = [*arguments, "--noise_model", str(tmp_path / "noise"), "--output", str(tmp_path / "found")]
    assert run_eval.main(named) == 0
    noisy, restored = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert noisy["character_error_rate"] > 0
    assert (restored["min_gain"], restored["character_error_rate"], restored["changed"]) == (0, 0, 0.5)
    assert run_eval.main(arguments) == 2
    assert "it restores with a fitted noise_model" in capsys.readouterr().err
    assert run_eval.main([*named, "--save_min_gain", "true"]) == 2
    assert "save_min_gain is for an Encodzall" in capsys.readouterr().err
