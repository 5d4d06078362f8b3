"""The layers of the Abstractinator and the stack of its levels: trunks in windows, segments to vectors and codes, and back down.

Source: the Abstractinator, a hierarchical autoencoder language model; deviations are said in modeling_abstractinator.py.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention import (
    apply_rotary,
    attention_implementation,
    blocked_window_attention,
    can_be_read,
    eager_attention_forward,
    rotary_rows,
    rotary_table,
)
from .byte_tokenizer import NUM_BYTES
from .configuration_abstractinator import ENTROPY_RULES
from .hierarchical_cache import LayerRows, LevelRows
from .linear import FusedLinear
from .ngrams import NgramHashes
from .pooling import LearnedQueryPooling
from .quantization import VectorQuantizer
from .segmentation import SegmentLimit, bounded_cuts, cut_scores, entropies, is_white_space

NUM_SYMBOLS = NUM_BYTES + 1  # the bytes and the end of a text, all that is ever predicted


class SlidingWindowAttention(nn.Module):
    """Causal attention of each place to itself and the places just before it, a window in all; computed in blocks, each of
    which sees itself and the one before.

    Args:
        config ([`AbstractinatorConfig`]), level (`int`).
    """

    is_causal = False  # a mask says it all
    num_key_value_groups = 1

    def __init__(self, config, level):
        super().__init__()
        self.config = config
        size = config.level_sizes[level]
        self.num_heads, self.window = config.level_heads[level], config.windows[level]
        self.head_dim = size // self.num_heads
        self.scaling = self.head_dim**-0.5
        # One product for all three, and queries and keys turn together: for a single place the number of calls takes the time.
        self.qkv_proj = FusedLinear(size, size, 3)
        self.o_proj = nn.Linear(size, size, bias=False)

    def projected(self, states, table):
        """Queries, keys and values, each of shape `(batch, heads, length, head_dim)`."""
        heads = self.qkv_proj(states).view(*states.shape[:-1], 3 * self.num_heads, self.head_dim).transpose(1, 2)
        turned, value = heads.split((2 * self.num_heads, self.num_heads), 1)
        query, key = apply_rotary(turned, table).chunk(2, 1)
        return query, key, value

    def attend(self, query, key, value, mask):
        """Attend by the configured implementation; output of shape `(batch, queries, heads, head_dim)`."""
        implementation = attention_implementation(self.config._attn_implementation, self, query, key, mask)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        return attend(self, query, key, value, mask, scaling=self.scaling)[0]

    def forward(self, states, table):
        """Attend.

        Args:
            states (`torch.Tensor` of shape `(batch, length, size)`), table (`tuple`): of [`rotary_table`].

        Returns:
            `tuple`: output of the shape of `states`, keys and values, each of shape `(batch, heads, length, head_dim)`.
        """
        query, key, value = self.projected(states, table)
        output = blocked_window_attention(self.attend, query, key, value, self.window)
        return self.o_proj(output.reshape(states.shape)), key, value

    def step(self, states, table, mask, rows):
        """Attend from one more place of each row, shape `(batch, 1, size)`, to it and to what its [`LayerRows`] keep, as far as
        the mask of [`LocalTrunk.place`] says; they move on."""
        query, key, value = self.projected(states, table)
        keys, values = torch.cat((rows.keys, key), 2), torch.cat((rows.values, value), 2)
        output = self.attend(query, keys, values, mask)
        rows.keys, rows.values = keys[:, :, 1:], values[:, :, 1:]
        return self.o_proj(output.reshape(states.shape))


class LocalLayer(GradientCheckpointingLayer):
    """Attention in a window and a gated feed-forward layer, each after a norm and added to its input.

    Args:
        config ([`AbstractinatorConfig`]), level (`int`).
    """

    def __init__(self, config, level):
        super().__init__()
        size, inner = config.level_sizes[level], config.level_intermediate_sizes[level]
        self.attention_norm = nn.LayerNorm(size, eps=config.norm_eps, bias=False)
        self.attention = SlidingWindowAttention(config, level)
        self.norm = nn.LayerNorm(size, eps=config.norm_eps, bias=False)
        self.gate_up = FusedLinear(size, inner, 2)
        self.down = nn.Linear(inner, size, bias=False)

    def feed_forward(self, states):
        """What the feed-forward layer adds."""
        gate, up = self.gate_up(self.norm(states)).chunk(2, -1)
        return self.down(nn.functional.silu(gate) * up)

    def forward(self, states, table):
        """States of shape `(batch, length, size)` to the same, and the attention's keys and values."""
        attended, key, value = self.attention(self.attention_norm(states), table)
        states = states + attended
        return states + self.feed_forward(states), key, value

    def step(self, states, table, mask, rows):
        """One more place; arguments as of [`SlidingWindowAttention.step`]."""
        states = states + self.attention.step(self.attention_norm(states), table, mask, rows)
        return states + self.feed_forward(states)


