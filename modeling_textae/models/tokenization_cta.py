"""Tokenizer of CTA: byte-level BPE, or bare bytes."""

from .bpe_tokenizer import BpeTokenizer


class CtaTokenizer(BpeTokenizer):
    """Byte-level BPE with `[PAD]` (id 0) before its 256 bytes; without arguments the bare bytes, CTA's byte variant.

    CTA reads the tokens of any tokenizer that pads; this one is learned from the corpus by [`train`].

    Args, raises: as of [`BpeTokenizer`].

    Example:

    ```python
    >>> from modeling_textae import CtaTokenizer
    >>> tokenizer = CtaTokenizer.train(["the red planet", "the red house"], vocab_size=262)
    >>> tokenizer.tokenize("the red planet")[0]
    'the'
    ```
    """
