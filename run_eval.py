"""Evaluate a checkpoint: tables as Markdown and JSON beside each other, the command that made them inside.

python run_eval.py COMMAND [SETTINGS.yaml] [--field value ...]

reconstruct      teacher-forced and free-running accuracy, and accuracy on hidden bytes; of the MLM encoder, on masked tokens;
                 of the FSQ autoencoder, of chunks; of its language model, bits for each byte
attention        heat maps of a trained model's attention on a text
rate-distortion  stored bits for each byte of text against what comes back
tokens           how exactly CTA gives tokens back: of held-out text, of random tokens, rounded and noisy; what it gets wrong; of
                 the FSQ autoencoder, what its codes own and what its tokenizer makes of text
denoise          error rates of noisy texts as they are and as Encodzall restores them, at several margins
embed            how well Encodzall's embeddings tell how alike people find sentences, beside n-grams and an untrained encoder
lm               lm-eval: any of its models and tasks, and our own (`--model hier_ae`), also from local files; meant where the
                 first argument is no command: run_eval.py --model hf --model_args pretrained=... --tasks hellaswag
report           how well a run's noise control held its loss, and the curve
packing          a picture of how words are packed into rows

python run_eval.py COMMAND --help lists the fields of each.
"""

import json
import sys
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    HfArgumentParser,
)

from modeling_textae import (
    AbstractinatorConfig,
    CtaConfig,
    EncodzallConfig,
    EncodzallForSentenceEmbedding,
    EncodzallTokenizer,
    FsqAutoencoderConfig,
    MlmEncoderConfig,
)
from modeling_textae.cards import saved_class
from modeling_textae.data.corpora import embedded_corpus, file_format, load_corpus, split_passages
from modeling_textae.data.noisy_channel import NoisyChannel
from modeling_textae.data.ocr_noise import OcrNoiseModel
from modeling_textae.data.pairs import read_pairs
from modeling_textae.data.text_noise import TextNoise
from modeling_textae.evaluation.attention_maps import attention_weights, plot_attention
from modeling_textae.evaluation.codebook import (
    chunk_report,
    growth_rows,
    neighbours,
    plot_codebook,
    pruning_rows,
    rate_rows,
    space_between,
)
from modeling_textae.evaluation.control import control_figures
from modeling_textae.evaluation.denoising import denoising_rows
from modeling_textae.evaluation.embedding import n_gram_embedding, similarity_rows
from modeling_textae.evaluation.masked_language import (
    answers,
    masked_language_rows,
    model_scores,
    ngram_models,
    ngram_scores,
    sentences_of,
)
from modeling_textae.evaluation.ngrams import TokenCounts
from modeling_textae.evaluation.plots import plot_packing, plot_training
from modeling_textae.evaluation.rate_distortion import compressor_rows, rate_distortion, token_rate_distortion
from modeling_textae.evaluation.reconstruction import reconstruction_report, reconstruction_rows
from modeling_textae.evaluation.report import figure, report_file, table, write_report
from modeling_textae.evaluation.run_report import run_report
from modeling_textae.evaluation.texts import sample_passages, texts_of
from modeling_textae.evaluation.tokens import (
    byte_accuracy,
    common_tokens,
    decoded_from,
    exactness,
    latents_of,
    random_samples,
    speller,
    stored_bits_per_byte,
    text_samples,
    token_errors,
    token_frequencies,
    write_errors,
    write_frequencies,
)
from modeling_textae.models.autoencoder import check_bits
from modeling_textae.models.packing import pack_rows
from modeling_textae.training.recipe import read_recipe_file, unknown_field

# Words, and misspellings of some, whose nearest codes a codebook's report names.
WORDS = (" river", " rivre", " because", " becuase", " government", " goverment", " 1984")


@dataclass
class CheckpointArguments:
    """A checkpoint and the held-out text to measure it on."""

    checkpoint: str = field(metadata={"help": "Folder or Hub name."})
    output: str | None = field(default=None, metadata={"help": "Path of the report, without an ending."})
    data_file: list[str] = field(
        default_factory=list, metadata={"help": "Held-out text; by default the embedded corpus's test split."}
    )
    passage_length: int = field(default=400, metadata={"help": "Bytes in a passage at most."})
    passages: int = field(default=500, metadata={"help": "Passages drawn."})
    seed: int = field(default=0, metadata={"help": "Of the draw and the masks."})
    batch_size: int = field(default=32, metadata={"help": "Passages at once."})


