"""Recipes: the fields of a training run, where they come from, and what is refused before any work."""

import argparse
import dataclasses
import difflib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationMixin, HfArgumentParser, PreTrainedConfig
from transformers.trainer_utils import get_last_checkpoint

from ..data.collators import (
    CtaCollator,
    EncodzallDenoisingCollator,
    EncodzallMaskingCollator,
    EncodzallViewsCollator,
    FsqChunkCollator,
    LanguageCollator,
    MlmEncoderMaskingCollator,
)
from ..data.corpora import file_format
from ..models.configuration_abstractinator import AbstractinatorConfig
from ..models.configuration_cta import CtaConfig
from ..models.configuration_encodzall import EncodzallConfig
from ..models.configuration_fsq_autoencoder import FsqAutoencoderConfig
from ..models.configuration_mlm_encoder import MlmEncoderConfig
from ..models.modeling_abstractinator import AbstractinatorForCausalLM, AbstractinatorModel
from ..models.modeling_cta import CtaModel
from ..models.modeling_encodzall import (
    EncodzallForConditionalGeneration,
    EncodzallForPreTraining,
    EncodzallForSentenceEmbedding,
)
from ..models.modeling_fsq_autoencoder import FsqAutoencoderForCausalLM, FsqAutoencoderModel
from ..models.modeling_mlm_encoder import MlmEncoderForMaskedLM
from ..models.tokenization_abstractinator import AbstractinatorTokenizer
from ..models.tokenization_cta import CtaTokenizer
from ..models.tokenization_encodzall import EncodzallTokenizer
from ..models.tokenization_fsq_autoencoder import AutoEncoderTokenizer
from ..models.tokenization_mlm_encoder import MlmEncoderTokenizer
from .optimizers import bfloat16_is_fast, optimizer_class_and_arguments
from .pid import LinearNoiseCallback, PIDNoiseCallback
from .trainer import TextAETrainingArguments

AUTO = "auto"


@dataclass(frozen=True)
class Family:
    """The classes with which a family is pretrained.

    Attributes:
        tokenizer (`type`): one with a class method `train(texts, vocab_size)` learns its vocabulary from the corpus.
        collator (`type`): called with the tokenizer, the noise rate, the seed and `collator_fields`.
        collator_fields (`tuple[str, ...]`): fields of a recipe, or of its configuration, that the collator takes by their names.
        tokenizer_fields (`tuple[str, ...]`): fields of its configuration that a tokenizer without a checkpoint takes likewise.
        defaults (`dict`): fields of a recipe that this family begins with, where they differ from the others'.
        reads_chunks (`bool`): examples are chunks instead of passages, and what is learned is a tokenizer.
        needs_tokenizer (`bool`): the run starts from a checkpoint whose tokenizer decides the size of the vocabulary.
    """

    config: type
    tokenizer: type
    model: type
    collator: type
    collator_fields: tuple[str, ...] = ()
    tokenizer_fields: tuple[str, ...] = ()
    defaults: dict = field(default_factory=dict)
    reads_chunks: bool = False
    needs_tokenizer: bool = False


