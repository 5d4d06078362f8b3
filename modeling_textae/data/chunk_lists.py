"""Which strings are worth a token: chunks of a corpus, the pieces that rarer ones split into, and spans of several chunks."""

from collections import Counter, defaultdict
from itertools import chain

import numpy as np
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..models.byte_tokenizer import NUM_BYTES, SPECIAL_TOKENS
from ..models.chunks import MAX_CHUNK_LENGTH, SpanTrie, chunks_of, fewest_parts, parts_of_chunks, segments_of

ROUND_SHARE = 0.25  # of the candidates, at most so many are dropped before uses are counted anew


def count_chunks(texts, longest=MAX_CHUNK_LENGTH):
    """How often each chunk occurs, and the texts as the chunks' numbers.

    Args:
        texts: an iterable of texts.
        longest (`int`, defaults to 16): bytes of a chunk.

    Returns:
        `tuple[list[bytes], np.ndarray, np.ndarray]`: the chunks in the order in which they first occur; how often each does; and
        all texts as numbers of chunks, with -1 behind each text.
    """
    number_of, rows, known = defaultdict(), [], {}
    number_of.default_factory = number_of.__len__
    for text in texts:
        row = []
        for segment in segments_of(text):
            numbers = known.get(segment)
            if numbers is None:
                known[segment] = numbers = [number_of[chunk] for chunk in chunks_of(segment, longest)]
            row += numbers
        rows.append(np.array([*row, -1], dtype=np.int64))
    stream = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    counts = np.bincount(stream[stream >= 0], minlength=len(number_of))
    return [chunk.encode("utf-8") for chunk in number_of], counts, stream


def pieces_of(chunks, counts, number, longest=MAX_CHUNK_LENGTH):
    """The commonest parts of chunks, of whole characters and at least two bytes, whole chunks among them.

    Args:
        chunks (`list[bytes]`), counts (`np.ndarray`): as of [`count_chunks`].
        number (`int`): how many.
        longest (`int`, defaults to 16): bytes of a part.

    Returns:
        `list[bytes]`, by what they would save: how often they occur, times their bytes less one.
    """
    found = Counter()
    for chunk, count in zip(chunks, counts.tolist(), strict=True):
        # A part that only one rare chunk has is never worth a token.
        if count < 2:
            continue
        starts = [i for i, byte in enumerate(chunk) if byte & 0xC0 != 0x80] + [len(chunk)]
        for i, start in enumerate(starts):
            for end in starts[i + 1 :]:
                if 2 <= end - start <= longest:
                    found[chunk[start:end]] += count
    order = sorted(found, key=lambda part: (-found[part] * (len(part) - 1), part))
    return order[:number]


