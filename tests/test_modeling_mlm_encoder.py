import math

import pytest
import torch
from model_cases import TEXTS, mlm_encoder_config, mlm_encoder_training_inputs
from torch import nn
from transformers import pipeline

import modeling_textae as textae
from modeling_textae.models.autoencoder import label_cross_entropy
from modeling_textae.models.modeling_mlm_encoder import sinusoids


@pytest.fixture
def tokenizer():
    return textae.MlmEncoderTokenizer()


def build(model_class, seed=0, **fields):
    torch.manual_seed(seed)
    return model_class(mlm_encoder_config(**fields)).eval()


def test_sinusoids_equal_their_formula():
    table = sinusoids(torch.arange(40), 6)
    for position in range(40):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def torchs_layer(layer, config):
    """torch's own Transformer encoder layer with the weights of ours."""
    reference = nn.TransformerEncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        dropout=0.0,
        activation=config.hidden_act,
        layer_norm_eps=config.norm_eps,
        batch_first=True,
        norm_first=config.norm_first,
    )
    attention = layer.attention
    with torch.no_grad():
        inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
        reference.self_attn.in_proj_weight.copy_(torch.cat([x.weight for x in inputs]))
        reference.self_attn.in_proj_bias.copy_(torch.cat([x.bias for x in inputs]))
    pairs = (
        (reference.self_attn.out_proj, attention.o_proj),
        (reference.linear1, layer.feed_forward[0]),
        (reference.linear2, layer.feed_forward[2]),
        (reference.norm1, layer.attention_norm),
        (reference.norm2, layer.feed_forward_norm),
    )
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    return reference.train()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_the_encoder_equals_torchs_with_its_gradients(tokenizer, norm_first, implementation):
    model = build(textae.MlmEncoderModel, norm_first=norm_first).train()
    for parameter in model.parameters():  # biases and norms too
        nn.init.normal_(parameter, std=0.3)
    model.set_attn_implementation(implementation)
    config = model.config
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]

    embedded = model.embeddings.tokens(ids) * config.hidden_size**0.5
    states = embedded + sinusoids(torch.arange(ids.shape[1]), config.hidden_size)
    references = [torchs_layer(layer, config) for layer in model.layers]
    for reference in references:
        states = reference(states, src_key_padding_mask=mask == 0)
    expected = model.norm(states)
    found = model(ids, mask).last_hidden_state
    real = mask == 1
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)

    for output in (found, expected):
        (output[real] ** 3).sum().backward(retain_graph=True)
    for layer, reference in zip(model.layers, references, strict=True):
        attention = layer.attention
        ours = torch.cat([x.weight.grad for x in (attention.q_proj, attention.k_proj, attention.v_proj)])
        scale = ours.abs().max()
        torch.testing.assert_close(ours / scale, reference.self_attn.in_proj_weight.grad / scale, atol=1e-4, rtol=1e-3)
        scale = reference.linear1.weight.grad.abs().max()
        torch.testing.assert_close(
            layer.feed_forward[0].weight.grad / scale, reference.linear1.weight.grad / scale, atol=1e-4, rtol=1e-3
        )


@torch.no_grad()
def test_attention_sums_to_one_and_gives_nothing_to_padding(tokenizer):
    model = build(textae.MlmEncoderModel, num_hidden_layers=3)
    model.set_attn_implementation("eager")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    attentions = model(**inputs, output_attentions=True).attentions
    real = inputs["attention_mask"] == 1
    assert len(attentions) == 3
    for weights in attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        padding = ~real[:, None, None, :] & real[:, None, :, None]
        assert weights[padding.expand_as(weights)].max() == 0
    model.set_attn_implementation("sdpa")
    assert not model(**inputs, output_attentions=True).attentions


