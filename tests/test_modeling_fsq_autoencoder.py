import pytest
import torch
from fsq_training import TEXT, language_model, trained_autoencoder, trained_tokenizer
from model_cases import fsq_autoencoder_config
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

import modeling_textae as textae
from modeling_textae.data.collators import FsqChunkCollator, LanguageCollator
from modeling_textae.evaluation.codebook import chunk_figures, neighbours, pruning_rows, run_report, tokenizer_figures
from modeling_textae.evaluation.language import language_figures
from modeling_textae.models.modeling_fsq_autoencoder import chunk_matrix, waves
from modeling_textae.models.quantization import FSQLayer
from modeling_textae.training.codes import commonest_chunks, export_again, keep_codes


def test_padding_within_a_chunk_is_never_seen():
    for block_type in ("mlp", "conv"):
        torch.manual_seed(0)
        model = textae.FsqAutoencoderModel(fsq_autoencoder_config(block_type=block_type)).eval()
        ids, lengths = chunk_matrix([b" river"], 16)
        other = ids.clone()
        other[:, 6:] = torch.randint(0, 256, (1, 10))
        torch.testing.assert_close(model.encoder(ids, lengths), model.encoder(other, lengths))


def test_the_convolutions_are_torchs_own():
    torch.manual_seed(0)
    model = textae.FsqAutoencoderModel(fsq_autoencoder_config(block_type="conv")).eval()
    encoder = model.encoder.layers
    states = torch.randn(3, 16, 16)
    found, expected = states, states.transpose(1, 2)
    for linear, stride in zip(encoder.convs, (1, 2, 2), strict=True):
        weight = linear.weight.view(linear.out_features, 3, -1).transpose(1, 2)
        # As `windows` pads: a stride of 2 has one zero behind and none before.
        padded = nn.functional.pad(expected, (1, 1) if stride == 1 else (0, 1))
        expected = nn.functional.silu(nn.functional.conv1d(padded, weight, linear.bias, stride=stride))
    expected = encoder.norm(expected.mean(2))
    found = encoder(states, torch.ones(3, 16, 1, dtype=torch.bool))
    torch.testing.assert_close(found, expected)


def test_waves_are_the_numbers_their_sines_and_their_cosines():
    codes = torch.tensor([[0.5, -1.0]])
    expected = [[0.5, -1, 1, 0, 0, -1, 0, 0, -1, 1]]  # numbers; sin and cos of half turns; of whole turns
    torch.testing.assert_close(waves(codes, 2), torch.tensor(expected), atol=1e-6, rtol=0)
    assert torch.equal(waves(codes, 0), codes)


def test_the_seeds_shape_is_a_preset():
    config = textae.FsqAutoencoderConfig.seed()
    assert (config.block_type, config.num_codes, config.codebook_size) == ("conv", 1, 4_096_000)
    model = textae.FsqAutoencoderModel(config)
    shapes = [tuple(conv.weight.shape) for conv in model.encoder.layers.convs]
    assert shapes == [(128, 3 * 64), (256, 3 * 128), (256, 3 * 256)]
    assert isinstance(model.quantizer, FSQLayer)


@pytest.mark.parametrize("num_codes", [1, 3, 4])
def test_codes_that_no_64_bits_can_number_are_counted_as_well(num_codes):
    config = fsq_autoencoder_config(num_codes=num_codes, levels=[8, 8, 8, 8, 8, 5, 5, 5])
    torch.manual_seed(0)
    model = textae.FsqAutoencoderModel(config)
    ids = torch.tensor([[97, 98], [97, 98], [200, 7]])
    assert model(ids, labels=ids).code_use == pytest.approx(2 / 3)


def test_no_tensor_is_as_large_as_the_codebook():
    model = textae.FsqAutoencoderModel(textae.FsqAutoencoderConfig.nano())
    assert max(t.numel() for t in [*model.parameters(), *model.buffers()]) < model.config.codebook_size


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 17, dtype=torch.long), "chunk of 17 bytes"),
        (torch.tensor([[256]]), "id 256 is no byte"),
        (torch.tensor([[-1]]), "id -1 is no byte"),
    ],
)
def test_what_is_no_chunk_is_refused(ids, message):
    model = textae.FsqAutoencoderModel(fsq_autoencoder_config()).eval()
    with pytest.raises(ValueError, match=message):
        model(ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"levels": [1, 8]},
        {"block_type": "rnn"},
        {"frozen": "all"},
        {"num_attention_heads": 3},
        {"num_key_value_heads": 3},
        {"norm_momentum": 1.0},
        {"num_codes": 0},
        {"max_chunk_length": 3},
    ],
)
def test_configurations_that_cannot_be_are_refused(fields):
    with pytest.raises(Exception, match=f"{next(iter(fields))} "):
        fsq_autoencoder_config(**fields)


