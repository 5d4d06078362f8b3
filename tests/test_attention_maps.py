import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from model_cases import TEXTS, encodzall_config, mlm_encoder_config

import modeling_textae as textae
import run_eval
from modeling_textae.evaluation.attention_maps import (
    attention_rollout,
    attention_weights,
    plot_heads,
    plot_layers,
    plot_positions,
)

ROOT = Path(__file__).parent.parent
CARD = ROOT / "model_cards" / "mlm-encoder-seed"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return textae.MlmEncoderModel(mlm_encoder_config(num_hidden_layers=3, initializer_range=0.3))


def test_weights_are_the_models_own(model):
    tokenizer = textae.MlmEncoderTokenizer()
    model.train()
    before = model.config._attn_implementation
    tokens, weights = attention_weights(model, tokenizer, "to be")
    assert model.training
    assert model.config._attn_implementation == before == "sdpa"
    assert tokens == ["t", "o", "␣", "b", "e"]
    assert weights.shape == (3, 4, 5, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    layer = model.eval().layers[0].attention
    with torch.no_grad():
        states = model.embeddings(tokenizer("to be", return_tensors="pt")["input_ids"])
        query, key = (p(states)[0].view(5, 4, 8).transpose(0, 1) for p in (layer.q_proj, layer.k_proj))
        expected = (query @ key.transpose(1, 2) / 8**0.5).softmax(-1)
    np.testing.assert_allclose(weights[0], expected, atol=1e-5)
    assert np.ptp(weights) > 0.5  # no flat picture


def test_tokens_are_named_as_they_are_read(model):
    tokens, weights = attention_weights(model, textae.MlmEncoderTokenizer(), "é[MASK]\n$$")
    assert tokens == ["Ã", "©", "[MASK]", "\\n", "\\$", "\\$"]
    plot_heads(weights, tokens).canvas.draw()  # dollars are no formula


def test_rollout_equals_plain_loops():
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=(3, 2, 4))
    flows = attention_rollout(weights)
    for last in range(3):
        flow = np.eye(4)
        for layer in range(last + 1):
            mixed = 0.5 * (weights[layer, 0] + weights[layer, 1]) / 2 + 0.5 * np.eye(4)
            flow = np.array([[sum(mixed[i, k] * flow[k, j] for k in range(4)) for j in range(4)] for i in range(4)])
        np.testing.assert_allclose(flows[last], flow)
    np.testing.assert_allclose(flows.sum(-1), 1)


def test_pictures_have_a_named_map_for_every_head_and_layer():
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 4, 3))
    tokens = ["a", "b", "c"]
    figure = plot_heads(weights, tokens)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:-1] == [f"layer {i}, head {j}" for i in (1, 2) for j in (1, 2, 3, 4)]
    for axis, expected in zip(figure.axes, weights.reshape(-1, 3, 3)):
        np.testing.assert_allclose(axis.collections[0].get_array().reshape(3, 3), expected)
    named = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes]
    assert named[0] == named[4] == tokens
    assert [label.get_text() for label in figure.axes[7].get_xticklabels()] == tokens
    assert len(plot_layers(weights, tokens).axes) == 4 + 1  # and the scale of the colours
    assert plot_positions(10, 16).axes[0].collections[0].get_array().shape == (10, 16)
    plt.close("all")


def test_what_has_no_attention_of_tokens_is_refused(model):
    with pytest.raises(ValueError, match="no tokens to attend to"):
        attention_weights(model, textae.MlmEncoderTokenizer(), "")
    words = textae.EncodzallModel(encodzall_config())
    with pytest.raises(ValueError, match="returns no attention of tokens to tokens"):
        attention_weights(words, textae.EncodzallTokenizer(), TEXTS[1])


def test_the_command_draws_a_trained_models_attention(tmp_path):
    output = tmp_path / "maps.png"
    arguments = ["--checkpoint", str(CARD), "--text", "Mars is called the [MASK] planet", "--output", str(output)]
    assert run_eval.main(["attention", *arguments]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "maps.json").read_text())
    assert report["tokens"] == ["Mars", "is", "called", "the", "[MASK]", "planet"]
    np.testing.assert_allclose(np.array(report["weights"]).sum(-1), 1, atol=1e-3)
    assert "maps.png" in (tmp_path / "maps.md").read_text()


def test_the_notebook_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "notebooks" / "visualize_attention.ipynb"
    assert path.stat().st_size < 600_000
    notebook = nbformat.read(path, as_version=4)
    stored = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in stored) >= 4
    assert not any(output["output_type"] == "error" for output in stored)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    fresh = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in fresh) >= 4


def test_attention_of_another_family_is_refused_by_name(tmp_path, capsys):
    card = str(ROOT / "model_cards" / "encodzall-nano")
    assert run_eval.main(["attention", "--text", "a", "--checkpoint", card, "--output", str(tmp_path / "a")]) == 2
    assert "is an Encodzall" in capsys.readouterr().err
