"""Compression by a byte language model: its probabilities drive an entropy coder, so that a file takes the bits that the model
reports."""

import hashlib
import importlib
import json
import struct
import zlib

import numpy as np
import torch
from tqdm.auto import tqdm

from .byte_tokenizer import NUM_BYTES
from .quantization import StepStatistics

MAGIC = b"TXAE"
# Magic, model, bytes, their check sum, bytes of a stream, streams at once; and the check sum of what comes before it.
HEADER, CHECKED = struct.Struct("<4s8sQIIII"), struct.Struct("<4s8sQIII").size
WORD = np.dtype("<u4")


def coder():
    """The constriction library's queue of range coders and its family of categorical distributions.

    Raises:
        ImportError: where it is not installed.
    """
    try:
        stream = importlib.import_module("constriction").stream
    except ImportError as error:
        raise ImportError(
            "compression needs the constriction library: pip install 'modeling_textae[compress]'"
        ) from error
    return stream.queue, stream.model.Categorical(perfect=False)


# What a configuration says of a file rather than of a model.
OF_THE_FILE = ("transformers_version", "architectures", "auto_map", "dtype", "_name_or_path", "use_cache")


def weights_digest(model):
    """Eight bytes that tell a model's weights, shape and precision from others'; what training keeps beside does not count."""
    told = {name: value for name, value in model.config.to_diff_dict().items() if name not in OF_THE_FILE}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    beside = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, StepStatistics)
        for name, _ in module.named_buffers()
        if name not in module.read_in_use
    }
    for name, value in sorted(model.state_dict().items()):
        if name in beside:
            continue
        digest.update(name.encode() + str(value.dtype).encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()[:8]


def streams_of(size, stream_length):
    """Where each stream of a file begins and ends, shape `(streams, 2)`."""
    starts = np.arange(0, size, stream_length)
    return np.stack((starts, np.minimum(starts + stream_length, size)), 1)


class SteppedBytes:
    """The probabilities of the next byte of several streams at once, a byte of each at a time: what the coder and the decoder
    compute in the very same way, so that rounding cannot part them.

    Args:
        model ([`AbstractinatorForCausalLM`]), streams (`int`).
    """

    def __init__(self, model, streams):
        self.model = model
        start = torch.full((streams, 1), model.config.bos_token_id, device=model.device)
        self.output = model(start, use_cache=True)

    def probabilities(self):
        """Of each stream's next byte, shape `(streams, 256)`."""
        return self.output.logits[:, -1, :NUM_BYTES].double().softmax(-1).cpu().numpy()

    def feed(self, symbols):
        """Go on by a byte of each stream, shape `(streams,)`."""
        ids = torch.from_numpy(symbols.astype(np.int64)).to(self.model.device)[:, None]
        self.output = self.model(ids, past_key_values=self.output.past_key_values)


@torch.no_grad()
def compress(model, data, stream_length=None, batch_size=256):
    """Bytes to fewer bytes.

    The file is cut into streams, each of which begins without context and which are coded side by side. What comes out can be
    read by the same weights in the same precision on the same kind of machine, with as many threads: elsewhere floating-point
    sums may round in another way, which [`decompress`] finds out and refuses.

    Args:
        model ([`AbstractinatorForCausalLM`]): in evaluation mode.
        data (`bytes`), stream_length (`int`, *optional*, by default the configuration's `n_positions`): bytes in a stream;
            batch_size (`int`, defaults to 256): streams side by side.

    Returns:
        `bytes`.

    Raises:
        TypeError: for what is no bytes. ValueError: for a model in training mode, or sizes below 1. ImportError: without the
            constriction library.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"compress takes bytes, not {type(data).__name__}: give text.encode()")
    queue, family = coder()
    check_mode(model)
    stream_length = model.config.n_positions if stream_length is None else stream_length
    if min(stream_length, batch_size) < 1:
        raise ValueError(f"stream_length {stream_length} and batch_size {batch_size} must both be 1 or above")
    encoder, source = queue.RangeEncoder(), np.frombuffer(data, dtype=np.uint8)
    for streams, places in batched(streams_of(len(data), stream_length), batch_size, "compressing"):
        stepped = SteppedBytes(model, len(streams))
        for place, real in places:
            symbols = source[np.minimum(streams[:, 0] + place, len(source) - 1)]
            encoder.encode(symbols[real].astype(np.int32), family, stepped.probabilities()[real])
            stepped.feed(np.where(real, symbols, 0))
    words = encoder.get_compressed().astype(WORD)
    fields = MAGIC, weights_digest(model), len(data), zlib.crc32(data), stream_length, batch_size
    return HEADER.pack(*fields, zlib.crc32(HEADER.pack(*fields, 0)[:CHECKED])) + words.tobytes()


@torch.no_grad()
def decompress(model, packed):
    """What [`compress`] was given.

    Args:
        model ([`AbstractinatorForCausalLM`]): the one that compressed, in evaluation mode; packed (`bytes`).

    Returns:
        `bytes`.

    Raises:
        ValueError: for what is no such file, was made by other weights, or does not come out as it went in.
    """
    queue, family = coder()
    check_mode(model)
    if len(packed) < HEADER.size or packed[:4] != MAGIC:
        raise ValueError("this is no file that compress() made: it does not begin with its mark")
    _, digest, size, check_sum, stream_length, batch_size, of_header = HEADER.unpack(packed[: HEADER.size])
    if zlib.crc32(packed[:CHECKED]) != of_header:
        raise ValueError("this file was changed: its header does not add up")
    if digest != weights_digest(model):
        raise ValueError(
            "this file was compressed with other weights, or in another precision: load those that made it"
        )
    body = packed[HEADER.size :]
    if len(body) % WORD.itemsize:
        raise ValueError("this file was cut short or changed")
    decoder = queue.RangeDecoder(np.frombuffer(body, dtype=WORD).astype(np.uint32))
    found = np.zeros(size, dtype=np.uint8)
    for streams, places in batched(streams_of(size, stream_length), batch_size, "decompressing"):
        stepped = SteppedBytes(model, len(streams))
        for place, real in places:
            symbols = np.zeros(len(streams), dtype=np.int64)
            symbols[real] = decoder.decode(family, stepped.probabilities()[real])
            found[streams[real, 0] + place] = symbols[real]
            stepped.feed(symbols)
    data = found.tobytes()
    if zlib.crc32(data) != check_sum:
        raise ValueError("the file did not come out as it went in: it was changed, or this machine rounds otherwise")
    return data


def check_mode(model):
    """Refuse a model in training mode, whose probabilities may be drawn."""
    if model.training:
        raise ValueError("a model in training mode compresses nothing: call eval() first")


def batched(streams, size, description):
    """Yield some streams after the other, and what [`places_of`] yields of them, with a progress bar of bytes."""
    total = int((streams[:, 1] - streams[:, 0]).sum())
    with tqdm(total=total, desc=description, unit="B", unit_scale=True, leave=False) as bar:
        for start in range(0, len(streams), size):
            part = streams[start : start + size]
            yield part, places_of(part, bar)


def places_of(streams, bar):
    """Yield each place of the longest stream, and which of the streams have it, shape `(streams,)`; tell the bar."""
    lengths = streams[:, 1] - streams[:, 0]
    for place in range(int(lengths.max(initial=0))):
        real = place < lengths
        yield place, real
        bar.update(int(real.sum()))