class LocalTrunk(nn.Module):
    """A stack of local layers and a norm.

    Args:
        config ([`AbstractinatorConfig`]), level (`int`), num_layers (`int`).
    """

    def __init__(self, config, level, num_layers):
        super().__init__()
        self.config, self.window = config, config.windows[level]
        self.head_dim = config.level_sizes[level] // config.level_heads[level]
        self.layers = nn.ModuleList(LocalLayer(config, level) for _ in range(num_layers))
        self.norm = nn.LayerNorm(config.level_sizes[level], eps=config.norm_eps, bias=False)

    def forward(self, states):
        """States of shape `(batch, length, size)` to the same, and each layer's keys and values."""
        place = torch.arange(states.shape[1], device=states.device)[None]
        table = rotary_table(place, self.head_dim, self.config.rope_theta)
        kept = []
        for layer in self.layers:
            states, key, value = layer(states, table)
            kept.append((key, value))
        return self.norm(states), kept

    def rows(self, kept, seen):
        """What generation needs of each layer's keys and values: the last places of each row's `seen`, shape `(batch,)`."""
        place = seen[:, None] - (self.window - 1) + torch.arange(self.window - 1, device=seen.device)
        place = place.clamp(min=0)[:, None, :, None]
        return [LayerRows(*(v.gather(2, place.expand(-1, v.shape[1], -1, v.shape[3])) for v in pair)) for pair in kept]

    def place(self, seen):
        """Where each row's newest place stands, before which `seen` came, shape `(batch,)`: the table of [`rotary_rows`], and
        which places of the window are the row's own, shape `(batch, 1, 1, window)`, or `None` where all are."""
        table = rotary_rows(seen, self.head_dim, self.config.rope_theta)
        if can_be_read(seen) and int(seen.min()) >= self.window - 1:
            return table, None
        place = torch.arange(self.window, device=seen.device)
        return table, (place >= self.window - 1 - seen.clamp(max=self.window - 1)[:, None])[:, None, None]

    def step(self, states, place, rows):
        """One more place of each row, shape `(batch, 1, size)`, which stands where [`place`] says, after what each layer's
        [`LayerRows`] keep."""
        for layer, of_layer in zip(self.layers, rows, strict=True):
            states = layer.step(states, *place, of_layer)
        return self.norm(states)


class LearnedQueryAttention(nn.Module):
    """Each segment to one vector: its values weighted by their products with learned queries, beside its last value.

    Args:
        size (`int`), num_heads (`int`): of the values; each head has a query.
        output_size (`int`).
    """

    def __init__(self, size, num_heads, output_size):
        super().__init__()
        self.value = nn.Linear(size, size, bias=False)
        self.pool = LearnedQueryPooling(size, num_heads)
        self.out = nn.Linear(2 * size, output_size)

    def forward(self, values, segments, num_segments, ends):
        """Pool.

        Args:
            values (`torch.Tensor` of shape `(n, size)`).
            segments (`torch.LongTensor` of shape `(n,)`): each value's segment, from 0 to `num_segments - 1`.
            num_segments (`int`).
            ends (`torch.LongTensor` of shape `(num_segments,)`): each segment's last value.

        Returns:
            `torch.Tensor` of shape `(num_segments, output_size)`.
        """
        pooled = self.pool(self.value(values), segments, num_segments)
        return self.out(torch.cat((pooled.to(values.dtype), values[ends]), 1))

    def of_rows(self, values, real):
        """The same of segments in rows, which end with their last value: values of shape `(n, length, size)`, of which those that
        are `real`, shape `(n, length)`, count; to shape `(n, output_size)`."""
        pooled = self.pool.pool_rows(self.value(values), real)
        return self.out(torch.cat((pooled.to(values.dtype), values[:, -1]), 1))


# Levels


