"""What generation with the Abstractinator keeps of every level, row by row: rows of a batch move on at their own pace, since
each ends its segments where its own text says.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.cache_utils import Cache


@dataclass
class Rows:
    """Tensors whose first dimension is the batch, of which some rows can be taken out and put back."""

    def select(self, rows):
        """A copy of some rows, shape `(n,)`."""
        parts = {}
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                parts[name] = value[rows]
            elif isinstance(value, list):
                parts[name] = [part.select(rows) for part in value]
        return type(self)(**parts)

    def put(self, rows, other):
        """Write rows that were taken out back to their places, or `other`'s in order."""
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                value[rows] = getattr(other, name)
            elif isinstance(value, list):
                for mine, theirs in zip(value, getattr(other, name), strict=True):
                    mine.put(rows, theirs)


@dataclass
class LayerRows(Rows):
    """Keys and values of the last places of a local layer, each of shape `(batch, heads, window - 1, head_dim)`, newest last."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass
class LevelRows(Rows):
    """Where a level stands in each row.

    Attributes:
        seen (`(batch,)`): symbols read so far, the start included.
        compressor, expander: of each layer.
        held (`(batch, max_segment_length, size)`): the trunk's last states, newest last.
        held_count (`(batch,)`): how many of these are of the segment that has not ended yet.
        before (`(batch,)`): the last entropy.
        condition (`(batch, size)`): what the expander is told from above.
        recent (`(batch, n)`): the last ids, of the first level, -1 before the first.
        place: of [`LocalTrunk.place`], the same for compressor and expander, from the one's step to the other's.
    """

    seen: torch.Tensor
    compressor: list[LayerRows]
    expander: list[LayerRows]
    held: torch.Tensor
    held_count: torch.Tensor
    before: torch.Tensor
    condition: torch.Tensor
    recent: torch.Tensor
    place: tuple | None = None


@dataclass
class TopRows(Rows):
    """Keys and values of the transformer over the top, `(batch, heads, room, head_dim)`, of which `seen` count, `(batch,)`."""

    seen: torch.Tensor
    layers: list[LayerRows]

    def make_room(self):
        """Double the room where the longest row has filled it."""
        room = self.layers[0].keys.shape[2]
        if int(self.seen.max()) >= room:
            for layer in self.layers:
                layer.keys = nn.functional.pad(layer.keys, (0, 0, 0, max(room, 16)))
                layer.values = nn.functional.pad(layer.values, (0, 0, 0, max(room, 16)))


class TopCache(Cache):
    """Some rows of the transformer's cache as transformers' attention writes and reads them: each row's new place is its own.

    Args:
        rows ([`TopRows`]): with room for one more place.
        where (`torch.LongTensor` of shape `(n,)`): the rows that are run, rising.
    """

    def __init__(self, rows, where):
        super().__init__(layers=[])
        self.rows, self.where, self.seen = rows, where, rows.seen[where]
        self.length = int(self.seen.max()) + 1

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Write one place of each row; return all keys and values of these rows."""
        layer, found = self.rows.layers[layer_idx], []
        for kept, new in ((layer.keys, key_states), (layer.values, value_states)):
            kept[self.where, :, self.seen] = new[:, :, 0].to(kept.dtype)
            mine = kept if len(self.where) == len(kept) else kept[self.where]
            found.append(mine[:, :, : self.length])
        return tuple(found)

    def get_seq_length(self, layer_idx=0):
        """Places that are taken, at most."""
        return self.length - 1


class HierarchicalCache(Cache):
    """What generation keeps of all levels: windows of keys and values, segments that have not ended, what each expander is
    told, and the keys and values of the transformer over the top.

    Args:
        levels (`list[LevelRows]`): the bytes' first; top ([`TopRows`]).
        read (`int`): columns of `input_ids`, padding included, that it has read.
    """

    def __init__(self, levels, top, read):
        super().__init__(layers=[])
        self.levels, self.top, self.read = levels, top, read

    @property
    def is_croppable(self):
        """No: segments that have ended are not kept."""
        return False

    def crop(self, *args, **kwargs):
        """Raises `TypeError`: what was read cannot be taken back."""
        raise TypeError("a HierarchicalCache cannot be cropped: segments that have ended are not kept")

    def reset(self):
        """Raises `TypeError`, as [`crop`]."""
        raise TypeError("a HierarchicalCache cannot be reset: leave past_key_values out to begin anew")

    def get_seq_length(self, layer_idx=0):
        """Tokens of the longest row, the start included."""
        return int(self.levels[0].seen.max())

    def reorder_cache(self, beam_idx):
        """Take rows in another order, as beam search does."""
        self.levels = [level.select(beam_idx) for level in self.levels]
        self.top = self.top.select(beam_idx)

    def batch_repeat_interleave(self, repeats):
        """Repeat each row."""
        self.reorder_cache(torch.arange(len(self.top.seen), device=self.top.seen.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices):
        """Keep some rows."""
        self.reorder_cache(indices)