@dataclass
class ReconstructArguments(CheckpointArguments):
    """What is measured, and beside what."""

    control: str | None = field(
        default=None,
        metadata={
            "help": "A checkpoint to stand beside it: Encodzall's trained with use_memory=False, or for the MLM encoder any "
            "masked language model with the same tokenizer."
        },
    )
    rates: list[float] = field(
        default_factory=list, metadata={"help": "Mask rates; by default 0.1 0.2 0.4, or 0.15 for the MLM encoder."}
    )
    train_file: list[str] = field(
        default_factory=list, metadata={"help": "Text to count the MLM encoder's n-gram baselines in; else none."}
    )
    questions: str | None = field(
        default=None,
        metadata={"help": "Instead: a jsonl file whose every `question` has one mask, to be filled with its `answer`."},
    )
    sentences: int = field(
        default=200, metadata={"help": "Sentences for the MLM encoder's pseudo-perplexity; 0 for none."}
    )


@dataclass
class AttentionArguments:
    """A text, and who reads it."""

    text: str = field(metadata={"help": "The text to attend to."})
    checkpoint: str = field(default="model_cards/mlm-encoder-nano", metadata={"help": "Folder or Hub name."})
    output: str | None = field(default=None, metadata={"help": "Path of the picture and the report."})


@dataclass
class TokensArguments:
    """A token autoencoder, what it was trained on, and held-out text."""

    checkpoint: str = field(metadata={"help": "Folder or Hub name."})
    output: str | None = field(default=None, metadata={"help": "Path of the report, without an ending."})
    train_file: list[str] = field(
        default_factory=list, metadata={"help": "Training text to count tokens in; by default the embedded corpus's."}
    )
    data_file: list[str] = field(
        default_factory=list,
        metadata={"help": "Held-out text, with train_file; by default the embedded corpus's test split."},
    )
    samples: int = field(default=5000, metadata={"help": "Samples at most."})
    length: int = field(default=512, metadata={"help": "Tokens of a sample."})
    token_list: str | None = field(
        default=None, metadata={"help": "token_list.json of the run that trained an FSQ autoencoder, to measure on."}
    )
    rarest: float = field(
        default=0.1, metadata={"help": "Share of the training tokens, the rarest, that no sample has."}
    )
    bits: list[int] = field(
        default_factory=lambda: [8, 4, 2],
        metadata={"help": "Bits a number is stored in; 1 to 8, 16. Errors are written of the fewest."},
    )
    noise: float = field(default=0.3, metadata={"help": "Noise on stored latents, in their own root mean square."})
    seed: int = field(default=0, metadata={"help": "Of the samples and the noise."})
    batch_size: int = field(default=32, metadata={"help": "Samples at once."})


@dataclass
class DenoiseArguments:
    """A checkpoint, and noisy texts with what they should be."""

    checkpoint: str = field(metadata={"help": "Folder or Hub name of an Encodzall, or of an Abstractinator."})
    data_file: str = field(metadata={"help": "json lines, csv or parquet with both texts, also compressed."})
    noise_model: str | None = field(
        default=None, metadata={"help": "Of an OcrNoiseModel, with which a language model restores."}
    )
    suggest: str | None = field(
        default=None, metadata={"help": "Encodzall whose suggestions these two judge beside what they find themselves."}
    )
    num_beams: int = field(default=48, metadata={"help": "Of that search; 0 judges the suggestions alone."})
    noisy_column: str = field(default="noisy", metadata={"help": "Of the texts to restore."})
    clean_column: str = field(
        default="clean", metadata={"help": "Of what they should be; the same as noisy_column for clean texts."}
    )
    aligned_pad: str | None = field(
        default=None, metadata={"help": "Where both are aligned, what fills gaps; # marks what is ignored."}
    )
    first: float = field(default=0.0, metadata={"help": "Share of the records that are left out at the beginning."})
    last: float = field(default=1.0, metadata={"help": "Share of the records up to which they are read."})
    every: int = field(default=1, metadata={"help": "Of these, every so manieth alone, from the first on."})
    min_gain: list[float] = field(
        default_factory=list,
        metadata={"help": "Margins, in nats a changed character; by default the checkpoint's own, or 0."},
    )
    save_min_gain: bool = field(
        default=False,
        metadata={"help": "Keep the best of the margins in the folder's configuration, as the new default."},
    )
    window: int = field(default=256, metadata={"help": "Bytes that are read at once."})
    overlap: int = field(default=64, metadata={"help": "Bytes that neighbouring windows share at most."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Windows at once; by default 32, or 8 with a noise model."}
    )
    output: str | None = field(default=None, metadata={"help": "Path of the report, without an ending."})


@dataclass
class EmbedArguments:
    """A checkpoint, and pairs of sentences with scores."""

    checkpoint: str = field(metadata={"help": "Folder or Hub name of an Encodzall."})
    data_file: str = field(metadata={"help": "json lines, csv or parquet with both sentences and a score."})
    columns: list[str] = field(
        default_factory=lambda: ["sentence1", "sentence2", "score"],
        metadata={"help": "Of the sentences and the score."},
    )
    noise: float = field(
        default=0.05, metadata={"help": "Strength of the noise on the sentences of the second column of figures."}
    )
    seed: int = field(default=0, metadata={"help": "Of the noise and the untrained encoder."})
    batch_size: int = field(default=64, metadata={"help": "Sentences at once."})
    output: str | None = field(default=None, metadata={"help": "Path of the report, without an ending."})


@dataclass
class LmArguments:
    """What lm-eval runs."""

    model: str = field(metadata={"help": "hier_ae, hf, or another model that lm-eval knows."})
    model_args: str = field(default="", metadata={"help": "checkpoint=... for hier_ae, pretrained=... for hf."})
    tasks: str = field(
        default="lambada_openai,hellaswag,arc_easy", metadata={"help": "Names of tasks or groups, parted by commas."}
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "A folder with the tasks' files, instead of the Hub; see lm_harness.local_tasks."},
    )
    limit: float | None = field(default=None, metadata={"help": "Documents of each task; below 1, a share of them."})
    num_fewshot: int | None = field(default=None, metadata={"help": "Solved examples; by default the task's own."})
    batch_size: int = field(default=16, metadata={"help": "Rows at once."})
    device: str | None = field(default=None, metadata={"help": "By default a GPU where there is one."})
    use_cache: str | None = field(default=None, metadata={"help": "File of answers to keep; one for each checkpoint."})
    output: str | None = field(default=None, metadata={"help": "Path of the report, without an ending."})


