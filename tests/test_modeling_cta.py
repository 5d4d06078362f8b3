import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from model_cases import TEXTS, cta_config, cta_inputs
from torch import nn

import modeling_textae as textae
from modeling_textae.data.collators import CtaCollator
from modeling_textae.models.modeling_cta import best_tokens, first_maximum

LONG = "".join(chr(97 + i * i % 26) for i in range(300))


def build(**fields):
    torch.manual_seed(0)
    return textae.CtaModel(cta_config(**fields)).eval()


def ids_of(*texts):
    return textae.CtaTokenizer()(list(texts), padding=True, return_tensors="pt")


def rms_norm(states, weight, eps=1e-6):
    return states / (states.square().mean(1, keepdim=True) + eps).sqrt() * weight[:, None]


class Reference:
    """The model in torch's own convolutions, on tensors of shape `(batch, channels, length)`, without masks."""

    def __init__(self, model):
        self.model = model

    def block(self, block, states):
        inner = states
        for linear, norm in ((block.conv1, block.norm1), (block.conv2, block.norm2)):
            kernel = linear.weight.unflatten(1, (block.kernel_size, -1)).transpose(1, 2)
            inner = nn.functional.conv1d(inner, kernel, linear.bias, padding=block.kernel_size // 2)
            inner = nn.functional.silu(rms_norm(inner, norm.weight))
        return states + inner

    def level(self, level, states):
        for block in level.blocks:
            states = self.block(block, states)
        return states

    def __call__(self, ids):
        encoder, decoder = self.model.encoder, self.model.decoder
        states = encoder.proj(self.model.embed_tokens(ids)).transpose(1, 2)
        states = self.level(encoder.levels[0], rms_norm(states, encoder.norm.weight))
        for down, level in zip(encoder.down, encoder.levels[1:], strict=True):
            kernel = down.weight.unflatten(1, (4, -1)).transpose(1, 2)
            states = self.level(level, nn.functional.conv1d(states, kernel, down.bias, stride=2, padding=1))
        latents = encoder.mean(states.transpose(1, 2))
        if self.model.config.latent_norm:
            latents = latents / (latents.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        states = self.level(decoder.levels[-1], decoder.from_latent(latents).transpose(1, 2))
        for i in reversed(range(len(decoder.up))):
            kernel = decoder.up[i].weight.unflatten(0, (4, -1)).permute(2, 1, 0)
            states = nn.functional.conv_transpose1d(states, kernel, stride=2, padding=1)
            states = self.level(decoder.levels[i], states)
        states = decoder.proj(rms_norm(states, decoder.norm.weight).transpose(1, 2))
        return latents, self.model.lm_head(states)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_levels": 1, "num_blocks": [2, 0], "kernel_size": 5, "latent_norm": False},
        {"num_levels": 3, "num_blocks": [0, 1, 0, 2], "channel_growth": 1, "embedding_size": 32, "kernel_size": 1},
    ],
)
def test_the_model_is_a_plain_stack_of_convolutions(fields):
    model = build(**fields)
    ids = ids_of(LONG[:64])["input_ids"]
    with torch.no_grad():
        latents, logits = Reference(model)(ids)
        output = model(ids)
    torch.testing.assert_close(output.latents, latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.logits, logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("length", range(10))
def test_any_length_has_as_many_latents_as_it_needs(length):
    model = build()
    inputs = ids_of(LONG[:length], LONG[:50])
    output = model(**inputs)
    assert output.latent_mask.sum(1).tolist() == [-(-length // 4), 13]
    alone = model.encode(**ids_of(LONG[:length]))
    torch.testing.assert_close(output.latents[:1, : alone.shape[1]], alone, atol=1e-5, rtol=1e-5)
    scores = model.decode(alone, torch.tensor([length]))
    torch.testing.assert_close(scores[0, :length], output.logits[0, :length], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"num_levels": 3, "num_blocks": [1, 0, 2, 1], "kernel_size": 5}])
@pytest.mark.parametrize("tile_length", [8, 48])
def test_tiles_give_what_the_whole_gives(fields, tile_length):
    model = build(**fields)
    inputs = ids_of(LONG, LONG[:130], "x")
    lengths = inputs["attention_mask"].sum(1)
    latents = model.encode(**inputs)
    torch.testing.assert_close(model.encode(**inputs, tile_length=tile_length), latents, atol=1e-5, rtol=1e-5)
    scores = model.decode(latents, lengths)
    tiled = model.decode(latents, lengths, tile_length=tile_length)
    torch.testing.assert_close(tiled, scores, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.decode_tokens(latents, lengths, tile_length), tiled.argmax(-1))


@pytest.mark.slow
@torch.no_grad()
def test_a_megabyte_in_tiles_is_the_megabyte_whole():
    model = build()
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 257, (1, 1_000_003)))
    latents = model.encode(ids)
    whole, _ = model.encode_moments(*model.arranged(ids, None)[:2])
    torch.testing.assert_close(latents, whole, atol=1e-5, rtol=0)
    lengths = torch.tensor([ids.shape[1]])
    states = model.decode_states(latents, lengths)
    scores = torch.cat(
        [model.lm_head(part).argmax(-1) for part in states.split(100_000, dim=1)], dim=1
    )  # not all at once
    assert torch.equal(model.decode_tokens(latents, lengths), scores)