def test_the_autoencoder_gives_back_the_text_it_has_learned():
    model, tokens, _ = trained_autoencoder()
    tokenizer = trained_tokenizer()
    texts = [" river of the land", "the sea"]
    assert model.reconstruct(texts, tokenizer) == texts
    figures = chunk_figures(model, tokens, [1] * len(tokens))
    assert figures["exact_chunks"] > 0.8
    assert 1 <= figures["perplexity"] < 1.5
    assert 0 < figures["level_use"] <= 1
    latents = model.encode(torch.tensor([list(b" river")]))
    assert model.decode(latents).argmax(-1)[0, :6].tolist() == list(b" river")
    assert model.latent_bits(latents)[0] == pytest.approx(2 * torch.log2(torch.tensor(1000.0)).item())


def test_codes_are_dropped_until_all_that_are_kept_are_used():
    model, tokens, counted = trained_autoencoder()
    tokenizer, found = keep_codes(model, tokens, counted, 12)
    assert found["kept"] == len(tokenizer.kept) <= 12
    used = {i for i in tokenizer(TEXT)["input_ids"] if i >= 261}
    assert used == set(range(261, len(tokenizer)))
    assert commonest_chunks(counted, 3)[0] == b" the"


def test_the_report_counts_what_a_loop_counts():
    model, _, _ = trained_autoencoder()
    tokenizer = trained_tokenizer()
    figures = tokenizer_figures(tokenizer, [TEXT, "the sea"])
    ids = tokenizer(TEXT)["input_ids"] + tokenizer("the sea")["input_ids"]
    assert figures["tokens"] == len(ids)
    assert figures["ids_used"] == len(set(ids))
    rows = pruning_rows(tokenizer, [TEXT], sizes=(4, 16))
    assert [row["codes"] for row in rows] == [4, 16, len(tokenizer.kept)]
    assert rows[0]["bytes per token"] < rows[1]["bytes per token"] <= rows[2]["bytes per token"]
    assert rows[2]["bytes per token"] == pytest.approx(len(TEXT.encode()) / len(tokenizer(TEXT)["input_ids"]))
    assert " river" not in neighbours(tokenizer, " river", 3)
    assert len(neighbours(tokenizer, " rivel", 3)) == 3
    _, lines = run_report(model, tokenizer, [TEXT])
    assert "bytes a token" in lines[1]


# The language model


def test_the_trunk_is_llama():
    model, _ = language_model()
    assert type(model.trunk) is LlamaModel
    assert isinstance(model.trunk.config, LlamaConfig)


def test_embeddings_are_a_table_and_a_projection_of_codes():
    model, tokenizer = language_model()
    ids = torch.tensor([tokenizer(" river of <eos>")["input_ids"] + [258]])
    found, codes = model.embeddings(ids)
    for place, i in enumerate(ids[0].tolist()):
        expected = model.embed_tokens.weight[i]
        if i != 258:
            string = tokenizer.decode_bytes([i])
            latents = tokenizer.autoencoder.encode(torch.tensor([list(string)]))
            torch.testing.assert_close(codes[0, place], latents[0])
            expected = expected + model.code_proj(latents.flatten())
        torch.testing.assert_close(found[0, place], expected)


