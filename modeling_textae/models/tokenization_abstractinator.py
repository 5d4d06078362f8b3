"""Tokenizer of the Abstractinator: bytes, as they are."""

from .byte_tokenizer import ByteTokenizer


class AbstractinatorTokenizer(ByteTokenizer):
    """The shared byte tokenizer: ids 0-255 are the bytes, `<pad>` 256, `<bos>` 257, `<eos>` 258. A model reads a text without
    `<bos>` as if it had one.

    Example:

    ```python
    >>> from modeling_textae import AbstractinatorTokenizer
    >>> AbstractinatorTokenizer()("naïve")["input_ids"]
    [110, 97, 195, 175, 118, 101]
    ```
    """
