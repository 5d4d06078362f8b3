import pytest
import torch
from model_cases import TEXTS, encodzall_config, encodzall_training_inputs
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, pipeline

import modeling_textae as textae
from modeling_textae.data.collators import EncodzallMaskingCollator
from modeling_textae.models.attention import rotary_table
from modeling_textae.models.autoencoder import label_cross_entropy
from modeling_textae.models.contrastive import multiple_negatives_loss


@pytest.fixture
def tokenizer():
    return textae.EncodzallTokenizer()


def build(model_class, seed=0, **fields):
    torch.manual_seed(seed)
    return model_class(encodzall_config(**fields)).eval()


def encode(tokenizer, texts, **kwargs):
    return tokenizer(texts, padding=True, return_tensors="pt", **kwargs)


@pytest.mark.parametrize("pooling", ["mean", "max", "learned_query"])
@torch.no_grad()
def test_packed_words_equal_words_encoded_one_by_one(tokenizer, pooling):
    model = build(textae.EncodzallModel, pooling=pooling, num_byte_layers=2)
    ids, index = (
        encode(tokenizer, ["the quick brown fox, naïvely: 日本語の"])[k][0] for k in ("input_ids", "word_index")
    )
    lengths = torch.bincount(index)
    packed = model.encode_words(ids, index, lengths)
    for word in range(len(lengths)):
        own = ids[index == word]
        places = torch.arange(len(own))[None]
        states = model.places(model.embed_tokens(own[None]), places)
        for layer in model.byte_encoder:
            states = layer(states, None, model.rotary(places))
        alone = model.pool(model.byte_norm(states)[0], torch.zeros(len(own), dtype=torch.long), 1)
        torch.testing.assert_close(packed[word], alone[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_repeated_words_are_encoded_once_to_the_same(tokenizer):
    model = build(textae.EncodzallModel)
    ids, index = (encode(tokenizer, [TEXTS[1] * 4])[k][0] for k in ("input_ids", "word_index"))
    lengths = torch.bincount(index)
    seen = []
    model.byte_norm.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    once, each = model.encode_distinct_words(ids, index, lengths), model.encode_words(ids, index, lengths)
    torch.testing.assert_close(once, each, atol=1e-5, rtol=1e-4)
    assert seen[0] < seen[1] == len(ids)


@torch.no_grad()
def test_attention_equals_its_formula():
    model = build(textae.EncodzallModel)
    attention = model.word_encoder[0].attention
    states = torch.randn(2, 5, 32)
    positions = torch.arange(5)[None]
    output, _ = attention(states, None, model.rotary(positions))
    width = 8

    def turn(x):
        cosine, sine = (part[0, 0] for part in rotary_table(positions, width))
        return x * cosine + torch.cat((-x[..., 4:], x[..., :4]), -1) * sine

    heads = []
    for h in range(4):
        group = h // 2  # two query heads share a key and value head
        query = attention.q_norm(attention.q_proj(states)[..., h * width : (h + 1) * width])
        key = attention.k_norm(attention.k_proj(states)[..., group * width : (group + 1) * width])
        value = attention.v_proj(states)[..., group * width : (group + 1) * width]
        weights = (turn(query) @ turn(key).transpose(1, 2) / width**0.5).softmax(-1)
        heads.append(weights @ value)
    torch.testing.assert_close(output, attention.o_proj(torch.cat(heads, -1)), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_memory_attention_reads_values_by_distance():
    model = build(textae.EncodzallForConditionalGeneration)
    attention = model.sequence_decoder.layers[0].memory_attention
    states, memory = torch.randn(1, 3, 32), torch.randn(1, 4, 32)
    at, where = torch.tensor([[5, 9, 20]]), torch.tensor([[0, 6, 11, 19]])
    output, _ = attention(states, None, model.rotary(at), memory, model.rotary(where))
    moved, _ = attention(states, None, model.rotary(at + 100), memory, model.rotary(where + 100))
    torch.testing.assert_close(output, moved, atol=1e-4, rtol=1e-3)
    shifted, _ = attention(states, None, model.rotary(at + 1), memory, model.rotary(where))
    assert (output - shifted).abs().max() > 1e-3


@torch.no_grad()
def test_a_byte_reaches_other_words_only_through_encoder_two(tokenizer):
    model = build(textae.EncodzallModel)
    ids, index = (encode(tokenizer, [TEXTS[1]])[k][0] for k in ("input_ids", "word_index"))
    changed = ids.clone()
    changed[index == 1] = ord("x")
    lengths = torch.bincount(index)
    before, after = model.encode_words(ids, index, lengths), model.encode_words(changed, index, lengths)
    same = (before == after).all(1)
    assert not same[1]
    assert same[torch.arange(len(lengths)) != 1].all()
    whole = [model(x[None], word_index=index[None]).last_hidden_state[0] for x in (ids, changed)]
    assert not (whole[0] == whole[1]).all(1).any()


@torch.no_grad()
def test_the_decoder_sees_nothing_of_what_it_predicts():
    model = build(textae.EncodzallForPreTraining)
    inputs = encodzall_training_inputs([TEXTS[1]])
    encoded = model.model(inputs["input_ids"], inputs["attention_mask"], inputs["word_index"])
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        labels = inputs["labels"]
        base = model(encoder_outputs=encoded, decoder_input_ids=model.shift_right(labels), use_cache=False).logits
        for t in (0, 7, labels.shape[1] - 2):
            other = labels.clone()
            other[0, t] = ord("#")
            logits = model(encoder_outputs=encoded, decoder_input_ids=model.shift_right(other), use_cache=False).logits
            torch.testing.assert_close(logits[0, : t + 1], base[0, : t + 1], atol=1e-5, rtol=1e-5)
            assert (logits[0, t + 1] - base[0, t + 1]).abs().max() > 1e-4


@torch.no_grad()
def test_the_word_decoder_sees_its_own_words_past_only():
    model = build(textae.EncodzallForPreTraining)
    inputs = encodzall_training_inputs([TEXTS[1]])
    labels, index = inputs["labels"], inputs["target_word_index"]
    latents = model.encode(inputs["input_ids"], inputs["attention_mask"], inputs["word_index"])
    base, targets = model.score_words(latents, labels, index)
    real = index[0] >= 0
    words = torch.bincount(index[0][real])
    assert len(targets) == real.sum() + len(words)
    ends = words.cumsum(0) + torch.arange(len(words))
    assert (targets[ends] == 259).all()
    assert torch.equal(targets[targets != 259], labels[0][real])
    t = 15
    other = labels.clone()
    other[0, t] = ord("#")
    logits, _ = model.score_words(latents, other, index)
    slot = t + int(index[0, t])
    end = int(ends[index[0, t]])
    changed = (logits - base).abs().amax(1) > 1e-5
    assert changed[slot + 1 : end + 1].all()
    assert not changed[: slot + 1].any()
    assert not changed[end + 1 :].any()
    latents[0, int(index[0, t])] += 1.0
    changed = (model.score_words(latents, labels, index)[0] - base).abs().amax(1) > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(end - int(words[index[0, t]]), end + 1))


@torch.no_grad()
def test_ids_alone_give_the_tokenizers_words(tokenizer):
    model = build(textae.EncodzallModel)
    for side in ("right", "left"):
        inputs = encode(tokenizer, TEXTS, padding_side=side)
        full = model(**inputs)
        bare = model(inputs["input_ids"])
        assert torch.equal(full.last_hidden_state, bare.last_hidden_state)
        assert torch.equal(full.word_positions, bare.word_positions)


@torch.no_grad()
def test_word_positions_count_bytes_and_usual_lengths_for_masks(tokenizer):
    model = build(textae.EncodzallModel)
    output = model(torch.tensor([[97, 98, 32, 260, 99]]), word_index=torch.tensor([[0, 0, 0, 1, 2]]))
    assert output.word_positions.tolist() == [[0, 3, 3 + model.config.word_mask_length]]


@torch.no_grad()
def test_empty_texts_have_one_word_and_no_nan(tokenizer):
    model = build(textae.EncodzallModel)
    for texts in ([""], ["", "abc"]):
        output = model(**encode(tokenizer, texts))
        assert output.word_mask[0].sum() == 1
        assert output.last_hidden_state.isfinite().all()
        assert output.pooler_output.isfinite().all()


@torch.no_grad()
def test_the_embedding_is_the_mean_of_the_words(tokenizer):
    output = build(textae.EncodzallModel)(**encode(tokenizer, TEXTS))
    for states, mask, pooled in zip(output.last_hidden_state, output.word_mask, output.pooler_output, strict=True):
        torch.testing.assert_close(states[mask.bool()].mean(0), pooled)


@torch.no_grad()
def test_hidden_states_and_attentions_are_of_encoder_two(tokenizer):
    model = build(textae.EncodzallModel, num_word_layers=3)
    inputs = encode(tokenizer, [TEXTS[1], TEXTS[2]])
    model.set_attn_implementation("eager")
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    words = output.last_hidden_state.shape[1]
    assert [a.shape for a in output.attentions] == [(2, 4, words, words)] * 3
    assert len(output.hidden_states) == 4
    assert all(h.shape == output.last_hidden_state.shape for h in output.hidden_states)
    mask = output.word_mask.bool()
    for attention in output.attentions:
        torch.testing.assert_close(attention.sum(-1)[0], torch.ones(4, words))
        assert attention[1][..., ~mask[1]].abs().max() == 0


# Generation


NGRAMS = {"ngram_sizes": [2, 4], "ngram_buckets": 512}


@pytest.fixture(
    scope="module",
    params=[{}, {"byte_memory": True}, {"byte_memory": True, **NGRAMS}, {"follows_source": True}],
    ids=["words", "words-and-bytes", "n-grams", "follows-source"],
)
def trained(request):
    """A model that has learned to copy two texts, so that what it writes is no accident."""
    model = build(textae.EncodzallForConditionalGeneration, **request.param).train()
    collator = EncodzallMaskingCollator(textae.EncodzallTokenizer(), rate=0.0)
    inputs = collator([{"text": text} for text in (TEXTS[1], TEXTS[2])])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def generate(model, tokenizer, texts, **kwargs):
    inputs = encode(tokenizer, texts)
    return tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=60, **kwargs), skip_special_tokens=True)


