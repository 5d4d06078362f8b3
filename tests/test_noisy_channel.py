import json
import math

import pytest
import torch
from model_cases import abstractinator_config, encodzall_config
from transformers import LlamaConfig, LlamaForCausalLM

import modeling_textae as textae
import run_eval
from modeling_textae.data.noisy_channel import NoisyChannel
from modeling_textae.data.ocr_noise import OcrNoiseModel
from modeling_textae.models.denoising import SuggestedEdit

CLEAN = ["the old river", "a boat by the river", "the old boat", "by the old river"] * 3
NOISY = [text.replace("the", "tlie").replace("old ", "old, ").replace("boat by", "boatby") for text in CLEAN]


def trained(kind, config):
    """A model that knows these sentences and little else."""
    torch.manual_seed(0)
    model = kind(config)
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
    return trained(textae.AbstractinatorForCausalLM, abstractinator_config())


@pytest.fixture(scope="module")
def noise():
    return OcrNoiseModel.fit(list(zip(NOISY, CLEAN, strict=True)))


def everything(channel, noise, text, longest):
    """All clean texts of so many bytes at most that noise may have made a text of, and what each takes."""
    found = {}  # what takes much noise is never the likeliest here
    edits = {(run, target) for _, run, target in noise.counts}

    def go(place, written, cost):
        if len(written.encode()) > longest:
            return
        if place == len(text):
            found[written] = min(found.get(written, math.inf), cost)
        else:
            go(place + 1, written + text[place], cost)
        for run, target in edits:
            if text.startswith(target, place):
                own = channel.edit_cost - math.log(noise.rate(text[place - 1 : place] or "\n", run, target))
                if own < channel.max_cost and cost + own < 20:
                    go(place + len(target), written + run, cost + own)

    go(0, "", 0.0)
    found = dict(sorted(found.items(), key=lambda pair: pair[1])[:2000])
    nats = channel.nats(list(found))
    return {written: cost + own.sum() for (written, cost), own in zip(found.items(), nats, strict=True)}


@pytest.mark.parametrize("text", ["tlie", "ld, b", "..a,", "le cafe", "b..", "t b"])
def test_the_search_finds_what_trying_all_finds(model, text):
    edits = {("", "h", "li"): 9, ("t", "h", "li"): 8, ("", "\N{LATIN SMALL LETTER E WITH ACUTE}", "e"): 5}
    edits |= {("", "e", ""): 2, ("", "he", ""): 4, ("", "", ","): 3, ("", "", "."): 30, ("", "o", ".a"): 5}
    seen = {("", run): 40 for run in ("h", "\N{LATIN SMALL LETTER E WITH ACUTE}", "e", "he", "", "o")}
    noise = OcrNoiseModel(edits, seen | {("t", "h"): 12}, [0.0, 0.1])
    channel = NoisyChannel(model, noise, num_beams=2_000, beam_width=25.0, slack=60.0, max_cost=12.0, edit_cost=0.5)
    tried, (found,) = everything(channel, noise, text, 2 * len(text.encode()) + 3), channel.likeliest([text])
    assert len(tried) > 1
    assert tried[found] == pytest.approx(min(tried.values()), abs=1e-3)


def test_noise_beside_noise_is_taken_out(model, noise):
    counts = noise.counts | {("", "", "."): 5}
    channel = NoisyChannel(model, OcrNoiseModel(counts, noise.occurrences | {("", ""): 300}, noise.strengths))
    assert channel.denoise(["the ....old river", "..the old river", "the old river....."]) == ["the old river"] * 3


def test_noisy_sentences_are_restored_and_clean_ones_stay(model, noise):
    channel = NoisyChannel(model, noise)
    assert channel.denoise(["tlie old, river", "a boatby"]) == ["the old river", "a boat by"]
    assert channel.denoise(CLEAN[:4]) == CLEAN[:4]


def test_a_language_model_of_another_kind_will_do(noise):
    config = LlamaConfig(
        vocab_size=261, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, pad_token_id=256,
        bos_token_id=257, eos_token_id=258,
    )  # fmt: skip
    channel = NoisyChannel(trained(LlamaForCausalLM, config), noise)
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
    before, after = (nats.sum() for nats in channel.nats(["tlie river", "the river"]))
    cost = -math.log(noise.rate("t", "h", "li")) + channel.edit_cost
    assert edit.gain == pytest.approx(before - after - cost, abs=1e-3)


def test_an_edit_beside_others_gains_what_they_lose_without_it(model, noise):
    channel = NoisyChannel(model, noise)
    first, second = channel.suggest_edits(["by tlie old, river"])[0]
    assert (first.replacement, second.replacement) == ("the", "old")
    nats = dict(
        zip(["all", 0, 1], channel.nats(["by the old river", "by tlie old river", "by the old, river"]), strict=True)
    )
    costs = [channel.cost("t", "h", "li"), channel.cost("d", "", ",")]
    for i, edit in enumerate((first, second)):
        assert edit.gain == pytest.approx(nats[i].sum() - nats["all"].sum() - costs[i], abs=1e-3)