FAMILIES = {
    "abstractinator": Family(
        AbstractinatorConfig,
        AbstractinatorTokenizer,
        AbstractinatorModel,
        LanguageCollator,
        defaults={"noise": "fixed", "noise_rate": 0.0},
    ),
    "abstractinator_lm": Family(
        AbstractinatorConfig,
        AbstractinatorTokenizer,
        AbstractinatorForCausalLM,
        LanguageCollator,
        defaults={"noise": "fixed", "noise_rate": 0.0},
    ),
    "cta": Family(
        CtaConfig,
        CtaTokenizer,
        CtaModel,
        CtaCollator,
        # Noise is random tokens, which text needs none of.
        defaults={"noise": "fixed", "noise_rate": 0.0},
    ),
    "encodzall": Family(
        EncodzallConfig,
        EncodzallTokenizer,
        EncodzallForPreTraining,
        EncodzallMaskingCollator,
        tokenizer_fields=("max_word_length",),
    ),
    "encodzall_denoise": Family(
        EncodzallConfig,
        EncodzallTokenizer,
        EncodzallForConditionalGeneration,
        EncodzallDenoisingCollator,
        collator_fields=("noise_model",),
        tokenizer_fields=("max_word_length",),
        # The contrastive part hardly depends on the noise, and on the batch's size it does.
        defaults={"noise_rate": 0.05, "noise_maximum": 0.4, "controlled_loss": "sequence_loss"},
    ),
    "encodzall_embedding": Family(
        EncodzallConfig,
        EncodzallTokenizer,
        EncodzallForSentenceEmbedding,
        EncodzallViewsCollator,
        collator_fields=("noise_model", "min_crop", "word_dropout"),
        tokenizer_fields=("max_word_length",),
        defaults={"noise": "fixed", "noise_rate": 0.05},
    ),
    "fsq_autoencoder": Family(
        FsqAutoencoderConfig,
        AutoEncoderTokenizer,
        FsqAutoencoderModel,
        FsqChunkCollator,
        collator_fields=("max_chunk_length",),
        defaults={"noise": "fixed", "noise_rate": 0.0},
        reads_chunks=True,
    ),
    "fsq_autoencoder_lm": Family(
        FsqAutoencoderConfig,
        AutoEncoderTokenizer,
        FsqAutoencoderForCausalLM,
        LanguageCollator,
        collator_fields=("with_bytes",),
        defaults={"noise": "fixed", "noise_rate": 0.0},
        needs_tokenizer=True,
    ),
    "mlm_encoder": Family(
        MlmEncoderConfig,
        MlmEncoderTokenizer,
        MlmEncoderForMaskedLM,
        MlmEncoderMaskingCollator,
        collator_fields=("whole_words",),
        # Under control, a few masks always stay: without any there is no loss to control by.
        defaults={"noise": "fixed", "noise_rate": 0.15, "noise_minimum": 0.05, "loss_setpoint": 4.0},
    ),
}