@dataclass
class ReportArguments:
    """A finished run."""

    run: str = field(metadata={"help": "Output folder of run_pretraining.py."})
    output: str | None = field(default=None, metadata={"help": "Path of the report, without an ending."})
    setpoint: float | None = field(default=None, metadata={"help": "The held loss; by default the run's own."})


@dataclass
class PackingArguments:
    """A text."""

    text: str = field(metadata={"help": "The text to pack."})
    output: str | None = field(default=None, metadata={"help": "Path of the picture, without an ending."})


def load(checkpoint, auto=AutoModelForPreTraining):
    """Model, in evaluation and float32, and tokenizer of a checkpoint folder or Hub name.

    Raises:
        ValueError: where the checkpoint lacks a part of such a model.
    """
    model, found = auto.from_pretrained(checkpoint, dtype="float32", use_safetensors=True, output_loading_info=True)
    if found["missing_keys"]:
        raise ValueError(f"{checkpoint!r} is no whole {type(model).__name__}: it lacks {min(found['missing_keys'])}")
    return model.eval(), AutoTokenizer.from_pretrained(checkpoint)


def refuse(arguments, names, whose):
    """Refuse fields that a checkpoint's family would not use."""
    defaults = type(arguments)(**{f.name: "" for f in fields(arguments) if f.default is f.default_factory is MISSING})
    for name in names:
        if getattr(arguments, name) != getattr(defaults, name):
            raise ValueError(f"{name} is for {whose}, and {arguments.checkpoint!r} is none")


def held_out_texts(arguments):
    """Documents of the given files, or of the embedded corpus's test split."""
    if arguments.data_file:
        return texts_of(load_corpus(train_file=arguments.data_file, validation_file=arguments.data_file)["validation"])
    return texts_of(embedded_corpus()["test"])


def held_out_passages(arguments, texts=None):
    """Passages of held-out documents, and a sentence on them."""
    texts = held_out_texts(arguments) if texts is None else texts
    passages = sample_passages(texts, arguments.passage_length, arguments.passages, arguments.seed)
    size = sum(len(p.encode("utf-8")) for p in passages)
    return passages, (
        f"{len(passages)} passages of {arguments.passage_length // 2} to {arguments.passage_length} bytes ({size} bytes), "
        f"seed {arguments.seed}."
    )


def reconstruct(arguments):
    """Teacher-forced and free-running accuracy, and accuracy on hidden bytes, beside a control without memory."""
    for path in [*arguments.data_file, *arguments.train_file, *([arguments.questions] if arguments.questions else [])]:
        file_format(path)  # before anything is fetched
    family = AutoConfig.from_pretrained(arguments.checkpoint).model_type
    if family == MlmEncoderConfig.model_type:
        return masked_tokens(arguments)
    refuse(arguments, ("questions", "train_file"), "the MLM encoder")
    passages, head = held_out_passages(arguments)
    if family != EncodzallConfig.model_type:
        refuse(arguments, ("control", "rates"), "families that hide what is to be told")
        batches = {"batch_size": arguments.batch_size} if family == CtaConfig.model_type else {}
        if not batches:
            refuse(arguments, ("batch_size",), "models that are run on whole passages")
        model, tokenizer = load(arguments.checkpoint, saved_class(arguments.checkpoint))
        figures, lines = run_report(model, tokenizer, passages, **batches)
        return figures, "\n".join([head, "", *lines])
    rates = arguments.rates or [0.1, 0.2, 0.4]
    measure = {"rates": rates, "batch_size": arguments.batch_size, "seed": arguments.seed}
    results = {"model": reconstruction_report(*load(arguments.checkpoint), passages, **measure)}
    if arguments.control:
        results["control"] = reconstruction_report(*load(arguments.control), passages, **measure, generate=False)
    rows = reconstruction_rows(results)
    rounded = " Latents rounded to int8." if "latents" in results["model"] else ""
    return results, f"{head}{rounded}\n\n{table(rows, ['figure', *results])}"