def test_generation_copies_in_batches_of_unequal_length(trained, tokenizer):
    texts = [TEXTS[1], TEXTS[2]]
    together = generate(trained, tokenizer, texts, do_sample=False)
    assert together == texts
    assert together == [generate(trained, tokenizer, [text], do_sample=False)[0] for text in texts]
    assert trained.reconstruct(texts, tokenizer) == texts


def test_the_cache_changes_nothing(trained, tokenizer):
    texts = ["another text", TEXTS[1][:20]]
    for kwargs in ({"do_sample": False}, {"do_sample": False, "num_beams": 3}):
        assert generate(trained, tokenizer, texts, use_cache=True, **kwargs) == generate(
            trained, tokenizer, texts, use_cache=False, **kwargs
        )


def test_sampling_follows_the_seed(trained, tokenizer):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(generate(trained, tokenizer, ["unseen words"], do_sample=True, temperature=3.0))
    assert drawn[0] == drawn[1] != drawn[2]


def plain_hash(run, buckets):
    number = len(run)
    for i in run:
        number = (number * 1_000_003 + i + 2) % 2**40
    return (number ^ (number >> 17)) % buckets


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_ngrams_add_the_runs_that_end_and_begin_at_each_byte(tokenizer, padding_side):
    model = build(textae.EncodzallModel, **NGRAMS)
    torch.nn.init.normal_(model.ngrams.weight)
    texts = ["a river", "x", ""]
    inputs = tokenizer(texts, padding=True, padding_side=padding_side, return_tensors="pt")
    found = model.ngrams_around(inputs["input_ids"], inputs["attention_mask"] == 1)
    expected = []
    for text in texts:
        whole = [-1] * 3 + list(text.encode()) + [-1] * 3
        for place in range(3, len(whole) - 3):
            runs = [whole[place - size + 1 : place + 1] for size in (2, 4)]
            runs += [whole[place : place + size] for size in (2, 4)]
            rows = torch.tensor([plain_hash(run, 512) for run in runs])
            expected.append(model.ngram_proj(model.ngrams(rows).flatten()))
    torch.testing.assert_close(found, torch.stack(expected))


