"""The FSQ autoencoder's tokenizer: text to chunks, chunks to codes, codes to ids; every string round-trips."""

import hashlib
import json
import os
import threading
from array import array
from contextlib import contextmanager
from copy import copy, deepcopy
from itertools import islice

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .byte_tokenizer import NUM_BYTES, ByteTokenizer
from .chunks import MAX_CHUNK_LENGTH, SpanTrie, chunks_of, fewest_parts, parts_of_chunks
from .configuration_fsq_autoencoder import FsqAutoencoderConfig
from .modeling_fsq_autoencoder import FsqAutoencoderModel, chunk_matrix, rounded, stored

FILE = "tokenizer.safetensors"
# A code is kept only where float32 on another machine would tell the same: numbers lie so far from the edge between two levels,
# in steps of a level, and scores lead by so much. Float32 was found to differ from float64 by up to 2e-4 of a step.
CODE_MARGIN, SCORE_MARGIN = 3e-4, 1e-3
CHUNK_BATCH = 256
CACHE_SIZE = 11 * 2**14
CHUNKS_OF_WORDS = 16  # as many words are remembered for each chunk: most words are one chunk, and need it no more
SPARE = 32  # a full cache forgets so small a part of itself at once
# What is remembered of a string are its ids as the bytes of 32-bit numbers: half of a tuple's memory, and quick to join.
ID = np.dtype(np.int32)
LONGEST_REMEMBERED, MOST_REMEMBERED = (
    24,
    12 * ID.itemsize,
)  # characters, and bytes of ids: what is longer seldom comes again
SPREADING = -7046029254386353131  # an odd number of 64 random-looking bits


class Cache(dict):
    """Ids of short strings, those that were used last: at most `size`, in the order of their use.

    Args:
        size (`int`).
    """

    def __init__(self, size):
        super().__init__()
        self.size = size

    def __reduce__(self):
        # What a process remembers of its texts is no part of a tokenizer: fingerprints of datasets stay the same.
        return Cache, (self.size,)

    def find(self, strings, make):
        """What is known of strings; the rest is made, all at once, and remembered.

        Args:
            strings (`list[str]`).
            make (callable): from a list of different strings to a list of their values.

        Returns:
            `list`.
        """
        known = {string: self.pop(string, None) for string in dict.fromkeys(strings)}
        if missing := [string for string, value in known.items() if value is None]:
            known.update(zip(missing, make(missing), strict=True))
        found = list(map(known.__getitem__, strings))
        if missing:
            for string in missing:
                if len(string) > LONGEST_REMEMBERED or len(known[string]) > MOST_REMEMBERED:
                    del known[string]
        self.update(known)
        if (excess := len(self) - self.size) > 0:
            # Some more, so that not every call has to. list() of a dict cannot be cut in on by another thread.
            for string in list(self)[: excess + self.size // SPARE]:
                self.pop(string, None)
        return found


class Int8Encoder:
    """An encoder by int8 products, made anew wherever it is unpickled.

    Args:
        encoder ([`CharacterEncoder`]).
    """

    def __init__(self, encoder):
        self.encoder = encoder
        self.quantized = torch.ao.quantization.quantize_dynamic(deepcopy(encoder), {torch.nn.Linear}, dtype=torch.qint8)

    def __reduce__(self):
        return Int8Encoder, (self.encoder,)

    def __call__(self, ids, lengths):
        return self.quantized(ids, lengths)


class Settings:
    """Of torch, for a whole process: who changes them for a while holds the lock."""

    def __init__(self):
        self.lock, self.forked = threading.RLock(), False

    def after_fork(self):
        """In a child a lock that another thread held is never given back."""
        self.lock, self.forked = threading.RLock(), True


SETTINGS = Settings()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SETTINGS.after_fork)


@contextmanager
def plain_float32():
    """Products in float32 on the CPU, whatever the caller has set up: codes and tables must not turn on it."""
    with SETTINGS.lock:
        precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
        threads = torch.get_num_threads()
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
        if SETTINGS.forked:
            torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        try:
            with torch.no_grad(), torch.device("cpu"), torch.autocast("cpu", enabled=False):
                yield
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.set_default_dtype(dtype)
            if SETTINGS.forked:
                torch.set_num_threads(threads)