def test_scores_are_those_of_the_whole_matrix():
    model, tokenizer = language_model(code_scores=True)
    torch.nn.init.normal_(model.score_proj.weight)
    ids = torch.tensor([tokenizer(" river of <eos>")["input_ids"]])
    states, matrix = torch.randn(2, 3, model.lm_head.in_features), model.score_matrix()
    for i in ids[0].tolist():
        latents = tokenizer.autoencoder.encode(torch.tensor([list(tokenizer.decode_bytes([i]))]))
        torch.testing.assert_close(matrix[i], model.lm_head.weight[i] + model.score_proj(latents.flatten()))
    assert torch.equal(matrix[tokenizer.eos_token_id], model.lm_head.weight[tokenizer.eos_token_id])
    torch.testing.assert_close(model.score_matrix(ids[0]), matrix[ids[0]])
    torch.testing.assert_close(model.scores(states), states @ matrix.T, atol=1e-5, rtol=1e-5)
    plain = model.eval()(ids, labels=ids).loss
    torch.testing.assert_close(model.train()(ids, labels=ids).loss, plain)
    model(ids, labels=ids).loss.backward()
    assert model.score_proj.weight.grad.abs().sum() > 0


def test_chunk_bytes_give_the_codes_of_the_table():
    model, tokenizer = language_model()
    model.model.load_state_dict(tokenizer.autoencoder.state_dict())  # the very weights that the codes were made with
    batch = LanguageCollator(tokenizer, with_bytes=True)([{"text": TEXT[:200]}])
    looked_up = model(batch["input_ids"])
    torch.testing.assert_close(model(batch["input_ids"], chunk_bytes=batch["chunk_bytes"]).logits, looked_up.logits)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("frozen", ["autoencoder", "encoder", "nothing"])
def test_each_phase_trains_what_it_should(frozen, loaded, tmp_path):
    model, tokenizer = language_model(frozen=frozen, reconstruction_weight=0.5)
    if loaded:
        model.save_pretrained(tmp_path)
        model = textae.FsqAutoencoderForCausalLM.from_pretrained(tmp_path)
    batch = LanguageCollator(tokenizer, with_bytes=True)([{"text": TEXT[:200]}])
    model.train()(**batch).loss.backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(n.startswith("model.encoder.") for n in with_gradient) == (frozen == "nothing")
    assert any(n.startswith("model.decoder.") for n in with_gradient) == (frozen != "autoencoder")
    assert any(n.startswith("trunk.") for n in with_gradient)
    assert any(n.startswith("to_codes.") for n in with_gradient)
    # What was trained has no tokenizer until it is exported again.
    assert (model.config.tokenizer_fingerprint is None) == (frozen != "autoencoder")


def test_a_tokenizer_is_lost_by_training_and_by_nothing_else():
    model, tokenizer = language_model(frozen="nothing")
    batch = LanguageCollator(tokenizer, with_bytes=True)([{"text": TEXT[:200]}])
    model.train().eval()
    model(**batch)
    with torch.no_grad():
        model.train()(**batch)
    model.check_tokenizer(tokenizer)
    model.requires_grad_(False)  # as PEFT does
    model(**batch)
    model.check_tokenizer(tokenizer)
    model.model.encoder.proj.weight.requires_grad_(True)
    model(**batch)
    with pytest.raises(ValueError, match="no tokenizer"):
        model.check_tokenizer(tokenizer)
    with pytest.raises(ValueError, match="no tokenizer"):
        model.check_tokenizer(textae.AutoEncoderTokenizer())


def test_codes_in_joint_training_are_the_tokenizers_under_autocast_too():
    model, tokenizer = language_model(frozen="nothing")
    model.model.load_state_dict(tokenizer.autoencoder.state_dict())
    batch = LanguageCollator(tokenizer, with_bytes=True)([{"text": TEXT}])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = model.embeddings(batch["input_ids"], batch["chunk_bytes"])[1]
    assert torch.equal(encoded, model.embeddings(batch["input_ids"])[1])


def test_the_encoder_gets_a_gradient_from_the_language_loss_alone():
    model, tokenizer = language_model(frozen="nothing")
    batch = LanguageCollator(tokenizer, with_bytes=True)([{"text": TEXT[:200]}])
    model.train()(**batch).loss.backward()
    assert model.model.encoder.proj.weight.grad.any()


def test_the_language_loss_is_transformers_own():
    model, tokenizer = language_model()
    batch = LanguageCollator(tokenizer)([{"text": TEXT[:100]}, {"text": "the sea"}])
    output = model(**batch)
    expected = model.loss_function(output.logits, batch["labels"], vocab_size=len(tokenizer))
    torch.testing.assert_close(output.loss, expected)
    # In training all scores never exist at once, and the loss is the same.
    trained = model.train()(**batch)
    assert trained.logits is None
    torch.testing.assert_close(trained.loss, expected)


