"""Where in its noisy source a decoder is that restores it."""

import numpy as np
import torch

from .byte_tokenizer import NUM_BYTES


class SourceFollower:
    """Follows what is written through its noisy source.

    The place of a beginning of a text is how much of the source it resembles most: by the fewest edits of single bytes, of equals
    the longest. It depends on what is written alone and not on what will be. What special ids, padding among them, are written
    moves nothing. Remembers the last ids that it was called with, and goes on from there where it can.

    Source: Wagner and Fischer 1974, "The string-to-string correction problem", of which one row is kept.

    Args:
        source_ids (`torch.LongTensor` of shape `(batch, n)`): -1 behind each text's last.
    """

    def __init__(self, source_ids):
        self.source_ids, self.source = source_ids, source_ids.cpu().numpy()
        self.beyond = np.pad(self.source < 0, ((0, 0), (1, 0)))
        self.restart()

    def restart(self):
        """Go back to where nothing is written."""
        # Edits from what is written to each beginning of the source.
        self.edits = np.tile(np.arange(self.source.shape[1] + 1), (len(self.source), 1))
        self.written, self.found = np.empty((len(self.source), 0), dtype=np.int64), []

    @torch.compiler.disable
    def __call__(self, ids):
        """The place after each id.

        Args:
            ids (`torch.LongTensor` of shape `(batch, length)`): all that is written.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`, each from 0 to `n`.
        """
        written = ids.cpu().numpy()
        known = self.written.shape[1]
        if not np.array_equal(self.written, written[:, :known]):
            self.restart()
        for column in written[:, self.written.shape[1] :].T:
            self.found.append(self.step(column))
        self.written = written
        return torch.from_numpy(np.stack(self.found, 1)).to(ids.device)

    def step(self, ids):
        """Write an id of each text, shape `(batch,)`; returns the places after them, of the same shape."""
        places = np.arange(self.edits.shape[1])
        edits = self.edits + 1
        edits[:, 1:] = np.minimum(edits[:, 1:], self.edits[:, :-1] + (self.source != ids[:, None]))
        edits = np.minimum.accumulate(edits - places, axis=1) + places
        self.edits = np.where((ids < NUM_BYTES)[:, None], edits, self.edits)
        possible = np.where(self.beyond, np.iinfo(np.int64).max, self.edits)
        return places[-1] - possible[:, ::-1].argmin(1)