def test_ngrams_reach_the_words_and_the_decoder(tokenizer):
    model = build(textae.EncodzallForConditionalGeneration, **NGRAMS)
    torch.nn.init.normal_(model.model.ngrams.weight)
    inputs, labels = encode(tokenizer, ["a river bed"]), torch.tensor([[*b"a river bed", 258]])

    def run():
        output = model(**inputs, labels=labels)
        return output.latents, output.logits

    whole = run()
    with torch.no_grad():
        model.sequence_decoder.ngram_proj.weight.zero_()
    without = run()
    torch.testing.assert_close(whole[0], without[0])
    assert not torch.allclose(whole[1], without[1])
    with torch.no_grad():
        model.model.ngram_proj.weight.zero_()
    assert not torch.allclose(whole[0], run()[0])


def test_a_cache_with_ngrams_needs_what_they_reach_back_to(tokenizer):
    model = build(textae.EncodzallForConditionalGeneration, **NGRAMS)
    torch.nn.init.normal_(model.model.ngrams.weight)
    encoded = model.model(**encode(tokenizer, ["a river", "the"]), return_dict=True)
    ids = torch.tensor([[257, *b"a river"], [256, 256, 256, 256, 257, *b"the"]])
    mask = (ids != 256).long()
    whole = model(encoder_outputs=encoded, decoder_input_ids=ids, decoder_attention_mask=mask, use_cache=True)
    first = model(
        encoder_outputs=encoded, decoder_input_ids=ids[:, :6], decoder_attention_mask=mask[:, :6], use_cache=True
    )
    rest = {
        "encoder_outputs": encoded, "decoder_input_ids": ids[:, 6:], "decoder_attention_mask": mask,
        "past_key_values": first.past_key_values,
    }  # fmt: skip
    for few in ({}, {"decoder_recent_ids": ids[:, 4:6]}):
        with pytest.raises(ValueError, match="reach back 3 ids: give decoder_recent_ids"):
            model(**rest, **few)
    after = model(**rest, decoder_recent_ids=ids[:, 3:6])
    torch.testing.assert_close(after.logits, whole.logits[:, 6:], atol=1e-4, rtol=1e-4)