def answered_questions(arguments):
    """Share of questions whose answer is the model's first choice, and those that it gets wrong."""
    asked = load_dataset("json", data_files=arguments.questions, split="train")
    if not {"question", "answer"} <= set(asked.column_names):
        raise ValueError(f"{arguments.questions} needs the columns question and answer, not only {asked.column_names}")
    model, tokenizer = load(arguments.checkpoint)
    found = answers(model, tokenizer, asked["question"], arguments.batch_size)
    wrong = [
        {"question": question, "answer": answer, "first choice": choice}
        for question, answer, choice in zip(asked["question"], asked["answer"], found, strict=True)
        if choice != answer
    ]
    share = 1 - len(wrong) / len(found)
    head = f"{len(found)} questions of {Path(arguments.questions).name}: first choice right {share:.4f}"
    columns = ["question", "answer", "first choice"]
    return {"questions": len(found), "right": share, "wrong": wrong}, head + (
        f"\n\n{table(wrong, columns)}" if wrong else ""
    )


def masked_tokens(arguments):
    """Accuracy and cross-entropy on masked tokens, and pseudo-perplexity, beside another model and counted n-grams."""
    if arguments.questions:
        return answered_questions(arguments)
    texts = held_out_texts(arguments)
    passages, head = held_out_passages(arguments, texts)
    passages = [passage.rstrip() for passage in passages]  # the space where a passage was cut is nothing to be told
    model, tokenizer = load(arguments.checkpoint)
    models = {"model": model}
    if arguments.control:
        models["control"], other = load(arguments.control, AutoModelForMaskedLM)
        if other.get_vocab() != tokenizer.get_vocab():
            raise ValueError(f"{arguments.control!r} has another vocabulary: tokens of two kinds cannot be compared")
    scorers = {
        f"{name}: {type(model).__name__}, {model.num_parameters() / 1e6:.2f} M parameters": partial(
            model_scores, model, tokenizer, batch_size=arguments.batch_size
        )
        for name, model in models.items()
    }
    if arguments.train_file:
        corpus = load_corpus(train_file=arguments.train_file, validation_file=arguments.train_file)
        counted = [p for text in texts_of(corpus["train"]) for p in split_passages(text, arguments.passage_length)]
        ids = (row for i in range(0, len(counted), 1000) for row in tokenizer(counted[i : i + 1000])["input_ids"])
        ngrams = ngram_models(TokenCounts(ids, len(tokenizer)))
        scorers |= {name: partial(ngram_scores, probabilities) for name, probabilities in ngrams.items()}
    sentences = sentences_of(texts, arguments.sentences, arguments.seed) if arguments.sentences else []
    rows = masked_language_rows(scorers, tokenizer, passages, sentences, arguments.rates or [0.15], arguments.seed)
    head += f" Every hidden token shows as the mask. Pseudo-perplexity a token, over {len(sentences)} sentences."
    return {"rows": rows, "sentences": sentences}, f"{head}\n\n{table(rows, list(rows[0]))}"


def attention(arguments):
    """Heat maps of a model's attention on a text: each head, each layer, rollout, and the sinusoidal positions."""
    model, tokenizer = load(arguments.checkpoint)
    config = model.config
    if config.model_type == EncodzallConfig.model_type:
        raise ValueError(
            f"{arguments.checkpoint!r} is an Encodzall: attention is drawn of the MLM encoder and its like"
        )
    tokens, weights = attention_weights(model, tokenizer, arguments.text)
    picture = report_file(arguments.output, ".png")
    sinusoidal = config.model_type == MlmEncoderConfig.model_type
    plot_attention(weights, tokens, picture, (config.hidden_size, config.position_theta) if sinusoidal else None)
    return {
        "tokens": tokens,
        "weights": weights.round(4).tolist(),
    }, f"tokens: {' | '.join(tokens)}\n\n![]({picture.name})"