def spans_of(chunks, stream, least, longest=MAX_CHUNK_LENGTH):
    """Consecutive chunks of at most `longest` bytes together that occur at least `least` times.

    Args:
        chunks (`list[bytes]`), stream (`np.ndarray`): as of [`count_chunks`].
        least (`int`), longest (`int`, defaults to 16).

    Returns:
        `dict[bytes, int]`: how often each occurs.
    """
    lengths = np.array([len(chunk) for chunk in chunks] + [longest + 1])  # the last is that of -1
    at = np.arange(len(stream))
    size, prefix, spelled = lengths[stream], stream, [chunks[i] if i >= 0 else b"" for i in range(len(chunks))]
    found, depth = {}, 1
    while True:
        more = at + depth < len(stream)
        at, size, prefix = at[more], size[more], prefix[more]
        following = stream[at + depth]
        size = size + lengths[following]
        fits = size <= longest
        at, size, prefix, following = at[fits], size[fits], prefix[fits], following[fits]
        keys, inverse, counts = np.unique(prefix * len(chunks) + following, return_inverse=True, return_counts=True)
        common = counts >= least
        if not common.any():
            return found
        strings = [spelled[key // len(chunks)] + chunks[key % len(chunks)] for key in keys[common].tolist()]
        for string, count in zip(strings, counts[common].tolist(), strict=True):
            found[string] = found.get(string, 0) + count
        kept = common[inverse]
        at, size, prefix = at[kept], size[kept], (np.cumsum(common) - 1)[inverse[kept]]
        spelled, depth = strings, depth + 1


def token_uses(tokens, chunks, counts, stream, longest=MAX_CHUNK_LENGTH):
    """How often each token is used where every chunk is split into the fewest, and spans of chunks merged.

    Args:
        tokens (`list[bytes]`): of at least two bytes; the single bytes go without saying.
        chunks, counts, stream: as of [`count_chunks`].
        longest (`int`, defaults to 16).

    Returns:
        `tuple[np.ndarray, np.ndarray]`: of the 256 bytes and each token, how often it is used, and how many more tokens each use
        would take without it.
    """
    id_of = {bytes([i]): i for i in range(NUM_BYTES)} | {token: NUM_BYTES + i for i, token in enumerate(tokens)}
    size = len(id_of)
    parts = [fewest_parts(chunk, id_of, longest) for chunk in chunks]
    spans, without = {}, np.zeros(size, dtype=np.int64)
    for number, token in enumerate(tokens, start=NUM_BYTES):
        path = parts_of_chunks(token, id_of, longest)
        if len(path) > 1:
            spans[path] = number
            without[number] = len(path) - 1
        else:
            del id_of[token]
            without[number] = len(fewest_parts(token, id_of, longest)) - 1
            id_of[token] = number
    flat = np.fromiter(chain.from_iterable(parts), dtype=np.int64)
    lengths = np.array([len(part) for part in parts])
    offsets = np.cumsum(lengths) - lengths
    trie, uses = SpanTrie(spans, size), np.zeros(size + 1, dtype=np.int64)
    for block in np.array_split(stream, max(len(stream) // 1_000_000, 1)):
        repeats = np.where(block >= 0, lengths[block], 1)
        place = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        number = np.repeat(block, repeats)
        ids = np.where(number >= 0, flat[offsets[number] + place], size)
        uses += np.bincount(trie.merge(ids), minlength=size + 1)
    return uses[:size], without


def token_list(texts, size, num_pieces=None, least_span=None, longest=MAX_CHUNK_LENGTH):
    """The strings whose tokens save the most: chunks, pieces of chunks, and spans of chunks.

    Begins with too many and drops those that save the least, as Kudo 2018, "Subword regularization", section 3.2, prunes a
    vocabulary; uses are counted anew each time, over chunks and over the parts that splitting yields.

    Args:
        texts: an iterable of texts.
        size (`int`): strings at most.
        num_pieces (`int`, *optional*): candidates to begin with; by default three for each string.
        least_span (`int`, *optional*): occurrences of a span that make it a candidate; by default one in a million chunks, at
            least 5; 0 for no spans.
        longest (`int`, defaults to 16): bytes of a string.

    Returns:
        `tuple[list[bytes], tuple]`: the strings, the most used first, and what [`count_chunks`] gives.
    """
    counted = chunks, counts, stream = count_chunks(texts, longest)
    least_span = max(5, len(stream) // 1_000_000) if least_span is None else least_span
    spans = spans_of(chunks, stream, least_span, longest) if least_span else {}
    special = {name.encode() for name in SPECIAL_TOKENS.values()}
    tokens = [
        t
        for t in dict.fromkeys(chain(pieces_of(chunks, counts, num_pieces or 3 * size, longest), spans))
        if t not in special
    ]
    return pruned(tokens, counted, size, longest), counted


def pruned(tokens, counted, size, longest=MAX_CHUNK_LENGTH):
    """The strings that are left when those whose tokens save the least are dropped, until no more than wanted are there and
    all of them are used.

    Args:
        tokens (`list[bytes]`): candidates.
        counted (`tuple`): what [`count_chunks`] gives.
        size (`int`): strings at most.
        longest (`int`, defaults to 16): bytes of a string.

    Returns:
        `list[bytes]`, the most used first.
    """
    with tqdm(total=max(len(tokens) - size, 0), desc="choosing tokens", unit="token", leave=False) as bar:
        while True:
            uses, without = token_uses(tokens, *counted, longest)
            saved = (uses * without)[NUM_BYTES:]
            order = np.argsort(-saved, kind="stable")[: max(size, int(len(tokens) * (1 - ROUND_SHARE)))]
            order = order[saved[order] > 0]
            if len(order) == len(tokens):
                return [tokens[i] for i in np.argsort(-uses[NUM_BYTES:], kind="stable").tolist()]
            bar.update(min(len(tokens) - len(order), bar.total - bar.n))
            tokens = [tokens[i] for i in order.tolist()]


class ChunkDraws(Dataset):
    """Chunks to train an autoencoder on: some drawn evenly from a list of tokens, the rest from a corpus, by their frequency.

    Args:
        counted (`tuple`): what [`count_chunks`] gives.
        tokens (`list[bytes]`): the list; may be empty.
        list_share (`float`): share of the draws that are the list's.
        temper (`float`, defaults to 1): power of the frequencies: 1 as in the corpus, 0 evenly.
        size (`int`, defaults to 2 ** 21): draws of an epoch; the next draws anew.
        seed (`int`, defaults to 0): of the draws.

    Raises:
        ValueError: for a share of a list that is empty, or of what is no share.
    """

    def __init__(self, counted, tokens, list_share, temper=1.0, size=2**21, seed=0):
        if not 0 <= list_share <= 1 or (list_share and not tokens):
            raise ValueError(f"a share of {list_share} cannot be drawn from a list of {len(tokens)} tokens")
        chunks, counts, _ = counted
        if list_share < 1 and not len(counts):
            raise ValueError("the corpus has no chunk to draw")
        self.counted, self.tokens = counted, tokens
        self.strings = [chunk.decode("utf-8") for chunk in chain(tokens, chunks)]
        self.size, self.listed, self.seed = size, round(size * list_share), seed
        weights = counts.astype(np.float64) ** temper
        self.cumulated = np.cumsum(weights / weights.sum())
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Draw for an epoch, from 0: by the seed and its number alone."""
        generator = np.random.default_rng((self.seed, epoch))
        draws = [np.resize(generator.permutation(len(self.tokens)), self.listed)] if self.listed else []
        if self.size > self.listed:
            found = np.searchsorted(self.cumulated, generator.random(self.size - self.listed), side="right")
            draws.append(np.minimum(found, len(self.cumulated) - 1) + len(self.tokens))
        self.draws = np.concatenate(draws).astype(np.int32)

    def __len__(self):
        return len(self.draws)

    def __getitem__(self, index):
        return {"text": self.strings[self.draws[index]]}