@dataclass
class ModelArguments:
    """The model."""

    family: str = field(default="encodzall", metadata={"help": f"One of {', '.join(FAMILIES)}."})
    size: str = field(default="nano", metadata={"help": "A preset of the family's configuration, like nano or xs."})
    config: str | None = field(
        default=None,
        metadata={"help": "Fields that differ from the preset, and from the recipe's, as JSON: '{\"dropout\": 0.1}'."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub name of a tokenizer, for families that else learn one from the corpus."},
    )
    initial_checkpoint: str | None = field(
        default=None, metadata={"help": "Start from the weights of this checkpoint instead of random ones."}
    )


@dataclass
class DataArguments:
    """The corpus. Without a dataset or files, the embedded one: English documentation out of the running Python."""

    dataset_name: str | None = field(default=None, metadata={"help": "A dataset of the Hub."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_file: list[str] = field(
        default_factory=list, metadata={"help": "Text, jsonl, csv or parquet files, each also compressed."}
    )
    validation_file: list[str] = field(default_factory=list, metadata={"help": "Likewise, of one format."})
    text_column: str = field(default="text", metadata={"help": "The column that holds the text."})
    streaming: bool = field(default=False, metadata={"help": "Read while training; needs --max_steps."})
    pairs_file: str | None = field(
        default=None, metadata={"help": "Noisy and clean texts to train on as well; encodzall_denoise only."}
    )
    noisy_column: str = field(default="noisy", metadata={"help": "In that file, the noisy texts."})
    clean_column: str = field(default="clean", metadata={"help": "In that file, what they should be."})
    pairs_last: float = field(default=1.0, metadata={"help": "Share of that file's records up to which they are read."})
    pairs_share: float = field(
        default=0.5, metadata={"help": "Share of the passages that are such pairs; above 0, up to 1."}
    )
    passage_length: int = field(default=256, metadata={"help": "Bytes in a passage at most."})
    min_passage_length: int = field(default=32, metadata={"help": "Bytes in a passage at least."})
    max_tokens: int | None = field(
        default=None, metadata={"help": "Tokens of a passage that are kept; by default all."}
    )
    report_passages: int = field(default=64, metadata={"help": "Validation passages in the final report."})
    token_list_size: int = field(
        default=0, metadata={"help": "Strings that are chosen as worth a token, to train on; fsq_autoencoder only."}
    )
    token_list_share: float = field(
        default=0.0, metadata={"help": "Share of the chunks that are drawn from that list, the rest from the corpus."}
    )
    chunk_temper: float = field(default=1.0, metadata={"help": "Power of the frequency by which chunks are drawn."})
    kept_codes: int = field(
        default=32507, metadata={"help": "Codes that become tokens at most; beside 261 bytes and special tokens."}
    )
    with_bytes: bool = field(
        default=False, metadata={"help": "Give the language model each token's bytes; fsq_autoencoder_lm only."}
    )


@dataclass
class NoiseArguments:
    """The noise and its control."""

    noise: str = field(default="pid", metadata={"help": "pid, linear or fixed."})
    noise_rate: float = field(default=0.1, metadata={"help": "Rate at the start, and throughout if fixed; 0 to 1."})
    noise_end: float = field(default=0.4, metadata={"help": "Rate at the end if linear."})
    whole_words: bool = field(default=False, metadata={"help": "Mask whole words; mlm_encoder only."})
    noise_model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub name of a fitted OcrNoiseModel in place of TextNoise; for encodzall_denoise and "
            "encodzall_embedding."
        },
    )
    min_crop: float = field(
        default=1.0,
        metadata={"help": "Least share of a text's words that a view is a run of; encodzall_embedding only."},
    )
    word_dropout: float = field(
        default=0.0, metadata={"help": "Rate at which words of a view are missing; encodzall_embedding only."}
    )
    noise_minimum: float = field(default=0.0, metadata={"help": "Lower bound of the controlled rate."})
    noise_maximum: float = field(default=0.9, metadata={"help": "Upper bound of the controlled rate."})
    loss_setpoint: float = field(default=0.3, metadata={"help": "Training loss to hold, in nats a label."})
    controlled_loss: str = field(
        default="loss", metadata={"help": "The loss, or part of it, that is held: sequence_loss."}
    )
    control_warmup_steps: int = field(default=0, metadata={"help": "Steps at the first rate before control begins."})
    pid_proportional: float = field(default=0.1, metadata={"help": "Rate for each nat of error."})
    pid_integral: float = field(default=0.02, metadata={"help": "Rate for each nat of error and step."})
    pid_derivative: float = field(default=0.05, metadata={"help": "Rate for each nat of change in a step."})
    pid_smoothing: float = field(default=0.9, metadata={"help": "What the filtered loss keeps of itself a step."})

    def callbacks(self):
        """The callbacks that set the rate: none if it is fixed.

        Raises:
            ValueError: for an unknown kind of noise, or numbers out of range.
        """
        if self.noise == "fixed":
            return []
        if self.noise == "linear":
            return [LinearNoiseCallback(self.noise_rate, self.noise_end)]
        if self.noise != "pid":
            raise ValueError(f"noise {self.noise!r} is unknown: accepted are pid, linear and fixed")
        return [
            PIDNoiseCallback(
                self.loss_setpoint,
                warmup_steps=self.control_warmup_steps,
                minimum=self.noise_minimum,
                maximum=self.noise_maximum,
                start=self.noise_rate,
                proportional=self.pid_proportional,
                integral=self.pid_integral,
                derivative=self.pid_derivative,
                smoothing=self.pid_smoothing,
                controlled_loss=self.controlled_loss,
            )
        ]


@dataclass
class RecipeTrainingArguments(TextAETrainingArguments):
    """Steps, sizes, rates, checkpoints and logs, as transformers names them."""

    optimizer: str = field(default="muon", metadata={"help": "muon (matrices; AdamW for the rest) or adamw."})
    kl_annealing_steps: int = field(
        default=0, metadata={"help": "Steps over which the weight of a KL divergence grows from 0; cta only."}
    )
    muon_learning_rate: float | None = field(default=None, metadata={"help": "By default twice the learning rate."})
    stored_weights: bool = field(
        default=False, metadata={"help": "Train through weights rounded to bfloat16, as they will be stored."}
    )
    sample_steps: int = field(
        default=0,
        metadata={
            "help": "Write what the model goes on with after held-out texts to samples.md every so many steps; 0 for "
            "never; language models only."
        },
    )
    precision: str = field(
        default=AUTO,
        metadata={"help": "float32, bfloat16 autocast, or auto: bfloat16 where the machine is faster with it."},
    )

    def __post_init__(self):
        if self.bf16 or self.fp16:
            raise ValueError("bf16 and fp16 are decided by --precision: float32, bfloat16 or auto")
        if self.optim != type(self).optim:
            raise ValueError(f"optim {self.optim!r} would be ignored: give --optimizer muon or adamw")
        if self.schedule_steps is not None and self.schedule_steps < 1:
            raise ValueError(f"schedule_steps {self.schedule_steps} is too small: accepted is 1 and above")
        if self.kl_annealing_steps < 0:
            raise ValueError(f"kl_annealing_steps {self.kl_annealing_steps} is negative: accepted are 0 and above")
        if self.sample_steps < 0:
            raise ValueError(f"sample_steps {self.sample_steps} is negative: accepted are 0 and above")
        if self.precision not in (AUTO, "float32", "bfloat16"):
            raise ValueError(f"precision {self.precision!r} is unknown: accepted are auto, float32 and bfloat16")
        # transformers takes bfloat16 on a machine without accelerator only where the CPU is chosen in so many words.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self.bf16 = self.precision == "bfloat16" or (
            self.precision == AUTO
            and bfloat16_is_fast("cpu" if self.use_cpu else torch.accelerator.current_accelerator())
        )
        super().__post_init__()