def rate_distortion_table(arguments):
    """Stored bits for each byte of text against what comes back, beside whole-text compressors."""
    passages, head = held_out_passages(arguments)
    model, tokenizer = load(arguments.checkpoint, saved_class(arguments.checkpoint))
    if model.config.model_type == AbstractinatorConfig.model_type:
        raise ValueError("what the Abstractinator stores is files: see benchmarks/byte_compression.py, and lm for bits")
    if not (model.has_bottleneck and model.has_decoder):
        raise ValueError(f"{type(model).__name__} stores no latents: it has no rate")
    if model.config.model_type == FsqAutoencoderConfig.model_type:
        rows = rate_rows(model, tokenizer, passages)
        rows += [{name: row[name] for name in rows[0]} for row in compressor_rows(passages)]
        return {"rows": rows}, f"{head} Everything comes back exactly.\n\n{table(rows, list(rows[0]))}"
    measure = token_rate_distortion if model.config.model_type == CtaConfig.model_type else rate_distortion
    rows = measure(model, tokenizer, passages, arguments.batch_size)
    return {"rows": rows}, f"{head}\n\n{table(rows, list(rows[0]))}"


def codebook(arguments):
    """What an autoencoder's codes own and what its tokenizer makes of held-out text; draws the curves."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    model = tokenizer.autoencoder  # with its weights as they are stored
    if model is None:
        raise ValueError(f"the tokenizer of {arguments.checkpoint!r} has no autoencoder: its tokens are bare bytes")
    texts = held_out_texts(arguments)
    listed = json.loads(Path(arguments.token_list).read_text()) if arguments.token_list else []
    report = chunk_report(model, tokenizer, texts, [token.encode("latin-1") for token in listed])
    pruning, growth = pruning_rows(tokenizer, texts), growth_rows(tokenizer, texts)
    uses = np.bincount([i for row in encoded_rows(tokenizer, texts) for i in row], minlength=len(tokenizer))
    picture = report_file(arguments.output, ".png")
    plot_codebook(uses, pruning, growth, picture)
    report |= {"pruning": pruning, "growth": growth, "neighbours": {}}
    body = [
        f"{len(texts)} texts of {report['tokenizer']['bytes']} bytes; {len(tokenizer)} ids, {len(tokenizer.kept)} of them codes."
    ]
    if arguments.train_file:
        seen = "\n".join(
            texts_of(load_corpus(train_file=arguments.train_file, validation_file=arguments.train_file)["train"])
        )
        unseen = [string for string in tokenizer.strings() if string.decode() not in seen]
        report["unseen_share"] = len(unseen) / max(len(tokenizer.kept), 1)
        body.append(
            f"Share of the tokens whose string never occurs in the training text, from which they were chosen: "
            f"{figure(report['unseen_share'])}."
        )
        if len(tokenizer.kept) and not model.config.vq_codes:
            report["space_between"] = beside = space_between(tokenizer, seen)
            body.append(
                f"Of {beside['codes']} codes one step beside a token's, their string's own: {figure(beside['owned'])}; of these "
                f"strings, never in the training text: {figure(beside['unseen'])}."
            )
    columns = {name: report[name] for name in ("chunks", "token_list") if name in report}
    rows = [{"figure": n.replace("_", " ")} | {c: v[n] for c, v in columns.items()} for n in report["chunks"]]
    body += ["", table(rows, ["figure", *columns]), ""]
    rows = [{"figure": name.replace("_", " "), "value": value} for name, value in report["tokenizer"].items()]
    body += [table(rows, ["figure", "value"]), "", table(pruning, list(pruning[0])), "", f"![]({picture.name})", ""]
    fitting = [word for word in WORDS if len(word.encode()) <= tokenizer.max_chunk_length]
    for word in fitting if len(tokenizer.kept) else ():
        report["neighbours"][word] = neighbours(tokenizer, word)
        body.append(f"nearest codes to {word!r}: {', '.join(map(repr, report['neighbours'][word]))}")
    return report, "\n".join(body)


def tokens(arguments):
    """Token and sequence accuracy of a token autoencoder, as its latents are stored; beside the report the errors as .jsonl and
    how often each token occurs in the training text as .csv. Of the FSQ autoencoder, what its codes own."""
    for path in [*arguments.train_file, *arguments.data_file]:
        file_format(path)  # before anything is fetched
    if bool(arguments.train_file) != bool(arguments.data_file):
        raise ValueError("train_file and data_file go together: which tokens are rare is a matter of the training text")
    if not 0 <= arguments.rarest < 1:
        raise ValueError(f"rarest {arguments.rarest} is no share that leaves a token: accepted are 0 to below 1")
    for name in ("samples", "length"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{name} {getattr(arguments, name)} is too small: accepted is 1 and above")
    if arguments.noise < 0:
        raise ValueError(f"noise {arguments.noise} is negative: accepted are 0 and above")
    for bits in arguments.bits:
        if bits != 16:
            check_bits(bits)
    folder = Path(arguments.checkpoint)
    bare = (folder / "tokenizer.safetensors").is_file() and not (folder / "config.json").is_file()
    family = FsqAutoencoderConfig.model_type if bare else AutoConfig.from_pretrained(arguments.checkpoint).model_type
    if family == FsqAutoencoderConfig.model_type:
        refuse(arguments, ("samples", "length", "rarest", "bits", "noise", "seed", "batch_size"), "CTA")
        return codebook(arguments)
    if family != CtaConfig.model_type:
        raise ValueError(f"{arguments.checkpoint!r} is no token autoencoder")
    refuse(arguments, ("token_list",), "the FSQ autoencoder")
    model, tokenizer = load(arguments.checkpoint)
    if arguments.train_file:
        seen = load_corpus(train_file=arguments.train_file, validation_file=arguments.train_file)["train"]
    else:
        seen = embedded_corpus()["train"]
    counts = token_frequencies(encoded_rows(tokenizer, texts_of(seen)), len(tokenizer))
    rows = list(encoded_rows(tokenizer, held_out_texts(arguments)))
    common, seen_tokens = common_tokens(counts, arguments.rarest), int((counts > 0).sum())
    long_enough = sum(len(ids) >= arguments.length for ids in rows)
    text = text_samples(rows, arguments.length, arguments.samples, common, arguments.seed)
    measured = {
        "text": text,
        "text, no token left out": text_samples(rows, arguments.length, arguments.samples, None, arguments.seed),
        "random tokens": random_samples(np.flatnonzero(counts), text.shape, arguments.seed),
    }
    spell, fewest = speller(tokenizer), min(arguments.bits)
    results, errors = [], []
    for name, samples in measured.items():
        latents = latents_of(model, samples, arguments.batch_size)
        written = [spell(sample) for sample in samples]
        for bits in arguments.bits:
            for noise in (0.0, arguments.noise) if arguments.noise else (0.0,):
                decoded = decoded_from(
                    model, latents, arguments.length, bits, noise, arguments.seed, arguments.batch_size
                )
                results.append(
                    {
                        "samples": f"{name} (n = {len(samples)})",
                        "bits": bits,
                        "noise": noise,
                        "bits per byte of text": stored_bits_per_byte(model, latents, written, bits),
                        **{k: v for k, v in exactness(samples, decoded).items() if k.endswith("accuracy")},
                        "byte accuracy": byte_accuracy(written, [spell(sample) for sample in decoded]),
                    }
                )
                if name == "text" and bits == fewest and not noise:
                    errors = token_errors(tokenizer, samples, decoded, bits)
    write_errors(report_file(arguments.output, ".jsonl"), errors)
    write_frequencies(report_file(arguments.output, ".csv"), tokenizer, counts)
    source = " and ".join(arguments.train_file) or "the embedded corpus"
    head = (
        f"{arguments.length} tokens a sample, one a text, of {long_enough} texts that are as long, seed {arguments.seed}. Text "
        f"has only tokens that occur in {source}, {seen_tokens} of {len(tokenizer)}, without the {arguments.rarest:.0%} of them "
        f"that are the rarest, {seen_tokens - int(common.sum())}; random tokens are drawn evenly from all that occur. Noise in "
        f"units of each channel's root mean square. {len(errors)} samples of text with errors at {fewest} bits."
    )
    return {"rows": results, "errors": len(errors)}, f"{head}\n\n{table(results, list(results[0]))}"


def encoded_rows(tokenizer, texts):
    """Yield the ids of texts, without special tokens."""
    for i in range(0, len(texts), 1000):
        yield from tokenizer(texts[i : i + 1000], add_special_tokens=False)["input_ids"]


def denoise(arguments):
    """Restore noisy texts and count the errors before and after."""
    a = arguments
    config = AutoConfig.from_pretrained(a.checkpoint)
    if isinstance(config, AbstractinatorConfig):
        refuse(a, ("save_min_gain",), "an Encodzall")
        if a.noise_model is None:
            raise ValueError(f"{a.checkpoint!r} is a language model: it restores with a fitted noise_model")
    elif isinstance(config, EncodzallConfig):
        refuse(a, ("noise_model", "suggest", "num_beams"), "an Abstractinator")
    else:
        raise ValueError(
            f"denoise needs an Encodzall or an Abstractinator, and {a.checkpoint!r} is a {config.model_type}"
        )
    if a.save_min_gain and not Path(a.checkpoint).is_dir():
        raise ValueError(f"save_min_gain writes into a folder, and {a.checkpoint!r} is none")
    if a.every < 1:
        raise ValueError(f"every {a.every}th record: accepted is 1 and above")
    if a.suggest and not isinstance(AutoConfig.from_pretrained(a.suggest), EncodzallConfig):
        raise ValueError(f"suggest names an Encodzall, and {a.suggest!r} is none")
    if a.num_beams < (a.suggest is None):
        raise ValueError(f"num_beams {a.num_beams} leaves nothing to judge: give suggest as well")
    pairs = read_pairs(a.data_file, a.noisy_column, a.clean_column, a.aligned_pad, first=a.first, last=a.last)
    pairs = pairs[:: a.every]
    if a.noise_model is None:
        model, tokenizer = load(a.checkpoint, AutoModelForSeq2SeqLM)
        min_gain = config.min_gain
        least = min(a.min_gain or [min_gain])
        suggest_edits = partial(model.suggest_edits, tokenizer=tokenizer, min_gain=least)
    else:
        noise, suggest = OcrNoiseModel.from_pretrained(a.noise_model), None
        if a.suggest:
            model, tokenizer = load(a.suggest, AutoModelForSeq2SeqLM)
            suggest = partial(model.suggest_edits, tokenizer=tokenizer, show_progress=True)
        language_model = load(a.checkpoint, AutoModelForCausalLM)[0]
        suggest_edits = NoisyChannel(language_model, noise, suggest, a.num_beams).suggest_edits
        min_gain = 0.0
    sizes = {"window": a.window, "overlap": a.overlap} | ({"batch_size": a.batch_size} if a.batch_size else {})
    rows, speed = denoising_rows(suggest_edits, pairs, a.min_gain or [min_gain], **sizes)
    size = sum(len(clean.encode("utf-8")) for _, clean in pairs)
    head = f"{len(pairs)} texts of {size} bytes; read at {speed:.2f} kB/s."
    if a.save_min_gain:
        best = min(rows[1:], key=lambda row: row["character_error_rate"])
        if best["character_error_rate"] < rows[0]["character_error_rate"]:
            config.update({"min_gain": best["min_gain"]})
            config.save_pretrained(a.checkpoint)
        else:
            head += " At no margin are there fewer errors than before: none is saved."
    return {"rows": rows, "kilobytes_per_second": speed}, f"{head}\n\n{table(rows, list(rows[-1]))}"


def embed(arguments):
    """Rank correlation of cosines with people's scores, clean and noisy, beside baselines that learn nothing of sentences."""
    config = AutoConfig.from_pretrained(arguments.checkpoint)
    if not isinstance(config, EncodzallConfig):
        raise ValueError(f"embed needs an Encodzall, and {arguments.checkpoint!r} is a {config.model_type}")
    records = load_dataset(file_format(arguments.data_file), data_files=arguments.data_file, split="train")
    missing = [name for name in arguments.columns if name not in records.column_names]
    if missing or len(arguments.columns) != 3:
        raise ValueError(f"columns {arguments.columns} are not three of {', '.join(records.column_names)}")
    first, second, scores = (records[name] for name in arguments.columns)
    pairs, texts = list(zip(first, second, strict=True)), [*first, *second]
    model, tokenizer = load(arguments.checkpoint, EncodzallForSentenceEmbedding)
    torch.manual_seed(arguments.seed)
    untrained = EncodzallForSentenceEmbedding(type(config)(**config.to_dict() | {"sketch_size": 0}))

    def embed_by(encoder, share):
        def embedding(written):
            encoder.config.sketch_share = share
            return encoder.embed(written, tokenizer, arguments.batch_size)

        return embedding

    measured = {arguments.checkpoint: embed_by(model, config.sketch_share)}
    if config.sketch_size:
        measured["its words' vectors alone"] = embed_by(model, 0.0)
        measured["its sketch alone"] = embed_by(model, 1.0)
    measured["untrained words' vectors"] = embed_by(untrained.eval(), 0.0)
    measured["characters, 2 to 4, by rarity"] = n_gram_embedding(texts, "char", (2, 4))
    measured["words, by rarity"] = n_gram_embedding(texts, "word", (1, 1))
    rows = [
        {"embedding": name} | similarity_rows(function, pairs, scores, TextNoise(), arguments.noise, arguments.seed)
        for name, function in measured.items()
    ]
    for row in rows:
        row["lost"] = row["clean"] - row["noisy"]
    head = f"{len(pairs)} pairs, Spearman's rank correlation; noise of strength {arguments.noise:g} on both sentences."
    return {"rows": rows}, f"{head}\n\n{table(rows, list(rows[0]))}"


