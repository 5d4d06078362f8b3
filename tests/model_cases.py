"""One record a model class: a tiny configuration, seeded inputs, and what the class can do. The common tests run on all."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import modeling_textae as textae
from modeling_textae.data.collators import (
    CtaCollator,
    EncodzallMaskingCollator,
    FsqChunkCollator,
    LanguageCollator,
    MlmEncoderMaskingCollator,
)

TEXTS = [
    "The naïve café – “quoted” text.",
    "to be or not to be, that is the question",
    "internationalisation",
    "日本語のテキスト and 🙂 emoji",
]


@dataclass(frozen=True)
class ModelCase:
    """What the common tests need to know of a model class."""

    name: str
    model_class: type
    auto_class: type
    tokenizer_class: type
    config: Callable  # (**fields) -> a tiny configuration
    inputs: Callable  # (texts, padding_side="right") -> inputs of forward, with labels where the class has a loss
    output: str  # the name of the output that must not depend on padding and company
    output_mask: Callable  # (inputs, output) -> which places of it are real
    has_loss: bool = True
    loss_parts: tuple[str, ...] = ()  # names of the parts that sum to the loss; none where it is one
    has_attention: bool = True
    is_stochastic: bool = False  # training samples, beyond its rates, so that two training steps differ
    rates: tuple[str, ...] = ("dropout", "attention_dropout")  # fields that drop out in training
    wrong: dict = field(default_factory=lambda: {"hidden_size": 30})  # a field that no model can have
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj", "o_proj")
    quick: bool = False  # runs the expensive common tests by default; one record a family
    family_files: tuple[str, ...] = ()
    resizable: bool = True  # has a vocabulary that may grow
    prepare: Callable = lambda model: None  # what a new model needs before it is like a trained one

    def model(self, seed=0, **fields):
        torch.manual_seed(seed)
        model = self.model_class(self.config(**fields)).eval()
        self.prepare(model)
        return model

    def __str__(self):
        return self.name


def encodzall_config(**fields):
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_byte_layers": 1}
    return textae.EncodzallConfig(**sizes | {"num_word_layers": 1, "initializer_range": 0.1} | fields)


def text_inputs(tokenizer_class):
    """How a class of tokenizer makes inputs of texts."""

    def inputs(texts, padding_side="right"):
        return dict(tokenizer_class()(texts, padding=True, padding_side=padding_side, return_tensors="pt"))

    return inputs


def masked_inputs(tokenizer_class, collator_class, padded):
    """How a collator makes masked texts and their labels; the masks of a text depend on the text alone.

    `padded` are the names of what is padded with the inputs: when these are padded on the left, they are too.
    """

    def inputs(texts, padding_side="right"):
        collator = collator_class(tokenizer_class(), rate=0.3, seed=1)
        batch = collator([{"text": text, "index": sum(text.encode())} for text in texts])
        return padded_on(padding_side, batch, padded)

    return inputs


def padded_on(side, batch, names):
    """A batch that is padded on the right, with the padding of the named inputs moved to the given side."""
    if side == "left":
        shift = (batch["attention_mask"] == 0).sum(1)
        for name in names:
            batch[name] = torch.stack([row.roll(int(n), 0) for row, n in zip(batch[name], shift, strict=True)])
    return batch


def mlm_encoder_config(**fields):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    rest = {"vocab_size": 258, "dropout": 0.0, "attention_dropout": 0.0}
    scale = {"initializer_range": 0.1, "embedding_initializer_range": 0.2}  # so that few steps do much
    return textae.MlmEncoderConfig(**sizes | rest | scale | fields)


def cta_config(**fields):
    sizes = {"vocab_size": 257, "embedding_size": 24, "hidden_size": 32, "channel_growth": 1.5, "num_blocks": [1, 1, 1]}
    return textae.CtaConfig(**sizes | {"latent_dim": 8, "initializer_range": 0.1} | fields)


def fsq_autoencoder_config(**fields):
    sizes = {"byte_embedding_size": 16, "encoder_hidden_size": 48, "levels": [8, 5, 5], "norm_momentum": 0.5}
    trunk = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return textae.FsqAutoencoderConfig(**sizes | trunk | {"initializer_range": 0.1} | fields)


def fsq_chunk_inputs(texts, padding_side="right"):
    """The first chunk or so of each text."""
    chunks = [text.encode()[:16].decode("utf-8", "ignore") for text in texts]
    batch = FsqChunkCollator(textae.AutoEncoderTokenizer())([{"text": chunk} for chunk in chunks])
    return padded_on(padding_side, batch, ("input_ids", "attention_mask", "labels"))


def language_inputs(tokenizer_class, **options):
    """How a tokenizer and its collator make texts of a language model and their labels."""

    def inputs(texts, padding_side="right"):
        collator = LanguageCollator(tokenizer_class(), **options)
        return padded_on(padding_side, collator([{"text": text} for text in texts]), tuple(collator([{"text": ""}])))

    return inputs


def with_codes(model):
    """Give each byte a code, as a tokenizer would."""
    numbers = torch.arange(256 * model.config.num_codes).view(256, -1) * 37 % model.config.codebook_size
    model.token_codes[:256] = numbers


def abstractinator_config(**fields):
    """One level; with `threshold_margin` so high, rises alone decide."""
    sizes = {"level_sizes": [32], "level_heads": [4], "level_intermediate_sizes": [48], "compressor_layers": [1]}
    sizes |= {"expander_layers": [1], "windows": [8], "min_segment_lengths": [1], "max_segment_lengths": [6]}
    trunk = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    rest = {"target_segment_lengths": [3.0], "threshold_margin": 9.0, "codebook_dim": 8, "initializer_range": 0.5}
    ngrams = {"ngram_sizes": [2, 3], "ngram_buckets": 97, "ngram_embedding_size": 8}
    return textae.AbstractinatorConfig(**sizes | trunk | rest | ngrams | fields)


def two_levels(**fields):
    sizes = {"level_sizes": [32, 24], "level_heads": [4, 2], "level_intermediate_sizes": [48, 32]}
    layers = {"compressor_layers": [1, 1], "expander_layers": [1, 1], "windows": [8, 4]}
    lengths = {"target_segment_lengths": [3.0, 2.0], "min_segment_lengths": [1, 1], "max_segment_lengths": [6, 4]}
    codes = {"segmentations": ["rise", "threshold"], "codebook_sizes": [64, 48], "ngram_sizes": []}
    return abstractinator_config(**sizes | layers | lengths | codes | fields)


def with_limits(model):
    """Limits that untrained entropies cross about half of the time."""
    for compressor in model.base_model.autoencoder.compressors:
        if compressor.limit is not None:
            compressor.limit.limit.fill_(0.02 if "rise" in compressor.rule else 5.2)


abstractinator_inputs = language_inputs(textae.AbstractinatorTokenizer)

ABSTRACTINATOR_FILES = (
    "arithmetic_coding",
    "configuration_abstractinator",
    "hierarchical_autoencoder",
    "hierarchical_cache",
    "modeling_abstractinator",
    "segmentation",
    "tokenization_abstractinator",
)
CTA_FILES = ("configuration_cta", "modeling_cta", "tokenization_cta")
ENCODZALL_FILES = ("configuration_encodzall", "modeling_encodzall", "tokenization_encodzall")
FSQ_FILES = ("configuration_fsq_autoencoder", "modeling_fsq_autoencoder", "tokenization_fsq_autoencoder")
MLM_ENCODER_FILES = ("configuration_mlm_encoder", "modeling_mlm_encoder", "tokenization_mlm_encoder")

encodzall_inputs = text_inputs(textae.EncodzallTokenizer)


def encodzall_labelled_bytes(texts, **kwargs):
    """Inputs whose every byte has a label that follows from it and the one before."""
    inputs = encodzall_inputs(texts, **kwargs)
    ids, real = inputs["input_ids"], inputs["attention_mask"] == 1
    before = (ids * real).roll(1, 1)
    return inputs | {"labels": ((ids + before) % 3).where(real, -100)}


encodzall_training_inputs = masked_inputs(
    textae.EncodzallTokenizer, EncodzallMaskingCollator, ("input_ids", "attention_mask", "word_index")
)
mlm_encoder_inputs = text_inputs(textae.MlmEncoderTokenizer)
mlm_encoder_training_inputs = masked_inputs(
    textae.MlmEncoderTokenizer, MlmEncoderMaskingCollator, ("input_ids", "attention_mask", "labels")
)
cta_inputs = masked_inputs(textae.CtaTokenizer, CtaCollator, ("input_ids", "attention_mask", "labels"))

CASES = [
    ModelCase(
        name="abstractinator",
        model_class=textae.AbstractinatorModel,
        auto_class=AutoModel,
        tokenizer_class=textae.AbstractinatorTokenizer,
        config=lambda **fields: abstractinator_config(
            **{"codebook_sizes": [64], "codebook_decay": 0.8, "segmentations": ["fixed"]} | fields
        ),
        inputs=abstractinator_inputs,
        output="last_hidden_state",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("reconstruction_loss", "length_loss", "commitment_loss"),
        is_stochastic=True,  # the codebook starts from the first vectors it sees
        rates=("history_dropout",),
        lora_targets=("qkv_proj", "gate_up", "down", "o_proj"),
        family_files=ABSTRACTINATOR_FILES,
        resizable=False,
        prepare=with_limits,
    ),
    ModelCase(
        name="abstractinator-without-codes",
        model_class=textae.AbstractinatorModel,
        auto_class=AutoModelForPreTraining,
        tokenizer_class=textae.AbstractinatorTokenizer,
        config=lambda **fields: abstractinator_config(**{"segmentations": ["white_space"]} | fields),
        inputs=abstractinator_inputs,
        output="last_hidden_state",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("reconstruction_loss", "length_loss"),
        rates=("history_dropout",),
        lora_targets=("qkv_proj", "gate_up", "down", "o_proj"),
        family_files=ABSTRACTINATOR_FILES,
        resizable=False,
    ),
    ModelCase(
        name="abstractinator-lm",
        model_class=textae.AbstractinatorForCausalLM,
        auto_class=AutoModelForCausalLM,
        tokenizer_class=textae.AbstractinatorTokenizer,
        config=abstractinator_config,
        inputs=abstractinator_inputs,
        output="last_hidden_state",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("language_loss", "entropy_loss"),
        rates=(),
        quick=True,
        lora_targets=("qkv_proj", "gate_up", "down", "o_proj"),
        family_files=ABSTRACTINATOR_FILES,
        resizable=False,
        prepare=with_limits,
    ),
    ModelCase(
        name="abstractinator-two-levels-lm",
        model_class=textae.AbstractinatorForCausalLM,
        auto_class=AutoModelForCausalLM,
        tokenizer_class=textae.AbstractinatorTokenizer,
        config=lambda **fields: two_levels(
            **{
                "code_weight": 0.5,
                "reconstruction_weight": 0.5,
                "codebook_decay": 0.8,
                "segmentations": ["fixed", "threshold"],
            }
            | fields
        ),
        inputs=abstractinator_inputs,
        output="last_hidden_state",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=(
            "language_loss",
            "entropy_loss",
            "commitment_loss",
            "reconstruction_loss",
            "length_loss",
            "code_loss",
        ),
        is_stochastic=True,
        rates=("history_dropout",),
        lora_targets=("qkv_proj", "gate_up", "down", "o_proj"),
        family_files=ABSTRACTINATOR_FILES,
        resizable=False,
        prepare=with_limits,
    ),
    ModelCase(
        name="cta",
        model_class=textae.CtaModel,
        auto_class=AutoModel,
        tokenizer_class=textae.CtaTokenizer,
        config=cta_config,
        inputs=cta_inputs,
        output="logits",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("reconstruction_loss",),
        has_attention=False,
        rates=("dropout", "latent_dropout", "token_dropout"),
        wrong={"latent_dim": 0},
        lora_targets=("conv1", "conv2"),
        quick=True,
        family_files=CTA_FILES,
    ),
    ModelCase(
        name="cta-variational",
        model_class=textae.CtaModel,
        auto_class=AutoModelForPreTraining,
        tokenizer_class=textae.CtaTokenizer,
        config=lambda **fields: cta_config(
            **{
                "latent_norm": False,
                "kl_weight": 1e-3,
                "free_bits": 0.1,
                "num_negatives": 300,
                "num_levels": 1,
                "num_blocks": [2, 0],
                "tie_word_embeddings": False,
            }
            | fields
        ),
        inputs=cta_inputs,
        output="logits",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("reconstruction_loss", "kl_loss"),
        has_attention=False,
        is_stochastic=True,
        rates=("dropout", "latent_dropout", "token_dropout"),
        wrong={"latent_dim": 0},
        lora_targets=("conv1", "conv2"),
        family_files=CTA_FILES,
    ),
    ModelCase(
        name="encodzall",
        model_class=textae.EncodzallModel,
        auto_class=AutoModel,
        tokenizer_class=textae.EncodzallTokenizer,
        config=encodzall_config,
        inputs=encodzall_inputs,
        output="last_hidden_state",
        output_mask=lambda inputs, output: output.word_mask.bool(),
        has_loss=False,
        family_files=ENCODZALL_FILES,
    ),
    ModelCase(
        name="encodzall-pretraining",
        model_class=textae.EncodzallForPreTraining,
        auto_class=AutoModelForPreTraining,
        tokenizer_class=textae.EncodzallTokenizer,
        config=encodzall_config,
        inputs=encodzall_training_inputs,
        output="logits",
        output_mask=lambda inputs, output: inputs["labels"] != -100,
        loss_parts=("sequence_loss", "word_loss"),
        quick=True,
        family_files=ENCODZALL_FILES,
    ),
    ENCODZALL_SEQ2SEQ := ModelCase(
        name="encodzall-seq2seq",
        model_class=textae.EncodzallForConditionalGeneration,
        auto_class=AutoModelForSeq2SeqLM,
        tokenizer_class=textae.EncodzallTokenizer,
        config=lambda **fields: encodzall_config(**{"pooling": "learned_query"} | fields),
        inputs=encodzall_training_inputs,
        output="logits",
        output_mask=lambda inputs, output: inputs["labels"] != -100,
        loss_parts=("sequence_loss",),
        family_files=ENCODZALL_FILES,
    ),
    replace(
        ENCODZALL_SEQ2SEQ,
        name="encodzall-byte-memory",
        config=lambda **fields: encodzall_config(**{"byte_memory": True, "sketch_size": 24} | fields),
    ),
    replace(
        ENCODZALL_SEQ2SEQ,
        name="encodzall-follows-source",
        config=lambda **fields: encodzall_config(**{"follows_source": True} | fields),
    ),
    replace(
        ENCODZALL_SEQ2SEQ,
        name="encodzall-ngrams",
        config=lambda **fields: encodzall_config(**{"ngram_sizes": [2, 4], "ngram_buckets": 512} | fields),
    ),
    ModelCase(
        name="encodzall-sequence-classification",
        model_class=textae.EncodzallForSequenceClassification,
        auto_class=AutoModelForSequenceClassification,
        tokenizer_class=textae.EncodzallTokenizer,
        config=lambda **fields: encodzall_config(**{"num_labels": 3} | fields),
        inputs=lambda texts, **kwargs: (
            encodzall_inputs(texts, **kwargs) | {"labels": torch.tensor([len(t) % 3 for t in texts])}
        ),
        output="logits",
        output_mask=lambda inputs, output: torch.ones_like(output.logits, dtype=torch.bool),
        family_files=ENCODZALL_FILES,
    ),
    ModelCase(
        name="encodzall-token-classification",
        model_class=textae.EncodzallForTokenClassification,
        auto_class=AutoModelForTokenClassification,
        tokenizer_class=textae.EncodzallTokenizer,
        config=lambda **fields: encodzall_config(**{"num_labels": 3} | fields),
        inputs=encodzall_labelled_bytes,
        output="logits",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        family_files=ENCODZALL_FILES,
    ),
    ModelCase(
        name="fsq-autoencoder",
        model_class=textae.FsqAutoencoderModel,
        auto_class=AutoModel,
        tokenizer_class=textae.AutoEncoderTokenizer,
        config=fsq_autoencoder_config,
        inputs=fsq_chunk_inputs,
        output="logits",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("byte_loss", "length_loss"),
        has_attention=False,
        rates=(),
        wrong={"encoder_hidden_size": 0},
        lora_targets=("up", "down"),
        quick=True,
        family_files=FSQ_FILES,
        resizable=False,
    ),
    ModelCase(
        name="fsq-autoencoder-conv",
        model_class=textae.FsqAutoencoderModel,
        auto_class=AutoModelForPreTraining,
        tokenizer_class=textae.AutoEncoderTokenizer,
        config=lambda **fields: fsq_autoencoder_config(
            **{"block_type": "conv", "num_codes": 1, "levels": [8, 8, 8, 5, 5, 5]} | fields
        ),
        inputs=fsq_chunk_inputs,
        output="logits",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("byte_loss", "length_loss"),
        has_attention=False,
        rates=(),
        wrong={"max_chunk_length": 18},
        lora_targets=("convs.1", "start", "up.0"),
        family_files=FSQ_FILES,
        resizable=False,
    ),
    ModelCase(
        name="fsq-autoencoder-vq",
        model_class=textae.FsqAutoencoderModel,
        auto_class=AutoModel,
        tokenizer_class=textae.AutoEncoderTokenizer,
        config=lambda **fields: fsq_autoencoder_config(**{"vq_codes": 64, "vq_dim": 8, "num_frequencies": 1} | fields),
        inputs=fsq_chunk_inputs,
        output="logits",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("byte_loss", "length_loss", "commitment_loss"),
        has_attention=False,
        is_stochastic=True,  # the codebook starts from the first vectors it sees
        rates=(),
        wrong={"vq_dim": 0},
        lora_targets=("up", "down", "proj", "byte_head"),
        family_files=FSQ_FILES,
        resizable=False,
    ),
    ModelCase(
        name="fsq-autoencoder-lm",
        model_class=textae.FsqAutoencoderForCausalLM,
        auto_class=AutoModelForCausalLM,
        tokenizer_class=textae.AutoEncoderTokenizer,
        config=fsq_autoencoder_config,
        inputs=language_inputs(textae.AutoEncoderTokenizer),
        output="logits",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("language_loss",),
        rates=(),
        quick=True,
        family_files=FSQ_FILES,
        prepare=with_codes,
    ),
    ModelCase(
        name="fsq-autoencoder-joint-lm",
        model_class=textae.FsqAutoencoderForCausalLM,
        auto_class=AutoModelForCausalLM,
        tokenizer_class=textae.AutoEncoderTokenizer,
        config=lambda **fields: fsq_autoencoder_config(
            **{
                "frozen": "nothing",
                "reconstruction_weight": 0.5,
                "token_embedding_size": 16,
                "code_scores": True,
                "tie_word_embeddings": False,
            }
            | fields
        ),
        inputs=language_inputs(textae.AutoEncoderTokenizer, with_bytes=True),
        output="logits",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        loss_parts=("language_loss", "reconstruction_loss"),
        rates=(),
        lora_targets=("q_proj", "v_proj", "o_proj", "to_codes", "up", "down"),
        family_files=FSQ_FILES,
        prepare=with_codes,
    ),
    ModelCase(
        name="mlm-encoder",
        model_class=textae.MlmEncoderModel,
        auto_class=AutoModel,
        tokenizer_class=textae.MlmEncoderTokenizer,
        config=lambda **fields: mlm_encoder_config(**{"norm_first": True} | fields),
        inputs=mlm_encoder_inputs,
        output="last_hidden_state",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        has_loss=False,
        family_files=MLM_ENCODER_FILES,
    ),
    ModelCase(
        name="mlm-encoder-masked-lm",
        model_class=textae.MlmEncoderForMaskedLM,
        auto_class=AutoModelForMaskedLM,
        tokenizer_class=textae.MlmEncoderTokenizer,
        config=lambda **fields: mlm_encoder_config(**{"sparse_prediction": False} | fields),
        inputs=mlm_encoder_training_inputs,
        output="logits",
        output_mask=lambda inputs, output: inputs["attention_mask"] == 1,
        quick=True,
        family_files=MLM_ENCODER_FILES,
    ),
]


def cases(expensive=False, **capabilities):
    """Parameters for pytest: the records with these capabilities; of expensive tests all but one a family are slow."""
    import pytest

    chosen = [c for c in CASES if all(getattr(c, name) == value for name, value in capabilities.items())]
    return [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if expensive and not c.quick else []) for c in chosen]