@dataclass
class CompressedLevel:
    """What a level makes of its sequence, whose first place is the start and no part of a segment.

    Attributes:
        states (`(batch, length, size)`): of the trunk.
        kept: keys and values of its layers.
        scores (`(batch, length, symbols)`): the trunk's own, of the next symbol; or `None`.
        values (`(batch, length)`): their entropies, in bits; or `None`.
        cuts (`(batch, length)`): places that end a segment.
        completed (`(batch, length)`): segments that have ended with this place or before.
        lengths (`(batch,)`): real places, the start included.
        counts (`(batch,)`): segments, one that has not ended included.
        segment_lengths (`(batch, segments)`): 0 beyond a row's last.
        ends (`(batch, segments)`): the last place of each, 0 beyond.
        vectors (`(batch, segments, code_size)`): of the segments, quantized where the level has codes.
        codes (`(batch, segments)`): their numbers, or `None`.
        distances (`(batch, segments)`): squared, to the codes, or `None`.
    """

    states: torch.Tensor
    kept: list
    scores: torch.Tensor | None
    values: torch.Tensor | None
    cuts: torch.Tensor
    completed: torch.Tensor
    lengths: torch.Tensor
    counts: torch.Tensor
    segment_lengths: torch.Tensor
    ends: torch.Tensor
    vectors: torch.Tensor
    codes: torch.Tensor | None = None
    distances: torch.Tensor | None = None

    @property
    def real_segments(self):
        """Which segments are a row's own, shape `(batch, segments)`."""
        return self.segment_lengths > 0