@torch.no_grad()
def test_hidden_states_are_those_of_every_layer(tokenizer):
    model = build(textae.MlmEncoderForMaskedLM)
    output = model(**tokenizer(TEXTS[1], return_tensors="pt"), output_hidden_states=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    torch.testing.assert_close(output.hidden_states[-1], output.latents)


@torch.no_grad()
def test_positions_count_from_the_first_token_or_as_given(tokenizer):
    model = build(textae.MlmEncoderModel)
    ids = tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    expected = model(ids).last_hidden_state
    given = torch.arange(ids.shape[1])[None]
    torch.testing.assert_close(model(ids, position_ids=given).last_hidden_state, expected)
    shifted = model(ids, position_ids=given + 1000).last_hidden_state
    assert not torch.allclose(shifted, expected, atol=1e-3)
    turned = model(ids.flip(1), position_ids=given.flip(1)).last_hidden_state  # order is position, nothing else
    torch.testing.assert_close(turned.flip(1), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_vectors_may_replace_ids(tokenizer):
    model = build(textae.MlmEncoderForMaskedLM)
    ids = tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
    torch.testing.assert_close(embedded, model(ids).logits)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(ids, inputs_embeds=model.get_input_embeddings()(ids))


@torch.no_grad()
def test_any_length_runs(tokenizer):
    model = build(textae.MlmEncoderModel)
    assert model(**tokenizer("long " * 700, return_tensors="pt")).last_hidden_state.shape == (1, 3500, 32)
    with pytest.raises(ValueError, match="nothing to encode"):
        model(torch.zeros(2, 0, dtype=torch.long))
    assert "positions" not in " ".join(model.state_dict())


def test_latents_without_a_bottleneck_have_no_price():
    model = build(textae.MlmEncoderForMaskedLM)
    with pytest.raises(TypeError, match="has no bottleneck"):
        model.latent_bits(torch.zeros(1, 3, 32), torch.ones(1, 3))
    with pytest.raises(TypeError, match="names no scale"):
        model.round_latents(torch.zeros(1, 3, 32))


@torch.no_grad()
def test_padding_is_known_by_its_id_without_a_mask(tokenizer):
    model = build(textae.MlmEncoderModel)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    torch.testing.assert_close(model(inputs["input_ids"]).last_hidden_state, model(**inputs).last_hidden_state)


def test_the_head_is_the_embedding_and_a_bias():
    model = build(textae.MlmEncoderForMaskedLM)
    with torch.no_grad():
        model.lm_head.bias.normal_()
        inputs = mlm_encoder_training_inputs(TEXTS)
        output = model(**inputs)
        expected = output.latents @ model.get_input_embeddings().weight.T + model.lm_head.bias
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(output.loss, label_cross_entropy(expected, inputs["labels"]))
    assert model.num_parameters() == build(textae.MlmEncoderModel).num_parameters() + model.config.vocab_size


def test_sparse_prediction_changes_neither_loss_nor_gradient():
    inputs = mlm_encoder_training_inputs(TEXTS)
    losses, gradients = [], []
    for sparse in (True, False):
        model = build(textae.MlmEncoderForMaskedLM, sparse_prediction=sparse).train()
        output = model(**inputs)
        output.loss.backward()
        losses.append(output.loss)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        number = int((inputs["labels"] != -100).sum())
        assert output.logits.shape == ((number, 258) if sparse else (*inputs["labels"].shape, 258))
        assert model.eval()(**inputs).logits.shape == (*inputs["labels"].shape, 258)
    torch.testing.assert_close(*losses)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("number", [None, 0, torch.tensor(0)])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_batch_without_any_mask_has_no_loss_and_no_nan(tokenizer, sparse, number):
    model = build(textae.MlmEncoderForMaskedLM, sparse_prediction=sparse).train()
    ids = tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    loss = model(ids, labels=torch.full_like(ids, -100), num_items_in_batch=number).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_surest_mask_is_filled_first(tokenizer):
    model = build(textae.MlmEncoderForMaskedLM).train()
    with torch.no_grad():
        model.lm_head.bias[[tokenizer.pad_token_id, tokenizer.mask_token_id]] = 99.0  # never an answer
    texts = ["a [MASK] in [MASK][MASK]", "nothing hidden", "", "[MASK]"]
    filled = model.reconstruct(texts, tokenizer, batch_size=2)
    bigger = build(textae.MlmEncoderForMaskedLM, vocab_size=300)
    with torch.no_grad():
        bigger.lm_head.bias[258:] = 99.0  # ids that the tokenizer does not have
    assert "[MASK]" not in bigger.reconstruct(texts, tokenizer)[0]
    assert len(bigger.reconstruct(["[MASK]" * 5], tokenizer)[0].encode()) >= 5
    assert model.training
    model.eval()
    expected = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        while tokenizer.mask_token_id in ids:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0]
            logits[:, :2] = -torch.inf
            places = [i for i, token in enumerate(ids) if token == tokenizer.mask_token_id]
            sureness = [logits[i].log_softmax(-1).max().item() for i in places]
            best = places[sureness.index(max(sureness))]
            ids[best] = logits[best].argmax().item()
        expected.append(tokenizer.decode(ids))
    assert filled == expected
    assert filled[1:3] == texts[1:3]


def test_pipelines_fill_masks_and_return_features(tokenizer, tmp_path):
    model = build(textae.MlmEncoderForMaskedLM)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    answers = pipeline("fill-mask", model=str(tmp_path), device="cpu")("to be or [MASK] to be", top_k=3)
    with torch.no_grad():
        ids = tokenizer("to be or [MASK] to be", return_tensors="pt")["input_ids"]
        probabilities = model(ids).logits[0, 8].softmax(-1)
    assert [a["token"] for a in answers] == probabilities.topk(3).indices.tolist()
    assert [a["score"] for a in answers] == pytest.approx(probabilities.topk(3).values.tolist(), rel=1e-4)
    features = pipeline("feature-extraction", model=str(tmp_path), device="cpu")("abc")
    assert torch.tensor(features).shape == (1, 3, 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 33}, "hidden_size 33"),
        ({"num_attention_heads": 5}, "into 5 heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"dropout": 1.0}, "dropout 1.0 is no rate"),
        ({"norm_eps": 0.0}, "norm_eps 0.0"),
        ({"hidden_act": "sharp"}, "'sharp' is unknown: accepted are"),
    ],
)
def test_impossible_sizes_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        mlm_encoder_config(**fields)


