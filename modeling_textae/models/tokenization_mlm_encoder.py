"""Tokenizer of the MLM encoder: byte-level BPE with a mask."""

from tokenizers import AddedToken

from .bpe_tokenizer import BpeTokenizer

MASK = "[MASK]"


class MlmEncoderTokenizer(BpeTokenizer):
    """Byte-level BPE of the `tokenizers` library, with `[PAD]` (id 0) and `[MASK]` (id 1) before its 256 bytes.

    [`BpeTokenizer`] with a mask that takes the space before it along, because the word that it hides would:
    `"the [MASK] planet"` has three tokens. A literal `[MASK]` or `[PAD]` in a text is the special token, unless
    `split_special_tokens=True`.

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

    def __init__(self, vocab=None, merges=None, mask_token=MASK, **kwargs):
        if isinstance(mask_token, str):
            mask_token = AddedToken(mask_token, lstrip=True, special=True, normalized=False)
        super().__init__(vocab, merges, mask_token=mask_token, **kwargs)
