"""Byte-level tokenization: one id layout and one vectorised path for every family that reads bytes."""

import re

import numpy as np
from transformers import AddedToken, BatchEncoding, PreTrainedTokenizer
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy

NUM_BYTES = 256
SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "sep_token": "<sep>",
    "mask_token": "<mask>",
}


def character_starts(ids):
    """Mark the positions of a flat array of ids at which a character starts.

    A UTF-8 continuation byte (0x80-0xBF) belongs to the last other byte, if that stands at most three positions before
    it; in invalid text the fourth starts anew, so that no character is longer than four bytes.

    Args:
        ids (`np.ndarray` of shape `(n,)`): byte values and ids of special tokens (256 and above).

    Returns:
        `np.ndarray` of bool and shape `(n,)`.
    """
    position = np.arange(len(ids))
    continuation = (ids >= 0x80) & (ids < 0xC0)
    last_lead = np.maximum.accumulate(np.where(continuation, -4, position)) if len(ids) else position
    return ~continuation | (position - last_lead > 3)


class ByteTokenizer(PreTrainedTokenizer):
    """Tokenizer whose ids 0-255 are the bytes of the text in UTF-8 and whose special tokens stand above them.

    Ids: bytes 0-255, `<pad>` 256, `<bos>` 257, `<eos>` 258, `<sep>` 259, `<mask>` 260, then what a subclass names in
    `family_special_tokens`. Every string round-trips exactly; a lone surrogate, which UTF-8 cannot hold, raises
    `UnicodeEncodeError` with its position. Truncation never cuts a character.

    A subclass adds inputs that are functions of the ids, like a word number, through `derive_inputs`.

    Args:
        starts_with_bos (`bool`, defaults to `False`): put `<bos>` before each text.
        ends_with_eos (`bool`, defaults to `False`): put `<eos>` after each text. Off by default, because a trailing
            end of text breaks prompts. (Not named `add_eos_token`, which transformers drops when it saves a tokenizer.)
        split_special_tokens (`bool`, defaults to `True`): read a literal `<eos>` in a text as its five bytes. With
            `False` it becomes the special token.

    Example:

    ```python
    >>> from modeling_textae.models.byte_tokenizer import ByteTokenizer
    >>> tokenizer = ByteTokenizer()
    >>> tokenizer("né")["input_ids"]
    [110, 195, 169]
    >>> tokenizer.decode([110, 195, 169])
    'né'
    ```
    """

    model_input_names = ["input_ids", "attention_mask"]
    family_special_tokens: tuple[str, ...] = ()

    def __init__(self, starts_with_bos=False, ends_with_eos=False, split_special_tokens=True, **kwargs):
        self.starts_with_bos = starts_with_bos
        self.ends_with_eos = ends_with_eos
        names = [*SPECIAL_TOKENS.values(), *self.family_special_tokens]
        self._added_tokens_decoder = {
            NUM_BYTES + i: AddedToken(name, special=True, normalized=False) for i, name in enumerate(names)
        }
        if self.family_special_tokens:
            kwargs.setdefault("extra_special_tokens", list(self.family_special_tokens))
        super().__init__(
            starts_with_bos=starts_with_bos,
            ends_with_eos=ends_with_eos,
            split_special_tokens=split_special_tokens,
            **{**SPECIAL_TOKENS, **kwargs},
        )

    # Vocabulary

    @property
    def vocab_size(self):
        """Number of ids that no user added: the bytes and the family's special tokens."""
        return NUM_BYTES + len(SPECIAL_TOKENS) + len(self.family_special_tokens)

    def get_vocab(self):
        """Return all tokens with their ids; byte `b` is written `chr(b)`."""
        return {chr(byte): byte for byte in range(NUM_BYTES)} | self.added_tokens_encoder

    def _add_tokens(self, new_tokens, special_tokens=False):
        vocabulary = self.get_vocab() if any(not str(token).isascii() for token in new_tokens or ()) else {}
        for token in map(str, new_tokens or ()):
            if not token.isascii() and token in vocabulary and token not in self._added_tokens_encoder:
                raise ValueError(
                    f"{token!r} cannot be added: the vocabulary writes the bytes {token.encode('latin-1')!r} so, and text "
                    "would no longer come back"
                )
        return super()._add_tokens(new_tokens, special_tokens=special_tokens)

    def tokenize(self, text, split_special_tokens=None, **kwargs):
        """The tokens of a text as the vocabulary writes them: bytes as Latin-1 does.

        Args:
            text (`str`).
            split_special_tokens (`bool`, *optional*): by default the tokenizer's own.

        Returns:
            `list[str]`.
        """
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        return self.convert_ids_to_tokens(self._text_ids(text, self._added_token_pattern(split)).tolist())

    def _convert_token_to_id(self, token):
        if len(token) == 1 and ord(token) < NUM_BYTES:
            return ord(token)
        raise ValueError(
            f"{token!r} is no token: accepted are chr(0) to chr(255) and {list(self.added_tokens_encoder)}"
        )

    def _convert_id_to_token(self, index):
        if 0 <= index < NUM_BYTES:
            return chr(index)
        raise ValueError(f"id {index} is no token: accepted are 0 to {len(self) - 1}")

    def save_vocabulary(self, save_directory, filename_prefix=None):
        """Save nothing: the vocabulary is the 256 bytes."""
        return ()

    # Text to ids

    def _added_token_pattern(self, split_special_tokens):
        """Regular expression of the added tokens that are looked for in a text, or `None`."""
        found = [t.content for t in self._added_tokens_decoder.values() if not (t.special and split_special_tokens)]
        return re.compile("(" + "|".join(map(re.escape, sorted(found, key=len, reverse=True))) + ")") if found else None

    def _text_ids(self, text, pattern):
        if pattern is None:
            return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)
        ids = [
            [self._added_tokens_encoder[part]] if i % 2 else list(part.encode("utf-8"))
            for i, part in enumerate(pattern.split(text))
        ]
        return np.array([j for part in ids for j in part], dtype=np.int64)

    def _sequence_ids(self, sequence, pattern, is_split_into_words):
        if isinstance(sequence, str):
            return self._text_ids(sequence, pattern)
        if isinstance(sequence, (list, tuple)) and all(isinstance(i, (int, np.integer)) for i in sequence):
            ids = np.array(sequence, dtype=np.int64)
            if len(ids) and (ids.min() < 0 or ids.max() >= len(self)):
                raise ValueError(f"ids must be from 0 to {len(self) - 1}, not {sequence!r:.80}")
            return ids
        if isinstance(sequence, (list, tuple)) and all(isinstance(i, str) for i in sequence):
            if is_split_into_words:
                return self._text_ids("".join(sequence), pattern)
            return np.array(self.convert_tokens_to_ids(list(sequence)), dtype=np.int64)
        raise ValueError(
            f"a text must be a str, a list of str or a list of int, not {type(sequence).__name__}: {sequence!r:.80}"
        )

    def _sequences_ids(self, sequences, pattern, is_split_into_words):
        """The ids of several sequences; a subclass may take them all at once."""
        return [self._sequence_ids(sequence, pattern, is_split_into_words) for sequence in sequences]

    def _cut(self, ids, length):
        """The longest part of at most `length` ids, from the side that `truncation_side` keeps, of whole characters."""
        if len(ids) <= length:
            return ids
        if self.truncation_side == "left":
            starts = np.flatnonzero(character_starts(ids)[len(ids) - length :])
            return ids[len(ids) - length + int(starts[0]) :] if length and len(starts) else ids[:0]
        # Of the last four ids that fit and the first that does not, the last start of a character is the cut.
        first = max(length - 3, 0)
        window = np.flatnonzero(character_starts(ids[max(first - 3, 0) : length + 1])[first - max(first - 3, 0) :])
        return ids[: first + int(window[-1])] if len(window) else ids[:length]

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        """`[<bos>] ids [<sep> ids] [<eos>]`; the outer two as `starts_with_bos` and `ends_with_eos` say."""
        bos = [self.bos_token_id] if self.starts_with_bos else []
        eos = [self.eos_token_id] if self.ends_with_eos else []
        pair = [] if token_ids_1 is None else [self.sep_token_id, *token_ids_1]
        return [*bos, *token_ids_0, *pair, *eos]

    def get_special_tokens_mask(self, token_ids_0, token_ids_1=None, already_has_special_tokens=False):
        """Return 1 for each special token and 0 for each other."""
        ids = (
            token_ids_0
            if already_has_special_tokens
            else self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        )
        special = set(self.all_special_ids)
        return [int(i in special) for i in ids]

    def derive_inputs(self, ids, text_starts):
        """Inputs beside `input_ids` that follow from them; a subclass overrides this.

        Args:
            ids (`np.ndarray` of shape `(n,)`): the ids of all texts of a batch, end to end.
            text_starts (`np.ndarray` of shape `(texts,)`): where each text starts.

        Returns:
            `dict[str, tuple[np.ndarray, int]]`: for each name the values, shape `(n,)`, and what pads them.
        """
        return {}

    def _encode_plus(
        self,
        text,
        text_pair=None,
        add_special_tokens=True,
        padding_strategy=PaddingStrategy.DO_NOT_PAD,
        truncation_strategy=TruncationStrategy.DO_NOT_TRUNCATE,
        max_length=None,
        stride=0,
        is_split_into_words=False,
        pad_to_multiple_of=None,
        padding_side=None,
        return_tensors=None,
        return_token_type_ids=None,
        return_attention_mask=None,
        return_overflowing_tokens=False,
        return_special_tokens_mask=False,
        return_length=False,
        return_offsets_mapping=False,
        verbose=True,
        split_special_tokens=None,
        **kwargs,
    ):
        if return_overflowing_tokens or return_offsets_mapping or return_token_type_ids or stride:
            raise ValueError(
                "a byte tokenizer has no overflowing tokens, offsets, token types or stride; cut long texts before tokenizing"
            )
        # Words that a caller split himself are lists of str, texts are str; ids are lists of int.
        one_text = isinstance(text, str) or (
            isinstance(text, (list, tuple))
            and len(text) > 0
            and (isinstance(text[0], (int, np.integer)) or (is_split_into_words and isinstance(text[0], str)))
        )
        texts = [text] if one_text else list(text)
        pairs = [text_pair] if one_text or text_pair is None else list(text_pair)
        if text_pair is None:
            pairs = [None] * len(texts)
            if not is_split_into_words:
                unpacked = [t if isinstance(t, tuple) and len(t) == 2 else (t, None) for t in texts]
                texts, pairs = [t for t, _ in unpacked], [p for _, p in unpacked]
        if len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(pairs)} second texts: give one second text for each text")

        pattern = self._added_token_pattern(
            self.split_special_tokens if split_special_tokens is None else split_special_tokens
        )
        truncate = truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE and max_length is not None
        plain = add_special_tokens is False or not (self.starts_with_bos or self.ends_with_eos)
        rows = []
        firsts = self._sequences_ids(texts, pattern, is_split_into_words)
        for ids, second in zip(firsts, pairs, strict=True):
            if second is not None or not plain:
                other = None if second is None else self._sequence_ids(second, pattern, is_split_into_words)
                ids = self._join(ids, other, add_special_tokens, truncation_strategy, max_length if truncate else None)
            elif truncate:
                ids = self._cut(ids, max_length)
            rows.append(ids)

        lengths = np.array([len(ids) for ids in rows], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        columns = {"input_ids": (flat, self.pad_token_id)}
        derived = self.derive_inputs(flat, starts)
        columns |= {name: column for name, column in derived.items() if name in self.model_input_names}
        if return_attention_mask if return_attention_mask is not None else "attention_mask" in self.model_input_names:
            columns["attention_mask"] = (np.ones(len(flat), dtype=np.int64), 0)
        if return_special_tokens_mask:
            columns["special_tokens_mask"] = (np.isin(flat, self.all_special_ids).astype(np.int64), 1)

        width = self._padded_length(lengths, padding_strategy, max_length, pad_to_multiple_of)
        left = (self.padding_side if padding_side is None else padding_side) == "left"
        data = {
            name: self._to_rows(values, lengths, starts, fill, width, left, return_tensors)
            for name, (values, fill) in columns.items()
        }
        if return_length:
            data["length"] = lengths.tolist()
        if one_text and return_tensors is None:
            data = {name: rows[0] for name, rows in data.items()}
        return BatchEncoding(data, tensor_type=return_tensors)

    def _join(self, ids, other, add_special_tokens, truncation_strategy, max_length):
        """Put one or two sequences and the special tokens together, in at most `max_length` ids."""
        if max_length is not None:
            room = max_length - (
                len(self.build_inputs_with_special_tokens([], None if other is None else []))
                if add_special_tokens
                else 0
            )
            if room < 0:
                raise ValueError(
                    f"max_length {max_length} leaves no room beside the special tokens: give at least {max_length - room}"
                )
            if other is None:
                ids = self._cut(ids, room)
            elif truncation_strategy in (TruncationStrategy.ONLY_FIRST, TruncationStrategy.ONLY_SECOND):
                first = truncation_strategy == TruncationStrategy.ONLY_FIRST
                kept = other if first else ids
                if len(kept) > room:
                    raise ValueError(
                        f"truncating one text of a pair cannot reach max_length {max_length}: the other takes {len(kept)}; "
                        "truncate with longest_first"
                    )
                ids = self._cut(ids, room - len(other)) if first else ids
                other = other if first else self._cut(other, room - len(ids))
            else:  # the longer one first, until both are of one length
                half = room // 2
                ids, other = (
                    self._cut(ids, max(room - len(other), room - half)),
                    self._cut(other, max(room - len(ids), half)),
                )
        if add_special_tokens:
            joined = self.build_inputs_with_special_tokens(ids.tolist(), None if other is None else other.tolist())
        else:
            joined = ids.tolist() + ([] if other is None else other.tolist())
        return np.array(joined, dtype=np.int64)

    @staticmethod
    def _padded_length(lengths, strategy, max_length, multiple):
        if strategy == PaddingStrategy.DO_NOT_PAD or not len(lengths):
            return None
        if strategy == PaddingStrategy.MAX_LENGTH and max_length is None:
            raise ValueError("padding='max_length' needs max_length")
        width = max_length if strategy == PaddingStrategy.MAX_LENGTH else int(lengths.max())
        return -(-width // multiple) * multiple if multiple else width

    @staticmethod
    def _to_rows(values, lengths, starts, fill, width, left, return_tensors):
        if width is None or (lengths == width).all():
            if return_tensors is not None and len(lengths) and (lengths == lengths[0]).all():
                return values.reshape(len(lengths), -1)
            values = values.tolist()
            return [values[s : s + n] for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
        width = max(width, int(lengths.max()))
        matrix = np.full((len(lengths), width), fill, dtype=np.int64)
        column = np.arange(width)
        real = column >= width - lengths[:, None] if left else column < lengths[:, None]
        matrix[real] = values
        return matrix if return_tensors is not None else matrix.tolist()

    def _pad(self, encoded_inputs, max_length=None, padding_strategy=PaddingStrategy.DO_NOT_PAD, pad_to_multiple_of=None,
             padding_side=None, return_attention_mask=None):  # fmt: skip
        length = len(encoded_inputs["input_ids"])
        padded = super()._pad(
            encoded_inputs, max_length, padding_strategy, pad_to_multiple_of, padding_side, return_attention_mask
        )
        missing = len(padded["input_ids"]) - length
        if missing:
            # An empty batch entry still names each derived input and what pads it.
            for name, (_, fill) in self.derive_inputs(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)).items():
                if name in padded:
                    filling = [fill] * missing
                    left = (self.padding_side if padding_side is None else padding_side) == "left"
                    padded[name] = filling + list(padded[name]) if left else list(padded[name]) + filling
        return padded

    # Ids to text

    def decode_bytes(self, token_ids):
        """Return the bytes that ids stand for, special tokens left out.

        Args:
            token_ids (sequence of `int`, array or tensor of shape `(n,)`).

        Returns:
            `bytes`.
        """
        return self._bytes_of(self._checked_ids(token_ids), set(self.all_special_ids))

    def convert_tokens_to_string(self, tokens):
        """Join byte tokens and special tokens to a text; bytes that are no UTF-8 become U+FFFD."""
        parts = [t.encode("utf-8") if t in self._added_tokens_encoder else bytes([ord(t)]) for t in tokens]
        return b"".join(parts).decode("utf-8", errors="replace")

    def _checked_ids(self, token_ids):
        """Ids as an array, shape `(n,)`; refuses those that are no token."""
        ids = np.asarray(token_ids, dtype=np.int64).reshape(-1)
        if len(ids) and (ids.min() < 0 or ids.max() >= len(self)):
            wrong = int(ids[(ids < 0) | (ids >= len(self))][0])
            raise ValueError(f"id {wrong} is no token: accepted are 0 to {len(self) - 1}")
        return ids

    def _bytes_of(self, ids, left_out):
        """The bytes of ids, an array of shape `(n,)`, but for a set that is left out."""
        if (ids < NUM_BYTES).all():
            return ids.astype(np.uint8).tobytes()
        added = self._added_tokens_decoder
        parts = [
            bytes([i]) if i < NUM_BYTES else added[i].content.encode("utf-8") for i in ids.tolist() if i not in left_out
        ]
        return b"".join(parts)

    def _decode(self, token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=None, **kwargs):
        left_out = set(self.all_special_ids) if skip_special_tokens else set()
        return self._bytes_of(self._checked_ids(token_ids), left_out).decode("utf-8", errors="replace")