def lm(arguments):
    """Run lm-eval's tasks on a model, from the Hub or from local files."""
    try:
        from modeling_textae.evaluation.lm_harness import evaluate, result_rows
    except ModuleNotFoundError as error:
        raise ImportError(f"lm needs {error.name}: pip install 'modeling_textae[eval]'") from error

    limit = arguments.limit
    results = evaluate(
        arguments.model,
        arguments.model_args,
        [task.strip() for task in arguments.tasks.split(",") if task.strip()],
        arguments.data_dir,
        limit=int(limit) if limit is not None and limit >= 1 else limit,
        num_fewshot=arguments.num_fewshot,
        batch_size=arguments.batch_size,
        device=arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        use_cache=arguments.use_cache,
    )
    rows = result_rows(results)
    kept = {name: results[name] for name in ("results", "groups", "n-samples", "versions") if name in results}
    found = table(rows, ["task", "metric", "value", "standard error", "questions"])
    if any(row["task"].startswith("cute") for row in rows):
        found += "\n\nCUTE: likelihood of the answer after prompts of our own, not comparable with published figures."
    return kept, found


def report(arguments):
    """What a run's log says of its loss and its noise: how well control held the set-point; draws the curve."""
    run = Path(arguments.run)
    if not (run / "trainer_state.json").is_file():
        raise FileNotFoundError(f"{arguments.run!r} holds no finished run: it has no trainer_state.json")
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    fields = json.loads((run / "report.json").read_text())["fields"] if (run / "report.json").is_file() else {}
    if arguments.setpoint is None and fields.get("noise") != "pid":
        raise ValueError(f"{arguments.run!r} is no run under PID control: give the loss to compare with as --setpoint")
    setpoint = fields["loss_setpoint"] if arguments.setpoint is None else arguments.setpoint
    figures = control_figures(history, setpoint, fields.get("noise_minimum", 0.0), fields.get("noise_maximum", 1.0))
    picture = report_file(arguments.output, ".png")
    plot_training(history, picture, setpoint)
    rows = [{"figure": name.replace("_", " "), "value": value} for name, value in figures.items()]
    return figures, f"{table(rows, ['figure', 'value'])}\n\n![]({picture.name})"