# Of the training arguments, those that decide what is trained.
DECISIVE = (
    "optimizer",
    "lr_scheduler_type",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "data_seed",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "learning_rate",
    "muon_learning_rate",
    "kl_annealing_steps",
    "weight_decay",
    "warmup_steps",
    "max_steps",
    "schedule_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "precision",
    "stored_weights",
    "seed",
)
PARTS = (ModelArguments, DataArguments, NoiseArguments, RecipeTrainingArguments)


@dataclass
class Recipe:
    """A whole run, checked."""

    model: ModelArguments
    data: DataArguments
    noise: NoiseArguments
    training: RecipeTrainingArguments
    family: Family
    config: PreTrainedConfig

    def fields(self):
        """All fields that decide what is trained, as JSON gives them back: reports and resumed runs compare them."""
        parts = (self.model, self.data, self.noise)
        fields = {f.name: getattr(part, f.name) for part in parts for f in dataclasses.fields(part)}
        fields |= {name: getattr(self.training, name) for name in DECISIVE}
        return json.loads(json.dumps(fields, default=str))

    def differing(self, begun):
        """What differs from the fields of an earlier run, a sentence each; a field younger than the run had its default."""
        defaults = {f.name: f.default for part in PARTS for f in dataclasses.fields(part)}
        there = {name: begun.get(name, defaults[name]) for name in self.fields()}
        return [f"{n} ({there[n]} there, {v} here)" for n, v in self.fields().items() if there[n] != v]


def parse_recipe(arguments=None):
    """Read a recipe from a command line: a YAML file first, if any, then fields that override it.

    Args:
        arguments (`list[str]`, *optional*): by default those of the process.

    Returns:
        [`Recipe`].

    Raises:
        ValueError: for unknown fields, or values that no run can have; nothing was done by then.
        FileNotFoundError: for files that are not there.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(
        PARTS, description="Pretrain a text autoencoder: RECIPE.yaml [--field value ...]", allow_abbrev=False
    )
    fields = {}
    if arguments and not arguments[0].startswith("-"):
        fields = read_recipe_file(arguments.pop(0), parser)
    parser.set_defaults(**family_defaults(fields, arguments) | fields)
    for i, argument in enumerate(arguments):
        # The flag alone means the last checkpoint.
        last = i + 1 == len(arguments) or arguments[i + 1].startswith("--")
        if argument == "--resume_from_checkpoint" and last:
            arguments[i] = f"--resume_from_checkpoint={AUTO}"
    *parts, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        raise ValueError(unknown_field(unknown[0].split("=")[0].lstrip("-"), parser))
    model, data, noise, training = parts
    model.config = merged_config(fields.get("config"), model.config)
    return Recipe(model, data, noise, training, *check(model, data, noise, training))


def family_defaults(fields, arguments):
    """Fields that the family of a recipe begins with; the command line goes before the file in naming it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--family", default=fields.get("family"))
    known, _ = parser.parse_known_args(arguments)
    return FAMILIES[known.family].defaults if known.family in FAMILIES else {}


