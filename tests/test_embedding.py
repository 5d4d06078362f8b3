import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from model_cases import TEXTS, encodzall_config
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedModel, Trainer, TrainingArguments, pipeline

import modeling_textae as textae
import run_eval
import run_pretraining
from modeling_textae.data.collators import EncodzallViewsCollator
from modeling_textae.data.text_noise import TextNoise
from modeling_textae.evaluation.embedding import rank_correlation, retrieval, similarity_rows
from modeling_textae.models.contrastive import equal_rows, multiple_negatives_loss

SENTENCES = [f"the {thing} is {kind}" for thing in ("river", "boat", "town", "rain", "sea") for kind in
             ("old", "blue", "cold", "far away", "here", "gone")]  # fmt: skip


@pytest.fixture
def tokenizer():
    return textae.EncodzallTokenizer()


def build(**fields):
    torch.manual_seed(0)
    return textae.EncodzallForSentenceEmbedding(encodzall_config(**fields)).eval()


def test_views_are_the_noisy_and_the_clean_text(tokenizer):
    batch = EncodzallViewsCollator(tokenizer, rate=0.3)(
        [{"text": text, "index": i} for i, text in enumerate(SENTENCES)]
    )
    noisy, clean = ([tokenizer.decode(row[row < 256]) for row in batch[f"{view}input_ids"]] for view in ("", "second_"))
    assert clean == SENTENCES
    assert sum(a != b for a, b in zip(noisy, clean, strict=True)) > 15
    plain = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "word_index"):
        assert torch.equal(batch[f"second_{name}"], plain[name])


def test_views_are_runs_of_words_of_which_some_are_missing(tokenizer):
    words = [f"word{i}" for i in range(20)]
    examples = [{"text": " ".join(words), "index": i} for i in range(200)]
    batch = EncodzallViewsCollator(tokenizer, rate=0.0, min_crop=0.5, word_dropout=0.3)(examples)
    counts, starts = [], set()
    for name in ("input_ids", "second_input_ids"):
        for row in batch[name]:
            view = tokenizer.decode(row[row < 256]).split()
            numbers = [words.index(word) for word in view]
            assert numbers == sorted(set(numbers))
            counts.append(len(numbers))
            starts.add(numbers[0])
    assert np.mean(counts) == pytest.approx(0.75 * 20 * 0.7 + 0.3, abs=0.5)
    assert len(starts) > 8
    assert not torch.equal(batch["input_ids"][:, :20], batch["second_input_ids"][:, :20])
    collator = EncodzallViewsCollator(tokenizer, rate=0.0, min_crop=0.1, word_dropout=0.99)
    assert (collator([{"text": "one"}, {"text": "two three"}])["attention_mask"].sum(1) > 0).all()
    assert collator([{"text": ""}])["input_ids"].shape == (1, 0)


def test_texts_are_pooled_by_a_learned_query(tokenizer):
    model = build(text_pooling="learned_query")
    model.model.text_pooling.query.data.normal_()
    inputs = tokenizer(SENTENCES[:4], padding=True, return_tensors="pt")
    encoded = model.model(**inputs, return_dict=True)
    for row, mask, found in zip(encoded.last_hidden_state, encoded.word_mask, encoded.pooler_output, strict=True):
        words = row[mask == 1]
        weights = (words @ model.model.text_pooling.query[0] / words.shape[1] ** 0.5).softmax(0)
        torch.testing.assert_close(found, weights @ words)


def test_the_loss_compares_views(tokenizer):
    model = build(contrastive_scale=7.0)
    batch = EncodzallViewsCollator(tokenizer, rate=0.2)([{"text": text, "index": i} for i, text in enumerate(TEXTS)])
    output = model(**batch)
    views = [
        model.model(
            **{name: batch[view + name] for name in ("input_ids", "attention_mask", "word_index")}
        ).pooler_output
        for view in ("", "second_")
    ]
    torch.testing.assert_close(output.loss, multiple_negatives_loss(*views, 7.0))
    torch.testing.assert_close(output.sentence_embedding, views[0])
    assert model(**batch, return_loss=False).loss is None
    assert model(**tokenizer(TEXTS[0], return_tensors="pt")).loss is None