class ByteSegmentCompressor(nn.Module):
    """A level's way up: a causal trunk in a window with a head for the next symbol, cuts, and one vector, or code, a segment.

    Args:
        config ([`AbstractinatorConfig`]), level (`int`): 0 is the bytes'.
    """

    def __init__(self, config, level):
        super().__init__()
        self.config, self.level = config, level
        size = config.level_sizes[level]
        self.rule = config.segmentations[level]
        self.shortest, self.longest = config.min_segment_lengths[level], config.max_segment_lengths[level]
        if self.rule == "fixed":
            self.longest = max(round(config.target_segment_lengths[level]), 1)
        self.trunk = LocalTrunk(config, level, config.compressor_layers[level])
        symbols = NUM_SYMBOLS if level == 0 else config.codebook_sizes[level - 1]
        self.head = nn.Linear(size, symbols) if self.rule in ENTROPY_RULES else None
        self.limit = SegmentLimit(config.target_segment_lengths[level]) if self.rule in ENTROPY_RULES else None
        num_codes = config.codebook_sizes[level]
        self.code_size = config.codebook_dim if num_codes else size
        self.pool = LearnedQueryAttention(size, config.level_heads[level], self.code_size)
        self.norm = nn.LayerNorm(self.code_size, eps=config.norm_eps, elementwise_affine=False)
        self.quantizer = None
        if num_codes:
            rotates = config.codebook_gradient == "rotation"
            self.quantizer = VectorQuantizer(num_codes, config.codebook_dim, config.codebook_decay, rotation=rotates)

    def cut_scores_of(self, values, before=None):
        """What the limit decides on, from entropies; as of [`cut_scores`], or `None` where the rule has no limit."""
        return None if self.limit is None else cut_scores(self.rule, values, self.config.threshold_margin, before)

    def wanted(self, scores, symbols):
        """Places where a segment would end, by the rule.

        Args:
            scores (`torch.FloatTensor` of shape `(batch, length)`): of [`cut_scores_of`]; symbols (`torch.LongTensor` of shape
                `(batch, length)`).

        Returns:
            `torch.BoolTensor` of shape `(batch, length)`.
        """
        if self.rule == "white_space":
            return is_white_space(symbols)
        return torch.zeros_like(symbols, dtype=torch.bool) if scores is None else scores > self.limit.limit

    def entropies_of(self, states):
        """The trunk's scores of the next symbol and their entropies, or `None` twice where no rule asks for them."""
        if self.head is None:
            return None, None
        scores = self.head(states)
        return scores, entropies(scores.detach())

    def forward(self, embeds, symbols, lengths, given=None):
        """Compress.

        Args:
            embeds (`torch.Tensor` of shape `(batch, length, size)`): the start's first.
            symbols (`torch.LongTensor` of shape `(batch, length)`): what they stand for; on the first level, from 256 on,
                special.
            lengths (`torch.LongTensor` of shape `(batch,)`): real places, the start included.
            given (`tuple` of two `torch.BoolTensor` of shape `(batch, length)`, *optional*): places that end a segment, and
                places of which somebody has said whether they do; of others the rule decides.

        Returns:
            [`CompressedLevel`].

        Raises:
            ValueError: for given segments that are too long.
        """
        states, kept = self.trunk(embeds)
        scores, values = self.entropies_of(states)
        place = torch.arange(states.shape[1], device=states.device)
        real = place < lengths[:, None]
        limited = self.cut_scores_of(values)
        if self.training and self.limit is not None:
            self.limit.observe(limited[:, 1:][real[:, 1:]], self.head.weight)
        wanted, forced = self.wanted(limited, symbols), self.forced(symbols)
        longest = self.longest
        if given is not None:
            wanted, forced, longest = self.as_given(wanted, forced, *given)
        forced[:, 0] = True
        cuts = bounded_cuts(wanted, forced, self.shortest, longest) & real
        completed = cuts.cumsum(1) - 1
        return self.pooled(CompressedLevel(states, kept, scores, values, cuts, completed, lengths, *[None] * 4), real)

    def as_given(self, wanted, forced, cuts, said):
        """What [`bounded_cuts`] needs for given segments to end where they were said to, and later ones by the rule; the last
        one given goes on until the rule ends it, or as long as any may be.

        Returns:
            `tuple`: `wanted` and `forced`, and for each place the length of the longest segment that begins there.

        Raises:
            ValueError: for given segments that are too long.
        """
        longest, place = self.config.max_segment_lengths[self.level], torch.arange(cuts.shape[1], device=cuts.device)
        first = place == 0
        if not torch.compiler.is_compiling():
            added = bounded_cuts(cuts, first.expand_as(cuts), 1, longest) & ~cuts & ~first
            if bool((added & said & nn.functional.pad(said[:, 1:], (0, 1))).any()):
                raise ValueError(f"a segment is too long: max_segment_lengths accepts up to {longest}")
        until = torch.where(said, place, 0).amax(1, keepdim=True) + 2 - place
        return wanted & ~said, forced & ~said | cuts, until.clamp(self.longest, max(longest, self.longest))

    def forced(self, symbols):
        """Where a segment ends whatever the rule says: at special tokens of the first level."""
        return symbols >= NUM_BYTES if self.level == 0 else torch.zeros_like(symbols, dtype=torch.bool)

    def pooled(self, level, real):
        """Add the segments' vectors to a level; `real` as of [`forward`]."""
        batch, length, _ = level.states.shape
        before = nn.functional.pad(level.completed, (1, 0))[:, :-1]  # the segment of each place but the start
        inside = real.clone()
        inside[:, 0] = False
        level.counts = torch.where(inside, before + 1, 0).amax(1)
        segments = int(level.counts.max())
        row = torch.arange(batch, device=real.device)[:, None]
        number = torch.where(inside, row * segments + before, batch * segments).flatten()
        place = torch.arange(length, device=real.device).expand(batch, -1)
        counted = number.new_zeros(batch * segments + 1)
        level.segment_lengths = counted.index_add(0, number, torch.ones_like(number))[:-1].view(batch, segments)
        flat_place = (row * length + place).flatten()
        ends = counted.scatter_reduce(0, number, flat_place, "amax")
        vectors = self.pool(level.states.flatten(0, 1), number, batch * segments + 1, ends)[:-1]
        level.ends = (ends[:-1].view(batch, segments) - row * length).clamp(min=0)
        return self.quantized(level, vectors.view(batch, segments, self.code_size))

    def quantized(self, level, vectors):
        """Norm the vectors of a level and quantize them."""
        vectors = self.norm(vectors.float()).to(vectors.dtype)
        if self.quantizer is None:
            level.vectors = vectors * level.real_segments.unsqueeze(-1)
            return level
        mine = level.real_segments
        codes, numbers, distances = self.quantizer(vectors[mine], self.pool.out.weight)
        level.vectors = torch.zeros_like(vectors, dtype=codes.dtype).masked_scatter(mine.unsqueeze(-1), codes)
        level.codes = torch.full_like(level.ends, -1).masked_scatter(mine, numbers)
        level.distances = torch.zeros_like(vectors[..., 0], dtype=distances.dtype).masked_scatter(mine, distances)
        return level

    def vector_of(self, held, held_count):
        """The vectors and codes of single segments, from the trunk's states of each, shape `(n, longest, size)`, of which the
        last `held_count` count, shape `(n,)`.

        Returns:
            `tuple`: vectors, shape `(n, code_size)`, and codes, shape `(n,)`, or `None`.
        """
        longest = held.shape[1]
        vectors = self.pool.of_rows(held, torch.arange(longest, device=held.device) >= longest - held_count[:, None])
        vectors = self.norm(vectors.float()).to(vectors.dtype)
        if self.quantizer is None:
            return vectors, None
        codes = self.quantizer.indices(vectors)
        return self.quantizer.indices_to_codes(codes).to(vectors.dtype), codes


