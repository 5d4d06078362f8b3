"""Configuration of Encodzall."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_checks import check_ngrams, check_not_negative, check_positive, check_rates, check_sizes

LAYERS = ("num_byte_layers", "num_word_layers", "num_decoder_layers", "num_word_decoder_layers")
AUTO_MAP = {
    "AutoConfig": "configuration_encodzall.EncodzallConfig",
    "AutoTokenizer": ("tokenization_encodzall.EncodzallTokenizer", None),
    "AutoModel": "modeling_encodzall.EncodzallModel",
    "AutoModelForPreTraining": "modeling_encodzall.EncodzallForPreTraining",
    "AutoModelForSeq2SeqLM": "modeling_encodzall.EncodzallForConditionalGeneration",
    "AutoModelForSequenceClassification": "modeling_encodzall.EncodzallForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_encodzall.EncodzallForTokenClassification",
}


@strict
class EncodzallConfig(PreTrainedConfig):
    """Shape of an Encodzall: bytes are encoded word by word, words text by text, and decoded to bytes.

    Source: Encodzall's configuration; the presets `xs`, `s` and `l` have its sizes, `nano` trains on two CPU cores in
    minutes.

    Args:
        vocab_size (`int`, defaults to 265): 256 bytes, five special tokens and four character masks.
        hidden_size (`int`, defaults to 256): width of all layers, and so of a word's vector.
        num_attention_heads (`int`, defaults to 4): heads of every attention; must divide `hidden_size` into even parts.
        intermediate_size (`int`, defaults to 1536): width of the feed-forward layers.
        num_byte_layers (`int`, defaults to 2): layers of encoder 1, whose bytes attend within their word.
        num_word_layers (`int`, defaults to 2): layers of encoder 2, whose words attend to the whole text.
        num_decoder_layers (`int`, defaults to 1): layers of the sequence decoder.
        num_word_decoder_layers (`int`, defaults to 1): layers of the word decoder.
        byte_key_value_heads (`int`, *optional*): key and value heads of encoder 1 and the word decoder; by default a
            quarter of the heads, at least one.
        word_key_value_heads (`int`, *optional*): the same of encoder 2 and the sequence decoder; by default a half.
        max_word_length (`int`, defaults to 12): bytes in a word at most.
        row_length (`int`, defaults to 64): bytes in a row into which encoder 1 packs whole words; must exceed
            `max_word_length`, since the word decoder needs one place more.
        use_memory (`bool`, defaults to `True`): with `False` the decoder sees zeros instead of the words: a byte
            language model of the decoder's size, the control that tells what its accuracy owes to the words.
        byte_memory (`bool`, defaults to `False`): whether the sequence decoder attends to every byte as well as to the words:
            it copies long words and names it has never seen, and its text no longer passes through the words alone.
        follows_source (`bool`, defaults to `False`): whether the sequence decoder counts its place in the text that was encoded,
            where what it has written resembles that most, instead of in what it writes: it then finds each word where it stands
            behind noise that made the text longer or shorter. For texts without masks, of which a whole word is one id; and
            what it decodes no longer passes through the words alone.
        ngram_sizes (`list[int]`, defaults to `[]`): lengths of the runs of bytes whose hashes have embeddings too: of those that
            begin and end at each byte in encoder 1, of those that end there in the sequence decoder.
        ngram_buckets (`int`, defaults to 32768), ngram_embedding_size (`int`, defaults to 32): their table, one for both.
        pooling (`str`, defaults to `"mean"`): `"mean"`, `"max"` or `"learned_query"`, from bytes to a word's vector.
        text_pooling (`str`, defaults to `"mean"`): `"mean"` or `"learned_query"`, from words to a text's vector.
        sketch_size (`int`, defaults to 0): numbers of a text's embedding beside its words' vector that are a [`TextSketch`]: a
            bag of its words by their letters and their rarity.
        sketch_share (`float`, defaults to 0.9): of the cosine of two embeddings, what is the sketches'.
        word_mask_length (`int`, defaults to 9): bytes that a masked word is assumed to have had, when positions in the
            text are counted.
        rope_theta (`float`, defaults to 10000): base of the rotary wavelengths.
        norm_eps (`float`, defaults to 1e-5): added to the variance in layer norms.
        dropout (`float`, defaults to 0): rate after attention and feed-forward.
        attention_dropout (`float`, defaults to 0): rate on attention weights.
        initializer_range (`float`, defaults to 0.02): standard deviation of initial weights.
        sequence_loss_weight (`float`, defaults to 0.75): share of the sequence decoder in the pretraining loss.
        word_loss_weight (`float`, defaults to 0.25): share of the word decoder.
        focal_gamma (`float`, defaults to 1): exponent of the focal factor on the word decoder's loss; 0 is plain
            cross-entropy.
        contrastive_loss_weight (`float`, defaults to 0): share of the contrastive loss between the embeddings of the noisy and
            the clean text.
        contrastive_scale (`float`, defaults to 20): factor of the cosines in it.
        min_gain (`float`, defaults to 1): nats by which `denoise` must find a replacement likelier than the original, for each
            character that it changes.
        tie_word_embeddings (`bool`, defaults to `True`): the output weights are the byte embeddings.

    Raises:
        ValueError: where sizes do not divide each other, naming the value and what is accepted.

    Example:

    ```python
    >>> from modeling_textae import EncodzallConfig, EncodzallForPreTraining
    >>> model = EncodzallForPreTraining(EncodzallConfig.nano())
    ```
    """

    model_type = "encodzall"
    attribute_map = {"num_hidden_layers": "num_decoder_layers"}  # the layers that generation keeps a cache for
    keys_to_ignore_at_inference = [
        "sequence_loss",
        "word_loss",
        "contrastive_loss",
        "latents",
        "word_mask",
        "word_positions",
        "source_ids",
        "source_positions",
        "past_key_values",
    ]

    vocab_size: int = 265
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1536
    num_byte_layers: int = 2
    num_word_layers: int = 2
    num_decoder_layers: int = 1
    num_word_decoder_layers: int = 1
    byte_key_value_heads: int | None = None
    word_key_value_heads: int | None = None
    max_word_length: int = 12
    row_length: int = 64
    use_memory: bool = True
    byte_memory: bool = False
    follows_source: bool = False
    ngram_sizes: list[int] = field(default_factory=list)
    ngram_buckets: int = 32768
    ngram_embedding_size: int = 32
    pooling: str = "mean"
    text_pooling: str = "mean"
    sketch_size: int = 0
    sketch_share: float | int = 0.9
    word_mask_length: int = 9
    rope_theta: float | int = 10000.0
    norm_eps: float = 1e-5
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    sequence_loss_weight: float | int = 0.75
    word_loss_weight: float | int = 0.25
    focal_gamma: float | int = 1.0
    contrastive_loss_weight: float | int = 0.0
    contrastive_scale: float | int = 20.0
    min_gain: float | int = 1.0
    pad_token_id: int | None = 256
    bos_token_id: int | None = 257
    eos_token_id: int | None = 258
    sep_token_id: int | None = 259
    mask_token_id: int | None = 260
    decoder_start_token_id: int | None = 257
    is_encoder_decoder: bool = True
    use_cache: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        # All classes, whichever of them is saved: the Hub's loader knows no other list.
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        heads = self.num_attention_heads
        if self.byte_key_value_heads is None:
            self.byte_key_value_heads = max(heads // 4, 1)
        if self.word_key_value_heads is None:
            self.word_key_value_heads = max(heads // 2, 1)
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Refuse sizes that no model can have; called by the base class with its other validations."""
        heads = self.num_attention_heads
        check_ngrams(self)
        sizes = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "word_mask_length")
        check_sizes(self, (*sizes, *LAYERS))
        check_rates(self, ("dropout", "attention_dropout"))
        if not 0 <= self.sketch_share <= 1:
            raise ValueError(f"sketch_share {self.sketch_share} is no share: accepted are 0 to 1")
        check_positive(self, ("rope_theta", "norm_eps", "initializer_range", "contrastive_scale"))
        check_not_negative(self, ("sequence_loss_weight", "word_loss_weight", "focal_gamma", "contrastive_loss_weight"))
        if self.hidden_size % (2 * heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not split into {heads} heads of even width: "
                f"give a multiple of {2 * heads}"
            )
        for name in ("byte_key_value_heads", "word_key_value_heads"):
            if getattr(self, name) < 1 or heads % getattr(self, name):
                raise ValueError(f"{name} {getattr(self, name)} does not divide num_attention_heads {heads}")
        if not 4 <= self.max_word_length < self.row_length:
            raise ValueError(
                f"max_word_length {self.max_word_length} must be at least 4, the longest character, and below "
                f"row_length {self.row_length}"
            )
        if (self.contrastive_loss_weight or self.sketch_size) and not self.use_memory:
            raise ValueError(
                "without use_memory there is no embedding: leave contrastive_loss_weight and sketch_size at 0"
            )
        if (self.byte_memory or self.follows_source) and not self.use_memory:
            raise ValueError(
                "without use_memory the decoder sees nothing: leave byte_memory and follows_source at False"
            )
        if self.sketch_size < 0:
            raise ValueError(f"sketch_size {self.sketch_size} is no number of numbers: accepted is 0 and above")
        if self.pooling not in ("mean", "max", "learned_query"):
            raise ValueError(f"pooling {self.pooling!r} is unknown: accepted are 'mean', 'max' and 'learned_query'")
        if self.text_pooling not in ("mean", "learned_query"):
            raise ValueError(f"text_pooling {self.text_pooling!r} is unknown: accepted are 'mean' and 'learned_query'")

    @property
    def embedding_size(self):
        """Numbers of a text's embedding."""
        return self.hidden_size + self.sketch_size

    @property
    def projection_dim(self):
        """`embedding_size` by the name under which sentence-transformers looks for it."""
        return self.embedding_size

    @classmethod
    def nano(cls, **kwargs):
        """About 2.4 M parameters; trains on two CPU cores in minutes."""
        sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_byte_layers": 1}
        return cls(**sizes | {"byte_key_value_heads": 1, "word_key_value_heads": 3} | kwargs)

    @classmethod
    def xs(cls, **kwargs):
        """The seed's smallest size, about 6 M parameters."""
        return cls(**kwargs)

    @classmethod
    def s(cls, **kwargs):
        """The seed's middle size: width 384, 12 heads, 2, 2 and 2 layers."""
        return cls(**{"hidden_size": 384, "num_attention_heads": 12, "num_decoder_layers": 2} | kwargs)

    @classmethod
    def l(cls, **kwargs):  # noqa: E743 (the seed's own name)
        """The seed's largest size: width 512, 8 heads, 4, 4 and 8 layers, feed-forward 4096."""
        sizes = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 4096, "num_byte_layers": 4}
        return cls(**sizes | {"num_word_layers": 4, "num_decoder_layers": 8} | kwargs)