def test_dropout_makes_two_views_of_one(tokenizer):
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    loss = build(dropout=0.1).train()(**inputs).loss
    loss.backward()
    assert loss > 0
    with pytest.raises(ValueError, match="both views of a text are one"):
        build().train()(**inputs)


@pytest.mark.parametrize("sketch_size", [0, 24])
@pytest.mark.parametrize("side", ["right", "left"])
def test_embeddings_depend_on_their_text_alone(tokenizer, sketch_size, side):
    model, tokenizer.padding_side = build(sketch_size=sketch_size), side
    together = model.embed(TEXTS, tokenizer, batch_size=3)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(TEXTS)))
    for text, vector in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(model.embed([text], tokenizer)[0], vector, atol=1e-5, rtol=1e-4)
    assert model.embed([], tokenizer).shape == (0, 32 + sketch_size)


def test_training_finds_noisy_texts_again_under_transformers_own_trainer(tokenizer, tmp_path):
    model, noise = build(), TextNoise()
    before = retrieval(model, tokenizer, SENTENCES, noise, 0.2)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=80, per_device_train_batch_size=15, learning_rate=5e-3, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    corpus = [{"text": text} for text in SENTENCES]
    trainer = Trainer(model, arguments, EncodzallViewsCollator(tokenizer, rate=0.2), corpus, eval_dataset=corpus)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert retrieval(model.eval(), tokenizer, SENTENCES, noise, 0.2) > max(before + 0.1, 0.6)


def test_sentence_transformers_and_pipelines_read_what_is_saved(tokenizer, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    found = torch.tensor(theirs.encode(TEXTS, normalize_embeddings=True))
    torch.testing.assert_close(found, model.embed(TEXTS, tokenizer), atol=1e-5, rtol=1e-4)
    assert (tmp_path / "modeling_encodzall.py").is_file()  # for where the package is not installed
    again = textae.EncodzallForSentenceEmbedding.from_pretrained(tmp_path)
    assert torch.equal(again.embed(TEXTS, tokenizer), model.embed(TEXTS, tokenizer))
    features = pipeline("feature-extraction", model=str(tmp_path), device="cpu")(TEXTS[0])
    words = model.encode(**tokenizer(TEXTS[0], return_tensors="pt"))
    torch.testing.assert_close(torch.tensor(features), words)


def test_what_is_uploaded_is_whole(tmp_path, monkeypatch):
    """transformers uploads within save_pretrained: by then the code and sentence-transformers' files have to be there."""
    uploaded = {}
    hub = SimpleNamespace(create_repo=lambda *args, **kwargs: SimpleNamespace(repo_id="org/embedding"))
    monkeypatch.setattr("transformers.modeling_utils.hf_api", lambda *args, **kwargs: hub)
    monkeypatch.setattr(
        PreTrainedModel,
        "_upload_modified_files",
        lambda self, folder, *args, **kwargs: uploaded.update(
            {p.name: p.stat().st_size for p in Path(folder).iterdir()}
        ),
    )
    build().save_pretrained(tmp_path / "embedding", push_to_hub=True)
    assert {"modeling_encodzall.py", "contrastive.py", "modules.json", "sentence_bert_config.json"} <= uploaded.keys()
    build().save_pretrained(tmp_path / "rank", is_main_process=False)
    assert not (tmp_path / "rank" / "modules.json").exists()


def test_equal_rows_are_those_that_a_comparison_finds():
    ids = torch.tensor([[1, 2], [3, 2], [1, 2], [1, 3]])
    assert torch.equal(equal_rows(ids), (ids == ids[:, None]).all(-1))


def test_scores_that_are_no_numbers_are_refused():
    def embed(texts):
        return torch.ones(len(texts), 2)

    for scores, message in ((["x", "9"], "scores are numbers"), ([1.0, float("nan")], "score 1 is no number")):
        with pytest.raises(ValueError, match=message):
            similarity_rows(embed, [("a", "b"), ("c", "d")], scores, TextNoise(), 0.1)


def test_a_text_alone_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"give \[text\]"):
        build().embed("a text", tokenizer)


