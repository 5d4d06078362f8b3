"""Byte-level BPE: what the families that read tokens share of their tokenizers."""

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

PAD = "[PAD]"


class BpeTokenizer(PreTrainedTokenizerFast):
    """Byte-level BPE of the `tokenizers` library; special tokens come first, then the 256 bytes, then what was learned.

    Text is cut as GPT-2 cuts it, so that a word keeps the space before it, and each piece is merged from bytes: nothing is
    unknown, and every string round-trips exactly. A literal special token in a text is that token, unless
    `split_special_tokens=True`. Without arguments the vocabulary is the bare bytes; [`train`] learns one.

    Args:
        vocab (`dict[str, int]`, *optional*): tokens with their ids.
        merges (`list`, *optional*): pairs of tokens, the first merged first.
        pad_token (`str`, defaults to `"[PAD]"`): id 0.
        mask_token (`str` or `AddedToken`, *optional*): id 1, where there is one.

    Raises:
        UnicodeEncodeError: on a lone surrogate in a text, which UTF-8 cannot hold, with its position.
    """

    model_input_names = ["input_ids", "attention_mask"]
    model = BPE

    def __init__(self, vocab=None, merges=None, pad_token=PAD, mask_token=None, **kwargs):
        special = [str(token) for token in (pad_token, mask_token) if token is not None]
        if vocab is None:
            vocab = {token: i for i, token in enumerate([*special, *byte_symbols()])}
        self._tokenizer = Tokenizer(BPE(vocab=vocab, merges=[tuple(pair) for pair in merges or []]))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        # Offsets leave out the space before a word: what follows a gap is a new word, for masking whole words.
        self._tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        super().__init__(pad_token=pad_token, mask_token=mask_token, **kwargs)

    @classmethod
    def train(cls, texts, vocab_size, **kwargs):
        """Learn a vocabulary.

        Args:
            texts: an iterable of texts.
            vocab_size (`int`): tokens, the special ones and the 256 bytes included, and at least these.
            kwargs: passed to the tokenizer.

        Returns:
            A tokenizer of this class with `vocab_size` tokens.

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
