"""Configuration of the MLM encoder."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .config_checks import check_positive, check_rates, check_sizes

AUTO_MAP = {
    "AutoConfig": "configuration_mlm_encoder.MlmEncoderConfig",
    "AutoTokenizer": (None, "tokenization_mlm_encoder.MlmEncoderTokenizer"),
    "AutoModel": "modeling_mlm_encoder.MlmEncoderModel",
    "AutoModelForMaskedLM": "modeling_mlm_encoder.MlmEncoderForMaskedLM",
    "AutoModelForPreTraining": "modeling_mlm_encoder.MlmEncoderForMaskedLM",
}


@strict
class MlmEncoderConfig(PreTrainedConfig):
    """Shape of the classic Transformer encoder: embeddings and sinusoids in, attention and feed-forward layers, scores out.

    Source: Vaswani et al. 2017, "Attention is all you need", section 3; the preset `seed` has the sizes of the original system,
    `nano` trains on two CPU cores in minutes, `base` has BERT's sizes.

    Args:
        vocab_size (`int`, defaults to 8192): tokens, special ones included.
        hidden_size (`int`, defaults to 768): width of all layers; even, since sinusoids come in pairs.
        num_hidden_layers (`int`, defaults to 12).
        num_attention_heads (`int`, defaults to 12): must divide `hidden_size`.
        intermediate_size (`int`, defaults to 3072): width of the feed-forward layers.
        hidden_act (`str`, defaults to `"relu"`): activation of the feed-forward layers, by transformers' name.
        norm_first (`bool`, defaults to `False`): norm before each sub-layer and once at the end, instead of after each sum.
        position_theta (`float`, defaults to 10000): base of the sinusoids' wavelengths.
        norm_eps (`float`, defaults to 1e-5): added to the variance in layer norms.
        dropout (`float`, defaults to 0.1): rate on embeddings and on each sub-layer's output.
        attention_dropout (`float`, defaults to 0.1): rate on attention weights.
        initializer_range (`float`, defaults to 0.02): standard deviation of initial matrices.
        embedding_initializer_range (`float`, defaults to 0.02): standard deviation of initial token vectors, before they are
            scaled by the root of `hidden_size`. At its inverse they are as strong as the sinusoids, which is noise that a small
            model of much text takes thousands of steps to unlearn, and what a tiny one learns by heart best from.
        offset_heads (`bool`, defaults to `True`): begin with first-layer heads that attend to one neighbour each, instead of
            random ones; a matter of initial weights only.
        sparse_prediction (`bool`, defaults to `True`): while training with labels, compute scores only where there is a
            label: `logits` then has the shape `(labels, vocab_size)`. The loss is the same. The number of labels is known only
            when they are there, so a whole graph for `torch.compile` needs `False`.
        tie_word_embeddings (`bool`, defaults to `True`): the output weights are the embeddings.

    Raises:
        ValueError: where sizes do not divide each other, naming the value and what is accepted.

    Example:

    ```python
    >>> from modeling_textae import MlmEncoderConfig, MlmEncoderForMaskedLM
    >>> model = MlmEncoderForMaskedLM(MlmEncoderConfig.nano())
    ```
    """

    model_type = "mlm_encoder"
    keys_to_ignore_at_inference = ["latents"]

    vocab_size: int = 8192
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "relu"
    norm_first: bool = False
    position_theta: float | int = 10000.0
    norm_eps: float = 1e-5
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    initializer_range: float = 0.02
    embedding_initializer_range: float = 0.02
    offset_heads: bool = True
    sparse_prediction: bool = True
    pad_token_id: int = 0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        # All classes, whichever of them is saved: the Hub's loader knows no other list.
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Refuse sizes that no model can have; called by the base class with its other validations."""
        check_sizes(
            self, ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        )
        check_rates(self, ("dropout", "attention_dropout"))
        check_positive(self, ("position_theta", "norm_eps", "initializer_range", "embedding_initializer_range"))
        if self.hidden_size % 2 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be even and split into {self.num_attention_heads} heads: give a "
                "multiple of both"
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act {self.hidden_act!r} is unknown: accepted are {', '.join(sorted(ACT2FN))}")

    @classmethod
    def seed(cls, **kwargs):
        """The original's sizes: width 32, two layers, four heads, feed-forward 64; the vocabulary is the corpus's."""
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        return cls(**sizes | {"vocab_size": 512, "embedding_initializer_range": 32**-0.5} | kwargs)

    @classmethod
    def nano(cls, **kwargs):
        """About 1.8 M parameters; trains on two CPU cores in minutes. Norm first, and no wavelength beyond 2π · 300."""
        sizes = {"hidden_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 512}
        rest = {
            "vocab_size": 6144,
            "norm_first": True,
            "position_theta": 300.0,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        }
        return cls(**sizes | rest | kwargs)

    @classmethod
    def base(cls, **kwargs):
        """Width 768, twelve layers and heads, feed-forward 3072, 32,768 tokens: 110 M parameters."""
        return cls(**{"vocab_size": 32768} | kwargs)
