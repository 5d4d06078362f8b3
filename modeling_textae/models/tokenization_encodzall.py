"""Tokenizer of Encodzall: bytes, and the words that the encoder pools."""

import numpy as np

from .byte_tokenizer import NUM_BYTES, ByteTokenizer, character_starts
from .packing import greedy_groups

# Bytes after which a word may end, by ASCII's definition of white space.
WHITE_SPACE = np.isin(np.arange(NUM_BYTES), np.frombuffer(b" \t\n\r\v\f", dtype=np.uint8))


def split_words(ids, text_starts, max_word_length=12):
    """Number the words of each text by Encodzall's rule.

    A word is a run of bytes other than white space with the white space behind it. A word longer than
    `max_word_length` bytes is split into parts of even length; neighbours that fit into `max_word_length` bytes
    together are grouped. The groups are what the model calls words. Ids of special tokens (256 and above) are groups of
    their own.

    Source: Encodzall. Deviation: a part never cuts a UTF-8 character; to make room for that, words with multi-byte
    characters are split into parts of up to `max_word_length - 3` bytes before the cuts move back to whole characters.

    Args:
        ids (`np.ndarray` of int, shape `(n,)`): the ids of all texts, end to end.
        text_starts (`np.ndarray` of int, shape `(texts,)`): where each text starts, in rising order.
        max_word_length (`int`, defaults to 12): bytes in a group at most; at least 4, the longest character.

    Returns:
        `np.ndarray` of int64, shape `(n,)`: each id's word, counted from 0 in each text.
    """
    n = len(ids)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    text_starts = text_starts[text_starts < n]
    space, apart = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    apart[text_starts] = True
    special = ids >= NUM_BYTES
    if special.any():
        space[~special] = WHITE_SPACE[ids[~special]]
        apart |= special
        apart[1:] |= special[:-1]
    else:
        space = WHITE_SPACE[ids]

    begins = apart.copy()
    begins[1:] |= space[:-1] & ~space[1:]
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=n)
    if lengths.max() > max_word_length:
        starts = _split_long(ids, starts, lengths, max_word_length)
        lengths = np.diff(starts, append=n)
    first = np.zeros(n, dtype=np.int64)
    first[starts[greedy_groups(lengths, max_word_length, np.flatnonzero(apart[starts]))]] = 1
    word = np.cumsum(first) - 1
    if len(text_starts) > 1:
        word -= np.repeat(word[text_starts], np.diff(text_starts, append=n))
    return word


def _split_long(ids, starts, lengths, max_word_length):
    """Starts of all parts, after each word that is too long was split evenly between whole characters."""
    parts = np.where(lengths > max_word_length, -(-lengths // max_word_length), 1)
    has_multibyte = bool((ids > 0x7F).any())
    if has_multibyte:
        whole = character_starts(ids)
        cut_back = np.add.reduceat(~whole, starts) > 0
        room = max(max_word_length - 3, 1)
        parts = np.where(cut_back & (lengths > max_word_length), -(-lengths // room), parts)
    word = np.repeat(np.arange(len(starts)), parts)
    part = np.arange(len(word)) - (np.cumsum(parts) - parts)[word]
    cuts = starts[word] + part * lengths[word] // parts[word]
    if has_multibyte:
        last_whole = np.maximum.accumulate(np.where(whole, np.arange(len(ids)), 0))
        cuts = np.maximum(last_whole[cuts], starts[word])
        cuts = cuts[np.diff(cuts, prepend=-1) > 0]
    return cuts


class EncodzallTokenizer(ByteTokenizer):
    """Byte tokenizer that also returns `word_index`, the number of the word that each byte belongs to.

    Ids 0-260 are those of [`ByteTokenizer`]; above them stand the masks of single characters: `<mask_vowel>` 261,
    `<mask_consonant>` 262, `<mask_other>` 263 (neither letter nor white space) and `<mask_any>` 264, which tells nothing
    of what it hides. `<mask>` (260) stands for a whole word. `word_index` is -1 on padding. See [`split_words`] for the
    rule.

    Args:
        max_word_length (`int`, defaults to 12): bytes in a word at most; at least 4, so that it holds any character.

    Raises:
        ValueError: if `max_word_length` is below 4.

    Example:

    ```python
    >>> from modeling_textae import EncodzallTokenizer
    >>> EncodzallTokenizer()("to be or not to be")["word_index"]
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    ```
    """

    model_input_names = ["input_ids", "attention_mask", "word_index"]
    family_special_tokens = ("<mask_vowel>", "<mask_consonant>", "<mask_other>", "<mask_any>")

    def __init__(self, max_word_length=12, **kwargs):
        if max_word_length < 4:
            raise ValueError(f"max_word_length {max_word_length} cannot hold every character: accepted is 4 and above")
        self.max_word_length = max_word_length
        super().__init__(max_word_length=max_word_length, **kwargs)

    def derive_inputs(self, ids, text_starts):
        """Return `word_index`, padded with -1."""
        return {"word_index": (split_words(ids, text_starts, self.max_word_length), -1)}

    def of_words(self, texts, labels=None):
        """Tokenize texts whose words are given, for classifying these: a space parts them, and a word's label stands at its first
        byte.

        Args:
            texts (`list[list[str]]`): words, none of them empty.
            labels (`list[list[int]]`, *optional*): one for each word.

        Returns:
            `BatchEncoding` of lists, as of `tokenizer(texts)` without special tokens, with `word_starts`, where each word begins,
            or with labels, instead, `labels`, -100 where no word begins.

        Raises:
            ValueError: for an empty word, or more or fewer labels than words.
        """
        found = self([" ".join(words) for words in texts], add_special_tokens=False)
        starts = []
        for words in texts:
            sizes = [len(word.encode("utf-8")) for word in words]
            if 0 in sizes:
                raise ValueError(f"word {sizes.index(0)} of {words} is empty")
            starts.append([sum(sizes[:i]) + i for i in range(len(sizes))])
        if labels is None:
            found["word_starts"] = starts
            return found
        found["labels"] = [[-100] * len(ids) for ids in found["input_ids"]]
        for row, places, given in zip(found["labels"], starts, labels, strict=True):
            if len(given) != len(places):
                raise ValueError(f"{len(given)} labels for {len(places)} words: give one for each")
            for place, label in zip(places, given, strict=True):
                row[place] = label
        return found