class CodeExpander(nn.Module):
    """A level's way down: the next symbol, from its trunk's states and what it is told of the segment: its own code, with
    which it reconstructs, or the state above before it, with which it predicts.

    Args:
        config ([`AbstractinatorConfig`]), level (`int`).
        code_size (`int`): of the level's vectors.
        state_size (`int`): of the states above; 0 where nothing is predicted.
        reconstructs (`bool`): whether it is ever told codes.
    """

    def __init__(self, config, level, code_size, state_size, reconstructs):
        super().__init__()
        size = config.level_sizes[level]
        self.history_dropout = config.history_dropout
        self.from_state = nn.Linear(state_size, size) if state_size else None
        self.from_code = nn.Linear(code_size, size) if reconstructs else None
        self.length = nn.Sequential(
            nn.Linear(code_size, size), nn.SiLU(), nn.Linear(size, config.max_segment_lengths[level])
        ) if reconstructs else None  # fmt: skip
        self.trunk = LocalTrunk(config, level, config.expander_layers[level])
        symbols = NUM_SYMBOLS if level == 0 else config.codebook_sizes[level - 1] + 1
        self.head = nn.Linear(size, symbols) if reconstructs or level == 0 else None

    def forward(self, states, told):
        """The trunk's states, shape `(batch, length, size)`, and what each place is told, of the same shape, to states of what
        comes next, and each layer's keys and values."""
        return self.trunk(states + told)

    def without_history(self, states):
        """In training, states of some places dropped."""
        if not (self.training and self.history_dropout):
            return states
        kept = torch.rand(states.shape[:2], device=states.device) >= self.history_dropout
        return states * kept.unsqueeze(-1)


class SymbolEmbedding(nn.Module):
    """Vectors of bytes and special tokens, plus vectors of the hashes of the runs of tokens that end at each.

    Args:
        config ([`AbstractinatorConfig`]).
    """

    def __init__(self, config):
        super().__init__()
        self.symbols = nn.Embedding(config.vocab_size, config.level_sizes[0])
        self.hashes = NgramHashes(config.ngram_sizes, config.ngram_buckets) if config.ngram_sizes else None
        if self.hashes is not None:
            self.ngrams = nn.Embedding(config.ngram_buckets, config.ngram_embedding_size)
            width = config.ngram_embedding_size * len(config.ngram_sizes)
            self.proj = nn.Linear(width, config.level_sizes[0], bias=False)

    @property
    def recent(self):
        """How many ids before one its vector depends on."""
        return 0 if self.hashes is None else self.hashes.recent

    def forward(self, ids, recent=None):
        """Embed ids, shape `(batch, length)`, before which `recent` came, shape `(batch, recent)`, by default nothing; to shape
        `(batch, length, size)`."""
        embeds = self.symbols(ids)
        if self.hashes is None:
            return embeds
        return embeds + self.proj(self.ngrams(self.hashes(ids, recent)).flatten(2))