def packing(arguments):
    """Draw how encoder 1 packs the words of a text into rows, and the mask that keeps them apart."""
    config, tokenizer = EncodzallConfig(), EncodzallTokenizer()
    config._attn_implementation = "sdpa"
    inputs = tokenizer(arguments.text, return_tensors="pt")
    ids, index = inputs["input_ids"][0], inputs["word_index"][0]
    if not len(ids):
        raise ValueError("an empty text has no words to pack")
    rows = pack_rows(index.bincount(), config.row_length, config.max_word_length)
    mask = rows.attention_mask(config, torch.zeros(*rows.segments.shape, 1))[0, 0]
    shown = {tokenizer.pad_token_id: "", 32: "␣"} | {i: chr(i) for i in range(33, 127)}
    symbols = [[shown.get(i, f"{i:02x}") for i in row] for row in rows.lay(ids, tokenizer.pad_token_id).tolist()]
    picture = report_file(arguments.output, ".png")
    plot_packing(symbols, rows.segments, mask, picture)
    words = [tokenizer.decode(ids[index == i]) for i in range(int(index.max()) + 1)]
    figures = {"words": words, "rows": rows.segments.tolist(), "row_length": config.row_length}
    return figures, f"words: {' | '.join(words)}\n\n![]({picture.name})"