def read_recipe_file(path, parser):
    """Fields of a YAML file, each of which the parser knows."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no recipe {path!r}: give a YAML file of recipes/, or fields as --name value")
    try:
        fields = yaml.safe_load(Path(path).read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"the recipe {path!r} is no YAML: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the recipe {path!r} must be a mapping of fields to values, not a {type(fields).__name__}")
    known = {action.dest for action in parser._actions}
    for name in fields:
        if name not in known:
            raise ValueError(f"{path}: {unknown_field(name, parser)}")
    for name in ("train_file", "validation_file"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    if isinstance(fields.get("config"), dict):
        fields["config"] = json.dumps(fields["config"])
    return fields


def merged_config(of_file, given):
    """Fields of a configuration as JSON: those of the command line over those of the recipe's file. What is no JSON object is
    left to [`config_fields`] to refuse."""
    try:
        first, second = json.loads(of_file or "{}"), json.loads(given or "{}")
    except json.JSONDecodeError:
        return given
    if not (isinstance(first, dict) and isinstance(second, dict)) or first == second:
        return given
    return json.dumps(first | second)


def unknown_field(name, parser):
    """Message for a field that does not exist, with those that are spelled alike."""
    known = [action.dest for action in parser._actions if action.dest != "help"]
    close = difflib.get_close_matches(name, known, n=3)
    return f"unknown field {name!r}" + (f"; did you mean {' or '.join(close)}?" if close else "; see --help")


def check(model, data, noise, training):
    """Refuse what no run can have; return the family and the model's configuration."""
    if model.family not in FAMILIES:
        raise ValueError(f"family {model.family!r} is unknown: accepted are {', '.join(FAMILIES)}")
    family = FAMILIES[model.family]
    presets = [k for k, v in vars(family.config).items() if isinstance(v, classmethod)]
    if model.size not in presets:
        raise ValueError(f"size {model.size!r} is unknown: accepted are {', '.join(presets)}")
    try:
        config = getattr(family.config, model.size)(**config_fields(model.config, family.config))
    except StrictDataclassError as error:
        raise ValueError(f"--config: {str(error.__cause__ or error).strip()}") from error
    for path in [*data.train_file, *data.validation_file, *filter(None, [data.pairs_file])]:
        file_format(path)
    if data.dataset_name and data.train_file:
        raise ValueError("give a dataset_name or a train_file, not both")
    for name, smallest in (("passage_length", 4), ("min_passage_length", 1), ("report_passages", 1)):
        if getattr(data, name) < smallest:
            raise ValueError(f"{name} {getattr(data, name)} is too small: accepted is {smallest} and above")
    if data.max_tokens is not None and data.max_tokens < 1:
        raise ValueError(f"max_tokens {data.max_tokens} is too small: accepted is 1 and above")
    if data.min_passage_length > data.passage_length:
        raise ValueError(
            f"min_passage_length {data.min_passage_length} exceeds passage_length {data.passage_length}: nothing would be left"
        )
    if data.streaming and training.max_steps <= 0:
        raise ValueError("a streamed corpus has no known end: give --max_steps")
    if data.streaming and training.dataloader_num_workers:
        raise ValueError(
            "each worker would count a stream for itself: give --dataloader_num_workers 0 with --streaming"
        )
    check_chunks(model, data, noise, family, config)
    if noise.whole_words and "whole_words" not in family.collator_fields:
        raise ValueError(f"family {model.family!r} cannot mask whole_words: its masks follow rules of their own")
    if noise.noise_model and "noise_model" not in family.collator_fields:
        raise ValueError(
            f"noise_model is for encodzall_denoise and encodzall_embedding: family {model.family!r} has noise of its own"
        )
    if data.pairs_file and family.model is not EncodzallForConditionalGeneration:
        raise ValueError(f"pairs_file is for encodzall_denoise: family {model.family!r} has noise of its own")
    if not 0 < data.pairs_share <= 1:
        raise ValueError(f"pairs_share {data.pairs_share} is no share: accepted are above 0 and up to 1")
    of_pairs = given(data, ("noisy_column", "clean_column", "pairs_last", "pairs_share"))
    if of_pairs and not data.pairs_file:
        raise ValueError(f"{of_pairs[0]} tells of pairs, and there are none: give a pairs_file")
    if data.pairs_share == 1 and noise.noise != "fixed":
        raise ValueError(
            "pairs_share 1 leaves nothing to make noisy, so that noise cannot be controlled: give --noise fixed"
        )
    if data.pairs_file and (data.streaming or data.max_tokens is not None):
        raise ValueError("pairs are cut where both texts have white space: leave --streaming and --max_tokens out")
    check_views(model, noise, family, config)
    compares = getattr(config, "contrastive_loss_weight", 0) or family.model is EncodzallForSentenceEmbedding
    if compares and training.per_device_train_batch_size < 2:
        raise ValueError("a text alone has nothing to be told from: a contrastive loss needs batches of two or more")
    goes_on_with_texts = issubclass(family.model, GenerationMixin) and not config.is_encoder_decoder
    if training.sample_steps and not goes_on_with_texts:
        raise ValueError(f"sample_steps asks for text, which the family {model.family!r} does not write")
    if training.kl_annealing_steps and not getattr(config, "kl_weight", 0):
        raise ValueError("kl_annealing_steps anneals nothing: the configuration has no kl_weight")
    if model.tokenizer and model.initial_checkpoint:
        raise ValueError("initial_checkpoint brings its tokenizer: leave --tokenizer out")
    if model.tokenizer and not hasattr(family.tokenizer, "train"):
        raise ValueError(f"family {model.family!r} brings its own tokenizer: leave --tokenizer out")
    noise.callbacks()
    optimizer_class_and_arguments(training.optimizer, training)
    if model.initial_checkpoint:
        check_initial(model.initial_checkpoint, config)
    return family, config