def test_what_the_gain_does_not_reach_stays(model, noise):
    channel = NoisyChannel(model, noise)
    assert channel.denoise(["tlie river"], min_gain=math.inf) == ["tlie river"]


def test_texts_that_are_no_utf8_and_empty_ones_come_back(model, noise):
    channel = NoisyChannel(model, noise)
    texts = ["", "\udcff\N{CJK UNIFIED IDEOGRAPH-65E5}\U0001f642", " ", "the \ud83d\ude42 old"]
    assert channel.denoise(texts) == texts
    assert channel.likeliest(texts) == texts
    assert (channel.nats([]), channel.likeliest([]), channel.denoise([])) == ([], [], [])


def test_a_model_in_training_is_used_without_dropout_and_trains_on(model, noise):
    channel = NoisyChannel(model, noise)
    told = channel.nats(["tlie old, river"])[0].tolist()
    model.train()
    try:
        assert channel.denoise(["tlie old, river"]) == ["the old river"]
        assert model.training
        assert channel.nats(["tlie old, river"])[0].tolist() == told
    finally:
        model.eval()


def test_the_search_ends_where_dropped_runs_may_be_written_for_ever(model, noise):
    counts = noise.counts | {("", "a", ""): 100}
    channel = NoisyChannel(
        model, OcrNoiseModel(counts, noise.occurrences | {("", "a"): 100}, noise.strengths), edit_cost=0.0,
        beam_width=1e6, slack=1e6,
    )  # fmt: skip
    assert len(channel.likeliest(["ab"])[0]) <= 7


@pytest.mark.parametrize(
    "fields", [{"num_beams": 0}, {"lookahead": 0}, {"beam_width": math.inf}, {"edit_cost": -1.0}, {"slack": math.nan}]
)
def test_sizes_that_cannot_be_are_refused(model, noise, fields):
    with pytest.raises(ValueError, match="accepted"):
        NoisyChannel(model, noise, **fields)


def test_a_language_model_without_a_start_is_refused(noise):
    config = LlamaConfig(vocab_size=261, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, bos_token_id=None)
    with pytest.raises(ValueError, match="no bos_token_id"):
        NoisyChannel(LlamaForCausalLM(config), noise)


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
    textae.EncodzallForConditionalGeneration(encodzall_config()).save_pretrained(tmp_path / "encodzall")
    textae.EncodzallTokenizer().save_pretrained(tmp_path / "encodzall")
    judged = [*named, "--num_beams", "0", "--min_gain"]
    suggest = ["--suggest", str(tmp_path / "encodzall")]
    assert run_eval.main([*judged, "0", "-1000", *suggest]) == 0  # an untrained model suggests nothing of use
    _, kept, taken = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (kept["changed"], taken["changed"]) == (0, 1)
    assert run_eval.main([*judged, "0"]) == 2
    assert "num_beams 0 leaves nothing to judge" in capsys.readouterr().err
    assert run_eval.main([*named, "--suggest", str(tmp_path / "model")]) == 2
    assert "suggest names an Encodzall" in capsys.readouterr().err
    assert run_eval.main(arguments) == 2
    assert "it restores with a fitted noise_model" in capsys.readouterr().err
    assert run_eval.main([*named, "--save_min_gain", "true"]) == 2
    assert "save_min_gain is for an Encodzall" in capsys.readouterr().err


def test_what_others_suggest_is_judged_as_what_is_found(model, noise):
    def suggest(texts):
        return [[SuggestedEdit(0, 4, "the", -1.0), SuggestedEdit(5, 8, "xyz", 99.0)] for _ in texts]

    text = "tlie old boat"
    searched = NoisyChannel(model, noise)
    both, alone = (NoisyChannel(model, noise, suggest, num_beams=beams) for beams in (48, 0))
    (found,), (judged,), (whole,) = (channel.suggest_edits([text]) for channel in (searched, alone, both))
    assert [(edit.start, edit.end, edit.replacement) for edit in judged] == [(0, 4, "the"), (5, 8, "xyz")]
    assert judged[0].gain == pytest.approx(found[0].gain, rel=1e-4)  # the only edit of the search
    before, after = (nats.sum() for nats in alone.nats([text, "tlie xyz boat"]))
    assert judged[1].gain == pytest.approx(before - after - alone.edit_nats(text, 5, 8, "xyz"), rel=1e-4)
    assert whole == sorted([*found, judged[1]], key=lambda edit: edit.start)
    assert alone.denoise([text]) == ["the old boat"]
    with pytest.raises(ValueError, match="with suggest also no beam"):
        NoisyChannel(model, noise, num_beams=0)