MEMORY = """
import resource, sys, torch, modeling_textae as textae
torch.manual_seed(0)
model = textae.CtaModel(textae.CtaConfig(vocab_size=257, embedding_size=24, hidden_size=64, latent_dim=8)).eval()
with torch.no_grad():
    for length in (20_000, int(sys.argv[1])):
        ids = torch.randint(1, 257, (1, length))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model.decode_tokens(model.encode(ids))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_the_memory_of_tiles_does_not_grow_with_the_document():
    grown = {}
    for length in (250_000, 1_000_000):
        run = subprocess.run([sys.executable, "-c", MEMORY, str(length)], capture_output=True, text=True, check=True)
        grown[length] = int(run.stdout) / 1024
    # Ids, latents and tokens of a megabyte are 24 MiB, with a copy of each while they are put together; states are 490 MiB.
    assert grown[1_000_000] < 100, grown
    assert grown[1_000_000] - grown[250_000] < 60, grown


def test_tiles_that_cut_a_latent_are_refused():
    with pytest.raises(ValueError, match="tile_length 10 must be a multiple of the ratio 4"):
        build().encode(**ids_of(LONG), tile_length=10)


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"num_levels": 3, "num_blocks": [1, 0, 2, 1], "kernel_size": 5}])
def test_nothing_beyond_the_reach_enters_a_latent(fields):
    model = build(**fields)
    ids = ids_of(LONG)["input_ids"]
    latents = model.encode(ids)
    place, reach = 152, model.reach()
    changed = ids.clone()
    changed[0, place] = 3
    moved = (model.encode(changed) != latents).any(-1)[0].nonzero().flatten() * model.config.ratio
    assert moved.min() >= place - reach - model.config.ratio
    assert moved.max() <= place + reach
    assert moved.min() < place - reach // 2  # the reach is not much more than what is needed
    assert moved.max() > place + reach // 2


@torch.no_grad()
def test_an_empty_batch_has_a_loss_of_zero():
    model, ids = build(kl_weight=0.1, latent_norm=False), torch.zeros(2, 0, dtype=torch.long)
    output = model(ids, torch.ones_like(ids), labels=ids)
    assert output.loss.item() == 0
    assert output.logits.shape == (2, 0, 257)
    assert model.decode(model.encode(ids)).shape == (2, 0, 257)


@torch.no_grad()
def test_without_a_mask_every_token_counts():
    model = build()
    ids = torch.tensor([[5, 0, 7, 8, 0]])
    assert torch.equal(model(ids).logits, model(ids, torch.ones_like(ids)).logits)
    assert not torch.equal(model(ids).logits, model(ids, (ids != 0).long()).logits)


@torch.no_grad()
@pytest.mark.parametrize("name", ["latent_noise", "latent_dropout", "token_dropout"])
def test_noise_is_for_training_alone_and_as_strong_as_it_says(name):
    inputs = ids_of(*[LONG] * 40)
    model, plain = build(**{name: 0.3}), build()
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
    model.train()
    clean, noisy = plain(**inputs).latents, model(**inputs).latents
    if name == "latent_noise":
        assert (noisy - clean).std().item() == pytest.approx(0.3, rel=0.02)
    elif name == "latent_dropout":
        assert (noisy == 0).float().mean().item() == pytest.approx(0.3, rel=0.05)
        torch.testing.assert_close(noisy[noisy != 0], clean[noisy != 0] / 0.7)
    else:
        seen = []
        model.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        model(**inputs)
        assert (seen[0] == 0).all(-1).float().mean().item() == pytest.approx(0.3, rel=0.05)


def test_sampled_candidates_are_told_as_if_the_vocabulary_were_they():
    model = build(num_negatives=5).train()
    inputs = ids_of(*TEXTS)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[0, 1] = -100
    torch.manual_seed(0)
    output = model(**inputs, labels=labels)
    torch.manual_seed(0)
    others = torch.randint(model.config.vocab_size, (5,))
    assert output.logits is None
    logits = build().train()(**inputs).logits
    among = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    among[labels[labels != -100]] = among[others] = True
    expected = torch.nn.functional.cross_entropy(
        logits.masked_fill(~among, -torch.inf).flatten(0, 1), labels.flatten(), ignore_index=-100
    )
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert ((model.lm_head.bias.grad != 0) == among).all()
    whole = model.eval()(**inputs, labels=labels)
    assert torch.equal(whole.logits, build()(**inputs).logits)
    assert whole.loss > expected


@torch.no_grad()
def test_training_samples_the_posterior_and_evaluation_takes_its_mean():
    model = build(kl_weight=0.1, latent_norm=False)
    model.encoder.log_variance.weight.zero_()
    model.encoder.log_variance.bias.fill_(math.log(0.25))
    inputs = ids_of(*[LONG] * 200)
    mean = model(**inputs).latents
    assert torch.equal(mean, model.encode(**inputs))
    difference = model.train()(**inputs).latents - mean
    assert difference.std().item() == pytest.approx(0.5, rel=0.02)
    assert abs(difference.mean().item()) < 0.01


@torch.no_grad()
def test_the_divergence_is_that_of_normal_distributions():
    model = build(kl_weight=0.1, latent_norm=False)
    mean, log_variance = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(model.kl_divergence(mean, log_variance), expected, atol=1e-5, rtol=1e-5)
    model.config.free_bits = 0.5
    found = model.kl_divergence(mean, log_variance)
    torch.testing.assert_close(found, expected.clamp(min=0.5 * math.log(2)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_loss_is_cross_entropy_and_weighted_divergence_of_real_latents():
    model, inputs = build(kl_weight=0.1, latent_norm=False), cta_inputs(TEXTS)
    output = model(**inputs)
    number = (inputs["labels"] != -100).sum()
    total = 0.0
    for text in TEXTS:
        alone = cta_inputs([text])
        ids, lengths, _ = model.arranged(alone["input_ids"], alone["attention_mask"])
        total += model.kl_divergence(*model.encode_moments(ids, lengths)).sum()
    assert output.kl_loss.item() == pytest.approx(0.1 * total.item() / number.item(), rel=1e-4)
    entropy = nn.functional.cross_entropy(output.logits.flatten(0, 1), inputs["labels"].flatten())
    torch.testing.assert_close(output.reconstruction_loss, entropy)
    model.kl_annealing = 0.5
    assert model(**inputs).kl_loss == output.kl_loss  # annealing is for training
    assert model.train()(**inputs).kl_loss.item() == pytest.approx(output.kl_loss.item() / 2)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_stored_latents_are_the_nearest_of_few_levels(bits, dtype):
    model = build().to(dtype)
    latents = model.encode(**ids_of(*TEXTS))[0]
    widest = latents.float().abs().amax(0)
    model.fit_latent_scale(latents)
    stored, step = model.round_latents(latents, bits), model.latent_scale(bits)
    levels = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) + 0.5
    nearest = levels * step.float()[:, None]
    for channel, found, grid in zip(latents.T.float(), stored.T.float(), nearest, strict=True):
        assert len(found.unique()) <= 2**bits
        own = 2 * torch.finfo(dtype).eps * channel.abs().max()
        distance = (channel[:, None] - grid).abs().amin(1)
        torch.testing.assert_close((channel - found).abs(), distance, atol=float(own) + 1e-6, rtol=0)
    # No worse than the grid that holds every value, but for what a coarse type rounds.
    plain = (
        (((latents.float() / (2 * widest / 2**bits)).floor() + 0.5).clamp(levels[0], levels[-1])) * 2 * widest / 2**bits
    )
    assert (stored - latents).square().mean() <= (plain - latents).square().mean() * 1.01 + torch.finfo(
        dtype
    ).eps ** 2 * widest.max() ** 2
    assert model.latent_bits(latents[None], torch.ones(1, 5), bits).item() == 5 * 8 * bits + 32
    assert (model.round_latents(latents, 16) - latents).abs().max() < 0.02
    with pytest.raises(ValueError, match="bits 9 are no way"):
        model.round_latents(latents, 9)


@torch.no_grad()
def test_grids_of_normal_latents_have_the_steps_of_the_literature():
    model = build()
    torch.manual_seed(0)
    model.fit_latent_scale(torch.randn(50_000, 8))
    # Max 1960, table 2.
    for bits, step in ((1, 1.596), (2, 0.9957), (3, 0.5860), (4, 0.3352), (5, 0.1881)):
        assert model.latent_scale(bits).mean().item() == pytest.approx(step, rel=0.05)


@pytest.mark.parametrize("vocabulary", [257, 1024])
def test_the_first_maximum_is_that_of_argmax(vocabulary):
    torch.manual_seed(0)
    scores = torch.randint(5, (3, 40, vocabulary)).float()  # many equals
    assert torch.equal(first_maximum(scores), scores.argmax(-1))
    head, states = torch.nn.Linear(8, vocabulary), torch.randn(3, 700, 8)
    assert torch.equal(best_tokens(head, states), head(states).argmax(-1))
    assert best_tokens(head, states[:0]).shape == (0, 700)


def test_training_on_makes_grids_void_and_a_frozen_model_keeps_them():
    model, ids = build().train(), torch.arange(1, 9)[None]
    model.fit_latent_scale(torch.randn(10, 8))
    model.requires_grad_(False)
    model(ids, labels=ids)
    assert model.scale.isfinite().all()
    model.requires_grad_(True).eval()
    model(ids, labels=ids)
    assert model.scale.isfinite().all()
    model.train()(ids, labels=ids)
    with pytest.raises(ValueError, match="call fit_latent_scale"):
        model.round_latents(torch.zeros(1, 8), 8)


def test_a_channel_that_is_always_zero_is_stored_in_half_precision():
    model = build().half()
    latents = torch.randn(20, 8).half()
    latents[:, 3] = 0
    model.fit_latent_scale(latents)
    for bits in (1, 8):
        stored = model.round_latents(latents, bits)
        assert stored.isfinite().all()
        assert stored[:, 3].abs().max() < 1e-6


def test_no_grid_is_used_before_it_is_fitted_and_it_travels_with_the_model(tmp_path):
    model = build()
    with pytest.raises(ValueError, match="call fit_latent_scale"):
        model.reconstruct(["text"], textae.CtaTokenizer(), bits=8)
    for latents in (torch.empty(0, 8), torch.full((3, 8), torch.nan)):
        with pytest.raises(ValueError, match="latents make no grid"):
            model.fit_latent_scale(latents)
    model.fit_latent_scale(torch.linspace(-2, 1, 80).view(10, 8))
    for bits in (0, 9, 16, 8.0):
        with pytest.raises(ValueError, match=f"bits {bits} are no way"):
            model.latent_scale(bits)
    model.save_pretrained(tmp_path / "fitted")
    assert torch.equal(textae.CtaModel.from_pretrained(tmp_path / "fitted").scale, model.scale)
    weights = {name: value for name, value in model.state_dict().items() if name != "scale"}
    model.save_pretrained(tmp_path / "without", state_dict=weights)
    assert textae.CtaModel.from_pretrained(tmp_path / "without").scale.isnan().all()


@torch.no_grad()
def test_information_is_the_divergence_of_each_texts_own_latents():
    model = build(kl_weight=0.1, latent_norm=False)
    inputs = ids_of("abcde", LONG[:21])
    found = model.information_bits(**inputs)
    for i, text in enumerate(("abcde", LONG[:21])):
        ids, lengths, _ = model.arranged(ids_of(text)["input_ids"], None)
        nats = model.kl_divergence(*model.encode_moments(ids, lengths)).sum()
        assert found[i].item() == pytest.approx(nats.item() / math.log(2), rel=1e-4)
    with pytest.raises(TypeError, match="without variance"):
        build().information_bits(**inputs)


def test_one_text_is_no_list_of_texts():
    with pytest.raises(ValueError, match="give \\[text\\]"):
        build().reconstruct("text", textae.CtaTokenizer())


def test_a_normed_latent_has_a_root_mean_square_of_one():
    latents = build().encode(**ids_of(LONG))
    torch.testing.assert_close(latents.square().mean(-1), torch.ones(1, 75), atol=1e-3, rtol=0)


def test_it_learns_to_write_texts_back_through_rounded_latents():
    model = build(initializer_range=0.02, hidden_size=64).train()
    texts = [*TEXTS, LONG[:33], ""]
    inputs = dict(CtaCollator(textae.CtaTokenizer())([{"text": text} for text in texts]))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    tokenizer = textae.CtaTokenizer()
    with torch.no_grad():
        output = model(**{k: v for k, v in inputs.items() if k != "labels"})
    model.fit_latent_scale(output.latents[output.latent_mask == 1])
    assert model.reconstruct(texts, tokenizer, batch_size=2, bits=8) == texts
    assert model.reconstruct([""], tokenizer) == [""]


def test_presets_have_the_sizes_they_claim():
    with torch.device("meta"):
        sizes = {
            name: textae.CtaModel(config).num_parameters() / 1e6
            for name, config in {
                "seed": textae.CtaConfig.seed(),
                "nano": textae.CtaConfig.nano(),
                **{f"small {2**n}x": textae.CtaConfig.small(num_levels=n) for n in (2, 3, 4)},
            }.items()
        }
    assert 169 < sizes["seed"] < 171
    assert 3.2 < sizes["nano"] < 3.4
    assert all(24 < sizes[f"small {ratio}x"] < 27 for ratio in (4, 8, 16))
    assert [textae.CtaConfig.small(num_levels=n).ratio for n in (2, 3, 4)] == [4, 8, 16]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_blocks": [1, 1]}, "num_blocks .* must name 3 numbers"),
        ({"kernel_size": 4}, "kernel_size 4 has no middle"),
        ({"latent_noise": 0.3, "latent_norm": False}, "latent_noise 0.3 has no unit"),
        ({"num_negatives": 0}, "num_negatives"),
        ({"kl_weight": 0.1}, "kl_weight 0.1 and latent_norm exclude"),
        ({"free_bits": 0.5, "latent_norm": False}, "free_bits 0.5 are of a divergence"),
        ({"token_dropout": 1.0}, "token_dropout 1.0 is no rate"),
        ({"kl_weight": -1.0}, "kl_weight -1.0 is negative"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        cta_config(**fields)
