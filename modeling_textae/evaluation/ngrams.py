"""Unigram and bigram models of tokens: what a masked language model has to beat."""

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
