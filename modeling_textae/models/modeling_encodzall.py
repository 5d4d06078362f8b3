"""Encodzall: bytes to words to a text's vectors, and back to bytes.

Source: Encodzall, a masked denoising autoencoder on bytes and words. Deviations, each of which made learning several times
faster: a byte is bound to its place in its word by an elementwise product before it is pooled, and unbound in the same way by
the word decoder; the sequence decoder attends to words with rotary positions counted in bytes on both sides, which turn the
values too, so that what it reads of a word depends on how far into the word it is. The word decoder gets its word's vector
added to every input, as attention to a single vector would add it.
"""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import trange
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin
from transformers import initialization as init
from transformers.dynamic_module_utils import custom_object_save
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput, SequenceClassifierOutput, TokenClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import apply_rotary, attention_implementation, eager_attention_forward, rotary_table
from .autoencoder import AutoencoderOutput, TextAutoencoder, in_use, label_cross_entropy, over_labels
from .byte_tokenizer import NUM_BYTES
from .configuration_encodzall import EncodzallConfig
from .contrastive import equal_rows, multiple_negatives_loss
from .denoising import SuggestedEdit, apply_suggested, edits_by_windows, in_batches, listed, word_edits
from .following import SourceFollower
from .ngrams import NgramHashes
from .packing import pack_rows
from .pooling import LearnedQueryPooling, segment_count, segment_max, segment_mean
from .sketch import TextSketch
from .tokenization_encodzall import split_words

# Bytes to a multiple of which windows are padded: a heap that has batches of every length, one after the other, grows.
PADDED_TO = 32


