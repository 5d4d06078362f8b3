"""Tokenizer of the MLM encoder: byte-level BPE with a mask."""

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

PAD, MASK = "[PAD]", "[MASK]"


class MlmEncoderTokenizer(PreTrainedTokenizerFast):
    """Byte-level BPE of the `tokenizers` library, with `[PAD]` (id 0) and `[MASK]` (id 1) before its 256 bytes.

    Text is cut as GPT-2 cuts it, so that a word keeps the space before it, and each piece is merged from bytes: nothing is
    unknown, and every string round-trips exactly. `[MASK]` takes the space before it along, because the word that it hides would:
    `"the [MASK] planet"` has three tokens. A literal `[MASK]` or `[PAD]` in a text is the special token, unless
    `split_special_tokens=True`. Without arguments the vocabulary is the bare bytes; [`train`] learns one.

    Args:
        vocab (`dict[str, int]`, *optional*): tokens with their ids.
        merges (`list`, *optional*): pairs of tokens, the first merged first.
        mask_token (`str`, defaults to `"[MASK]"`).
        pad_token (`str`, defaults to `"[PAD]"`).

    Raises:
        UnicodeEncodeError: on a lone surrogate in a text, which UTF-8 cannot hold, with its position.

    Example:

    ```python
    >>> from modeling_textae import MlmEncoderTokenizer
    >>> tokenizer = MlmEncoderTokenizer.train(["the red planet", "the red house"], vocab_size=270)
    >>> tokenizer.tokenize("the [MASK] planet")[:3]
    ['the', '[MASK]', 'Ġplanet']
    ```
    """

    model_input_names = ["input_ids", "attention_mask"]
    model = BPE

    def __init__(self, vocab=None, merges=None, mask_token=MASK, pad_token=PAD, **kwargs):
        if isinstance(mask_token, str):
            mask_token = AddedToken(mask_token, lstrip=True, special=True, normalized=False)
        if vocab is None:
            vocab = {token: i for i, token in enumerate([str(pad_token), str(mask_token), *byte_symbols()])}
        self._tokenizer = Tokenizer(BPE(vocab=vocab, merges=[tuple(pair) for pair in merges or []]))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        # Offsets leave out the space before a word: what follows a gap is a new word, for masking whole words.
        self._tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        super().__init__(mask_token=mask_token, pad_token=pad_token, **kwargs)

    @classmethod
    def train(cls, texts, vocab_size, **kwargs):
        """Learn a vocabulary.

        Args:
            texts: an iterable of texts.
            vocab_size (`int`): tokens, the special ones and the 256 bytes included; at least 258.
            kwargs: passed to the tokenizer.

        Returns:
            [`MlmEncoderTokenizer`] with `vocab_size` tokens.

        Raises:
            ValueError: where the size cannot hold all bytes, or the texts do not have so many tokens.
        """
        empty = cls(**kwargs)
        if vocab_size < len(empty):
            raise ValueError(f"vocab_size {vocab_size} cannot hold every byte: accepted is {len(empty)} and above")
        trained = empty.train_new_from_iterator(texts, vocab_size, show_progress=False)
        if len(trained) < vocab_size:
            raise ValueError(
                f"vocab_size {vocab_size} is too large for this text, which has {len(trained)} tokens: give fewer, or more text"
            )
        return trained

    def _encode_plus(self, text, text_pair=None, **kwargs):
        for part in (text, text_pair):
            check_surrogates(part)
        return super()._encode_plus(text, text_pair, **kwargs)


def byte_symbols():
    """The characters that stand for the 256 bytes in byte-level BPE, in the order that training gives them."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def check_surrogates(text):
    """Raise `UnicodeEncodeError` at the first lone surrogate of a text, or of the texts in a list."""
    if isinstance(text, str):
        text.encode("utf-8")
    elif isinstance(text, (list, tuple)):
        for part in text:
            check_surrogates(part)