def test_padding_moves_no_statistics_in_joint_training():
    model, tokenizer = language_model(frozen="nothing", reconstruction_weight=0.5)
    before = {name: buffer.clone() for name, buffer in model.model.named_buffers()}
    batch = LanguageCollator(tokenizer, with_bytes=True)([{"text": TEXT[:300]}, {"text": "the sea"}])
    alone = LanguageCollator(tokenizer, with_bytes=True)([{"text": "the sea"}])
    for _ in range(3):
        model.train()(**batch)
    for name, buffer in model.model.named_buffers():
        assert torch.equal(buffer, before[name])
    length = alone["input_ids"].shape[1]
    del batch["labels"], alone["labels"]
    padded = model(**batch)
    torch.testing.assert_close(padded.logits[1, :length], model(**alone).logits[0], atol=1e-4, rtol=1e-4)


def words_of(text):
    """The words of a text but the last, which may have been cut."""
    return {word.strip(".,") for word in text.split()[:-1]}


def test_any_llama_trains_on_the_tokenizer_and_loads_with_it(tmp_path):
    tokenizer = trained_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    rows = [{"text": TEXT[i : i + 120]} for i in range(0, 480, 60)]
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=160, learning_rate=1e-2, use_cpu=True, report_to="none",
        remove_unused_columns=False, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows, data_collator=LanguageCollator(tokenizer, rate=0.5)).train()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    writer = pipeline("text-generation", model=str(tmp_path))
    assert type(writer.tokenizer) is textae.AutoEncoderTokenizer
    written = writer("The river runs", max_new_tokens=8, do_sample=False)[0]["generated_text"]
    assert written.startswith("The river runs")
    assert words_of(written) <= words_of(TEXT)


def test_missing_inputs_are_refused():
    model, tokenizer = language_model(frozen="nothing", reconstruction_weight=0.5)
    batch = LanguageCollator(tokenizer)([{"text": "the sea"}])
    with pytest.raises(ValueError, match="with_bytes"):
        model.train()(**batch)
    with pytest.raises(ValueError, match="one of them"):
        model(input_ids=None)
    # Nor does an encoder that is to be trained go without a gradient in silence.
    with pytest.raises(ValueError, match="with_bytes"):
        language_model(frozen="nothing")[0].train()(**batch)


def test_embeddings_stand_for_ids_and_others_are_refused():
    model, tokenizer = language_model(token_embedding_size=16)
    ids = torch.tensor([tokenizer("the river of the sea")["input_ids"]])
    read = model.embeddings(ids)[0]
    torch.testing.assert_close(model(inputs_embeds=read).logits, model(ids).logits)
    with pytest.raises(ValueError, match="of width 16"):
        model(inputs_embeds=model.get_input_embeddings()(ids))
    with pytest.raises(ValueError, match="without chunk_bytes"):
        model(inputs_embeds=read, chunk_bytes=torch.from_numpy(tokenizer.token_bytes())[ids])


def test_a_model_and_a_tokenizer_that_differ_refuse_to_work_together():
    model, tokenizer = language_model()
    other = textae.AutoEncoderTokenizer.from_autoencoder(trained_autoencoder()[0], tokenizer.strings()[:5])
    assert model.reconstruct(["the sea"], tokenizer) == ["the sea"]
    for wrong in (other, textae.AutoEncoderTokenizer()):
        with pytest.raises(ValueError, match="fingerprint"):
            model.reconstruct(["the sea"], wrong)
    with pytest.raises(ValueError, match="does not fit"):
        model.adopt(other)
    # Equal shapes do not make another autoencoder the tokenizer's.
    model.adopt(tokenizer)
    with torch.no_grad():
        model.model.encoder.proj.weight += 0.1
    with pytest.raises(ValueError, match="is not the model's"):
        model.adopt(tokenizer)


def test_other_dtypes_leave_the_statistics_alone():
    model, _ = language_model()
    before = {name: buffer.clone() for name, buffer in model.model.named_buffers() if buffer.is_floating_point()}
    model.half().bfloat16().to(torch.float64)
    for name, buffer in model.model.named_buffers():
        assert name not in before or torch.equal(buffer, before[name])
    assert before