@dataclass
class EncodzallModelOutput(ModelOutput):
    """What [`EncodzallModel`] returns.

    Attributes:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, words, hidden_size)`): the words' vectors.
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): their mean, the text's embedding; with `sketch_size`
            of shape `(batch, hidden_size + sketch_size)`, as of [`EncodzallModel.with_sketch`].
        word_mask (`torch.LongTensor` of shape `(batch, words)`): 1 where there is a word, 0 on padding.
        word_positions (`torch.LongTensor` of shape `(batch, words)`): where each word starts, in bytes.
        byte_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): of each byte in encoder 1, plus its word's
            vector, with `output_byte_states`; 0 on padding.
        byte_mask, byte_positions (`torch.LongTensor` of shape `(batch, length)`): of the same, 1 where there is a byte, and where
            each stands.
        source_ids (`torch.LongTensor` of shape `(batch, length)`): what was encoded, -1 behind each text's last, with
            `follows_source`.
        source_positions (`torch.LongTensor` of shape `(batch, length + 1)`): where each of these and their end stand, in bytes.
        hidden_states, attentions (`tuple`): of encoder 2, where asked for.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    word_mask: torch.LongTensor | None = None
    word_positions: torch.LongTensor | None = None
    byte_states: torch.FloatTensor | None = None
    byte_mask: torch.LongTensor | None = None
    byte_positions: torch.LongTensor | None = None
    source_ids: torch.LongTensor | None = None
    source_positions: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    follower = None  # what has followed the last ids; no field

    def memory(self, is_read=True):
        """What a sequence decoder attends to, `(states, mask, positions)`: the words, and the bytes where there are any.

        Where its keys and values are kept, nothing is read (`is_read=False`): of the states the shape alone is right then.
        """
        words = self.last_hidden_state, self.word_mask, self.word_positions
        if self.byte_states is None:
            return words
        mask = torch.cat((self.word_mask, self.byte_mask), 1)
        positions = torch.cat((self.word_positions, self.byte_positions), 1)
        if is_read:
            states = torch.cat((self.last_hidden_state, self.byte_states), 1)
        else:
            states = self.byte_states.new_zeros(()).expand(*mask.shape, self.byte_states.shape[2])
        return states, mask, positions

    def followed(self, ids):
        """Where in the encoded texts a decoder's inputs stand, with `follows_source`.

        Args:
            ids (`torch.LongTensor` of shape `(batch, length)`): the decoder's inputs, from the first on; what went on from the
                last call's goes on from there.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`, in bytes, or `None` where `source_ids` are.

        Raises:
            ValueError: for more or fewer texts than were encoded.
        """
        if self.source_ids is None:
            return None
        if len(ids) != len(self.source_ids):
            raise ValueError(f"{len(self.source_ids)} texts are encoded, and {len(ids)} are to be decoded")
        if self.follower is None or self.follower.source_ids is not self.source_ids:
            self.follower = SourceFollower(self.source_ids)
        return self.source_positions.gather(1, self.follower(ids))


@dataclass
class EncodzallOutput(AutoencoderOutput):
    """What the Encodzall models with a decoder return.

    Attributes:
        loss (`torch.FloatTensor` of shape `()`): the weighted sum of the part losses, in nats a label.
        sequence_loss (`torch.FloatTensor` of shape `()`): weighted part of the sequence decoder, detached.
        word_loss (`torch.FloatTensor` of shape `()`): weighted part of the word decoder, detached.
        contrastive_loss (`torch.FloatTensor` of shape `()`): weighted part of the embeddings, detached.
        logits (`torch.FloatTensor` of shape `(batch, length, vocabulary)`): of the sequence decoder.
        latents (`torch.FloatTensor` of shape `(batch, words, hidden_size)`): the words' vectors.
        word_mask, word_positions (`torch.LongTensor` of shape `(batch, words)`): as of [`EncodzallModelOutput`].
        past_key_values (`EncoderDecoderCache`): keys and values so far, with `use_cache`.
    """

    sequence_loss: torch.FloatTensor | None = None
    word_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    word_mask: torch.LongTensor | None = None
    word_positions: torch.LongTensor | None = None
    past_key_values: EncoderDecoderCache | None = None


def norm(config, width=None):
    """Layer norm without bias."""
    return nn.LayerNorm(width or config.hidden_size, eps=config.norm_eps, bias=False)


class PlaceBinding(nn.Module):
    """Binds vectors to places by an elementwise product and a sum, so that their mean keeps which vector stood where.

    The factors are 1 plus weights in units of their initial standard deviation: random of unit variance at the start, so that
    places are nearly independent, and as quick to move under Adam as an embedding is for its size.

    Args:
        num_places (`int`).
        channels (`int`).
        initializer_range (`float`): standard deviation of the initial weights.
    """

    def __init__(self, num_places, channels, initializer_range):
        super().__init__()
        self.unit = initializer_range
        self.scale = nn.Embedding(num_places, channels)
        self.shift = nn.Embedding(num_places, channels)

    def forward(self, values, places):
        """Bind values, shape `(..., channels)`, to places, shape `(...)`."""
        return values * (1 + self.scale(places) / self.unit) + self.shift(places)


class EncodzallAttention(nn.Module):
    """Attention with grouped keys and values, normalised queries and keys, rotary positions and no biases.

    With `turns_values`, values are turned by their own positions and the output back by the query's, so that a value reads
    differently from each distance.

    Args:
        config ([`EncodzallConfig`]).
        num_key_value_heads (`int`): heads of keys and values, each shared by a group of query heads.
        layer_index (`int`, defaults to 0): its layer's place in the cache.
        is_causal (`bool`, defaults to `False`): what holds where transformers leaves a mask out as redundant.
        turns_values (`bool`, defaults to `False`): whether values are turned like keys.
    """

    def __init__(self, config, num_key_value_heads, layer_index=0, is_causal=False, turns_values=False):
        super().__init__()
        self.config = config
        self.is_causal = is_causal
        self.turns_values = turns_values
        self.layer_index = layer_index
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, num_key_value_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, num_key_value_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.q_norm = norm(config, self.head_dim)
        self.k_norm = norm(config, self.head_dim)

    def keys_and_values(self, states, rotary):
        """Project states, shape `(batch, keys, hidden_size)`, to keys and values, `(batch, heads, keys, head_dim)`."""
        shape = (*states.shape[:-1], -1, self.head_dim)
        key = self.k_norm(self.k_proj(states).view(shape)).transpose(1, 2)
        value = self.v_proj(states).view(shape).transpose(1, 2)
        return apply_rotary(key, rotary), apply_rotary(value, rotary) if self.turns_values else value

    def forward(self, hidden_states, attention_mask, rotary, memory=None, memory_rotary=None, past_key_values=None):
        """Attend from hidden states to themselves, or to `memory` where it is given.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch, queries, hidden_size)`).
            attention_mask (`torch.Tensor`, *optional*): as transformers' masking functions make it.
            rotary (`tuple`): the queries' rotary table.
            memory (`torch.Tensor` of shape `(batch, keys, hidden_size)`, *optional*).
            memory_rotary (`tuple`, *optional*): the memory's rotary table.
            past_key_values (`EncoderDecoderCache`, *optional*): read and extended.

        Returns:
            `tuple`: output of the shape of `hidden_states`, and weights or `None`.
        """
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = apply_rotary(self.q_norm(self.q_proj(hidden_states).view(shape)).transpose(1, 2), rotary)
        if memory is None:
            key, value = self.keys_and_values(hidden_states, rotary)
            if past_key_values is not None:
                key, value = past_key_values.self_attention_cache.update(key, value, self.layer_index)
        elif past_key_values is not None and past_key_values.is_updated.get(self.layer_index):
            cached = past_key_values.cross_attention_cache.layers[self.layer_index]
            key, value = cached.keys, cached.values
        else:
            key, value = self.keys_and_values(memory, memory_rotary)
            if past_key_values is not None:
                key, value = past_key_values.cross_attention_cache.update(key, value, self.layer_index)
                past_key_values.is_updated[self.layer_index] = True
        # Under autocast norms may return float32 beside bfloat16 values.
        query, key = query.to(value.dtype), key.to(value.dtype)
        implementation = attention_implementation(self.config._attn_implementation, self, query, key, attention_mask)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
        )
        if self.turns_values:
            cosine, sine = rotary
            output = apply_rotary(output.transpose(1, 2), (cosine, -sine)).transpose(1, 2)
        return self.o_proj(output.reshape(hidden_states.shape)), weights


class EncodzallLayer(GradientCheckpointingLayer):
    """Pre-norm layer: self-attention, attention to a memory where the layer has one, and feed-forward.

    Args:
        config ([`EncodzallConfig`]).
        num_key_value_heads (`int`): as of [`EncodzallAttention`].
        layer_index (`int`, defaults to 0): its place in the stack.
        has_memory (`bool`, defaults to `False`): whether it attends to a memory.
    """

    def __init__(self, config, num_key_value_heads, layer_index=0, has_memory=False):
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = EncodzallAttention(config, num_key_value_heads, layer_index, is_causal=has_memory)
        if has_memory:
            self.memory_attention_norm = norm(config)
            self.memory_attention = EncodzallAttention(config, num_key_value_heads, layer_index, turns_values=True)
        self.feed_forward_norm = norm(config)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.hidden_size, config.intermediate_size, bias=False),
            nn.GELU(),
            nn.Linear(config.intermediate_size, config.hidden_size, bias=False),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states,
        attention_mask,
        rotary,
        memory=None,
        memory_mask=None,
        memory_rotary=None,
        past_key_values=None,
        source_rotary=None,
    ):
        """Hidden states, shape `(batch, length, hidden_size)`, to the same; the rest as of [`EncodzallAttention`], and
        `source_rotary` (`tuple`, *optional*), the table by which the memory is asked, by default `rotary`."""
        attended, _ = self.attention(
            self.attention_norm(hidden_states), attention_mask, rotary, past_key_values=past_key_values
        )
        hidden_states = hidden_states + self.dropout(attended)
        if memory is not None:
            attended, _ = self.memory_attention(
                self.memory_attention_norm(hidden_states),
                memory_mask,
                rotary if source_rotary is None else source_rotary,
                memory,
                memory_rotary,
                past_key_values,
            )
            hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_states)))


@torch.compiler.disable
def derive_word_index(input_ids, attention_mask, max_word_length):
    """The tokenizer's `word_index`, from ids alone.

    Args:
        input_ids, attention_mask (`torch.LongTensor` of shape `(batch, length)`).
        max_word_length (`int`).

    Returns:
        `torch.LongTensor` of shape `(batch, length)`: -1 where the mask is 0.
    """
    real = attention_mask.cpu().numpy().astype(bool)
    counts = real.sum(1)
    index = np.full(real.shape, -1, dtype=np.int64)
    index[real] = split_words(input_ids.cpu().numpy()[real], np.cumsum(counts) - counts, max_word_length)
    return torch.from_numpy(index).to(input_ids.device)


def flatten_words(word_index, real):
    """Put the words of a batch end to end.

    Args:
        word_index (`torch.LongTensor` of shape `(batch, length)`): the word of each byte.
        real (`torch.BoolTensor` of shape `(batch, length)`): which places hold a byte.

    Returns:
        `tuple`: which bytes begin a word, bool, shape `(bytes,)`; the flat word of each byte, shape `(bytes,)`; and for each flat
        word its length, its text and its number in that text, each of shape `(words,)`.
    """
    text = torch.arange(len(word_index), device=word_index.device)[:, None].expand_as(word_index)[real]
    word = word_index[real]
    begins = torch.ones_like(word, dtype=torch.bool)
    begins[1:] = (word[1:] != word[:-1]) | (text[1:] != text[:-1])
    segments = begins.cumsum(0) - 1
    text, word = text[begins], word[begins]
    return begins, segments, segment_count(segments, len(word)), text, word


def hides_before_bytes(labels):
    """Whether labels, shape `(batch, length)`, have -100 before a byte."""
    is_byte = (labels >= 0) & (labels < NUM_BYTES)
    return bool((is_byte[:, 1:] & (labels[:, :-1] == -100)).any())


def without_padding(ids, real, beyond=0):
    """Ids from each text's first on, without gaps, and where each has gone.

    Args:
        ids (`torch.LongTensor` of shape `(batch, length)`), real (`torch.BoolTensor` of the same shape): which are of the text.
        beyond (`int`, defaults to 0): places more.

    Returns:
        `tuple`: ids, shape `(batch, length + beyond)`, -1 behind each text's last; and places, shape `(batch, length)`, of
        padding that of the last before it.
    """
    places, width = (real.cumsum(1) - 1).clamp(min=0), ids.shape[1] + beyond
    texts = ids.new_full((len(ids), width + 1), -1)  # all padding goes to the one place beyond, which is cut off
    texts.scatter_(1, torch.where(real, places, width), ids)
    return texts[:, :-1], places


# What sentence-transformers needs to read a checkpoint: its own module for transformers' models, and which output it takes.
SENTENCE_TRANSFORMERS = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
        "module_output_name": "sentence_embedding",
    },
}


class EncodzallPreTrainedModel(TextAutoencoder):
    """Loading, saving and initial weights of the Encodzall models.

    Checkpoints whose embeddings were made to be compared are sentence-transformers' as well.
    """

    config: EncodzallConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncodzallLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LearnedQueryPooling):
            module.reset_parameters(self.config.initializer_range)
        elif isinstance(module, TextSketch):
            init.ones_(module.rarity)

    @property
    def compares_texts(self):
        """Whether embeddings were made to be compared."""
        return bool(self.config.contrastive_loss_weight or self.config.sketch_size)

    def save_pretrained(self, save_directory, is_main_process=True, **kwargs):
        """As of transformers, with the files by which sentence-transformers reads the folder."""
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process and self.compares_texts:
            self.complete(save_directory)

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        # transformers uploads within save_pretrained.
        if self.compares_texts:
            self.complete(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def complete(self, save_directory):
        """Write the files that transformers does not."""
        for name, content in SENTENCE_TRANSFORMERS.items():
            (Path(save_directory) / name).write_text(json.dumps(content, indent=2) + "\n")

    def layers_of(self, number, num_key_value_heads, **kwargs):
        """A stack of `number` layers."""
        return nn.ModuleList(
            EncodzallLayer(self.config, num_key_value_heads, index, **kwargs) for index in range(number)
        )

    def latent_bits(self, latents, mask, bits=8):
        """Bits that each text's words take: their numbers, each word's length, and 16 bits for the number of words.

        The lengths are stored because the decoder is told where each word starts.

        Args:
            latents (`torch.Tensor` of shape `(batch, words, hidden_size)`).
            mask (`torch.Tensor` of shape `(batch, words)`).
            bits (`int`, defaults to 8): for each number.

        Returns:
            `torch.Tensor` of shape `(batch,)`.
        """
        length_bits = math.ceil(math.log2(self.config.max_word_length))
        return super().latent_bits(latents, mask, bits) + mask.sum(-1) * length_bits + 16

    def rotary(self, positions):
        """Rotary table of positions, shape `(batch, length)`."""
        config = self.config
        return rotary_table(positions, config.hidden_size // config.num_attention_heads, config.rope_theta)


class EncodzallModel(EncodzallPreTrainedModel):
    """The encoder: bytes to one vector a word, each of which has seen the whole text.

    Encoder 1 packs whole words into short rows, where bytes attend within their word only; each word is pooled to one
    vector; encoder 2 lets the words of a text attend to each other. With `ngram_sizes`, a byte is told the runs of bytes around
    it as well, which may be of the words beside its own.

    Args:
        config ([`EncodzallConfig`]).

    Example:

    ```python
    >>> from transformers import AutoModel, AutoTokenizer
    >>> tokenizer = AutoTokenizer.from_pretrained("org/encodzall-nano")
    >>> model = AutoModel.from_pretrained("org/encodzall-nano")
    >>> embedding = model(**tokenizer("any text", return_tensors="pt")).pooler_output
    ```
    """

    has_decoder = False
    _can_record_outputs = {
        "hidden_states": OutputRecorder(EncodzallLayer, layer_name="word_encoder"),
        "attentions": OutputRecorder(EncodzallAttention, index=1, layer_name="word_encoder"),
    }

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.hashes = NgramHashes(config.ngram_sizes, config.ngram_buckets) if config.ngram_sizes else None
        if self.hashes is not None:
            self.ngrams = nn.Embedding(config.ngram_buckets, config.ngram_embedding_size)
            width = 2 * config.ngram_embedding_size * len(config.ngram_sizes)
            self.ngram_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.places = PlaceBinding(config.max_word_length, config.hidden_size, config.initializer_range)
        self.byte_encoder = self.layers_of(config.num_byte_layers, config.byte_key_value_heads)
        self.byte_norm = norm(config)
        self.learned_pooling = (
            LearnedQueryPooling(config.hidden_size, config.num_attention_heads)
            if config.pooling == "learned_query"
            else None
        )
        self.word_encoder = self.layers_of(config.num_word_layers, config.word_key_value_heads)
        self.norm = norm(config)
        self.text_pooling = LearnedQueryPooling(config.hidden_size) if config.text_pooling == "learned_query" else None
        self.sketch = TextSketch(config.sketch_size) if config.sketch_size else None
        self.gradient_checkpointing = False
        self.post_init()

    def pool(self, values, segments, num_segments):
        """Pool bytes, shape `(bytes, hidden_size)`, to words, shape `(num_segments, hidden_size)`."""
        if self.learned_pooling is not None:
            return self.learned_pooling(values, segments, num_segments)
        return (segment_max if self.config.pooling == "max" else segment_mean)(values, segments, num_segments)

    def embedding_of(self, words, word_mask):
        """Each text's vector, shape `(batch, hidden_size)`, from its words', shape `(batch, words, hidden_size)`; `word_mask`,
        shape `(batch, words)`, says which are its own."""
        if self.text_pooling is None:
            # What is beyond a text's last word is 0.
            return words.sum(1) / word_mask.sum(1, keepdim=True).to(words.dtype)
        text, word = word_mask.nonzero(as_tuple=True)
        return self.text_pooling(words[text, word], text, len(words))

    def with_sketch(self, embeddings, input_ids, real):
        """Each text's vector beside a bag of its words by their letters and their rarity, which tells more of what people find
        alike than a small encoder learns.

        Args:
            embeddings (`torch.Tensor` of shape `(batch, hidden_size)`).
            input_ids (`torch.LongTensor` of shape `(batch, length)`), real (`torch.BoolTensor` of the same shape).

        Returns:
            `torch.Tensor` of shape `(batch, hidden_size + sketch_size)`: of two their cosine is that of the sketches times
            `sketch_share` and that of the vectors for the rest; numbers have a root mean square of 1. The sketch of a text
            without words is of zeros.
        """
        sketches, share = self.sketch(without_padding(input_ids, real)[0]), self.config.sketch_share
        parts = (embeddings, 1 - share), (sketches, share)
        parts = [nn.functional.normalize(part.float(), dim=-1) * weight**0.5 for part, weight in parts]
        return (torch.cat(parts, 1) * self.config.embedding_size**0.5).to(embeddings.dtype)

    def encode_words(self, flat_ids, segments, lengths):
        """Encoder 1 and pooling; arguments as of [`encode_bytes`], and `segments` (`torch.LongTensor` of shape `(bytes,)`), the
        word of each byte. Returns words, shape `(words, hidden_size)`."""
        return self.pool(self.encode_bytes(flat_ids, lengths), segments, len(lengths))

    def ngrams_around(self, input_ids, real):
        """What the runs that end and begin at each byte add to its embedding.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`), real (`torch.BoolTensor` of the same shape): which places
                hold a byte.

        Returns:
            `torch.Tensor` of shape `(bytes, hidden_size)`.
        """
        texts, places = without_padding(input_ids, real, self.hashes.recent)
        row, place, ending = real.nonzero()[:, 0], places[real], self.hashes(texts)
        runs = [ending[row, place]]
        runs += [ending[row, place + size - 1, i, None] for i, size in enumerate(self.hashes.sizes)]
        return self.ngram_proj(self.ngrams(torch.cat(runs, 1)).flatten(1))

    def encode_bytes(self, flat_ids, lengths, added=None):
        """Encoder 1.

        Args:
            flat_ids (`torch.LongTensor` of shape `(bytes,)`): the ids of all words, end to end.
            lengths (`torch.LongTensor` of shape `(words,)`).
            added (`torch.Tensor` of shape `(bytes, hidden_size)`, *optional*): to their embeddings.

        Returns:
            `torch.Tensor` of shape `(bytes, hidden_size)`.
        """
        rows = pack_rows(lengths, self.config.row_length, self.config.max_word_length)
        places = rows.lay(rows.positions, 0)
        states = self.embed_tokens(rows.lay(flat_ids, self.config.pad_token_id))
        if added is not None:
            states = states.flatten(0, 1).index_add(0, rows.slots, added.to(states.dtype)).view(states.shape)
        states = self.places(states, places)
        mask = rows.attention_mask(self.config, states)
        rotary = self.rotary(places)
        for layer in self.byte_encoder:
            states = layer(states, mask, rotary)
        return self.byte_norm(states.flatten(0, 1)[rows.slots])

    def encode_distinct_words(self, flat_ids, segments, lengths):
        """As `encode_words`, each distinct word once: without dropout, equal words have equal vectors."""
        longest = self.config.max_word_length
        if int(lengths.max()) > longest:
            return self.encode_words(flat_ids, segments, lengths)  # which refuses them
        places = torch.arange(len(flat_ids), device=flat_ids.device) - (lengths.cumsum(0) - lengths)[segments]
        spelled = flat_ids.new_full((len(lengths), longest), -1)
        spelled[segments, places] = flat_ids
        distinct, which = spelled.unique(dim=0, return_inverse=True)
        spelling = distinct >= 0
        lengths = spelling.sum(1)
        segments = torch.arange(len(distinct), device=flat_ids.device).repeat_interleave(lengths)
        return self.encode_words(distinct[spelling], segments, lengths)[which]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        word_index=None,
        output_byte_states=None,
        output_sketch=True,
        **kwargs,
    ):
        """Encode texts.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`).
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 0 on padding; by default every
                id but `pad_token_id` counts.
            word_index (`torch.LongTensor` of shape `(batch, length)`, *optional*): the tokenizer's; by default derived
                from the ids by the same rule, ids of 256 and above being words of their own.
            output_byte_states (`bool`, *optional*): return `byte_states`, too; by default the configuration's `byte_memory`.
            output_sketch (`bool`, defaults to `True`): with `sketch_size`, put the sketch beside the words' vectors in
                `pooler_output`.

        Returns:
            [`EncodzallModelOutput`]. A text without any byte has one word, of zeros before encoder 2.

        Raises:
            ValueError: without `input_ids`, or where a word is longer than `max_word_length`.
        """
        if input_ids is None:
            raise ValueError(
                "Encodzall needs input_ids: its words are made of bytes, so embeddings cannot replace them"
            )
        if not self.config.use_memory:
            zeros = self.embed_tokens.weight.new_zeros(len(input_ids), 1, self.config.hidden_size)
            ones = torch.ones_like(input_ids[:, :1])
            return EncodzallModelOutput(zeros, zeros[:, 0], ones, ones - 1)
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        if word_index is None:
            word_index = derive_word_index(input_ids, attention_mask, self.config.max_word_length)
        if output_byte_states is None:
            output_byte_states = self.config.byte_memory
        real = (attention_mask != 0) & (word_index >= 0)
        begins, segments, lengths, text, word = flatten_words(word_index, real)
        num_words = int(word.max()) + 1 if len(word) else 1
        cells = text * num_words + word

        # Where each byte stands and each word starts in the text, a masked word taken for one of usual length.
        width = torch.where(input_ids == self.config.mask_token_id, self.config.word_mask_length, 1) * real
        byte_positions = width.cumsum(1) - width
        starts = byte_positions[real][begins]

        shape = (len(input_ids), num_words)
        word_mask = starts.new_zeros(shape).flatten().index_fill(0, cells, 1).view(shape)
        word_mask[:, 0] = 1
        word_positions = word_mask.new_zeros(shape).flatten().index_copy(0, cells, starts).view(shape)
        states = self.embed_tokens.weight.new_zeros(shape[0] * shape[1], self.config.hidden_size)
        in_words = None
        if len(word):
            if output_byte_states or self.hashes is not None:
                added = None if self.hashes is None else self.ngrams_around(input_ids, real)
                in_words = self.encode_bytes(input_ids[real], lengths, added)
                words = self.pool(in_words, segments, len(lengths))
            else:
                encode = self.encode_words if self.training else self.encode_distinct_words
                words = encode(input_ids[real], segments, lengths)
            states = states.to(words.dtype).index_copy(0, cells, words)
        states = states.view(*shape, -1)

        mask = create_bidirectional_mask(self.config, states, word_mask)
        rotary = self.rotary(torch.arange(num_words, device=states.device)[None])
        for layer in self.word_encoder:
            states = layer(states, mask, rotary)
        states = self.norm(states) * word_mask[..., None].to(states.dtype)
        byte_states = None
        if output_byte_states:
            byte_states = states.new_zeros(*input_ids.shape, states.shape[-1])
            if in_words is not None:
                in_words = in_words + states.flatten(0, 1)[cells[segments]]
                byte_states = byte_states.masked_scatter(real[..., None], in_words.to(states.dtype))
        source_ids = source_positions = None
        if self.config.follows_source:
            source_ids, places = without_padding(input_ids, real)
            # Behind the last there is as much as to the end.
            ends = byte_positions.new_zeros(len(input_ids), input_ids.shape[1] + 1) + width.sum(1, keepdim=True)
            row = real.nonzero()[:, 0]
            source_positions = ends.index_put((row, places[real]), byte_positions[real])
        embeddings = self.embedding_of(states, word_mask)
        return EncodzallModelOutput(
            last_hidden_state=states,
            pooler_output=self.with_sketch(embeddings, input_ids, real)
            if self.sketch and output_sketch
            else embeddings,
            word_mask=word_mask,
            word_positions=word_positions,
            byte_states=byte_states,
            byte_mask=real.long() if output_byte_states else None,
            byte_positions=byte_positions if output_byte_states else None,
            source_ids=source_ids,
            source_positions=source_positions,
        )

    def encode(self, input_ids, attention_mask=None, word_index=None):
        """Return the words' vectors, shape `(batch, words, hidden_size)`; arguments as of `forward`."""
        return self(input_ids, attention_mask, word_index, return_dict=True).last_hidden_state

    def latent_scale(self, bits=8):
        """Eight standard deviations to either side, by the final norm's weights, in as many steps as there are levels."""
        return self.norm.weight.detach().abs().clamp(min=1e-6) * (16 / 2**bits)


class EncodzallSequenceDecoder(EncodzallPreTrainedModel):
    """Causal decoder of a whole text, whose every layer attends to all its words, and with `byte_memory` to all its bytes.

    Args:
        config ([`EncodzallConfig`]).
    """

    def __init__(self, config):
        super().__init__(config)
        self.ngram_proj = None
        if config.ngram_sizes:
            width = config.ngram_embedding_size * len(config.ngram_sizes)
            self.ngram_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.layers = self.layers_of(config.num_decoder_layers, config.word_key_value_heads, has_memory=True)
        self.norm = norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    def keeps_memory(self, past_key_values):
        """Whether a cache (`EncoderDecoderCache` or `None`) has the keys and values of the memory, so that no layer reads it."""
        # Layers whose gradient is checkpointed read no cache.
        if past_key_values is None or (self.training and self.gradient_checkpointing):
            return False
        return all(past_key_values.is_updated.get(i) for i in range(len(self.layers)))

    def forward(
        self,
        inputs_embeds,
        memory,
        memory_mask,
        memory_positions,
        past_key_values=None,
        decoder_attention_mask=None,
        source_positions=None,
    ):
        """Decode.

        Args:
            inputs_embeds (`torch.Tensor` of shape `(batch, length, hidden_size)`): embedded bytes, shifted by one.
            memory (`torch.Tensor` of shape `(batch, keys, hidden_size)`).
            memory_mask, memory_positions (`torch.LongTensor` of shape `(batch, keys)`).
            past_key_values (`EncoderDecoderCache`, *optional*).
            decoder_attention_mask (`torch.LongTensor` of shape `(batch, past + length)`, *optional*): 0 on padding, which
                takes no position.
            source_positions (`torch.LongTensor` of shape `(batch, length)`, *optional*): where in the encoded text each input
                stands; by default where it stands in its own.

        Returns:
            `torch.Tensor` of shape `(batch, length, hidden_size)`.
        """
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = inputs_embeds.shape[1]
        if decoder_attention_mask is None:
            positions = past_length + torch.arange(length, device=inputs_embeds.device)[None]
        else:
            positions = (decoder_attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
        cache = None if past_key_values is None else past_key_values.self_attention_cache
        mask = create_causal_mask(self.config, inputs_embeds, decoder_attention_mask, cache)
        memory_mask = create_bidirectional_mask(self.config, inputs_embeds, memory_mask, encoder_hidden_states=memory)
        rotary = self.rotary(positions)
        memory_rotary = None if self.keeps_memory(past_key_values) else self.rotary(memory_positions)
        source_rotary = None if source_positions is None else self.rotary(source_positions)
        states = inputs_embeds
        for layer in self.layers:
            states = layer(
                states,
                mask,
                rotary,
                memory=memory,
                memory_mask=memory_mask,
                memory_rotary=memory_rotary,
                past_key_values=past_key_values,
                source_rotary=source_rotary,
            )
        return self.norm(states)


class EncodzallWordDecoder(EncodzallPreTrainedModel):
    """Causal decoder of each word alone, from its one vector.

    Args:
        config ([`EncodzallConfig`]).
    """

    def __init__(self, config):
        super().__init__(config)
        self.condition = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.places = PlaceBinding(config.max_word_length + 1, config.hidden_size, config.initializer_range)
        self.layers = self.layers_of(config.num_word_decoder_layers, config.byte_key_value_heads)
        self.norm = norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, embed_tokens, words, labels, segments, lengths):
        """Score each word's bytes and its end.

        Args:
            embed_tokens (`nn.Embedding`): of the bytes.
            words (`torch.Tensor` of shape `(words, hidden_size)`): the words' vectors.
            labels (`torch.LongTensor` of shape `(bytes,)`): the words' bytes, end to end; -100 where not asked.
            segments (`torch.LongTensor` of shape `(bytes,)`): the word of each byte.
            lengths (`torch.LongTensor` of shape `(words,)`).

        Returns:
            `tuple`: states `(bytes + words, hidden_size)` and labels `(bytes + words,)`, each word's bytes followed by
            `sep_token_id`.
        """
        config = self.config
        rows = pack_rows(lengths + 1, config.row_length, config.max_word_length + 1)
        slots = torch.arange(len(labels), device=labels.device) + segments
        # The end of a word is asked for where any of its bytes is.
        asked = torch.zeros_like(lengths).index_add(0, segments, (labels != -100).to(lengths.dtype)) > 0
        ends = torch.where(asked, config.sep_token_id, -100)
        targets = labels.new_empty(len(labels) + len(lengths))
        targets[lengths.cumsum(0) + torch.arange(len(lengths), device=labels.device)] = ends
        targets[slots] = labels
        inputs = targets.new_full(targets.shape, config.bos_token_id)
        inputs[slots + 1] = labels.masked_fill(labels == -100, config.pad_token_id)
        places = rows.lay(rows.positions, 0)
        conditions = self.condition(words)[rows.segments.clamp(min=0)]
        states = embed_tokens(rows.lay(inputs, config.pad_token_id)) + self.places(conditions, places)
        mask = rows.attention_mask(config, states, causal=True)
        rotary = self.rotary(places)
        for layer in self.layers:
            states = layer(states, mask, rotary)
        return self.norm(states.flatten(0, 1)[rows.slots]), targets


class EncodzallForConditionalGeneration(EncodzallPreTrainedModel, GenerationMixin):
    """Encoder and sequence decoder: restores a text from the words' vectors of its noisy version.

    `loss = sequence_loss + contrastive_loss`: the decoder's cross-entropy and, times `contrastive_loss_weight` (0), that of
    finding the clean text's embedding by the noisy one's among all of the batch, to which accumulated passes and ranks add none.

    Args:
        config ([`EncodzallConfig`]).

    Example:

    ```python
    >>> from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    >>> tokenizer = AutoTokenizer.from_pretrained("org/encodzall-nano")
    >>> model = AutoModelForSeq2SeqLM.from_pretrained("org/encodzall-nano")
    >>> model.reconstruct(["to be or not to be"], tokenizer)
    ['to be or not to be']
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _keys_to_ignore_on_load_unexpected = [r"^word_decoder\."]

    def __init__(self, config):
        super().__init__(config)
        self.model = EncodzallModel(config)
        self.has_bottleneck = not (config.byte_memory or config.follows_source)
        self.sequence_decoder = EncodzallSequenceDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_encoder(self, *args, **kwargs):
        return self.model

    def latent_scale(self, bits=8):
        return self.model.latent_scale(bits)

    def encode(self, input_ids, attention_mask=None, word_index=None):
        """Return the words' vectors, shape `(batch, words, hidden_size)`; arguments as of [`EncodzallModel`]."""
        return self.model.encode(input_ids, attention_mask, word_index)

    def decode(
        self,
        latents,
        decoder_input_ids,
        word_mask=None,
        word_positions=None,
        past_key_values=None,
        decoder_attention_mask=None,
        decoder_recent_ids=None,
        source_positions=None,
    ):
        """Score each byte of a text, given the bytes before it and the words' vectors.

        Args:
            latents (`torch.Tensor` of shape `(batch, words, hidden_size)`): or what else [`EncodzallModelOutput.memory`] gives.
            decoder_input_ids (`torch.LongTensor` of shape `(batch, length)`): the text behind `decoder_start_token_id`.
            word_mask (`torch.LongTensor` of shape `(batch, words)`, *optional*): by default all words count.
            word_positions (`torch.LongTensor` of shape `(batch, words)`, *optional*): where each word starts in the
                text, in bytes; by default words of `word_mask_length` bytes are assumed.
            past_key_values (`EncoderDecoderCache`, *optional*).
            decoder_attention_mask (`torch.LongTensor` of shape `(batch, past + length)`, *optional*): 0 on padding.
            decoder_recent_ids (`torch.LongTensor` of shape `(batch, n)`, *optional*): what stands before `decoder_input_ids`, as
                far as the longest of the `ngram_sizes` reaches back; `generate` gives it.
            source_positions (`torch.LongTensor` of shape `(batch, length)`, *optional*): with `follows_source`, and
                wherever given, where in the encoded text each of `decoder_input_ids` stands, as of
                [`EncodzallModelOutput.followed`]; `generate` gives it.

        Returns:
            `torch.FloatTensor` of shape `(batch, length, vocabulary)`.

        Raises:
            ValueError: with `ngram_sizes`, for a cache with too few `decoder_recent_ids`; with `follows_source`, without
                `source_positions`.
        """
        if word_mask is None:
            word_mask = decoder_input_ids.new_ones(latents.shape[:2])
        if word_positions is None:
            word_positions = (word_mask.cumsum(1) - 1) * self.config.word_mask_length
        embeds = self.model.embed_tokens(decoder_input_ids)
        if self.model.hashes is not None:
            recent = decoder_input_ids[:, :0] if decoder_recent_ids is None else decoder_recent_ids
            past = 0 if past_key_values is None else past_key_values.get_seq_length()
            if recent.shape[1] < min(self.model.hashes.recent, past):
                raise ValueError(f"ngram_sizes reach back {self.model.hashes.recent} ids: give decoder_recent_ids")
            embeds = embeds + self.ngrams_before(decoder_input_ids, recent, decoder_attention_mask)
        if self.config.follows_source and source_positions is None:
            raise ValueError(
                "with follows_source, what is decoded stands at places of the encoded text: give source_positions"
            )
        states = self.sequence_decoder(
            embeds, latents, word_mask, word_positions, past_key_values, decoder_attention_mask, source_positions
        )
        return self.lm_head(states)

    def shift_right(self, labels):
        """Labels, shape `(batch, length)`, to decoder inputs: `decoder_start_token_id` first, the last label dropped."""
        shifted = labels.roll(1, dims=1)
        shifted[:, 0] = self.config.decoder_start_token_id
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)

    prepare_decoder_input_ids_from_labels = shift_right

    def ngrams_before(self, ids, recent, mask):
        """What the runs that end at each id add to its embedding.

        Args:
            ids (`torch.LongTensor` of shape `(batch, length)`), recent (`torch.LongTensor` of shape `(batch, n)`): before them.
            mask (`torch.LongTensor` of shape `(batch, past + length)`, *optional*): 0 on padding, which no run has; by default
                `pad_token_id` is padding.

        Returns:
            `torch.Tensor` of shape `(batch, length, hidden_size)`.
        """
        whole = torch.cat((recent, ids), 1)
        real = whole != self.config.pad_token_id if mask is None else mask[:, -whole.shape[1] :] != 0
        texts, places = without_padding(whole, real)
        rows = self.model.hashes(texts)
        rows = rows.gather(1, places[:, recent.shape[1] :, None].expand(-1, -1, rows.shape[2]))
        return self.sequence_decoder.ngram_proj(self.model.ngrams(rows).flatten(2))

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        """As transformers', with what runs of bytes reach back to."""
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if self.model.hashes is not None and inputs.get("decoder_recent_ids") is None:
            end = input_ids.shape[1] - inputs["decoder_input_ids"].shape[1]
            inputs["decoder_recent_ids"] = input_ids[:, max(end - self.model.hashes.recent, 0) : end]
        past, length = inputs.get("past_key_values"), inputs["decoder_input_ids"].shape[1]
        # Of a prefill in chunks, input_ids are one chunk: what came before it is not known here.
        is_whole = input_ids.shape[1] == length + (0 if past is None else past.get_seq_length())
        if self.config.follows_source and is_whole:
            encoded = inputs["encoder_outputs"] = self.as_output(inputs["encoder_outputs"])
            written = self.without_hidden(input_ids, inputs.get("decoder_attention_mask"))
            inputs["source_positions"] = encoded.followed(written)[:, -length:]
        return inputs

    def as_output(self, encoded):
        """What was encoded as [`EncodzallModelOutput`], given as such, as a `dict` or as a `tuple`."""
        if isinstance(encoded, EncodzallModelOutput):
            return encoded
        if isinstance(encoded, (tuple, list)):
            names = ["last_hidden_state", "pooler_output", "word_mask", "word_positions"]
            names += ["byte_states", "byte_mask", "byte_positions"] * self.config.byte_memory
            names += ["source_ids", "source_positions"] * self.config.follows_source
            encoded = dict(zip(names, encoded, strict=False))
        return EncodzallModelOutput(**encoded)

    def without_hidden(self, ids, mask):
        """A decoder's inputs, shape `(batch, length)`, with `pad_token_id` where a mask, of the same shape or `None`, is 0."""
        return ids if mask is None else ids.masked_fill(mask[:, -ids.shape[1] :] == 0, self.config.pad_token_id)

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        word_index=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        encoder_outputs=None,
        past_key_values=None,
        labels=None,
        target_word_index=None,
        use_cache=None,
        num_items_in_batch=None,
        decoder_recent_ids=None,
        source_positions=None,
        **kwargs,
    ):
        """Encode, decode, and compare with the labels.

        Args:
            input_ids, attention_mask, word_index: the noisy text, as of [`EncodzallModel`].
            decoder_input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): by default the labels,
                shifted right.
            decoder_attention_mask (`torch.LongTensor` of shape `(batch, past + length)`, *optional*): 0 on padding of the
                decoder's inputs.
            encoder_outputs ([`EncodzallModelOutput`] or `tuple`, *optional*): instead of the noisy text.
            past_key_values (`EncoderDecoderCache`, *optional*): keys and values of earlier calls.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): the clean text and its end, -100 where
                not asked.
            target_word_index (`torch.LongTensor` of shape `(batch, length)`, *optional*): the clean text's words, -1 on its end
                and on padding; by default derived. Read by [`EncodzallForPreTraining`] and for the contrastive loss.
            use_cache (`bool`, *optional*): return `past_key_values`; by default without labels only.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): divisor of the losses; by default the labels here.
            decoder_recent_ids (`torch.LongTensor` of shape `(batch, n)`, *optional*): as of `decode`.
            source_positions (`torch.LongTensor` of shape `(batch, length)`, *optional*): as of `decode`; without a cache, by
                default followed.

        Returns:
            [`EncodzallOutput`].

        Raises:
            ValueError: without labels and decoder inputs, or as of `decode`.
        """
        if encoder_outputs is None:
            recorded = {k: kwargs[k] for k in ("output_attentions", "output_hidden_states") if k in kwargs}
            encoder_outputs = self.model(
                input_ids, attention_mask, word_index, output_sketch=False, return_dict=True, **recorded
            )
        encoder_outputs = self.as_output(encoder_outputs)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError(
                    "the decoder needs labels or decoder_input_ids; to restore texts, call generate or reconstruct"
                )
            if self.config.follows_source and hides_before_bytes(labels):
                raise ValueError("labels of -100 before a byte hide what is written: give decoder_input_ids")
            decoder_input_ids = self.shift_right(labels)
        use_cache = (self.config.use_cache and labels is None and not self.training) if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        memory, mask, positions = encoder_outputs.memory(not self.sequence_decoder.keeps_memory(past_key_values))
        if source_positions is None and (past_key_values is None or not past_key_values.get_seq_length()):
            source_positions = encoder_outputs.followed(self.without_hidden(decoder_input_ids, decoder_attention_mask))
        logits = self.decode(
            memory,
            decoder_input_ids,
            mask,
            positions,
            past_key_values,
            decoder_attention_mask,
            decoder_recent_ids,
            source_positions,
        )
        output = EncodzallOutput(
            logits=logits,
            latents=encoder_outputs.last_hidden_state,
            word_mask=encoder_outputs.word_mask,
            word_positions=encoder_outputs.word_positions,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=encoder_outputs.hidden_states,
            attentions=encoder_outputs.attentions,
        )
        if labels is not None:
            self.add_losses(output, labels, target_word_index, num_items_in_batch)
        return output

    def add_losses(self, output, labels, target_word_index, num_items_in_batch):
        """Set `loss` and the part losses of an output."""
        output.loss = label_cross_entropy(output.logits, labels, num_items_in_batch)
        output.sequence_loss = output.loss.detach()
        if self.config.contrastive_loss_weight:
            target_word_index = self.words_of(labels, target_word_index)
            self.add_contrastive_loss(output, labels, target_word_index, num_items_in_batch)

    def words_of(self, labels, target_word_index):
        """The clean text's words: given, or derived from its bytes.

        Raises:
            ValueError: where labels hide where words begin.
        """
        if target_word_index is not None:
            return target_word_index
        if hides_before_bytes(labels):
            raise ValueError(
                "labels of -100 before a byte hide where words begin: give target_word_index, as the collator does"
            )
        is_byte = (labels >= 0) & (labels < NUM_BYTES)
        return derive_word_index(labels, is_byte, self.config.max_word_length)

    def add_contrastive_loss(self, output, labels, target_word_index, num_items_in_batch):
        """Encode the clean text as well, and add the loss of finding it to an output's."""
        real = target_word_index >= 0
        clean = self.model(
            labels.where(real & (labels >= 0), self.config.pad_token_id),
            real.long(),
            target_word_index,
            output_sketch=False,
            return_dict=True,
        ).pooler_output
        noisy = self.model.embedding_of(output.latents, output.word_mask)
        told = multiple_negatives_loss(noisy, clean, self.config.contrastive_scale, equal_rows(labels))
        # A mean over texts: each micro-batch counts by its share of the labels.
        told = over_labels(told * (labels != -100).sum(), labels, num_items_in_batch)
        told = self.config.contrastive_loss_weight * told
        output.loss = output.loss + told
        output.contrastive_loss = told.detach()

    def reconstruct(self, texts, tokenizer, max_new_tokens=None, stored=False, **kwargs):
        """Encode texts and decode them again, freely running.

        Args:
            texts (`list[str]`).
            tokenizer ([`EncodzallTokenizer`]).
            max_new_tokens (`int`, *optional*): bytes to write at most; by default a quarter more than the longest text.
            stored (`bool`, defaults to `False`): round the latents as they would be stored.
            kwargs: passed to `generate`.

        Returns:
            `list[str]`, one text for each.

        Raises:
            ValueError: for a text alone, and with `stored` where `byte_memory` or `follows_source` lead around the latents.
        """
        if stored and not self.has_bottleneck:
            raise ValueError(
                "with byte_memory or follows_source a text is not its latents alone: leave stored at False"
            )
        inputs = tokenizer(listed(texts), padding=True, return_tensors="pt").to(self.device)
        if max_new_tokens is None:
            max_new_tokens = inputs["input_ids"].shape[1] * 5 // 4 + 16
        with in_use(self):
            encoded = self.model(**inputs, output_sketch=False, return_dict=True)
            if stored:
                encoded.last_hidden_state = self.round_latents(encoded.last_hidden_state)
            ids = self.generate(encoder_outputs=encoded, max_new_tokens=max_new_tokens, **{"do_sample": False} | kwargs)
        return tokenizer.batch_decode(ids, skip_special_tokens=True)

    def suggest_edits(
        self, texts, tokenizer, window=256, overlap=64, batch_size=32, show_progress=False, min_gain=-math.inf
    ):
        """What the model would write otherwise in noisy texts of any length, word by word, and how much likelier it finds that.

        A window that the model would write as it is, or in which nothing can gain enough, is not written: that takes one pass.

        Args:
            texts (`list[str]`).
            tokenizer ([`EncodzallTokenizer`]).
            window (`int`, defaults to 256): bytes that are read at once, as long as the texts that the model was trained on.
            overlap (`int`, defaults to 64): bytes that neighbouring windows have in common; each decides a half.
            batch_size (`int`, defaults to 32): windows, or texts with one edit, in a batch.
            show_progress (`bool`, defaults to `False`).
            min_gain (`float`, defaults to minus infinity): of edits that gain less, not all need be found.

        Returns:
            `list[list[SuggestedEdit]]`, by their starts.

        Raises:
            ValueError: for an overlap that is more than a half of the window, a window below 16 bytes, or a text alone.
        """

        def passed(method, rows, label):
            return in_batches(partial(method, tokenizer=tokenizer), rows, batch_size, show_progress, label)

        # One pass over all windows after the other: what is left to write fills batches, which is quicker, and the memory that a
        # batch frees fits the next one, which is like it.
        def edits_of(windows):
            with in_use(self):
                read = passed(self.read_nats, windows, "reading")
                # No text takes less than 0 nats, so that none gains more than what the noisy one takes.
                left = [i for i, (nats, agrees) in enumerate(read) if not agrees and nats >= min_gain]
                restored = passed(self.written, [windows[i] for i in left], "writing")
                wanted = [
                    (i, edit) for i, text in zip(left, restored, strict=True) for edit in word_edits(windows[i], text)
                ]
                after = passed(self.edited_nats, [(windows[i], edit) for i, edit in wanted], "weighing")
            found = [[] for _ in windows]
            for (i, edit), nats in zip(wanted, after, strict=True):
                found[i].append(SuggestedEdit(*edit, read[i][0] - nats))
            return found

        return edits_by_windows(texts, edits_of, window, overlap)

    def encode_windows(self, windows, tokenizer):
        """Short texts, a `list[str]`, as [`EncodzallModelOutput`]."""
        inputs = tokenizer(windows, padding=True, pad_to_multiple_of=PADDED_TO, return_tensors="pt").to(self.device)
        return self.model(**inputs, output_sketch=False, return_dict=True)

    def read_nats(self, windows, tokenizer):
        """How many nats each of some short texts, a `list[str]`, takes, told its own words, and whether all its bytes are the
        likeliest."""
        encoded = self.encode_windows(windows, tokenizer)
        nats, agrees = self.told(encoded, windows, tokenizer)
        return list(zip(nats.tolist(), agrees.tolist(), strict=True))

    def written(self, windows, tokenizer):
        """What the model writes freely, a `list[str]`, told each of some short texts, a `list[str]`."""
        longest = max(len(text.encode("utf-8", "surrogatepass")) for text in windows)
        encoded = self.encode_windows(windows, tokenizer)
        ids = self.generate(encoder_outputs=encoded, do_sample=False, max_new_tokens=longest * 5 // 4 + 16)
        return tokenizer.batch_decode(ids, skip_special_tokens=True)

    def edited_nats(self, wanted, tokenizer):
        """How many nats some short texts take with an edit each, told the words that they have without it; `wanted` are a
        `list[tuple[str, tuple[int, int, str]]]` of both, the edits as of [`word_edits`]."""
        edited = [text[:start] + new + text[end:] for text, (start, end, new) in wanted]
        encoded = self.encode_windows([text for text, _ in wanted], tokenizer)
        return self.told(encoded, edited, tokenizer)[0].tolist()

    def told(self, encoded, texts, tokenizer):
        """How likely texts are, told the words' vectors of others.

        Args:
            encoded ([`EncodzallModelOutput`]), texts (`list[str]`), one for each row; tokenizer.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: nats of each text and its end, and whether each of its bytes is the likeliest,
            each of shape `(n,)`.
        """
        batch = tokenizer(
            texts,
            padding=True,
            pad_to_multiple_of=PADDED_TO,
            padding_side="right",
            return_tensors="pt",
            add_special_tokens=False,
        )
        ids, real = (nn.functional.pad(batch[name].to(self.device), (0, 1)) for name in ("input_ids", "attention_mask"))
        labels = ids.masked_fill(real == 0, -100)
        labels[torch.arange(len(ids)), real.sum(1)] = self.config.eos_token_id
        inputs = self.shift_right(labels)
        memory, mask, positions = encoded.memory()
        logits = self.decode(memory, inputs, mask, positions, source_positions=encoded.followed(inputs))
        nats = nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
        right = (logits.argmax(-1) == labels) | (labels == -100)
        return nats.sum(1).cpu(), right.all(1).cpu()

    def denoise(self, texts, tokenizer, min_gain=None, **kwargs):
        """Restore noisy texts of any length; what the model is not sure of stays as it was.

        Args:
            texts (`list[str]`), tokenizer ([`EncodzallTokenizer`]).
            min_gain (`float`, *optional*): by how many nats for each character it changes a replacement must be likelier than the
                original; by default the configuration's `min_gain`. With infinity nothing is replaced.
            kwargs: of [`suggest_edits`].

        Returns:
            `list[str]`.

        Raises:
            ValueError: as of [`suggest_edits`].
        """
        min_gain = self.config.min_gain if min_gain is None else min_gain
        texts = listed(texts)
        found = self.suggest_edits(texts, tokenizer, min_gain=min_gain, **kwargs)
        return [apply_suggested(text, edits, min_gain) for text, edits in zip(texts, found, strict=True)]


class EncodzallForPreTraining(EncodzallForConditionalGeneration):
    """Encoder, sequence decoder and word decoder: the model that masked denoising trains.

    `loss = sequence_loss + word_loss + contrastive_loss`: the sequence decoder's cross-entropy times `sequence_loss_weight`
    (0.75) and the word decoder's focal cross-entropy times `word_loss_weight` (0.25), both divided by the number of labels; and
    the last as of [`EncodzallForConditionalGeneration`].

    Args:
        config ([`EncodzallConfig`]).
    """

    _keys_to_ignore_on_load_unexpected = None

    def __init__(self, config):
        super().__init__(config)
        self.word_decoder = EncodzallWordDecoder(config)
        self.post_init()

    def score_words(self, latents, labels, target_word_index):
        """Score the words of the clean text, each from the vector of the word in its place.

        Args:
            latents (`torch.Tensor` of shape `(batch, words, hidden_size)`).
            labels (`torch.LongTensor` of shape `(batch, length)`): the clean text.
            target_word_index (`torch.LongTensor` of shape `(batch, length)`): its words; -1 on its end and on padding.

        Returns:
            `tuple`: logits `(bytes + words, vocabulary)` and labels `(bytes + words,)`.

        Raises:
            ValueError: where the clean text has more words than there are vectors.
        """
        real = target_word_index >= 0
        _, segments, lengths, text, word = flatten_words(target_word_index, real)
        if len(word) and int(word.max()) >= latents.shape[1]:
            raise ValueError(
                f"the clean text has {int(word.max()) + 1} words but the noisy one {latents.shape[1]}: the word decoder "
                "needs noise that keeps the number of words; train EncodzallForConditionalGeneration on any other"
            )
        words = latents.flatten(0, 1)[text * latents.shape[1] + word]
        states, targets = self.word_decoder(self.model.embed_tokens, words, labels[real], segments, lengths)
        return self.lm_head(states), targets

    def add_losses(self, output, labels, target_word_index, num_items_in_batch):
        if not self.config.use_memory:  # there are no words to decode
            return super().add_losses(output, labels, target_word_index, num_items_in_batch)
        if num_items_in_batch is None:
            num_items_in_batch = (labels != -100).sum().clamp(min=1)
        sequence_loss = label_cross_entropy(output.logits, labels, num_items_in_batch)
        target_word_index = self.words_of(labels, target_word_index)
        logits, targets = self.score_words(output.latents, labels, target_word_index)
        word_loss = label_cross_entropy(logits, targets, num_items_in_batch, self.config.focal_gamma)
        sequence_loss = self.config.sequence_loss_weight * sequence_loss
        word_loss = self.config.word_loss_weight * word_loss
        output.loss = sequence_loss + word_loss
        output.sequence_loss, output.word_loss = sequence_loss.detach(), word_loss.detach()
        if self.config.contrastive_loss_weight:
            self.add_contrastive_loss(output, labels, target_word_index, num_items_in_batch)


# Classification

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


class EncodzallEncoderHead(EncodzallPreTrainedModel):
    """The encoder, for something that is done with its vectors.

    Args:
        config ([`EncodzallConfig`]).

    Raises:
        ValueError: for a configuration without `use_memory`.
    """

    has_decoder = False
    _keys_to_ignore_on_load_unexpected = [r"^word_decoder\.", r"^sequence_decoder\.", r"^lm_head\."]

    def __init__(self, config):
        if not config.use_memory:
            raise ValueError("without use_memory there are no vectors to go by: leave it at True")
        super().__init__(config)
        self.model = EncodzallModel(config)

    def encode(self, input_ids, attention_mask=None, word_index=None):
        """Return the words' vectors, shape `(batch, words, hidden_size)`; arguments as of [`EncodzallModel`]."""
        return self.model.encode(input_ids, attention_mask, word_index)

    def latent_scale(self, bits=8):
        return self.model.latent_scale(bits)


class EncodzallClassifier(EncodzallEncoderHead):
    """The encoder and a linear head for `num_labels` scores.

    Args:
        config ([`EncodzallConfig`]).
    """

    read = "hidden_size"  # numbers that the head reads, by their name in the configuration

    def __init__(self, config):
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(getattr(config, self.read), config.num_labels)
        self.post_init()


class EncodzallForSequenceClassification(EncodzallClassifier):
    """Classifies texts by their embeddings: the mean of their words' vectors, or as `text_pooling` and `sketch_size` say.

    Args:
        config ([`EncodzallConfig`]): `num_labels` scores; `problem_type` says what they are, by default what labels look like.

    Example:

    ```python
    >>> from transformers import AutoModelForSequenceClassification
    >>> model = AutoModelForSequenceClassification.from_pretrained("org/encodzall-nano", num_labels=3)
    ```
    """

    read = "embedding_size"

    @can_return_tuple
    def forward(
        self, input_ids=None, attention_mask=None, word_index=None, labels=None, num_items_in_batch=None, **kwargs
    ):
        """Classify.

        Args:
            input_ids, attention_mask, word_index: as of [`EncodzallModel`].
            labels (`torch.Tensor`, *optional*): classes, shape `(batch,)`, -100 for none; shares of each, shape
                `(batch, num_labels)`, of several that hold at once; or numbers, of either shape, to come near.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): divisor of the loss; by default the labels here.

        Returns:
            `SequenceClassifierOutput` with `loss` and `logits`, shape `(batch, num_labels)`.

        Raises:
            ValueError: for an unknown `problem_type`.
        """
        encoded = self.model(input_ids, attention_mask, word_index, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(encoded.pooler_output))
        loss = None if labels is None else self.loss_of(logits, labels, num_items_in_batch)
        return SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)

    def loss_of(self, logits, labels, num_items_in_batch):
        """The mean loss of labels; arguments as of [`forward`]."""
        if self.config.problem_type is None:  # kept, since pipelines go by it
            kinds = 0 if self.config.num_labels == 1 else 2 if labels.is_floating_point() else 1
            self.config.problem_type = PROBLEM_TYPES[kinds]
        kind = self.config.problem_type
        if kind not in PROBLEM_TYPES:
            raise ValueError(f"problem_type {kind!r} is unknown: accepted are {', '.join(PROBLEM_TYPES)}")
        if kind == "single_label_classification":
            return label_cross_entropy(logits, labels, num_items_in_batch)
        measure = nn.functional.mse_loss if kind == "regression" else nn.functional.binary_cross_entropy_with_logits
        total = measure(logits.float(), labels.view(logits.shape).float(), reduction="sum")
        number = labels.numel() if num_items_in_batch is None else num_items_in_batch
        return total / torch.as_tensor(number, device=total.device)


