"""Configuration of CTA."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_checks import check_not_negative, check_positive, check_rates, check_sizes

AUTO_MAP = {
    "AutoConfig": "configuration_cta.CtaConfig",
    "AutoTokenizer": (None, "tokenization_cta.CtaTokenizer"),
    "AutoModel": "modeling_cta.CtaModel",
    "AutoModelForPreTraining": "modeling_cta.CtaModel",
}


@strict
class CtaConfig(PreTrainedConfig):
    """Shape of the continuous text autoencoder: tokens to one small vector for every `2 ** num_levels` of them, and back.

    Source: the Continuous Text Autoencoder, whose exact shape is the preset `seed`; robust latents after CALM, Shao et al. 2025,
    "Continuous autoregressive language models", section 3.2.

    Args:
        vocab_size (`int`, defaults to 8192): tokens, special ones included.
        embedding_size (`int`, *optional*): width of the embeddings and of the output head; by default `hidden_size`. Where it
            is smaller, a matrix leads from one to the other.
        hidden_size (`int`, defaults to 512): channels at the resolution of tokens.
        channel_growth (`float`, defaults to 2): factor of the channels from each level to the next.
        num_levels (`int`, defaults to 2): how often the length is halved; the ratio is `2 ** num_levels`.
        num_blocks (`list[int]`, *optional*, defaults to one each): residual blocks at each resolution, tokens first; the
            decoder mirrors them.
        kernel_size (`int`, defaults to 3): tokens that a convolution in a block sees; odd.
        latent_dim (`int`, defaults to 16): numbers in a latent vector.
        latent_norm (`bool`, defaults to `True`): scale each latent vector to a root mean square of 1. It bounds what has to
            be stored, gives noise its unit, and keeps the latents from vanishing while nothing is learned yet.
        kl_weight (`float`, defaults to 0): of the latents' KL divergence from a standard normal, per label. At 0 there is no
            variance and nothing is sampled; otherwise there is no `latent_norm`, beside which a mean has no divergence to lose.
        free_bits (`float`, defaults to 0): bits of KL that each number of a latent may have for nothing; CALM's 0.5 nats are
            0.72 bits.
        latent_noise (`float`, defaults to 0): standard deviation of noise on normed latents in training.
        latent_dropout (`float`, defaults to 0): rate of numbers of a latent set to 0 in training, the others raised to make up.
        token_dropout (`float`, defaults to 0): rate of tokens hidden from the encoder in training.
        num_negatives (`int`, *optional*): in training, tell each token only from those in the batch and so many others, drawn
            anew at each step, for which a large vocabulary's scores are never all computed. By default from all. The loss is
            then the lower, and depends on what shares a batch.
        dropout (`float`, defaults to 0): rate on each block's output.
        norm_eps (`float`, defaults to 1e-6): added to the mean square in norms.
        initializer_range (`float`, defaults to 0.02): standard deviation of initial weights.
        pad_token_id (`int`, *optional*, defaults to 0): of the tokenizer; the model reads padding from the mask alone.
        tie_word_embeddings (`bool`, defaults to `True`): the output weights are the embeddings.

    Raises:
        ValueError: where a size or a rate cannot be, naming the value and what is accepted.

    Example:

    ```python
    >>> from modeling_textae import CtaConfig, CtaModel
    >>> model = CtaModel(CtaConfig.nano())
    ```
    """

    model_type = "cta"
    keys_to_ignore_at_inference = ["latents", "latent_mask", "reconstruction_loss", "kl_loss"]

    vocab_size: int = 8192
    embedding_size: int | None = None
    hidden_size: int = 512
    channel_growth: float | int = 2
    num_levels: int = 2
    num_blocks: list[int] | None = None
    kernel_size: int = 3
    latent_dim: int = 16
    latent_norm: bool = True
    kl_weight: float | int = 0.0
    free_bits: float | int = 0.0
    latent_noise: float | int = 0.0
    latent_dropout: float | int = 0.0
    token_dropout: float | int = 0.0
    num_negatives: int | None = None
    dropout: float | int = 0.0
    norm_eps: float = 1e-6
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        # All classes, whichever of them is saved: the Hub's loader knows no other list.
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Refuse sizes that no model can have; called by the base class with its other validations."""
        check_sizes(self, ("vocab_size", "hidden_size", "num_levels", "latent_dim"))
        check_sizes(self, [name for name in ("embedding_size", "num_negatives") if getattr(self, name) is not None])
        check_rates(self, ("dropout", "latent_dropout", "token_dropout"))
        check_not_negative(self, ("kl_weight", "free_bits", "latent_noise"))
        check_positive(self, ("channel_growth", "norm_eps", "initializer_range"))
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} has no middle: accepted are odd numbers from 1")
        if round(self.hidden_size * self.channel_growth**self.num_levels) < 1:
            raise ValueError(
                f"channel_growth {self.channel_growth} leaves no channel of {self.hidden_size} after {self.num_levels} levels"
            )
        if self.num_blocks is not None and (len(self.num_blocks) != self.num_levels + 1 or min(self.num_blocks) < 0):
            raise ValueError(
                f"num_blocks {self.num_blocks} must name {self.num_levels + 1} numbers, one for tokens and one for each of "
                f"num_levels {self.num_levels}"
            )
        if self.kl_weight and self.latent_norm:
            raise ValueError(f"kl_weight {self.kl_weight} and latent_norm exclude each other: give latent_norm=False")
        if self.free_bits and not self.kl_weight:
            raise ValueError(f"free_bits {self.free_bits} are of a divergence that kl_weight 0 does not have")
        if self.latent_noise and not self.latent_norm:
            raise ValueError(
                f"latent_noise {self.latent_noise} has no unit without latent_norm: give one or none of them"
            )

    @property
    def ratio(self):
        """Tokens in a latent vector."""
        return 2**self.num_levels

    @classmethod
    def seed(cls, **kwargs):
        """The original's shape: four numbers for four tokens, GPT-2's vocabulary twice, 170 M parameters."""
        sizes = {"vocab_size": 50257, "hidden_size": 512, "num_blocks": [3, 3, 1], "latent_dim": 4}
        rest = {"pad_token_id": None, "latent_norm": False, "kl_weight": 1e-6, "tie_word_embeddings": False}
        return cls(**sizes | rest | kwargs)

    @classmethod
    def nano(cls, **kwargs):
        """About 3.3 M parameters, 4 tokens to 60 numbers; trains on two CPU cores in an hour."""
        sizes = {"embedding_size": 128, "hidden_size": 160, "channel_growth": 1.25, "latent_dim": 60}
        return cls(**sizes | kwargs)

    @classmethod
    def small(cls, num_levels=2, **kwargs):
        """About 25 M parameters, as the original claimed of itself, for 4, 8 or 16 tokens (`num_levels` 2, 3 or 4).

        Raises:
            ValueError: for another number of levels.
        """
        shapes = {2: (256, 2, [1, 1, 1]), 3: (272, 1.4, [2, 2, 1, 1]), 4: (272, 1.2, [2, 2, 2, 1, 1])}
        if num_levels not in shapes:
            raise ValueError(f"num_levels {num_levels} has no small preset: accepted are {', '.join(map(str, shapes))}")
        width, growth, blocks = shapes[num_levels]
        sizes = {"vocab_size": 16384, "embedding_size": 256, "hidden_size": width, "channel_growth": growth}
        rest = {"num_levels": num_levels, "num_blocks": blocks, "latent_dim": 15 * 2**num_levels}
        return cls(**sizes | rest | kwargs)
