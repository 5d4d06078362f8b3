"""Models by counts: of tokens, what a masked language model has to beat; of bytes, a judge of what language models write."""

import numpy as np

DISCOUNT = 0.75


class TokenCounts:
    """Counts of tokens and of pairs, and the probabilities that follow from them.

    A token after another has its discounted count, and what the discount frees goes to the token's overall probability. Source:
    Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling", absolute discounting, with 0.75.

    Args:
        texts (iterable of `np.ndarray` of int): the ids of each training text.
        vocab_size (`int`).
    """

    def __init__(self, texts, vocab_size):
        unigrams, pairs = np.zeros(vocab_size), []
        for ids in texts:
            ids = np.asarray(ids, dtype=np.int64)
            unigrams += np.bincount(ids, minlength=vocab_size)
            pairs.append(ids[:-1] * vocab_size + ids[1:])
        pairs, counts = np.unique(np.concatenate(pairs), return_counts=True)
        self.vocab_size = vocab_size
        self.unigram = (unigrams + 1) / (unigrams + 1).sum()
        first, second = np.divmod(pairs, vocab_size)
        self.followers = self._rows(first, second, counts)
        self.leaders = self._rows(second, first, counts)

    def _rows(self, given, other, counts):
        """Counts of the other token for each given one: where each row starts, the tokens, their counts."""
        order = np.argsort(given, kind="stable")
        starts = np.searchsorted(given[order], np.arange(self.vocab_size + 1))
        return starts, other[order], counts[order]

    def _conditional(self, rows, given):
        """Probabilities of every token beside the given ones, shape `(n, vocab_size)`; a given -1 tells nothing."""
        starts, tokens, counts = rows
        result = np.empty((len(given), self.vocab_size))
        for row, token in zip(result, given, strict=True):
            row[:] = self.unigram
            if token >= 0 and starts[token + 1] > starts[token]:
                seen = slice(starts[token], starts[token + 1])
                total = counts[seen].sum()
                row *= DISCOUNT * len(counts[seen]) / total
                row[tokens[seen]] += (counts[seen] - DISCOUNT) / total
        return result

    def after(self, left):
        """Probabilities of every token after each of the tokens on the left.

        Args:
            left (`np.ndarray` of int, shape `(n,)`): -1 where it is unknown.

        Returns:
            `np.ndarray` of shape `(n, vocab_size)`.
        """
        return self._conditional(self.followers, left)

    def between(self, left, right):
        """Probabilities of every token between two: the product of both sides' over the token's own, normalised.

        That is exact where the neighbours are independent of each other given the token.

        Args:
            left, right (`np.ndarray` of int, shape `(n,)`): -1 where it is unknown.

        Returns:
            `np.ndarray` of shape `(n, vocab_size)`.
        """
        product = self.after(left) * self._conditional(self.leaders, right) / self.unigram
        return product / product.sum(1, keepdims=True)


class ByteNgrams:
    """A language model of bytes by counts: each context of up to `order - 1` bytes shares its mass with the next shorter one by
    how many different bytes have followed it.

    Source: Witten and Bell 1991, "The zero-frequency problem", method C, interpolated.

    Args:
        texts (`list[bytes]`): what is counted.
        order (`int`, defaults to 6): of the longest runs, up to 6.

    Raises:
        ValueError: for another order.
    """

    SYMBOL_BITS = 9  # a byte, or the place before a text

    def __init__(self, texts, order=6):
        if not 1 <= order <= 6:
            raise ValueError(f"order {order} is none: accepted are 1 to 6")
        self.order, self.tables = order, []
        runs, real = self.runs(texts)
        for length in range(1, order + 1):
            keys, counts = np.unique(self.last(runs, length)[real], return_counts=True)
            contexts, first = np.unique(keys >> self.SYMBOL_BITS, return_index=True)
            kinds = np.diff(first, append=len(keys))
            totals = np.add.reduceat(counts, first) if len(first) else counts
            self.tables.append((keys, counts, contexts, totals, kinds))

    def runs(self, texts):
        """The number of each run of `order` symbols, one for each place of all texts, and which places are bytes."""
        symbols = [np.frombuffer(text, dtype=np.uint8).astype(np.int64) + 1 for text in texts]
        pad = np.zeros(self.order - 1, dtype=np.int64)
        flat = np.concatenate([part for text in symbols for part in (pad, text)] or [pad])
        runs = flat.copy()
        for back in range(1, self.order):
            runs[back:] += flat[:-back] << (self.SYMBOL_BITS * back)
        return runs, flat > 0

    def last(self, runs, length):
        """The runs' last symbols."""
        return runs & ((1 << (self.SYMBOL_BITS * length)) - 1)

    def bits(self, texts):
        """Bits of texts, a `list[bytes]`, in all; the end of a text is not asked for."""
        runs, real = self.runs(texts)
        runs, shares = runs[real], np.full(int(real.sum()), 1 / 256)
        for length, (keys, counts, contexts, totals, kinds) in enumerate(self.tables, 1):
            wanted = self.last(runs, length)
            count, place = looked_up(keys, counts, wanted)
            total, place = looked_up(contexts, totals, wanted >> self.SYMBOL_BITS)
            kind = np.where(total > 0, kinds[place], 0) if len(kinds) else total
            known = total > 0
            shares = np.where(known, (count + kind * shares) / np.maximum(total + kind, 1), shares)
        return float(-np.log2(shares).sum())


def looked_up(keys, values, wanted):
    """The values of wanted keys out of rising ones, 0 where there is none, and where each key stands or would."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.int64)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0), place