def test_padding_within_what_the_decoder_reads_changes_nothing_with_ngrams(tokenizer):
    model = build(textae.EncodzallForConditionalGeneration, **NGRAMS)
    torch.nn.init.normal_(model.model.ngrams.weight)
    encoded = model.model(**encode(tokenizer, ["a river"]), return_dict=True)
    plain = torch.tensor([[257, *b"a river"]])
    whole = model(encoder_outputs=encoded, decoder_input_ids=plain, use_cache=False).logits
    for filler in (256, 65):  # what the mask hides may be any id
        ids = torch.tensor([[filler, 257, *b"a ri", filler, filler, *b"ver"]])
        mask = torch.ones_like(ids)
        mask[0, [0, 6, 7]] = 0
        found = model(
            encoder_outputs=encoded, decoder_input_ids=ids, decoder_attention_mask=mask, use_cache=False
        ).logits[mask.bool()]
        torch.testing.assert_close(found, whole[0], atol=1e-4, rtol=1e-4)


def test_generation_with_ngrams_refuses_prefill_in_chunks_that_hide_what_came_before(tokenizer):
    model = build(textae.EncodzallForConditionalGeneration, **NGRAMS)
    start = torch.tensor([[257, *b"a river b"]])
    with pytest.raises(ValueError, match="give decoder_recent_ids"):
        model.generate(
            **encode(tokenizer, ["a river bed"]), decoder_input_ids=start, prefill_chunk_size=4, max_new_tokens=4,
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        )  # fmt: skip