class AutoEncoderTokenizer(ByteTokenizer):
    """Tokens are codes of an autoencoder of chunks; what no kept code stands for is spelled in several, down to bytes.

    Text is cut into chunks of at most 16 bytes; a chunk whose code is kept and decodes to it exactly is one token, any other
    is split into the fewest tokens; then runs of tokens that one kept code spells, like ` of the`, are joined. Every string
    round-trips. A code is believed only where the table, which the decoder alone makes, agrees: the ids are those that the table
    alone would give, whatever precision the encoder is run in.

    Ids: bytes 0-255, `<pad>` 256, `<bos>` 257, `<eos>` 258, `<sep>` 259, `<mask>` 260, kept codes from 261 on. No file holds
    strings: what an id stands for is derived at load, in float32, from the decoder and the kept codes in `tokenizer.safetensors`.

    Source: the LoopOS design of an autoencoder tokenizer.

    Args:
        autoencoder_file (`str`, *optional*): a `tokenizer.safetensors`; without it the tokens are the bare bytes.
        int8_encoder (`bool`, defaults to `False`): encode chunks by int8 products. The ids are the same, since a code is
            believed only where the table says that it spells the chunk.
        cache_size (`int`, defaults to 180224): words whose ids are remembered, those that were used last; and a sixteenth of that
            of chunks. Ten megabytes of English have some 180,000 different ones.
        join_spans (`bool`, defaults to `True`): join tokens across words. Without, no token reaches over a space, so that the
            tokens of a context do not depend on what follows; lm-eval scores answers so.
        kwargs: as of [`ByteTokenizer`].

    Raises:
        ValueError: for a file whose codes do not decode to what they were kept for.

    Example:

    ```python
    >>> tokenizer = AutoTokenizer.from_pretrained("model_cards/fsq-autoencoder-nano")
    >>> tokenizer.tokenize("the end of the river")
    ['the', ' end', ' of the', ' river']
    ```
    """

    vocab_files_names = {"autoencoder_file": FILE}

    def __init__(
        self,
        autoencoder_file=None,
        int8_encoder=False,
        cache_size=CACHE_SIZE,
        join_spans=True,
        fingerprint=None,
        **kwargs,
    ):
        if cache_size < 1:
            raise ValueError(f"cache_size {cache_size} is too small: accepted is 1 and above")
        self.int8_encoder, self.cache_size, self.join_spans = int8_encoder, cache_size, join_spans
        self.autoencoder, self.kept, self._config = None, np.zeros((0, 1), dtype=np.int32), ""
        if autoencoder_file is not None:
            self._load(autoencoder_file)
        self._derive()
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise ValueError(
                f"{autoencoder_file} has the fingerprint {self.fingerprint}, the tokenizer was saved with {fingerprint}: "
                "load all files from one folder"
            )
        super().__init__(
            int8_encoder=int8_encoder,
            cache_size=cache_size,
            join_spans=join_spans,
            fingerprint=self.fingerprint,
            **kwargs,
        )

    # The autoencoder and its table

    @classmethod
    def from_autoencoder(cls, model, chunks, **kwargs):
        """A tokenizer whose tokens are those of some chunks that the autoencoder owns: each code decodes to its chunk, in
        float32 of weights that are rounded to bfloat16, and is far enough from any other.

        Args:
            model ([`FsqAutoencoderModel`]).
            chunks (`list[bytes]`): of 2 to 16 bytes of UTF-8 each, in the order of their ids.
            kwargs: passed to the tokenizer.

        Returns:
            [`AutoEncoderTokenizer`]; `len(tokenizer.kept)` says how many of the chunks it owns.
        """
        tokenizer = cls(**kwargs)
        tokenizer.autoencoder = rounded(model)
        tokenizer.max_chunk_length = model.config.max_chunk_length
        tokenizer._config = json.dumps(model.config.autoencoder_fields(), sort_keys=True)
        codes, safe = tokenizer._codes(chunks)
        spelled, leads = tokenizer._spell(codes)
        names = {token.content.encode() for token in tokenizer._added_tokens_decoder.values()}
        seen, owned = set(), []
        for i, chunk in enumerate(chunks):
            if (
                spelled[i] == chunk
                and safe[i]
                and leads[i] >= SCORE_MARGIN
                and chunk not in names
                and chunk not in seen
            ):
                seen.add(chunk)
                owned.append(i)
        tokenizer.kept = codes[owned].astype(np.int32)
        tokenizer._derive()
        tokenizer._update_total_vocab_size()
        tokenizer.init_kwargs["fingerprint"] = tokenizer.fingerprint
        return tokenizer

    def _load(self, path):
        with safe_open(path, framework="pt") as file:
            self._config = file.metadata()["config"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        self.kept = tensors.pop("kept").numpy()
        config = FsqAutoencoderConfig(**json.loads(self._config))
        with torch.random.fork_rng(devices=[]), plain_float32():  # the weights that are drawn here are all replaced
            self.autoencoder = FsqAutoencoderModel(config).eval().requires_grad_(False)
        missing = [name for name in stored(self.autoencoder) if name not in tensors]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}: the file is damaged")
        self.autoencoder.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)

    def save_vocabulary(self, save_directory, filename_prefix=None):
        """Write `tokenizer.safetensors`: the autoencoder's weights in bfloat16, its configuration and the kept codes."""
        if self.autoencoder is None:
            return ()
        path = os.path.join(save_directory, (f"{filename_prefix}-" if filename_prefix else "") + FILE)
        save_file(self._tensors(), path, metadata={"config": self._config})
        return (path,)

    def _tensors(self):
        return stored(self.autoencoder) | {"kept": torch.from_numpy(np.ascontiguousarray(self.kept))}

    def _derive(self):
        """Everything that follows from the autoencoder and the kept codes: the table, the fingerprint, and an empty cache."""
        self._table = [bytes([i]) if i < NUM_BYTES else b"" for i in range(self.first_code)]
        self.fingerprint = self._encoder = None
        self.max_chunk_length = MAX_CHUNK_LENGTH  # bytes of the longest chunk
        if self.autoencoder is not None:
            self.max_chunk_length = self.autoencoder.config.max_chunk_length
            if self.int8_encoder:
                self._encoder = Int8Encoder(self.autoencoder.encoder)
            spelled, _ = self._spell(self.kept)
            if any(len(chunk) < 2 for chunk in spelled) or len(set(spelled)) < len(spelled):
                raise ValueError(
                    "kept codes must decode to different chunks of at least two bytes: the file is damaged"
                )
            self._table += spelled
            digest = hashlib.sha256(self._config.encode())
            for name, tensor in sorted(self._tensors().items()):
                digest.update(name.encode())
                digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
            self.fingerprint = digest.hexdigest()[:16]
            keys = self._keys(self.kept)
            self._order = np.argsort(keys)
            self._sorted_keys = keys[self._order]
        self._id_of = {chunk: i for i, chunk in enumerate(self._table) if chunk}
        self._words, self._chunks = Cache(self.cache_size), Cache(-(-self.cache_size // CHUNKS_OF_WORDS))
        spans = {}
        for i, chunk in enumerate(self.strings(), start=self.first_code):
            path = parts_of_chunks(chunk, self._id_of, self.max_chunk_length)
            if len(path) > 1:
                spans[path] = i
        self._spans = SpanTrie(spans, len(self._table)) if spans else None

    @property
    def first_code(self):
        """The id of the first kept code."""
        return super().vocab_size

    def _keys(self, codes):
        """A number of 64 bits for each row of codes; should two rows ever share one, the table tells them apart."""
        key = np.zeros(len(codes), dtype=np.int64)
        for column in codes.T.astype(np.int64):
            key = (key + column) * SPREADING
        return key

    @plain_float32()
    def _codes(self, chunks, encoder=None):
        """Codes of chunks by the encoder, or by another in its place, shape `(n, num_codes)`, and whether each is far enough from
        any other."""
        encoder, quantizer = encoder or self.autoencoder.encoder, self.autoencoder.quantizer
        codes = np.zeros((len(chunks), self.autoencoder.config.num_codes), dtype=np.int32)
        safe = np.zeros(len(chunks), dtype=bool)
        for start in range(0, len(chunks), CHUNK_BATCH):
            batch = slice(start, start + CHUNK_BATCH)
            values = encoder(*chunk_matrix(chunks[batch], self.max_chunk_length))
            codes[batch] = quantizer.indices(values).numpy()
            safe[batch] = (quantizer.margins(values) >= CODE_MARGIN).all(-1).numpy()
        return codes, safe

    @plain_float32()
    def _spell(self, codes):
        """What codes decode to, and by how much the scores lead."""
        spelled, leads = [], np.zeros(len(codes), dtype=np.float32)
        for start in range(0, len(codes), CHUNK_BATCH):
            batch = slice(start, start + CHUNK_BATCH)
            indices = torch.from_numpy(codes[batch].astype(np.int64))
            ids, lengths, lead = self.autoencoder.decode_chunks(self.autoencoder.quantizer.indices_to_codes(indices))
            rows = ids.clamp(max=255).to(torch.uint8).numpy()
            spelled += [row[:length].tobytes() for row, length in zip(rows, lengths.tolist(), strict=True)]
            leads[batch] = lead.numpy()
        return spelled, leads

    def without_spans(self):
        """This tokenizer with `join_spans=False`, sharing its table and what it remembers."""
        apart = copy(self)
        apart.join_spans, apart.init_kwargs = False, self.init_kwargs | {"join_spans": False}
        for name in ("_added_tokens_decoder", "_added_tokens_encoder", "_special_tokens_map", "_extra_special_tokens"):
            setattr(apart, name, copy(getattr(self, name)))  # tokens that are added to one are not the other's
        return apart

    def strings(self):
        """The bytes of every kept code, in the order of the ids, as a `list[bytes]`."""
        return self._table[self.first_code :]

    def token_codes(self):
        """The codes of every token, as a language model takes them on: of the kept ones, and of each byte as a chunk of its own.

        Returns:
            `np.ndarray` of int32 and shape `(len(self), num_codes)`; -1 for special tokens and those that a user added.

        Raises:
            ValueError: where there is no autoencoder.
        """
        if self.autoencoder is None:
            raise ValueError("this tokenizer has no autoencoder, and so no codes: its tokens are the bare bytes")
        of_bytes, _ = self._codes([bytes([i]) for i in range(NUM_BYTES)])
        special = np.full((self.first_code - NUM_BYTES, self.kept.shape[1]), -1)
        added = np.full((len(self) - len(self._table), self.kept.shape[1]), -1)
        return np.concatenate((of_bytes, special, self.kept, added)).astype(np.int32)

    def token_bytes(self):
        """The bytes of every token, as a language model with a decoder reads them.

        Returns:
            `np.ndarray` of int64 and shape `(len(self), max_chunk_length)`; 256 beyond their end.
        """
        rows = np.full((len(self), self.max_chunk_length), NUM_BYTES, dtype=np.int64)
        for row, chunk in zip(rows, self._table, strict=False):
            row[: len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
        return rows

    # Vocabulary

    @property
    def vocab_size(self):
        """Number of ids that no user added: bytes, special tokens and kept codes."""
        return len(self._table)

    def get_vocab(self):
        """All tokens with their ids; a token is written as the characters that its bytes are in Latin-1."""
        named = {chunk.decode("latin-1"): i for i, chunk in enumerate(self._table) if chunk}
        return named | self.added_tokens_encoder

    def _convert_token_to_id(self, token):
        try:
            return self._id_of[token.encode("latin-1")]
        except (UnicodeEncodeError, KeyError):
            raise ValueError(
                f"{token!r} is no token: accepted are bytes as Latin-1 writes them, and {list(self.added_tokens_encoder)}"
            ) from None

    def _convert_id_to_token(self, index):
        if 0 <= index < len(self._table) and self._table[index]:
            return self._table[index].decode("latin-1")
        raise ValueError(f"id {index} is no token: accepted are 0 to {len(self) - 1}")

    # Text to ids

    def chunks(self, text):
        """Cut a text into the chunks that the autoencoder reads, as strings; their join is the text."""
        return chunks_of(text, self.max_chunk_length)

    def encode_chunks(self, chunks):
        """The ids of each chunk: one where its code is kept and decodes to it, else the fewest that spell it.

        Args:
            chunks (`list[str]`): of at most 16 bytes each.

        Returns:
            `list[tuple[int, ...]]`.

        Raises:
            ValueError: for a longer one.
        """
        data = [chunk.encode("utf-8") for chunk in chunks]
        if data and max(map(len, data)) > self.max_chunk_length:
            raise ValueError(f"a chunk of more than {self.max_chunk_length} bytes is none: chunks() cuts text")
        return [
            (i,) if i >= 0 else fewest_parts(chunk, self._id_of, self.max_chunk_length)
            for chunk, i in zip(data, self._owned(data), strict=True)
        ]

    def _owned(self, chunks):
        """The ids of chunks whose codes, by the encoder, are kept and decode to them; -1 for others."""
        if not len(self.kept):
            return [-1] * len(chunks)
        keys = self._keys(self._codes(chunks, self._encoder)[0])
        place = np.minimum(np.searchsorted(self._sorted_keys, keys), len(self._sorted_keys) - 1)
        found = np.where(self._sorted_keys[place] == keys, self._order[place] + self.first_code, -1).tolist()
        # The table has the last word: a code that int8 products or another machine rounded otherwise spells something else.
        return [i if i >= 0 and self._table[i] == chunk else -1 for chunk, i in zip(chunks, found, strict=True)]

    def _encode_words(self, words):
        """What is remembered of the ids of words, each what stands between two spaces; the space before it is implied."""
        rows = [self.chunks(" " + word) for word in words]
        ids = iter(self._chunks.find([chunk for row in rows for chunk in row], self._packed_chunks))
        return [b"".join(islice(ids, len(row))) for row in rows]

    def _packed_chunks(self, chunks):
        """What is remembered of the ids of each chunk."""
        return [array(ID.char, ids).tobytes() for ids in self.encode_chunks(chunks)]

    def _texts_ids(self, texts):
        """The ids of texts, all at once, without special tokens."""
        firsts, words, numbers = [], [], []
        for text in texts:
            text.encode("utf-8")  # a lone surrogate raises here, with its place in the text
            first, *rest = text.split(" ")
            firsts.append(self.chunks(first))
            words += rest
            numbers.append(len(rest))
        begun = iter(self._chunks.find([chunk for row in firsts for chunk in row], self._packed_chunks))
        found, parts = iter(self._words.find(words, self._encode_words)), []
        between = array(ID.char, [len(self._table)]).tobytes()
        for first, number in zip(firsts, numbers, strict=True):
            parts += islice(begun, len(first))
            parts += islice(found, number)
            parts.append(between)
        ids = np.frombuffer(b"".join(parts), dtype=ID).astype(np.int64)
        if self.join_spans and self._spans is not None:
            ids = self._spans.merge(ids)
        ends = np.flatnonzero(ids == len(self._table))
        return np.split(ids, np.stack((ends, ends + 1), axis=1).reshape(-1))[::2][: len(texts)]

    def _text_ids(self, text, pattern):
        if pattern is None:
            return self._texts_ids([text])[0]
        rows = [
            np.array([self._added_tokens_encoder[part]]) if i % 2 else self._text_ids(part, None)
            for i, part in enumerate(pattern.split(text))
        ]
        return np.concatenate(rows).astype(np.int64)

    def _sequences_ids(self, sequences, pattern, is_split_into_words):
        if pattern is None and all(isinstance(sequence, str) for sequence in sequences):
            return self._texts_ids(sequences)
        return super()._sequences_ids(sequences, pattern, is_split_into_words)

    # Ids to text

    def convert_tokens_to_string(self, tokens):
        """Join tokens to a text; bytes that are no UTF-8 become U+FFFD."""
        parts = [t.encode("utf-8" if t in self._added_tokens_encoder else "latin-1") for t in tokens]
        return b"".join(parts).decode("utf-8", errors="replace")

    def _bytes_of(self, ids, left_out):
        table, added = self._table, self._added_tokens_decoder
        return b"".join(
            [
                b"" if i in left_out else added[i].content.encode("utf-8") if i in added else table[i]
                for i in ids.tolist()
            ]
        )