class EncodzallForTokenClassification(EncodzallClassifier):
    """Classifies each byte by its state within its word and its word's vector, which has seen the whole text.

    Labels of longer units stand, as is usual, at the first byte of each, and -100 elsewhere: see
    [`EncodzallTokenizer.of_words`].

    Args:
        config ([`EncodzallConfig`]): `num_labels` scores.

    Example:

    ```python
    >>> model = EncodzallForTokenClassification.from_pretrained("org/encodzall-nano", id2label={0: "O", 1: "NAME"})
    >>> batch = tokenizer.of_words([["Ann", "met", "Bob"]], [[1, 0, 1]]).convert_to_tensors("pt")
    >>> model(**batch).loss.backward()
    >>> model.classify_words([["Ann", "met", "Bob"]], tokenizer)
    [['NAME', 'O', 'NAME']]
    ```
    """

    @can_return_tuple
    def forward(
        self, input_ids=None, attention_mask=None, word_index=None, labels=None, num_items_in_batch=None, **kwargs
    ):
        """Classify.

        Args:
            input_ids, attention_mask, word_index: as of [`EncodzallModel`].
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): -100 for none.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): divisor of the loss; by default the labels here.

        Returns:
            `TokenClassifierOutput` with `loss` and `logits`, shape `(batch, length, num_labels)`.
        """
        encoded = self.model(input_ids, attention_mask, word_index, output_byte_states=True, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(encoded.byte_states))
        loss = None if labels is None else label_cross_entropy(logits, labels, num_items_in_batch)
        return TokenClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)

    def classify_words(self, texts, tokenizer, batch_size=32):
        """The likeliest label of each word.

        Args:
            texts (`list[list[str]]`): words, as of [`EncodzallTokenizer.of_words`]; tokenizer ([`EncodzallTokenizer`]);
            batch_size (`int`, defaults to 32).

        Returns:
            `list[list[str]]`: the configuration's names of the labels.

        Raises:
            ValueError: for an empty word.
        """
        found = []
        for start in range(0, len(texts), batch_size):
            batch = tokenizer.of_words(texts[start : start + batch_size])
            places = batch.pop("word_starts")
            inputs = tokenizer.pad(batch, padding_side="right", return_tensors="pt").to(self.device)
            with in_use(self):
                best = self(**inputs).logits.argmax(-1).tolist()
            found += [[self.config.id2label[row[i]] for i in some] for row, some in zip(best, places, strict=True)]
        return found


