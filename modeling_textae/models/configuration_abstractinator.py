"""Configuration of the Abstractinator."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_checks import check_ngrams, check_not_negative, check_positive, check_rates, check_sizes

AUTO_MAP = {
    "AutoConfig": "configuration_abstractinator.AbstractinatorConfig",
    "AutoTokenizer": ("tokenization_abstractinator.AbstractinatorTokenizer", None),
    "AutoModel": "modeling_abstractinator.AbstractinatorModel",
    "AutoModelForPreTraining": "modeling_abstractinator.AbstractinatorModel",
    "AutoModelForCausalLM": "modeling_abstractinator.AbstractinatorForCausalLM",
}
RULES = ("rise", "threshold", "rise_or_threshold", "white_space", "fixed")
ENTROPY_RULES = RULES[:3]
GRADIENTS = ("straight_through", "rotation")
FROZEN = ("nothing", "entropy", "autoencoder")
# One entry a level.
LEVEL_SIZES = (
    "level_sizes",
    "level_heads",
    "level_intermediate_sizes",
    "compressor_layers",
    "expander_layers",
    "windows",
)
LEVEL_FIELDS = (
    *LEVEL_SIZES,
    "codebook_sizes",
    "segmentations",
    "target_segment_lengths",
    "min_segment_lengths",
    "max_segment_lengths",
)


@strict
class AbstractinatorConfig(PreTrainedConfig):
    """Shape of the Abstractinator: levels that each cut what they read into segments and make one vector, or code, of each; a
    causal transformer over the top ones; and an expander a level back down.

    Source: the Abstractinator, a hierarchical autoencoder and language model of bytes. Fields that are lists have one entry a
    level, the bytes' first.

    Args:
        level_sizes (`list[int]`, defaults to `[256]`): width of a level; a multiple of twice its heads.
        level_heads (`list[int]`, defaults to `[4]`): attention heads of a level.
        level_intermediate_sizes (`list[int]`, defaults to `[512]`): width of its feed-forward layers.
        compressor_layers (`list[int]`, defaults to `[2]`), expander_layers (`list[int]`, defaults to `[2]`): of a level's
            trunk and of its expander.
        windows (`list[int]`, defaults to `[128]`): places, its own included, that a place of a level attends to.
        segmentations (`list[str]`, defaults to `["rise_or_threshold"]`): where segments end: where the entropy of the next
            symbol
            `rise`s by more than the limit, or is above it (`threshold`), or one of both (`rise_or_threshold`), `white_space`,
            or
            `fixed`, every so many. Above the first level an entropy needs codes on the level below.
        target_segment_lengths (`list[float]`, defaults to `[4.5]`): mean length that the limit of entropies follows in
            training; with `fixed`, the length, rounded.
        min_segment_lengths (`list[int]`, defaults to `[1]`), max_segment_lengths (`list[int]`, defaults to `[24]`).
        threshold_margin (`float`, defaults to 1.5): by how many bits, with `rise_or_threshold`, the threshold is above the
            rise.
        codebook_sizes (`list[int]`, defaults to `[0]`): codes of each level, 0 for none.
        codebook_dim (`int`, defaults to 16): numbers in a code.
        codebook_gradient (`str`, defaults to `"straight_through"`): or `"rotation"`.
        codebook_decay (`float`, defaults to 0.99): what its moving averages keep a step.
        commitment_weight (`float`, defaults to 0.25): of the distance to codes.
        ngram_sizes (`list[int]`, defaults to `[]`): lengths of the runs of bytes whose hashes have embeddings too.
        ngram_buckets (`int`, defaults to 4096), ngram_embedding_size (`int`, defaults to 64): their table.
        hidden_size (`int`, defaults to 512), num_hidden_layers (`int`, defaults to 6), num_attention_heads (`int`, defaults to
            8),
            intermediate_size (`int`, defaults to 1376), max_position_embeddings (`int`, defaults to 2048): of the transformer
            over the top segments.
        n_positions (`int`, defaults to 4096): bytes that evaluation and compression give it at once, lm-eval's name for it.
        rope_theta (`float`, defaults to 10000): of rotary positions everywhere.
        norm_eps (`float`, defaults to 1e-5): of all norms.
        entropy_weight (`float`, defaults to 0.2): of the loss of each trunk's own next symbol, whose entropies cut; a byte.
        reconstruction_weight (`float`, defaults to 0): in language modelling, of the autoencoder's loss; a byte.
        code_weight (`float`, defaults to 0): in language modelling, of the loss of the next code; a byte.
        history_dropout (`float`, defaults to 0): rate at which an expander that is told a segment's code misses what came
            before.
        frozen (`str`, defaults to `"nothing"`): what language modelling leaves alone: `nothing`, the trunks and heads of
            `entropy`, or the whole `autoencoder` but its expanders' way from the states above.
        vocab_size (`int`, defaults to 261): of the tokenizer; only bytes and `eos_token_id` are ever predicted.
        initializer_range (`float`, defaults to 0.02): standard deviation of embeddings at the start; of a matrix it is the
            inverse root of its inputs.
        pad_token_id, bos_token_id, eos_token_id (`int`, default to 256, 257 and 258).

    Raises:
        ValueError: where a size cannot be, naming the value and what is accepted.

    Example:

    ```python
    >>> from modeling_textae import AbstractinatorConfig, AbstractinatorForCausalLM
    >>> model = AbstractinatorForCausalLM(AbstractinatorConfig.nano())
    ```
    """

    model_type = "abstractinator"
    keys_to_ignore_at_inference = [
        "latents", "codes", "segment_lengths", "last_hidden_state", "past_key_values", "language_loss", "entropy_loss",
        "commitment_loss", "reconstruction_loss", "length_loss", "code_loss", "byte_accuracy", "code_use", "code_restarts",
        "code_perplexity", "segment_length",
    ]  # fmt: skip

    level_sizes: list[int] = field(default_factory=lambda: [256])
    level_heads: list[int] = field(default_factory=lambda: [4])
    level_intermediate_sizes: list[int] = field(default_factory=lambda: [512])
    compressor_layers: list[int] = field(default_factory=lambda: [2])
    expander_layers: list[int] = field(default_factory=lambda: [2])
    windows: list[int] = field(default_factory=lambda: [128])
    segmentations: list[str] = field(default_factory=lambda: ["rise_or_threshold"])
    target_segment_lengths: list[float | int] = field(default_factory=lambda: [4.5])
    min_segment_lengths: list[int] = field(default_factory=lambda: [1])
    max_segment_lengths: list[int] = field(default_factory=lambda: [24])
    threshold_margin: float | int = 1.5
    codebook_sizes: list[int] = field(default_factory=lambda: [0])
    codebook_dim: int = 16
    codebook_gradient: str = "straight_through"
    codebook_decay: float = 0.99
    commitment_weight: float | int = 0.25
    ngram_sizes: list[int] = field(default_factory=list)
    ngram_buckets: int = 4096
    ngram_embedding_size: int = 64
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 1376
    max_position_embeddings: int = 2048
    n_positions: int = 4096
    rope_theta: float | int = 10000.0
    norm_eps: float = 1e-5
    entropy_weight: float | int = 0.2
    reconstruction_weight: float | int = 0.0
    code_weight: float | int = 0.0
    history_dropout: float | int = 0.0
    frozen: str = "nothing"
    vocab_size: int = 261
    initializer_range: float = 0.02
    pad_token_id: int = 256
    bos_token_id: int = 257
    eos_token_id: int = 258
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        # All classes, whichever of them is saved: the Hub's loader knows no other list.
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Refuse sizes that no model can have; called by the base class with its other validations."""
        check_sizes(self, ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"))
        check_sizes(self, ("max_position_embeddings", "codebook_dim", "n_positions"))
        check_ngrams(self)
        check_positive(self, ("norm_eps", "initializer_range", "rope_theta"))
        check_not_negative(self, ("entropy_weight", "reconstruction_weight", "code_weight", "commitment_weight"))
        check_not_negative(self, ("threshold_margin",))
        check_rates(self, ("codebook_decay", "history_dropout"))
        self.check_levels()
        for name, accepted in (("codebook_gradient", GRADIENTS), ("frozen", FROZEN)):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: accepted are {', '.join(accepted)}")
        if self.vocab_size <= max(255, self.eos_token_id, self.bos_token_id, self.pad_token_id):
            raise ValueError(f"vocab_size {self.vocab_size} has no room for bytes and special tokens: accepted is 261")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice num_attention_heads {self.num_attention_heads}"
            )
        if self.code_weight and not self.codebook_sizes[-1]:
            raise ValueError(f"code_weight {self.code_weight} needs codes at the top: give codebook_sizes")
        if self.reconstruction_weight and not all(self.codebook_sizes[:-1]):
            raise ValueError("reconstruction through several levels needs codes below the top: give codebook_sizes")

    def check_levels(self):
        """Refuse lists of levels that do not fit each other."""
        for name in LEVEL_FIELDS:
            if len(getattr(self, name)) != self.num_levels or not self.num_levels:
                raise ValueError(
                    f"{name} {getattr(self, name)} must have one entry a level: level_sizes has {self.num_levels}"
                )
        for name in LEVEL_SIZES:
            least = 0 if name.endswith("layers") else 1
            if min(getattr(self, name)) < least:
                raise ValueError(f"{name} {getattr(self, name)} are too small: accepted is {least} and above")
        if min(self.codebook_sizes) < 0 or 1 in self.codebook_sizes:
            raise ValueError(
                f"codebook_sizes {self.codebook_sizes} cannot be: accepted are 0, for none, and 2 and above"
            )
        for level in range(self.num_levels):
            size, heads, rule = self.level_sizes[level], self.level_heads[level], self.segmentations[level]
            if size % (2 * heads):
                raise ValueError(
                    f"level_sizes {self.level_sizes} must be multiples of twice level_heads {self.level_heads}"
                )
            if rule not in RULES or (level and rule == "white_space"):
                accepted = [r for r in RULES if not level or r != "white_space"]
                raise ValueError(
                    f"segmentation {rule!r} is unknown on level {level}: accepted are {', '.join(accepted)}"
                )
            if level and rule in ENTROPY_RULES and not self.codebook_sizes[level - 1]:
                raise ValueError(f"segmentation {rule!r} on level {level} needs codes below it: give codebook_sizes")
            least, most = self.min_segment_lengths[level], self.max_segment_lengths[level]
            if not 1 <= least <= most or not least <= self.target_segment_lengths[level] <= most:
                raise ValueError(
                    f"segment lengths of level {level} must be 1 <= min {least} <= target {self.target_segment_lengths[level]} "
                    f"<= max {most}"
                )

    @property
    def num_levels(self):
        """Levels, the bytes' included."""
        return len(self.level_sizes)

    @classmethod
    def seed(cls, **kwargs):
        """The original's later shape: 512 wide, six layers a trunk, 8,192 codes."""
        sizes = {
            "level_sizes": [512],
            "level_heads": [8],
            "level_intermediate_sizes": [1376],
            "compressor_layers": [6],
            "expander_layers": [6],
            "windows": [512],
            "codebook_sizes": [8192],
            "codebook_dim": 512,
            "commitment_weight": 0.1,
        }
        return cls(**sizes | {"code_weight": 1.0} | kwargs)

    @classmethod
    def nano(cls, **kwargs):
        """Trains on two CPU cores in an hour. Hashed n-grams do what layers of the compressor would: at equal seconds, the
        compressor is better without any."""
        sizes = {
            "level_sizes": [128],
            "level_heads": [4],
            "level_intermediate_sizes": [256],
            "compressor_layers": [0],
            "expander_layers": [1],
            "windows": [32],
            "target_segment_lengths": [5.0],
        }
        ngrams = {"ngram_sizes": [2, 3, 4, 5, 6], "ngram_buckets": 40960, "ngram_embedding_size": 32}
        top = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
        return cls(**sizes | ngrams | top | kwargs)

    @classmethod
    def base(cls, **kwargs):
        """Up to 30 million parameters; for a GPU."""
        sizes = {
            "level_sizes": [384],
            "level_heads": [6],
            "level_intermediate_sizes": [768],
            "compressor_layers": [3],
            "expander_layers": [3],
            "windows": [256],
            "target_segment_lengths": [5.0],
        }
        top = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 1376}
        ngrams = {"ngram_sizes": [3, 4, 5], "ngram_buckets": 16384, "ngram_embedding_size": 48}
        return cls(**sizes | ngrams | top | kwargs)