COMMANDS = {
    "reconstruct": (reconstruct, ReconstructArguments),
    "attention": (attention, AttentionArguments),
    "tokens": (tokens, TokensArguments),
    "rate-distortion": (rate_distortion_table, CheckpointArguments),
    "denoise": (denoise, DenoiseArguments),
    "embed": (embed, EmbedArguments),
    "lm": (lm, LmArguments),
    "report": (report, ReportArguments),
    "packing": (packing, PackingArguments),
}


def parse(command, arguments):
    """Fields of a command: a YAML file first, if any, then fields that override it."""
    function, kind = COMMANDS[command]
    parser = HfArgumentParser(kind, prog=f"run_eval.py {command}", description=function.__doc__)
    if arguments and not arguments[0].startswith("-"):
        defaults = read_recipe_file(arguments[0], parser)
        for action in parser._actions:  # what the file gives is no longer required
            action.required = action.required and action.dest not in defaults
        parser.set_defaults(**defaults)
        arguments = arguments[1:]
    fields, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        raise ValueError(unknown_field(unknown[0].split("=")[0].lstrip("-"), parser))
    fields.output = fields.output or f"runs/eval/{command}"
    # A report has several files; whoever names the picture means all of them.
    if Path(fields.output).suffix in (".png", ".md", ".json"):
        fields.output = str(Path(fields.output).with_suffix(""))
    return fields


def main(arguments=None):
    """Run one command; exit 2 for bad input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0].startswith("--model"):
        arguments.insert(0, "lm")
    if not arguments or arguments[0] not in COMMANDS:
        wanted = arguments and arguments[0] in ("-h", "--help")
        print(__doc__, file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else 2
    command = arguments[0]
    try:
        fields = parse(command, arguments[1:])
        figures, body = COMMANDS[command][0](fields)
    except (ValueError, OSError, ImportError) as error:
        print(f"run_eval: {error}", file=sys.stderr)
        return 2
    write_report(fields.output, command, figures, body)
    print(body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