def test_presets_have_the_sizes_they_name():
    sizes = {}
    for name in ("seed", "nano", "base"):
        with torch.device("meta"):
            sizes[name] = textae.MlmEncoderForMaskedLM(getattr(textae.MlmEncoderConfig, name)()).num_parameters()
    assert 30_000 < sizes["seed"] < 40_000
    assert 1.7e6 < sizes["nano"] < 1.9e6
    assert 1.0e8 < sizes["base"] < 1.2e8


def test_first_heads_begin_by_attending_to_one_neighbour_each():
    with torch.no_grad():
        model = build(textae.MlmEncoderModel, hidden_size=128, num_attention_heads=4)
        model.get_input_embeddings().weight.zero_()  # positions alone
        model.set_attn_implementation("eager")
        first, second = model(torch.full((1, 60), 5), output_attentions=True).attentions
    favourite = first[0].argmax(-1)
    middle = torch.arange(10, 50)
    for head, offset in enumerate((-1, 1, -2, 2)):
        assert torch.equal(favourite[head, middle], middle + offset)
    assert (second[0].argmax(-1)[:, middle] == middle).float().mean() < 0.5
    model = build(textae.MlmEncoderModel, hidden_size=128, offset_heads=False)
    assert model.layers[0].attention.q_proj.weight.std().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("std", [0.02, 0.5])
def test_token_vectors_begin_as_strong_as_the_configuration_says(std):
    model = build(textae.MlmEncoderForMaskedLM, hidden_size=128, embedding_initializer_range=std)
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(std, rel=0.05)
    assert model.lm_head.weight.std().item() == pytest.approx(std, rel=0.05)