@torch.no_grad()
def test_byte_memory_shows_the_decoder_every_byte_where_it_stands(tokenizer):
    model = build(textae.EncodzallForConditionalGeneration, byte_memory=True)
    inputs = encode(tokenizer, [TEXTS[1], ""])
    encoded = model.model(**inputs)
    plain = model.model(**inputs, output_byte_states=False)
    memory, mask, positions = encoded.memory()
    words, length = plain.last_hidden_state.shape[1], inputs["input_ids"].shape[1]
    assert memory.shape[:2] == mask.shape == positions.shape == (2, words + length)
    torch.testing.assert_close(memory[:, :words], plain.last_hidden_state)
    torch.testing.assert_close(memory[:, words:], encoded.byte_states)
    assert torch.equal(mask[:, words:], inputs["attention_mask"])
    assert positions[0, words:].tolist() == list(range(length))
    unread, *others = encoded.memory(is_read=False)
    assert unread.shape == memory.shape
    assert torch.equal(others[0], mask)
    assert torch.equal(others[1], positions)
    labels = torch.tensor([[*b"any text", tokenizer.eos_token_id]])
    alone = model.model(**encode(tokenizer, [TEXTS[1]]))
    logits = model(encoder_outputs=alone, labels=labels).logits
    alone.byte_states[0, 3] += 1.0
    assert (model(encoder_outputs=alone, labels=labels).logits - logits).abs().max() > 1e-4


def test_a_text_that_does_not_pass_through_its_latents_is_not_stored_as_them(tokenizer):
    model = build(textae.EncodzallForConditionalGeneration, byte_memory=True)
    with pytest.raises(ValueError, match="not its latents alone"):
        model.reconstruct(["a"], tokenizer, stored=True)
    encoded = model.model(**encode(tokenizer, ["a"]))
    with pytest.raises(TypeError, match="no bottleneck"):
        model.latent_bits(encoded.last_hidden_state, encoded.word_mask)


def test_a_bare_model_is_served_by_a_pretraining_checkpoint(tmp_path, tokenizer):
    model = build(textae.EncodzallForPreTraining)
    model.save_pretrained(tmp_path)
    seq2seq, info = textae.EncodzallForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    encoder = textae.EncodzallModel.from_pretrained(tmp_path)
    inputs = encode(tokenizer, TEXTS)
    assert torch.equal(encoder.eval().encode(**inputs), model.encode(**inputs))
    assert torch.equal(seq2seq.eval().encode(**inputs), model.encode(**inputs))


def test_feature_extraction_pipeline(tmp_path, tokenizer):
    build(textae.EncodzallModel).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    features = pipeline("feature-extraction", model=str(tmp_path), tokenizer=str(tmp_path), device="cpu")(TEXTS[1])
    assert len(features[0][0]) == 32


# Losses


def test_losses_are_weighted_parts_over_the_number_of_labels():
    model = build(textae.EncodzallForPreTraining)
    inputs = encodzall_training_inputs(TEXTS)
    with torch.no_grad():
        output = model(**inputs)
        number = (inputs["labels"] != -100).sum()
        sequence = nn.functional.cross_entropy(output.logits.flatten(0, 1), inputs["labels"].flatten(), reduction="sum")
        logits, targets = model.score_words(output.latents, inputs["labels"], inputs["target_word_index"])
        probability = logits.softmax(-1).gather(1, targets[:, None])[:, 0]
        word = ((1 - probability) * -probability.log()).sum()
    torch.testing.assert_close(output.sequence_loss, 0.75 * sequence / number)
    torch.testing.assert_close(output.word_loss, 0.25 * word / number)