@pytest.fixture(scope="module")
def trained_language_model(tmp_path_factory):
    """Trained by transformers' own Trainer until it knows its text, saved with its tokenizer."""
    model, tokenizer = language_model()
    folder = tmp_path_factory.mktemp("lm")
    rows = [{"text": TEXT[i : i + 120]} for i in range(0, 480, 60)]
    arguments = TrainingArguments(
        str(folder / "run"), max_steps=160, learning_rate=1e-2, per_device_train_batch_size=8, use_cpu=True, report_to="none",
        remove_unused_columns=False, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows, data_collator=LanguageCollator(tokenizer, rate=0.5)).train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_generation_with_and_without_cache_and_in_batches_is_one(trained_language_model):
    tokenizer = AutoTokenizer.from_pretrained(trained_language_model)
    model = AutoModelForCausalLM.from_pretrained(trained_language_model).eval()
    prompts = ["The river", "The end of the river is"]
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    options = {"max_new_tokens": 12, "do_sample": False}
    cached = model.generate(**batch, **options)
    assert torch.equal(cached, model.generate(**batch, **options, use_cache=False))
    for prompt, row in zip(prompts, cached, strict=True):
        alone = model.generate(**tokenizer(prompt, return_tensors="pt"), **options)[0]
        assert tokenizer.decode(row, skip_special_tokens=True) == tokenizer.decode(alone, skip_special_tokens=True)
    written = pipeline("text-generation", model=model, tokenizer=tokenizer)("The river", **options)[0]["generated_text"]
    assert written == tokenizer.decode(alone_of(model, tokenizer, "The river", options), skip_special_tokens=True)
    assert written.startswith("The river")
    assert words_of(written) <= words_of(TEXT)


def alone_of(model, tokenizer, prompt, options):
    return model.generate(**tokenizer(prompt, return_tensors="pt"), **options)[0]


def test_bits_per_byte_are_a_plain_sum(trained_language_model):
    tokenizer = AutoTokenizer.from_pretrained(trained_language_model)
    model = AutoModelForCausalLM.from_pretrained(trained_language_model).eval()
    texts = ["The river runs", "the naïve sea", ""]
    figures = language_figures(model, tokenizer, texts, batch_size=2)
    bits = 0.0
    for text in texts:
        ids = [257, *tokenizer(text)["input_ids"]]
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        bits -= sum(scores[i, ids[i + 1]].item() for i in range(len(ids) - 1)) / torch.log(torch.tensor(2.0)).item()
    size = sum(len(text.encode()) for text in texts)
    assert figures["bits_per_byte"] == pytest.approx(bits / size, rel=1e-4)
    assert figures["bytes"] == size


def test_the_autoencoder_loads_out_of_a_language_models_folder(trained_language_model):
    tokenizer = AutoTokenizer.from_pretrained(trained_language_model)
    model = AutoModel.from_pretrained(trained_language_model).eval()
    assert type(model) is textae.FsqAutoencoderModel
    assert model.reconstruct(["the sea"], tokenizer) == ["the sea"]


@pytest.mark.parametrize("starts_with_bos", [False, True])
def test_stock_lm_eval_scores_it_as_the_model_does(trained_language_model, starts_with_bos, tmp_path):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    tokenizer = AutoTokenizer.from_pretrained(trained_language_model, starts_with_bos=starts_with_bos)
    model = AutoModelForCausalLM.from_pretrained(trained_language_model).eval()
    # A token over the edge of context and answer would be scored as neither.
    tokenizer = tokenizer.without_spans()
    tokenizer.save_pretrained(tmp_path)
    backend = huggingface.HFLM(
        pretrained=str(trained_language_model), tokenizer=str(tmp_path), batch_size=2, device="cpu"
    )
    requests = [("The river runs", " to the sea"), ("the end", " of the land")]
    from lm_eval.api.instance import Instance

    found = backend.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(requests)])
    for (context, answer), (score, _) in zip(requests, found, strict=True):
        first, whole = tokenizer(context)["input_ids"], tokenizer(context + answer)["input_ids"]
        with torch.no_grad():
            scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = sum(scores[i - 1, whole[i]].item() for i in range(len(first), len(whole)))
        assert score == pytest.approx(expected, abs=1e-3)


