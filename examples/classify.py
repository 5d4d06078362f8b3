"""Fine-tune Encodzall to classify texts with transformers' Trainer, wholly or by LoRA; save it; read it as a pipeline does.

    python examples/classify.py
    python examples/classify.py --lora --output_dir runs/classify-lora
    python examples/classify.py --data_file reviews.csv --text_column review --label_column stars

Without a file, passages of the embedded corpus are told from noisy copies of others. Of a file, every tenth record is held out.
"""

import argparse

import datasets
import numpy as np
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, pipeline

from modeling_textae import EncodzallForSequenceClassification, EncodzallTokenizer
from modeling_textae.data.collators import example_generator
from modeling_textae.data.corpora import embedded_corpus, file_format, split_passages
from modeling_textae.data.text_noise import TextNoise

PASSAGE_LENGTH = 200  # bytes


def noisy_or_clean(texts, strength):
    """Passages of texts, every other one made noisy, as a dataset with `text` and `label`."""
    passages, noise = [p for text in texts for p in split_passages(text, PASSAGE_LENGTH)], TextNoise()
    rows = {"text": passages, "label": ["noisy" if i % 2 else "clean" for i in range(len(passages))]}
    for i in range(1, len(passages), 2):
        rows["text"][i] = noise(passages[i], strength, example_generator(0, 0, i)).text
    return datasets.Dataset.from_dict(rows)


def read_splits(arguments):
    """Datasets to train on and to measure on, with `text` and `label`."""
    if arguments.data_file is None:
        corpus = embedded_corpus()
        return [noisy_or_clean(corpus[split]["text"], arguments.strength) for split in ("train", "test")]
    records = datasets.load_dataset(file_format(arguments.data_file), data_files=arguments.data_file, split="train")
    missing = {arguments.text_column, arguments.label_column} - set(records.column_names)
    if missing:
        raise SystemExit(
            f"{arguments.data_file} has no column {min(missing)!r}, only {', '.join(records.column_names)}"
        )
    rows = {"text": records[arguments.text_column], "label": list(map(str, records[arguments.label_column]))}
    records, held_out = datasets.Dataset.from_dict(rows), np.arange(len(records)) % 10 == 9
    return [records.select(np.flatnonzero(rows)) for rows in (~held_out, held_out)]


def main():
    """Train, measure on what was held out, save, and classify once more from the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="model_cards/encodzall-nano")
    parser.add_argument("--data_file", help="json lines, csv or parquet, also compressed")
    parser.add_argument("--text_column", default="text")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--strength", type=float, default=0.1, help="of the noise, without a file")
    parser.add_argument("--lora", action="store_true", help="train adapters and the classifier alone")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning_rate", type=float, help="by default 2e-3, by LoRA 5e-3")
    parser.add_argument("--output_dir", default="runs/classify")
    arguments = parser.parse_args()

    train, test = read_splits(arguments)
    names = sorted(set(train["label"]))
    if len(names) < 2 or not len(test):
        raise SystemExit("there is nothing to tell apart: give ten records or more, of two labels or more")
    unknown = set(test["label"]) - set(names)
    if unknown:
        raise SystemExit(f"label {min(unknown)!r} is held out and never trained on: shuffle the file")
    tokenizer = EncodzallTokenizer.from_pretrained(arguments.checkpoint)
    model = EncodzallForSequenceClassification.from_pretrained(
        arguments.checkpoint, id2label=dict(enumerate(names)), dtype="float32"
    )
    if arguments.lora:
        from peft import LoraConfig, TaskType, get_peft_model  # comes with modeling_textae[eval]

        modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
        lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=16, lora_alpha=32, target_modules=modules)
        model = get_peft_model(model, lora)
        model.print_trainable_parameters()

    def encode(rows):
        return tokenizer(rows["text"]) | {"labels": [names.index(label) for label in rows["label"]]}

    data = [split.map(encode, batched=True, remove_columns=["text", "label"]) for split in (train, test)]
    settings = TrainingArguments(
        arguments.output_dir,
        max_steps=arguments.steps,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        learning_rate=arguments.learning_rate or (5e-3 if arguments.lora else 2e-3),
        warmup_steps=arguments.steps // 10,
        save_strategy="no",
        report_to="none",
    )
    trainer = Trainer(
        model,
        settings,
        DataCollatorWithPadding(tokenizer),
        *data,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    share = max(map(test["label"].count, names)) / len(test)
    print(f"{len(test)} held-out texts: {accuracy:.1%} right; the commonest label alone has {share:.1%}")
    # Adapters are merged, so that the folder is a checkpoint like any other.
    (model.merge_and_unload() if arguments.lora else model).save_pretrained(arguments.output_dir)
    tokenizer.save_pretrained(arguments.output_dir)
    classify = pipeline("text-classification", model=arguments.output_dir, device="cpu")
    for row in test.select(range(min(4, len(test)))):
        found = classify(row["text"])[0]
        print(f"{found['label']} ({found['score']:.2f}), and is {row['label']}: {row['text'][:80]!r}")


if __name__ == "__main__":
    main()