@pytest.mark.parametrize("model_class", [textae.EncodzallForConditionalGeneration, textae.EncodzallForPreTraining])
def test_the_contrastive_loss_finds_the_clean_text_by_its_embedding(model_class, tokenizer):
    model = build(model_class, contrastive_loss_weight=0.3, contrastive_scale=5.0)
    inputs = encodzall_training_inputs(TEXTS)
    output = model(**inputs)
    noisy = model.model(inputs["input_ids"], inputs["attention_mask"], inputs["word_index"]).pooler_output
    clean = torch.cat([model.model(**tokenizer(text, return_tensors="pt")).pooler_output for text in TEXTS])
    expected = 0.0
    for i, one in enumerate(noisy):
        cosines = [torch.nn.functional.cosine_similarity(one, other, dim=0) for other in clean]
        expected -= torch.stack(cosines).mul(5.0).log_softmax(0)[i] / len(TEXTS)
    torch.testing.assert_close(output.contrastive_loss, 0.3 * expected.detach(), atol=1e-5, rtol=1e-4)
    parts = [part for part in (output.sequence_loss, output.word_loss, output.contrastive_loss) if part is not None]
    torch.testing.assert_close(output.loss.detach(), sum(parts))
    # A mean over texts, which counts as its share of the labels of a step.
    labels = int((inputs["labels"] != -100).sum())
    half = model(**inputs, num_items_in_batch=2 * labels)
    torch.testing.assert_close(half.contrastive_loss, output.contrastive_loss / 2)
    # The words of the clean text are derived where they are not given.
    underived = model(**{name: value for name, value in inputs.items() if name != "target_word_index"})
    torch.testing.assert_close(underived.contrastive_loss, output.contrastive_loss)
    assert build(model_class)(**inputs).contrastive_loss is None
    hidden = inputs | {"labels": inputs["labels"].clone()}
    hidden["labels"][0, 1] = -100  # what is not asked for is not read
    assert model(**hidden).contrastive_loss.isfinite()


def test_the_contrastive_loss_draws_views_together():
    torch.manual_seed(0)
    first, second = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    multiple_negatives_loss(first, second).backward()
    moved = first.detach() - 0.1 * first.grad
    assert multiple_negatives_loss(moved, second) < multiple_negatives_loss(first, second)
    torch.testing.assert_close(multiple_negatives_loss(3 * first, second), multiple_negatives_loss(first, second))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = multiple_negatives_loss(first, second)
    assert exact == multiple_negatives_loss(first, second)
    # Equal texts are not told apart.
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    alike = second[[0, 0, 2, 3]]
    told = multiple_negatives_loss(alike, alike, same=same)
    assert told < multiple_negatives_loss(alike, alike) - 0.3


def test_focal_cross_entropy_equals_its_formula_with_gradients():
    logits = torch.randn(7, 5, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 1, -100, 4, 3, -100, 2])
    for gamma in (0.0, 1.0, 2.5):
        loss = label_cross_entropy(logits, labels, focal_gamma=gamma)
        kept = labels >= 0
        p = logits[kept].softmax(-1).gather(1, labels[kept][:, None])[:, 0]
        expected = (-((1 - p) ** gamma) * p.log()).mean()
        torch.testing.assert_close(loss.double(), expected, atol=1e-6, rtol=1e-6)
        found, wanted = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0]
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_words_that_do_not_line_up_are_refused():
    model = build(textae.EncodzallForPreTraining)
    inputs = encodzall_training_inputs([TEXTS[1]])
    longer = encodzall_training_inputs([TEXTS[1] * 2])
    inputs |= {name: longer[name] for name in ("labels", "target_word_index")}
    with pytest.raises(ValueError, match="noise that keeps the number of words"):
        model(**inputs)