def given(arguments, names):
    """Which of the named fields differ from their defaults."""
    defaults = {f.name: f.default for f in dataclasses.fields(arguments)}
    return [name for name in names if getattr(arguments, name) != defaults[name]]


def check_views(model, noise, family, config):
    """Refuse views of texts that cannot be, that are equal, or that another family would ignore."""
    if not 0 < noise.min_crop <= 1 or not 0 <= noise.word_dropout < 1:
        raise ValueError(
            f"min_crop {noise.min_crop} and word_dropout {noise.word_dropout} are no shares: accepted are above 0, up to 1, and "
            "0 and above, below 1"
        )
    if family.collator is not EncodzallViewsCollator:
        if noise.min_crop < 1 or noise.word_dropout:
            raise ValueError(
                f"min_crop and word_dropout are for encodzall_embedding: family {model.family!r} has no views"
            )
        return
    noisy = noise.noise != "fixed" or noise.noise_rate or noise.min_crop < 1 or noise.word_dropout
    if not (noisy or config.dropout or config.attention_dropout):
        raise ValueError("without noise and without dropout both views of a text are one: give either")


def check_chunks(model, data, noise, family, config):
    """Refuse fields of the FSQ autoencoder and its language model that cannot be, or that another family would ignore."""
    of_chunks = given(data, ("chunk_temper", "kept_codes", "token_list_share", "token_list_size"))
    if of_chunks and not family.reads_chunks:
        raise ValueError(f"{of_chunks[0]} is for fsq_autoencoder: family {model.family!r} reads no chunks")
    if data.with_bytes and "with_bytes" not in family.collator_fields:
        raise ValueError(f"with_bytes is for fsq_autoencoder_lm: family {model.family!r} has no tokens of bytes")
    if family.reads_chunks:
        if data.max_tokens is not None:
            raise ValueError("max_tokens cuts passages, and chunks are none: leave --max_tokens out")
        if data.streaming:
            raise ValueError("chunks are counted before they are drawn: leave --streaming out")
        if data.token_list_size < 0 or data.kept_codes < 1:
            raise ValueError(
                f"token_list_size {data.token_list_size} and kept_codes {data.kept_codes} must be 0 and 1, or above"
            )
        if not 0 <= data.token_list_share <= 1 or (data.token_list_share and not data.token_list_size):
            raise ValueError(f"token_list_share {data.token_list_share} is no share of {data.token_list_size} tokens")
        if not data.chunk_temper >= 0:
            raise ValueError(f"chunk_temper {data.chunk_temper} is negative: accepted are 0 and above")
        if noise.noise != "fixed" or noise.noise_rate:
            raise ValueError(f"family {model.family!r} has no noise: accepted are --noise fixed and --noise_rate 0")
    if family.needs_tokenizer:
        if not model.initial_checkpoint:
            raise ValueError(f"family {model.family!r} needs --initial_checkpoint, whose tokenizer it reads")
        if (config.reconstruction_weight or config.frozen == "nothing") and not data.with_bytes:
            raise ValueError("training the autoencoder needs the tokens' bytes: give --with_bytes true")
        if config.frozen == "encoder" and not config.reconstruction_weight:
            raise ValueError("frozen 'encoder' trains a decoder that no loss reaches: give a reconstruction_weight")