def test_a_sketch_stands_beside_the_words_vectors(tokenizer, tmp_path):
    model = build(sketch_size=40, sketch_share=0.6)
    model.model.sketch.fit(SENTENCES)
    found, alone = model.embed(TEXTS[:3], tokenizer), build().embed(TEXTS[:3], tokenizer)
    assert found.shape == (3, 72)
    sketches = model.model.sketch(
        tokenizer(TEXTS[:3], padding=True, return_tensors="pt", add_special_tokens=False)["input_ids"]
    )
    sketches = torch.nn.functional.normalize(sketches, dim=-1)
    torch.testing.assert_close(found @ found.T, 0.4 * alone @ alone.T + 0.6 * sketches @ sketches.T)
    batch = EncodzallViewsCollator(tokenizer, rate=0.2)([{"text": text, "index": i} for i, text in enumerate(TEXTS)])
    torch.testing.assert_close(model(**batch).loss, build()(**batch).loss)  # what sketches tell apart is not learned
    assert model.embed(["", ""], tokenizer).isfinite().all()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.get_embedding_dimension() == 72
    again = torch.tensor(theirs.encode(TEXTS[:3], normalize_embeddings=True))
    torch.testing.assert_close(again, found, atol=1e-5, rtol=1e-4)


def test_a_model_in_training_embeds_without_dropout(tokenizer):
    model = build(dropout=0.5).train()
    assert torch.equal(model.embed(SENTENCES, tokenizer), model.embed(SENTENCES, tokenizer))
    assert model.training


def test_a_run_of_embeddings_from_recipe_to_report(tmp_path):
    corpus_file = tmp_path / "corpus.jsonl"
    corpus_file.write_text("\n".join(json.dumps({"text": sentence * 2}) for sentence in SENTENCES))
    config = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "byte_key_value_heads": 1}
    config["sketch_size"] = 16
    output = tmp_path / "run"
    arguments = [
        "--family", "encodzall_embedding", "--config", json.dumps(config | {"word_key_value_heads": 2}), "--output_dir",
        str(output), "--train_file", str(corpus_file), "--validation_file", str(corpus_file), "--max_steps", "3",
        "--passage_length", "64", "--min_passage_length", "8", "--per_device_train_batch_size", "4", "--report_passages",
        "5", "--disable_tqdm", "true",
    ]  # fmt: skip
    assert run_pretraining.main([*arguments, "--per_device_train_batch_size", "1"]) == 2
    assert run_pretraining.main(arguments) == 0
    assert set(json.loads((output / "report.json").read_text())["retrieval"]) == {"0.05", "0.2"}
    assert {"modules.json", "sentence_bert_config.json"} <= {path.name for path in Path(output).iterdir()}
    rarity = textae.EncodzallForSentenceEmbedding.from_pretrained(output).model.sketch.rarity
    assert len(rarity.unique()) > 2  # counted in the corpus


def test_rank_correlation_is_scipys():
    drawn = np.random.default_rng(0).integers(0, 8, size=(2, 60))
    assert rank_correlation(*drawn) == pytest.approx(scipy.stats.spearmanr(*drawn).statistic)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([0.1, 5, 70])) == pytest.approx(1)


def test_the_command_compares_with_what_learns_nothing(tokenizer, tmp_path, capsys):
    build().save_pretrained(tmp_path / "model")
    rows = [{"a": SENTENCES[i], "b": SENTENCES[j], "s": float(i // 6 == j // 6)} for i in range(30) for j in range(i)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["embed", "--checkpoint", str(tmp_path / "model"), "--data_file", str(tmp_path / "pairs.jsonl")]
    assert run_eval.main([*arguments, "--columns", "a", "b", "s", "--output", str(tmp_path / "found")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert len(found) == 4
    assert all(row["lost"] == pytest.approx(row["clean"] - row["noisy"]) for row in found)
    assert found[3]["clean"] > 0.3  # equal words
    assert run_eval.main(arguments) == 2
    assert "are not three of a, b, s" in capsys.readouterr().err
