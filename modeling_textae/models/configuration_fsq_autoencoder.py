"""Configuration of the FSQ autoencoder and the language model on its codes."""

import math
from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_checks import check_not_negative, check_positive, check_rates, check_sizes

AUTO_MAP = {
    "AutoConfig": "configuration_fsq_autoencoder.FsqAutoencoderConfig",
    "AutoTokenizer": ("tokenization_fsq_autoencoder.AutoEncoderTokenizer", None),
    "AutoModel": "modeling_fsq_autoencoder.FsqAutoencoderModel",
    "AutoModelForPreTraining": "modeling_fsq_autoencoder.FsqAutoencoderModel",
    "AutoModelForCausalLM": "modeling_fsq_autoencoder.FsqAutoencoderForCausalLM",
}
AUTOENCODER_FIELDS = (
    "max_chunk_length", "levels", "num_codes", "bound_temperature", "vq_codes", "vq_dim", "block_type", "byte_embedding_size",
    "encoder_hidden_size", "decoder_hidden_size", "num_frequencies", "num_blocks", "norm_eps",
)  # fmt: skip
BLOCK_TYPES = ("mlp", "conv")
FROZEN = ("autoencoder", "encoder", "nothing")


@strict
class FsqAutoencoderConfig(PreTrainedConfig):
    """Shape of the autoencoder of chunks of text, up to `max_chunk_length` bytes to a few codes and back, and of the language
    model on the tokens that its tokenizer makes of them.

    Source: the LoopOS design of an autoencoder tokenizer, whose shape is the preset `seed`; finite scalar quantization after
    Mentzer et al. 2023, "Finite scalar quantization: VQ-VAE made simple".

    Args:
        max_chunk_length (`int`, defaults to 16): bytes in the longest chunk; with `conv` a multiple of 4.
        levels (`list[int]`, defaults to `[8, 8, 8, 8, 8, 5, 5, 5]`): of each number in a code.
        num_codes (`int`, defaults to 2): codes for each chunk.
        bound_temperature (`float`, defaults to 1): what numbers are divided by before they are bounded to levels.
        vq_codes (`int`, *optional*): quantize to a learned codebook of so many vectors instead of levels.
        vq_dim (`int`, defaults to 16): numbers in each of these.
        commitment_weight (`float`, defaults to 0.25): of the distance to codes, with a learned codebook.
        block_type (`str`, defaults to `"mlp"`): `mlp`, over all bytes of a chunk at once, or `conv`, over neighbours.
        byte_embedding_size (`int`, defaults to 64): of each byte.
        encoder_hidden_size (`int`, defaults to 448): width of the encoder; with `conv`, of its last two convolutions.
        decoder_hidden_size (`int`, *optional*): width of the decoder; by default the encoder's.
        num_frequencies (`int`, defaults to 0): waves, of whole numbers of half turns, by which the decoder reads each number of a
            code beside the number itself; they set apart what lies near each other.
        num_blocks (`int`, defaults to 1): residual blocks of each half, after the first layer; `mlp` only.
        length_loss_weight (`float`, defaults to 1): of the chunk's length beside its bytes.
        norm_momentum (`float`, defaults to 0.9): what running mean and variance before the quantizer keep at a step.
        norm_eps (`float`, defaults to 1e-5): added to variances and mean squares in norms.
        vocab_size (`int`, defaults to 261): tokens of the language model: bytes, special tokens and kept codes.
        hidden_size (`int`, defaults to 128), num_hidden_layers (`int`, defaults to 4), num_attention_heads (`int`, defaults
            to 4),
            num_key_value_heads (`int`, *optional*, by default as many), intermediate_size (`int`, defaults to 344),
            max_position_embeddings (`int`, defaults to 1024), rope_theta (`float`, defaults to 10000): of its Llama trunk.
        token_embedding_size (`int`, *optional*): of the table of tokens, where smaller than `hidden_size`.
        code_embeddings (`bool`, defaults to `True`): add a projection of its code to each token's embedding.
        code_scores (`bool`, defaults to `False`): add another to the row of the scores' matrix that is each token's.
        frozen (`str`, defaults to `"autoencoder"`): what language modelling leaves alone: `autoencoder`, `encoder` or `nothing`.
        reconstruction_weight (`float`, defaults to 0): of the loss with which the decoder spells the next chunk out of the
            trunk's states.
        tokenizer_fingerprint (`str`, *optional*): of the tokenizer whose tokens the language model reads.
        initializer_range (`float`, defaults to 0.02): standard deviation of the language model's weights at the start.
        tie_word_embeddings (`bool`, defaults to `True`): scores by the table of tokens.
        pad_token_id, bos_token_id, eos_token_id (`int`, default to 256, 257 and 258).

    Raises:
        ValueError: where a size cannot be, naming the value and what is accepted.

    Example:

    ```python
    >>> from modeling_textae import FsqAutoencoderConfig, FsqAutoencoderModel
    >>> model = FsqAutoencoderModel(FsqAutoencoderConfig.nano())
    ```
    """

    model_type = "fsq_autoencoder"
    keys_to_ignore_at_inference = [
        "latents", "indices", "length_logits", "past_key_values", "byte_loss", "length_loss", "commitment_loss",
        "language_loss", "reconstruction_loss", "byte_accuracy", "chunk_accuracy", "byte_perplexity", "code_use",
    ]  # fmt: skip

    max_chunk_length: int = 16
    levels: list[int] = field(default_factory=lambda: [8, 8, 8, 8, 8, 5, 5, 5])
    num_codes: int = 2
    bound_temperature: float | int = 1.0
    vq_codes: int | None = None
    vq_dim: int = 16
    commitment_weight: float | int = 0.25
    block_type: str = "mlp"
    byte_embedding_size: int = 64
    encoder_hidden_size: int = 448
    decoder_hidden_size: int | None = None
    num_frequencies: int = 0
    num_blocks: int = 1
    length_loss_weight: float | int = 1.0
    norm_momentum: float | int = 0.9
    norm_eps: float = 1e-5
    vocab_size: int = 261
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    intermediate_size: int = 344
    max_position_embeddings: int = 1024
    rope_theta: float | int = 10000.0
    token_embedding_size: int | None = None
    code_embeddings: bool = True
    code_scores: bool = False
    frozen: str = "autoencoder"
    reconstruction_weight: float | int = 0.0
    tokenizer_fingerprint: str | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: int = 256
    bos_token_id: int = 257
    eos_token_id: int = 258

    def __post_init__(self, **kwargs):
        # All classes, whichever of them is saved: the Hub's loader knows no other list.
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Refuse sizes that no model can have; called by the base class with its other validations."""
        check_sizes(self, ("max_chunk_length", "num_codes", "vq_dim", "byte_embedding_size", "encoder_hidden_size"))
        check_sizes(self, ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"))
        check_sizes(self, ("intermediate_size", "max_position_embeddings"))
        check_sizes(self, ("num_key_value_heads",))
        optional = ("decoder_hidden_size", "vq_codes", "token_embedding_size")
        check_sizes(self, [name for name in optional if getattr(self, name) is not None])
        check_positive(self, ("bound_temperature", "norm_eps", "initializer_range", "rope_theta"))
        check_not_negative(self, ("num_blocks", "num_frequencies", "length_loss_weight", "commitment_weight"))
        check_not_negative(self, ("reconstruction_weight",))
        check_rates(self, ("norm_momentum",))
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels {self.levels} are too few: accepted are lists of numbers from 2")
        if self.block_type not in BLOCK_TYPES:
            raise ValueError(f"block_type {self.block_type!r} is unknown: accepted are {', '.join(BLOCK_TYPES)}")
        if self.frozen not in FROZEN:
            raise ValueError(f"frozen {self.frozen!r} is unknown: accepted are {', '.join(FROZEN)}")
        if self.max_chunk_length < 4:
            raise ValueError(
                f"max_chunk_length {self.max_chunk_length} cannot hold every character: accepted is 4 and above"
            )
        if self.block_type == "conv" and self.max_chunk_length % 4:
            raise ValueError(f"max_chunk_length {self.max_chunk_length} must be a multiple of 4 for convolutions")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} must divide num_attention_heads {self.num_attention_heads}"
            )

    @property
    def codebook_size(self):
        """Codes that the quantizer has."""
        return self.vq_codes or math.prod(self.levels)

    @property
    def code_size(self):
        """Numbers in a code."""
        return self.vq_dim if self.vq_codes else len(self.levels)

    def autoencoder_fields(self):
        """The fields that the autoencoder alone depends on, as its tokenizer's file keeps them."""
        return {name: getattr(self, name) for name in AUTOENCODER_FIELDS}

    @classmethod
    def seed(cls, **kwargs):
        """The original's shape: convolutions, 256 wide, one code of 22 bits."""
        return cls(**{"block_type": "conv", "encoder_hidden_size": 256, "num_codes": 1} | kwargs)

    @classmethod
    def nano(cls, **kwargs):
        """Two codes of 22 bits; the autoencoder and the language model train on two CPU cores in an hour each."""
        sizes = {
            "byte_embedding_size": 32,
            "encoder_hidden_size": 256,
            "decoder_hidden_size": 512,
            "num_frequencies": 2,
        }
        return cls(**sizes | {"token_embedding_size": 40} | kwargs)

    @classmethod
    def small(cls, **kwargs):
        """Wider halves, and a language model of 8 layers; for a GPU."""
        sizes = {"encoder_hidden_size": 512, "decoder_hidden_size": 1024, "num_frequencies": 2, "num_blocks": 2}
        trunk = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1376}
        return cls(**sizes | trunk | {"token_embedding_size": 256} | kwargs)