# Fields of a configuration in which a run may differ from the checkpoint it starts from: no weight depends on them.
FREE = {
    "pad_token_id",
    "use_cache",
    "dropout",
    "attention_dropout",
    "latent_noise",
    "latent_dropout",
    "token_dropout",
    "num_negatives",
    "free_bits",
    # Of Encodzall, what the loss is made of.
    "sequence_loss_weight",
    "word_loss_weight",
    "focal_gamma",
    "contrastive_loss_weight",
    "contrastive_scale",
    "min_gain",
    "text_pooling",  # which begins as the mean, or nearly
    "sketch_share",
    "byte_memory",
    "follows_source",
    # Of the FSQ autoencoder's language model, what a tokenizer decides, and what is trained on.
    "vocab_size",
    "tokenizer_fingerprint",
    "frozen",
    "reconstruction_weight",
    # Of the Abstractinator, what losses and limits of segments are made of.
    "entropy_weight",
    "code_weight",
    "commitment_weight",
    "codebook_decay",
    "history_dropout",
    "target_segment_lengths",
}

# Fields in which it may differ where the checkpoint has nothing of the first: new weights that change next to nothing.
GROWN = (("ngram_sizes", "ngram_buckets", "ngram_embedding_size"), ("sketch_size",))


def check_initial(checkpoint, config):
    """Refuse a checkpoint to start from that is missing or of another shape."""
    if not os.path.isfile(os.path.join(checkpoint, "config.json")):
        raise FileNotFoundError(f"no checkpoint {checkpoint!r} to start from: it has no config.json")
    saved = type(config).from_pretrained(checkpoint)
    names = {f.name for f in dataclasses.fields(config)} - {f.name for f in dataclasses.fields(PreTrainedConfig)}
    if hasattr(config, "autoencoder_fields") and "FsqAutoencoderForCausalLM" not in (saved.architectures or ()):
        names &= set(config.autoencoder_fields())  # there is no language model there yet
    for fields in GROWN:
        if not getattr(saved, fields[0], True):
            names -= set(fields)
    differing = [
        f"{n} ({getattr(saved, n)} there, {getattr(config, n)} here)"
        for n in sorted(names - FREE)
        if getattr(saved, n) != getattr(config, n)
    ]
    if differing:
        raise ValueError(f"{checkpoint!r} is of another configuration: {', '.join(differing)}")


def check_resumed(recipe):
    """Write the recipe into the output folder; refuse to go on with a run that another recipe began.

    Raises:
        ValueError: naming the fields that differ.
    """
    path = Path(recipe.training.output_dir) / "recipe.json"
    if path.is_file():
        differing = recipe.differing(json.loads(path.read_text()))
        if differing:
            raise ValueError(
                f"{recipe.training.output_dir!r} holds a run of another recipe: {', '.join(differing)}; give these fields as "
                "they were, or another --output_dir"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe.fields(), indent=2) + "\n")


def config_fields(text, config_class):
    """Fields of a configuration, from JSON; refuses what is no field."""
    if not text:
        return {}
    try:
        fields: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--config must be JSON like '{{\"dropout\": 0.1}}', not {text!r}: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"--config must be a JSON object, not {text!r}")
    known = [f.name for f in dataclasses.fields(config_class)]
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            raise ValueError(
                f"{config_class.__name__} has no field {name!r}"
                + (f"; did you mean {' or '.join(close)}?" if close else "")
            )
    return fields


def checkpoint_to_resume(training):
    """The checkpoint that a run goes on from, or `None` for a fresh one.

    With `auto`, it is the newest complete one of the output folder: a checkpoint whose writing was cut short lacks a
    readable trainer_state.json, which is written last, and is set aside.

    Raises:
        FileNotFoundError: for a named checkpoint that is not there.
        FileExistsError: where a fresh run would write over an earlier one.
    """
    output, wanted = Path(training.output_dir), training.resume_from_checkpoint
    if wanted and wanted not in (AUTO, "true", "True", True):
        if not (Path(wanted) / "trainer_state.json").is_file():
            raise FileNotFoundError(f"{wanted!r} is no complete checkpoint: it has no trainer_state.json")
        return wanted
    if not wanted:
        if output.is_dir() and any(output.iterdir()):
            raise FileExistsError(
                f"{training.output_dir!r} already holds a run: continue it with --resume_from_checkpoint or give another "
                "--output_dir"
            )
        return None
    while output.is_dir() and (last := get_last_checkpoint(training.output_dir)):
        try:
            json.loads((Path(last) / "trainer_state.json").read_text())
            return last
        except (FileNotFoundError, json.JSONDecodeError):
            os.rename(last, Path(last).with_name(f"incomplete-{Path(last).name}-{os.getpid()}"))
    return None
