"""Rows of an embedding table for runs of bytes, by hashing."""

import numpy as np
import torch

from .attention import can_be_read


class NgramHashes:
    """Hashes of the runs of ids that end at each place, in one table for runs of all lengths.

    Source: Pagnoni et al. 2024, "Byte latent transformer", section 3.2.1. Deviation: one table for all lengths, narrower than the
    model.

    Args:
        sizes (`list[int]`): lengths of the runs; buckets (`int`): rows of the table.
    """

    PRIME = 1_000_003

    def __init__(self, sizes, buckets):
        self.sizes, self.buckets = list(sizes), buckets
        powers = [pow(self.PRIME, back, 2**40) for back in range(max(self.sizes) + 1)]
        self.powers = np.array(powers[:-1])
        self.ends = np.array([size - 1 for size in self.sizes])
        self.of_size = np.array([size * powers[size] for size in self.sizes])

    @property
    def recent(self):
        """How many ids before one its longest run has."""
        return max(self.sizes) - 1

    def __call__(self, ids, recent=None):
        """The row of each run.

        Args:
            ids (`torch.LongTensor` of shape `(batch, length)`): -1 where there is none.
            recent (`torch.LongTensor` of shape `(batch, recent)`, *optional*): what came before them; by default nothing.

        Returns:
            `torch.LongTensor` of shape `(batch, length, sizes)`.
        """
        if recent is None:
            recent = ids.new_full((len(ids), self.recent), -1)
        runs = (torch.cat((recent, ids), 1) + 2).unfold(1, max(self.sizes), 1).flip(2)
        parts = self.powers, self.ends, self.of_size
        if can_be_read(ids):  # small arrays are numpy's strength
            return torch.from_numpy(self.rows_of(runs.numpy(), *parts))
        return self.rows_of(runs, *(torch.from_numpy(part).to(ids.device) for part in parts))

    def rows_of(self, runs, powers, ends, of_size):
        """The rows of the runs of all sizes that end at each place: arrays of either library.

        Args:
            runs (shape `(batch, length, longest)`): ids and 2, the newest first; powers (shape `(longest,)`), ends and of_size
                (shape `(sizes,)`).

        Returns:
            Numbers of rows, shape `(batch, length, sizes)`.
        """
        # The number of a run is a polynomial of its ids modulo 2^40: a sum that longer runs go on with.
        numbers = ((runs * powers).cumsum(axis=2)[..., ends] + of_size) % 2**40
        return (numbers ^ (numbers >> 17)) % self.buckets