class HierarchicalAutoencoder(nn.Module):
    """The stack of compressors and expanders.

    Args:
        config ([`AbstractinatorConfig`]).
        reconstructs (`bool`): whether expanders are told codes.
        predicts (`bool`): whether expanders are told the states above.
    """

    def __init__(self, config, reconstructs, predicts):
        super().__init__()
        self.config = config
        self.embed = SymbolEmbedding(config)
        levels = range(config.num_levels)
        self.compressors = nn.ModuleList(ByteSegmentCompressor(config, level) for level in levels)
        sizes = [*config.level_sizes[1:], config.hidden_size]
        self.expanders = nn.ModuleList(
            CodeExpander(
                config, level, self.compressors[level].code_size, sizes[level] if predicts else 0, reconstructs
            )
            for level in levels
        )
        # What each level above the first reads: the vectors below, after a start of its own.
        self.inputs = nn.ModuleList(
            nn.Linear(self.compressors[level].code_size, config.level_sizes[level + 1]) for level in levels[:-1]
        )
        self.starts = nn.ParameterList(torch.empty(config.level_sizes[level + 1]) for level in levels[:-1])

    @property
    def code_size(self):
        """Of the top vectors."""
        return self.compressors[-1].code_size

    # One symbol of each row at a time

    def empty_rows(self, number, batch, dtype, device):
        """[`LevelRows`] of a level that has read nothing."""
        compressor, size = self.compressors[number], self.config.level_sizes[number]

        def layers(trunk):
            shape = (batch, self.config.level_heads[number], trunk.window - 1, trunk.head_dim)
            return [LayerRows(*(torch.zeros(shape, dtype=dtype, device=device) for _ in "kv")) for _ in trunk.layers]

        whole = {"dtype": torch.long, "device": device}
        return LevelRows(
            seen=torch.zeros(batch, **whole),
            compressor=layers(compressor.trunk),
            expander=layers(self.expanders[number].trunk),
            held=torch.zeros(batch, self.config.max_segment_lengths[number], size, dtype=dtype, device=device),
            held_count=torch.zeros(batch, **whole),
            before=torch.zeros(batch, device=device),
            condition=torch.zeros(batch, size, dtype=dtype, device=device),
            recent=torch.full((batch, 0 if number else self.embed.recent), -1, **whole),
        )

    def embedded(self, number, rows, symbols):
        """Vectors of one more symbol of each row, shape `(batch,)`, or of the start for `None`; to shape `(batch, 1, size)`."""
        if number == 0:
            ids = torch.full_like(rows.seen, self.config.bos_token_id) if symbols is None else symbols
            embeds = self.embed(ids[:, None], rows.recent)
            rows.recent = torch.cat((rows.recent, ids[:, None]), 1)[:, 1:] if self.embed.recent else rows.recent
            return embeds
        if symbols is None:
            return with_start(self.starts[number - 1], rows.held[:, :0]).to(rows.held.dtype)
        codes = self.compressors[number - 1].quantizer.indices_to_codes(symbols)
        return self.above(number, codes)

    def above(self, number, vectors):
        """What a level reads of vectors of the one below, shape `(batch, code_size)`; to shape `(batch, 1, size)`."""
        proj = self.inputs[number - 1]
        return proj(vectors.to(proj.weight.dtype))[:, None]

    def read(self, number, rows, embeds):
        """The trunk's states after one more symbol of each row, shape `(batch, 1, size)` to `(batch, size)`."""
        trunk = self.compressors[number].trunk
        rows.place = trunk.place(rows.seen)
        return trunk.step(embeds, rows.place, rows.compressor)[:, 0]

    def expanded(self, number, rows, states, told):
        """The expander's states of what comes next, from the trunk's and what it is told, all of shape `(batch, size)`; the
        symbol has then been read."""
        found = self.expanders[number].trunk.step((states + told)[:, None], rows.place, rows.expander)[:, 0]
        rows.seen = rows.seen + 1
        return found

    def step(self, number, rows, embeds, symbols):
        """The trunk's states after one more symbol of each row, and the segments that end with it.

        Args:
            number (`int`): of the level; rows ([`LevelRows`]); embeds (`torch.Tensor` of shape `(batch, 1, size)`); symbols
                (`torch.LongTensor` of shape `(batch,)`).

        Returns:
            `tuple`: states, shape `(batch, size)`; which rows' segment has ended, shape `(n,)`; and how long these segments
            are, shape `(n,)`, whose states `rows.held` still has.
        """
        compressor = self.compressors[number]
        states = self.read(number, rows, embeds)
        values = compressor.entropies_of(states[:, None])[1]
        wanted = compressor.wanted(compressor.cut_scores_of(values, rows.before), symbols[:, None])[:, 0]
        count = rows.held_count + 1
        cuts = compressor.forced(symbols) | (count >= compressor.longest) | (wanted & (count >= compressor.shortest))
        rows.held = torch.cat((rows.held[:, 1:], states[:, None].to(rows.held.dtype)), 1)
        rows.before = rows.before if values is None else values[:, 0]
        rows.held_count = count.masked_fill(cuts, 0)
        if number == 0:
            cuts = cuts & (symbols != self.config.pad_token_id)  # what a text's end is followed by goes no further up
        ended = cuts.nonzero()[:, 0]
        return states, ended, count[ended]

    def rows(self, number, compressed, lengths, told, kept, ids=None):
        """[`LevelRows`] after the first `lengths` places of a compressed level, shape `(batch,)`.

        Args:
            number (`int`), compressed ([`CompressedLevel`]), lengths (`torch.LongTensor`).
            told (`torch.Tensor` of shape `(batch, n, size)`): what the expander is told after so many segments.
            kept: keys and values of the expander's layers.
            ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): what the first level has read.
        """
        rows = self.empty_rows(number, len(lengths), told.dtype, told.device)
        row, last = torch.arange(len(lengths), device=lengths.device), lengths - 1
        place = torch.arange(compressed.cuts.shape[1], device=lengths.device)
        cut = torch.where(compressed.cuts & (place <= last[:, None]), place, 0).amax(1)
        held = last[:, None] - torch.arange(rows.held.shape[1], device=lengths.device).flip(0)
        rows.seen, rows.held_count = lengths.clone(), last - cut
        rows.held = at(compressed.states, held.clamp(min=0)).to(rows.held.dtype)
        rows.condition = told[row, compressed.completed[row, last]]
        rows.compressor = self.compressors[number].trunk.rows(compressed.kept, lengths)
        rows.expander = self.expanders[number].trunk.rows(kept, lengths)
        if compressed.values is not None:
            rows.before = compressed.values[row, last]
        if rows.recent.shape[1]:
            recent = lengths[:, None] - rows.recent.shape[1] + torch.arange(rows.recent.shape[1], device=lengths.device)
            rows.recent = ids.gather(1, recent.clamp(min=0)).masked_fill(recent < 0, -1)
        return rows

    # All symbols at once

    def analyse(self, ids, lengths, given=None):
        """Compress all levels.

        Args:
            ids (`torch.LongTensor` of shape `(batch, length)`): `<bos>` first, moved left; lengths (`torch.LongTensor` of shape
                `(batch,)`); given (`tuple`, *optional*): of the first level, as of [`ByteSegmentCompressor`].

        Returns:
            `list[CompressedLevel]`.
        """
        levels = [self.compressors[0](self.embed(ids), ids, lengths, given)]
        for compressor, proj, start in zip(self.compressors[1:], self.inputs, self.starts, strict=True):
            below = levels[-1]
            embeds = with_start(start, proj(below.vectors.to(proj.weight.dtype)))
            symbols = nn.functional.pad(below.ends if below.codes is None else below.codes, (1, 0))
            levels.append(compressor(embeds, symbols, below.counts + 1))
        return levels

    def reconstruction_states(self, level, compressed):
        """States of a level's next symbols, each place told the code of the segment that its next symbol is in; beyond the last
        segment, nothing.

        Returns:
            `tuple`: shape `(batch, length, size)`, and each layer's keys and values.
        """
        expander = self.expanders[level]
        told = expander.from_code(nn.functional.pad(compressed.vectors, (0, 0, 0, 1)).to(compressed.states.dtype))
        return expander(expander.without_history(compressed.states), at(told, compressed.completed))

    def prediction_states(self, level, compressed, above):
        """States of a level's next symbols, each place told the state above, shape `(batch, 1 + segments, size)`, of the
        segments that have ended by then; returns as of [`reconstruction_states`]."""
        expander = self.expanders[level]
        return expander(compressed.states, at(expander.from_state(above), compressed.completed))

    def predicted(self, levels, above):
        """From the states over the top segments, shape `(batch, 1 + segments, hidden_size)`, down to those of the bytes.

        Returns:
            `tuple`: shape `(batch, length, level_sizes[0])`; each level's states above; and its keys and values; the first
            level's first.
        """
        all_above, all_kept = [], []
        for level in reversed(range(len(levels))):
            all_above.insert(0, above)
            above, kept = self.prediction_states(level, levels[level], above)
            all_kept.insert(0, kept)
        return above, all_above, all_kept


def at(values, places):
    """Values, shape `(batch, n, size)`, at places, shape `(batch, length)`; to `(batch, length, size)`."""
    first = torch.arange(len(values), device=values.device)[:, None] * values.shape[1]
    return nn.functional.embedding(
        first + places, values.flatten(0, 1)
    )  # a quarter of the time of gather, backward above all


def with_start(start, embeds):
    """Embeddings, shape `(batch, n, size)`, after a start, shape `(size,)`."""
    return torch.cat((start.to(embeds.dtype).expand(len(embeds), 1, -1), embeds), 1)