@dataclass
class EncodzallEmbeddingOutput(ModelOutput):
    """What [`EncodzallForSentenceEmbedding`] returns.

    Attributes:
        loss (`torch.FloatTensor` of shape `()`): of finding each text's second view, in nats a text.
        sentence_embedding (`torch.FloatTensor` of shape `(batch, embedding_size)`): of the texts, or of their first views.
        hidden_states, attentions (`tuple`): of encoder 2, where asked for.
    """

    loss: torch.FloatTensor | None = None
    sentence_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class EncodzallForSentenceEmbedding(EncodzallEncoderHead):
    """One vector a text; trained to find a text's other view among those of the batch.

    Views are a noisy and the clean text, as [`EncodzallViewsCollator`] gives them, or, of a text alone, two passes with dropout;
    the words' vectors of both are compared, without any sketch. Checkpoints are sentence-transformers' as well. Source of the
    latter view: Gao et al. 2021, "SimCSE", section 3.

    Args:
        config ([`EncodzallConfig`]): `contrastive_scale` is the factor of the cosines.

    Example:

    ```python
    >>> model = EncodzallForSentenceEmbedding.from_pretrained("org/encodzall-nano")
    >>> model.embed(["a text", "another"], tokenizer).shape
    torch.Size([2, 192])
    ```
    """

    compares_texts = True

    def __init__(self, config):
        super().__init__(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        word_index=None,
        second_input_ids=None,
        second_attention_mask=None,
        second_word_index=None,
        return_loss=True,
        **kwargs,
    ):
        """Embed texts.

        Args:
            input_ids, attention_mask, word_index: as of [`EncodzallModel`].
            second_input_ids, second_attention_mask, second_word_index (*optional*): the texts' second views; by default, in
                training, the first ones, which dropout makes others.
            return_loss (`bool`, defaults to `True`): compare the views, where there are two.

        Returns:
            [`EncodzallEmbeddingOutput`].

        Raises:
            ValueError: in training, without second views and without dropout.
        """
        first = self.model(input_ids, attention_mask, word_index, return_dict=True, **kwargs)
        if second_input_ids is None and self.training and return_loss:
            if not (self.config.dropout or self.config.attention_dropout):
                raise ValueError("without dropout both views of a text are one: give a dropout, or second_input_ids")
            second_input_ids, second_attention_mask, second_word_index = input_ids, attention_mask, word_index
        loss = None
        if second_input_ids is not None and return_loss:
            second = self.model(
                second_input_ids, second_attention_mask, second_word_index, output_sketch=False, return_dict=True
            ).pooler_output
            # Sketches learn nothing, and would tell most views apart alone.
            vectors = self.model.embedding_of(first.last_hidden_state, first.word_mask)
            same = equal_rows(second_input_ids)
            loss = multiple_negatives_loss(vectors, second, self.config.contrastive_scale, same)
        return EncodzallEmbeddingOutput(loss, first.pooler_output, first.hidden_states, first.attentions)

    def embed(self, texts, tokenizer, batch_size=64, show_progress=False):
        """Embed texts, each vector of length 1, so that products are cosines.

        Args:
            texts (`list[str]`), tokenizer ([`EncodzallTokenizer`]), batch_size (`int`, defaults to 64), show_progress (`bool`,
                defaults to `False`).

        Returns:
            `torch.FloatTensor` of shape `(texts, embedding_size)`, on the CPU.

        Raises:
            ValueError: for a text alone.
        """
        texts = listed(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that little of a batch is padding
        found = torch.empty(len(texts), self.config.embedding_size)
        for start in trange(0, len(texts), batch_size, disable=not show_progress, desc="embedding", leave=False):
            rows = order[start : start + batch_size]
            inputs = tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt").to(self.device)
            with in_use(self):
                vectors = self.model(**inputs, return_dict=True).pooler_output.float()
            found[rows] = nn.functional.normalize(vectors, dim=-1).cpu()
        return found

    def complete(self, save_directory):
        super().complete(save_directory)
        custom_object_save(self.model, save_directory)  # AutoModel serves the encoder, and so its code goes along
