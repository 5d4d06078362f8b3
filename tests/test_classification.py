import datasets
import pytest
import torch
from model_cases import TEXTS, encodzall_config
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.loss.loss_utils import ForSequenceClassificationLoss

import modeling_textae as textae

SENTENCES = [f"{subject} {verb} the {thing}" for subject in ("we", "you", "they") for verb in ("like", "hate")
             for thing in ("river", "boat", "town", "rain")]  # fmt: skip
LABELS = [int("like" in sentence) for sentence in SENTENCES]


@pytest.fixture
def tokenizer():
    return textae.EncodzallTokenizer()


def build(**fields):
    torch.manual_seed(0)
    return textae.EncodzallForSequenceClassification(encodzall_config(**fields)).eval()


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"num_labels": 3}, torch.tensor([2, 0, 1, 1])),
        ({"num_labels": 1}, torch.tensor([0.5, 2.0, -1.0, 0.0])),
        ({"num_labels": 2, "problem_type": "regression"}, torch.randn(4, 2)),
        ({"num_labels": 3}, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])),
    ],
)
def test_losses_of_texts_equal_those_of_transformers(fields, labels, tokenizer):
    model = build(**fields)
    output = model(**tokenizer(TEXTS, padding=True, return_tensors="pt"), labels=labels)
    kept = model.config.problem_type
    model.config.problem_type = fields.get("problem_type")
    expected = ForSequenceClassificationLoss(labels, output.logits, model.config)
    torch.testing.assert_close(output.loss, expected)
    assert model.config.problem_type == kept  # which pipelines go by
    doubled = model(
        **tokenizer(TEXTS, padding=True, return_tensors="pt"), labels=labels, num_items_in_batch=2 * labels.numel()
    )
    torch.testing.assert_close(doubled.loss, expected / 2)


def test_pipelines_know_numbers_and_several_labels(tokenizer):
    for fields, labels in (({"num_labels": 1}, torch.tensor([2.5])), ({"num_labels": 3}, torch.tensor([[1.0, 0, 1]]))):
        model = build(**fields)
        torch.nn.init.zeros_(model.classifier.weight)
        torch.nn.init.constant_(model.classifier.bias, 3.7)
        model(**tokenizer(TEXTS[:1], return_tensors="pt"), labels=labels)
        pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", top_k=None)
        expected = 3.7 if fields["num_labels"] == 1 else torch.tensor(3.7).sigmoid().item()
        assert [found["score"] for found in pipe(TEXTS[:1])[0]] == pytest.approx(
            [expected] * fields["num_labels"], rel=1e-4
        )


def test_unknown_problems_are_refused(tokenizer):
    model = build()
    model.config.problem_type = "ranking"
    with pytest.raises(ValueError, match="problem_type 'ranking' is unknown"):
        model(**tokenizer(TEXTS[:1], return_tensors="pt"), labels=torch.tensor([0]))
    with pytest.raises(ValueError, match="no vectors to go by"):
        build(use_memory=False)


def fit(model, tokenizer, folder):
    """Train on the sentences as any user of transformers would."""
    corpus = datasets.Dataset.from_dict({"text": SENTENCES, "label": LABELS})
    corpus = corpus.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns="text")
    arguments = TrainingArguments(
        str(folder), max_steps=60, per_device_train_batch_size=12, learning_rate=5e-3, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant",
    )  # fmt: skip
    Trainer(model, arguments, DataCollatorWithPadding(tokenizer), corpus, processing_class=tokenizer).train()
    return model.eval()


def answers(model, tokenizer):
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    return [(found["label"], round(found["score"], 4)) for found in pipe(SENTENCES)]


def test_a_classifier_is_trained_from_a_pretrained_encoder_saved_and_served(tokenizer, tmp_path):
    torch.manual_seed(0)
    textae.EncodzallForPreTraining(encodzall_config()).save_pretrained(tmp_path / "pretrained")
    model = textae.EncodzallForSequenceClassification.from_pretrained(
        tmp_path / "pretrained", id2label={0: "hate", 1: "like"}, label2id={"hate": 0, "like": 1}
    )
    trained = fit(model, tokenizer, tmp_path)
    trained.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    found = answers(str(tmp_path / "classifier"), None)
    assert found == answers(trained, tokenizer)
    assert [label for label, _ in found] == [["hate", "like"][label] for label in LABELS]