def test_without_memory_the_text_does_not_matter():
    model = build(textae.EncodzallForPreTraining, use_memory=False)
    inputs = encodzall_training_inputs(TEXTS)
    other = dict(inputs, input_ids=torch.full_like(inputs["input_ids"], ord("x")))
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, model(**other).logits)
        assert model(**inputs).loss.isfinite()


def test_calls_without_inputs_are_refused():
    with pytest.raises(ValueError, match="needs input_ids"):
        build(textae.EncodzallModel)()
    with pytest.raises(ValueError, match="needs labels or decoder_input_ids"):
        build(textae.EncodzallForConditionalGeneration)(torch.tensor([[97]]))
    with pytest.raises(ValueError, match="length 13 cannot be packed"):
        build(textae.EncodzallModel)(torch.full((1, 13), 97), word_index=torch.zeros(1, 13, dtype=torch.long))


# Latents


@torch.no_grad()
def test_stored_latents_are_bytes_and_cost_eight_bits(tokenizer):
    model = build(textae.EncodzallForConditionalGeneration)
    encoded = model.model(**encode(tokenizer, TEXTS))
    latents = encoded.last_hidden_state
    stored = model.round_latents(latents)
    scale = model.latent_scale()
    codes = stored / scale - 0.5
    torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
    assert codes.abs().max() <= 128.001
    assert (stored - latents).abs().max() <= scale.max() * 0.51
    bits = model.latent_bits(latents, encoded.word_mask)
    assert bits.tolist() == [
        (8 * 32 + 4) * int(n) + 16 for n in encoded.word_mask.sum(1)
    ]  # 4 bits for a length up to 12


# Sizes


@pytest.mark.parametrize(
    ("preset", "sizes", "millions"),
    [
        ("xs", {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1536, "layers": (2, 2, 1)}, 6.1),
        ("s", {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "layers": (2, 2, 2)}, 12.3),
        ("l", {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 4096, "layers": (4, 4, 8)}, 90.8),
        ("nano", {"hidden_size": 192, "layers": (1, 2, 1)}, 2.4),
    ],
)
def test_presets_have_the_seeds_sizes(preset, sizes, millions):
    config = getattr(textae.EncodzallConfig, preset)()
    assert (config.num_byte_layers, config.num_word_layers, config.num_decoder_layers) == sizes.pop("layers")
    assert {name: getattr(config, name) for name in sizes} == sizes
    with torch.device("meta"):
        model = textae.EncodzallForPreTraining(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    if preset == "nano":
        assert 2 * sum(p.numel() for p in model.parameters()) < 5 * 2**20


def test_grouped_heads_are_a_quarter_and_a_half():
    config = textae.EncodzallConfig.l()
    assert (config.byte_key_value_heads, config.word_key_value_heads) == (2, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 30}, "hidden_size 30"),
        ({"num_word_layers": 0}, "num_word_layers 0 is too small"),
        ({"dropout": 3}, "dropout 3 is no rate"),
        ({"rope_theta": -1}, "rope_theta -1 must be above 0"),
        ({"byte_key_value_heads": 3}, "byte_key_value_heads 3"),
        ({"row_length": 12}, "below row_length 12"),
        ({"pooling": "median"}, "'median' is unknown"),
        ({"contrastive_loss_weight": 1, "use_memory": False}, "there is no embedding"),
        ({"byte_memory": True, "use_memory": False}, "the decoder sees nothing"),
        ({"follows_source": True, "use_memory": False}, "the decoder sees nothing"),
        ({"ngram_sizes": [1]}, r"ngram_sizes \[1\] are too small"),
        ({"contrastive_scale": 0}, "contrastive_scale 0 must be above 0"),
    ],
)
def test_impossible_sizes_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        textae.EncodzallConfig(**fields)