def test_after_joint_training_the_tokenizer_is_exported_again():
    model, tokenizer = language_model(frozen="nothing", reconstruction_weight=0.5)
    # Settings and tokens of a user's own stay, and with them what the model has learned of these.
    tokenizer = textae.AutoEncoderTokenizer.from_autoencoder(
        trained_autoencoder()[0], tokenizer.strings(), join_spans=False
    )
    tokenizer.add_tokens(["the sea of trees"])
    model.resize_token_embeddings(len(tokenizer))
    model.adopt(tokenizer)
    batch = LanguageCollator(tokenizer, with_bytes=True)([{"text": TEXT[i : i + 100]} for i in range(0, 400, 100)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(20):
        model.train()(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    before = {string: model.embed_tokens.weight[261 + i].clone() for i, string in enumerate(tokenizer.strings())}
    of_added = model.embed_tokens.weight[-1].clone()
    again = export_again(model, tokenizer)
    assert again.fingerprint != tokenizer.fingerprint
    model.check_tokenizer(again)
    assert set(again.strings()) <= set(tokenizer.strings())
    assert model.embed_tokens.num_embeddings == len(again) == model.config.vocab_size
    for i, string in enumerate(again.strings()):
        torch.testing.assert_close(model.embed_tokens.weight[261 + i], before[string])
    assert again.decode(again(TEXT)["input_ids"]) == TEXT
    assert again("the sea of trees")["input_ids"] == [len(again) - 1]
    torch.testing.assert_close(model.embed_tokens.weight[-1], of_added)
    assert not again.join_spans
    assert language_figures(model, again, [TEXT[:200]])["bits_per_byte"] < 8


def test_the_chunk_collator_cuts_longer_texts_and_makes_no_noise():
    tokenizer = textae.AutoEncoderTokenizer()
    batch = FsqChunkCollator(tokenizer)([{"text": "the river of the sea"}, {"text": " of the"}])
    assert batch["attention_mask"].sum(1).tolist() == [3, 6, 3, 4, 4, 7]
    longer = FsqChunkCollator(tokenizer, max_chunk_length=24)([{"text": "the river of the sea"}])
    assert longer["attention_mask"].sum(1).tolist() == [20]
    shorter = FsqChunkCollator(tokenizer, max_chunk_length=4)([{"text": "the river"}])
    assert shorter["attention_mask"].sum(1).tolist() == [3, 4, 2]
    with pytest.raises(ValueError, match="no noise"):
        FsqChunkCollator(tokenizer, rate=0.1)
    trained = trained_tokenizer()
    last, first = LanguageCollator(trained)([{"text": "the sea", "ends_document": end} for end in (True, False)])[
        "labels"
    ]
    assert last.tolist() == [*first.tolist()[:-1], trained.eos_token_id]
    assert first[-1] == -100
    apart = LanguageCollator(trained, rate=1.0)([{"text": TEXT[:100]}])["input_ids"][0, 1:].tolist()
    assert apart == trained.without_spans()(TEXT[:100])["input_ids"]
    some = LanguageCollator(trained, rate=0.5, seed=3)
    rows = [some([{"text": TEXT[:100], "index": i}])["input_ids"].shape[1] for i in range(20)]
    assert len(set(rows)) == 2
    assert rows == [some([{"text": TEXT[:100], "index": i}])["input_ids"].shape[1] for i in range(20)]
    with pytest.raises(ValueError, match="need a text"):
        LanguageCollator(tokenizer)([{"words": 1}])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_text_that_is_cut_has_no_end(rate):
    tokenizer = trained_tokenizer()
    texts = [{"text": text, "ends_document": True} for text in ("the end of the river", "the sea")]
    whole = LanguageCollator(tokenizer, rate=rate)(texts)["input_ids"]
    length = int((whole[1] < 256).sum() + (whole[1] > 260).sum())
    cut = LanguageCollator(tokenizer, rate=rate, max_length=length)(texts)
    assert [tokenizer.eos_token_id in row for row in cut["input_ids"].tolist()] == [False, True]
    assert cut["attention_mask"].sum(1).tolist() == [length + 1, length + 2]
