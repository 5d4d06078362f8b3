"""A text's words as a bag of their letters' runs, told in a fixed number of numbers."""

from functools import cache

import numpy as np
import torch
from torch import nn

from .byte_tokenizer import NUM_BYTES
from .denoising import listed
from .ngrams import NgramHashes

SIZES = [2, 3]  # letters of a run
RUN_BUCKETS = 2**14
WORD_BUCKETS = 2**16
PRIME = 2**31 - 1
SPACE = ord(" ")

# Small letters for capitals of ASCII, and one space for all white space.
FOLDED = np.arange(NUM_BYTES)
FOLDED[ord("A") : ord("Z") + 1] += ord("a") - ord("A")
FOLDED[np.frombuffer(b"\t\n\v\f\r", dtype=np.uint8)] = SPACE


@cache
def signs(size, device):
    """Random signs of each run, shape `(RUN_BUCKETS, size)`: bits of a generator whose stream never changes."""
    words = np.random.PCG64(0).random_raw(RUN_BUCKETS * size // 64 + 1)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[: RUN_BUCKETS * size]
    return torch.from_numpy(bits.reshape(RUN_BUCKETS, size).astype(np.float32) * 2 - 1).to(device)


@cache
def powers_of(number):
    """The first `2**number` powers of a number modulo `PRIME`, shape `(2**number,)`."""
    found = np.ones(1, dtype=np.int64)
    for i in range(number):
        found = np.concatenate((found, found * pow(1_000_003, 2**i, PRIME) % PRIME))
    return found


class TextSketch(nn.Module):
    """The sum of a text's words, each a unit vector of its own times how rare it is.

    A word stands between white spaces of ASCII. Its vector is the sum of random signs for each of its runs of two and three
    bytes, its borders included, so that words which share runs are alike; capitals of ASCII are as small letters. Cosines of
    sketches come as near to those of the counts of runs as their size allows. Nothing is learned but the words' rarity, by
    [`fit`].

    Source: Achlioptas 2003, "Database-friendly random projections"; Spärck Jones 1972, "A statistical interpretation of term
    specificity", for rarity.

    Args:
        size (`int`): numbers of a sketch.

    Example:

    ```python
    >>> sketch = TextSketch(576)
    >>> sketch.fit(["the old river", "the town"])
    >>> sketch(torch.tensor([[*b"an old river"]])).shape
    torch.Size([1, 576])
    ```
    """

    def __init__(self, size):
        super().__init__()
        self.size, self.hashes = size, NgramHashes(SIZES, RUN_BUCKETS)
        self.register_buffer("rarity", torch.ones(WORD_BUCKETS))

    def words_of(self, ids):
        """The words of texts.

        Args:
            ids (`torch.LongTensor` of shape `(batch, length)`): those of special tokens, and -1, are white space.

        Returns:
            `tuple`: the texts' small letters with a space before and two behind, so that the longest run has a place, shape
            `(batch, length + 3)`; of each its word, counted over the whole batch, -1 for white space, of the same shape; and of
            each word its text and its bucket, both of shape `(words,)`.
        """
        folded, is_byte = torch.from_numpy(FOLDED).to(ids.device), (ids >= 0) & (ids < NUM_BYTES)
        letters = torch.where(is_byte, folded[ids.clamp(0, NUM_BYTES - 1)], SPACE)
        letters = nn.functional.pad(letters, (1, max(SIZES) - 1), value=SPACE)
        inside = letters != SPACE
        begins = inside.clone()
        begins[:, 1:] &= ~inside[:, :-1]
        word = torch.where(inside, begins.flatten().cumsum(0).view(begins.shape) - 1, -1)
        # A word's number is a polynomial of its bytes modulo a prime.
        own, everywhere = word[inside], torch.arange(letters.numel(), device=ids.device).view(letters.shape)
        powers = torch.from_numpy(powers_of(letters.shape[1].bit_length())).to(ids.device)
        terms = letters[inside] * powers[everywhere[inside] - everywhere[begins][own]] % PRIME
        text = begins.nonzero()[:, 0]
        return letters, word, text, torch.zeros_like(text).index_add(0, own, terms) % PRIME % WORD_BUCKETS

    def forward(self, ids):
        """Sketch texts.

        Args:
            ids (`torch.LongTensor` of shape `(batch, length)`): as of [`words_of`].

        Returns:
            `torch.FloatTensor` of shape `(batch, size)`, zeros for a text without words.
        """
        letters, word, text, bucket = self.words_of(ids)
        runs, known = self.hashes(letters), signs(self.size, ids.device)
        vectors = known.new_zeros(len(text), self.size)
        for i, size in enumerate(SIZES):
            # White space is at a run's ends at most, and never all of it.
            parts = word.unfold(1, size, 1)
            own = parts.amax(-1)
            kept = (own >= 0) & (parts[..., 1:-1] >= 0).all(-1)
            vectors = vectors.index_add(0, own[kept], known[runs[:, size - 1 :, i][kept]])
        vectors = nn.functional.normalize(vectors, dim=-1) * self.rarity[bucket].float()[:, None]
        return vectors.new_zeros(len(ids), self.size).index_add(0, text, vectors)

    @torch.no_grad()
    def fit(self, texts, batch_size=256):
        """Learn how rare words are: the logarithm of how few texts have one of its bucket, and 1.

        Args:
            texts (`list[str]`), batch_size (`int`, defaults to 256): texts at once.

        Raises:
            ValueError: for a text alone, or none.
        """
        texts, counts = listed(texts), torch.zeros(WORD_BUCKETS)
        if not texts:
            raise ValueError("without texts nothing is rare: give one at least")
        for start in range(0, len(texts), batch_size):
            rows = [[*text.encode("utf-8")] for text in texts[start : start + batch_size]]
            ids = torch.tensor([row + [-1] * (max(map(len, rows)) - len(row)) for row in rows], dtype=torch.long)
            _, _, text, bucket = self.words_of(ids)
            counts += torch.stack((text, bucket), 1).unique(dim=0)[:, 1].bincount(minlength=WORD_BUCKETS)
        self.rarity.copy_(torch.log((len(texts) + 1) / (counts + 1)) + 1)