def test_lora_trains_a_classifier_that_is_merged_and_served(tokenizer, tmp_path):
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=32, target_modules=["q_proj", "v_proj", "o_proj"])
    adapted = fit(get_peft_model(build(), lora), tokenizer, tmp_path)
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(build(), tmp_path / "adapter").eval()
    found = answers(loaded.merge_and_unload(), tokenizer)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores, best = adapted(**inputs).logits.softmax(-1).max(-1)
    assert [label for label, _ in found] == [f"LABEL_{i}" for i in best.tolist()]
    assert [score for _, score in found] == pytest.approx(scores.tolist(), abs=1e-3)
    assert best.tolist() == LABELS


def test_bytes_are_classified_and_served(tokenizer, tmp_path):
    torch.manual_seed(0)
    model = textae.EncodzallForTokenClassification(encodzall_config(id2label={0: "O", 1: "NAME"}))
    text = "Ann met Bob"
    inputs = tokenizer([text], return_tensors="pt")
    labels = torch.tensor([[1, -100, -100, -100, 0, -100, -100, -100, 1, -100, -100]])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pipe = pipeline("token-classification", model=str(tmp_path), ignore_labels=[], device="cpu")
    found = pipe(text)
    assert len(found) == len(text)
    assert [found[i]["entity"] for i in (0, 4, 8)] == ["NAME", "O", "NAME"]  # though all three are of one word


def test_words_are_classified_after_training_on_others(tokenizer, tmp_path):
    names, verbs = ["Ann", "Bob", "Zoë", "Maximilian-Alexander"], ["met", "saw", "likes", "understands"]
    texts = [[a, verb, b] for a in names for verb in verbs for b in names]
    told, held_out = [text for i, text in enumerate(texts) if i % 5], texts[::5]
    labels = [[1, 0, 1]] * len(told)
    encoded = tokenizer.of_words(told, labels)
    row = next(text for text in told if text[0] == "Zoë")
    place = len(" ".join(row[:2]).encode()) + 1
    assert [i for i, label in enumerate(encoded["labels"][told.index(row)]) if label != -100] == [
        0,
        len(row[0].encode()) + 1,
        place,
    ]
    torch.manual_seed(0)
    model = textae.EncodzallForTokenClassification(encodzall_config(id2label={0: "O", 1: "NAME"}))
    args = TrainingArguments(
        str(tmp_path), max_steps=60, per_device_train_batch_size=8, learning_rate=1e-2, report_to="none",
        save_strategy="no", disable_tqdm=True, use_cpu=True, seed=1,
    )  # fmt: skip
    data = datasets.Dataset.from_dict(dict(encoded))
    Trainer(model, args, DataCollatorForTokenClassification(tokenizer), data).train()
    assert model.training
    assert model.classify_words(held_out, tokenizer, batch_size=5) == [["NAME", "O", "NAME"]] * len(held_out)
    assert model.training
    assert model.classify_words([], tokenizer) == []


def test_words_that_cannot_be_labelled_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"word 1 of .* is empty"):
        tokenizer.of_words([["a", ""]])
    with pytest.raises(ValueError, match="1 labels for 2 words"):
        tokenizer.of_words([["a", "b"]], [[0]])


def test_states_of_bytes_are_theirs_in_their_word_and_the_words(tokenizer):
    torch.manual_seed(0)
    model = textae.EncodzallModel(encodzall_config()).eval()
    inputs = tokenizer([*TEXTS, ""], padding=True, return_tensors="pt")
    with torch.no_grad():
        whole, plain = model(**inputs, output_byte_states=True), model(**inputs)
        torch.testing.assert_close(whole.last_hidden_state, plain.last_hidden_state)
        assert plain.byte_states is None
        row, word = 1, 2
        places = (inputs["word_index"][row] == word).nonzero()[:, 0]
        alone = model.encode_bytes(inputs["input_ids"][row, places], torch.tensor([len(places)]))
    expected = alone + whole.last_hidden_state[row, word]
    torch.testing.assert_close(whole.byte_states[row, places], expected)
    assert not whole.byte_states[inputs["attention_mask"] == 0].any()
