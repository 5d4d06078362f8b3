"""The Abstractinator: bytes to segments to codes, level over level, and back; and the language model of bytes on them.

Source: the Abstractinator, a hierarchical autoencoder language model. Deviations: no prediction reads anything of what it
predicts, codes included; an expander reads its level's trunk beside what it is told from above, and is trained by either;
codes, where there are any, keep the compressor's gradient; limits of entropies follow a wanted mean length. The transformer
over the top is transformers' Llama.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    AutoModel,
    GenerationMixin,
    LlamaConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput, can_return_tuple

from .arithmetic_coding import compress as compress_bytes
from .arithmetic_coding import decompress as decompress_bytes
from .autoencoder import AutoencoderOutput, TextAutoencoder, in_use, label_cross_entropy, over_labels
from .byte_tokenizer import NUM_BYTES
from .configuration_abstractinator import AbstractinatorConfig
from .hierarchical_autoencoder import HierarchicalAutoencoder, at, with_start
from .hierarchical_cache import HierarchicalCache, LayerRows, TopCache, TopRows
from .packing import moved_left
from .pooling import LearnedQueryPooling
from .quantization import StepStatistics
from .segmentation import SCORE_RANGE, bounded_cuts

END = NUM_BYTES  # the number of the end of a text among what is predicted
UNREAD = ("cache_position",)  # what transformers hands to every model
UNANSWERED = ("output_attentions", "output_hidden_states")  # likewise, mostly as False
IMPOSSIBLE = -1e4  # a score whose probability is 0 in every precision, and yet finite


@dataclass
class AbstractinatorOutput(AutoencoderOutput):
    """What [`AbstractinatorModel`] returns.

    Attributes:
        loss (`torch.FloatTensor` of shape `()`): the sum of the part losses, in nats a byte.
        reconstruction_loss (`torch.FloatTensor` of shape `()`): cross-entropy of the symbols of all levels, each told the code
            of its segment and the symbols before it, a byte, detached.
        length_loss (`torch.FloatTensor` of shape `()`): cross-entropy of the segments' lengths, told their codes, a byte,
            detached.
        entropy_loss (`torch.FloatTensor` of shape `()`): weighted cross-entropy of each trunk's own next symbol, a byte,
            detached.
        commitment_loss (`torch.FloatTensor` of shape `()`): weighted distance to the codes, a byte, detached.
        byte_accuracy (`torch.FloatTensor` of shape `()`): share of the labels that score best.
        code_use (`torch.FloatTensor` of shape `()`): distinct top codes over top segments in this batch.
        code_restarts (`torch.LongTensor` of shape `()`): how often, so far, a top code that nothing used has started anew.
        code_perplexity (`torch.FloatTensor` of shape `()`): of the frequencies of top codes over the last steps; in training.
        segment_length (`torch.FloatTensor` of shape `()`): mean bytes in a segment of the top.
        logits (`torch.FloatTensor` of shape `(batch, length, vocab_size)`): `logits[:, t]` are the scores of token `t + 1`,
            told the code of its segment; not while training with labels, where nothing reads them.
        last_hidden_state (`torch.FloatTensor` of shape `(batch, length, level_sizes[0])`): what these scores are made of,
            likewise.
        latents (`torch.FloatTensor` of shape `(batch, segments, code_size)`): the top vectors or codes, 0 beyond a text's last.
        codes (`torch.LongTensor` of shape `(batch, segments)`): numbers of the top codes, -1 beyond the last; where there are
            codes.
        segment_lengths (`torch.LongTensor` of shape `(batch, segments)`): symbols of the level below in each top segment, 0
        beyond. hidden_states, attentions: none.
    """

    reconstruction_loss: torch.FloatTensor | None = None
    length_loss: torch.FloatTensor | None = None
    entropy_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    byte_accuracy: torch.FloatTensor | None = None
    code_use: torch.FloatTensor | None = None
    code_restarts: torch.LongTensor | None = None
    code_perplexity: torch.FloatTensor | None = None
    segment_length: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None
    segment_lengths: torch.LongTensor | None = None


@dataclass
class AbstractinatorCausalLMOutput(AbstractinatorOutput):
    """What [`AbstractinatorForCausalLM`] returns: beside what [`AbstractinatorOutput`] names,

    Attributes:
        language_loss (`torch.FloatTensor` of shape `()`): cross-entropy of the next byte, or end, detached.
        code_loss (`torch.FloatTensor` of shape `()`): weighted cross-entropy of the next top code, or end, a byte, detached;
            where it has a weight.
        logits (`torch.FloatTensor` of shape `(batch, length, vocab_size)`): `logits[:, t]` are the scores of token `t + 1`,
            from tokens up to `t` alone; what is neither a byte nor the end has probability 0. Not while training with labels.
        past_key_values ([`HierarchicalCache`]): of all levels.
    """

    language_loss: torch.FloatTensor | None = None
    code_loss: torch.FloatTensor | None = None
    past_key_values: Cache | None = None


@dataclass
class AbstractinatorStepOutput(ModelOutput):
    """What [`AbstractinatorForCausalLM`] returns beside a cache: few fields, since one byte's time is in part what its output
    takes to make.

    Attributes:
        logits (`torch.FloatTensor` of shape `(batch, length, vocab_size)`), last_hidden_state (`torch.FloatTensor` of shape
            `(batch, length, level_sizes[0])`), past_key_values ([`HierarchicalCache`]): as of
            [`AbstractinatorCausalLMOutput`]. hidden_states, attentions: none.
    """

    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple | None = None
    attentions: tuple | None = None


class CodeSequenceTransformer(nn.Module):
    """A causal transformer, transformers' Llama, over the vectors of the top segments; with `code_weight`, a head for the next
    code and the end.

    Args:
        config ([`AbstractinatorConfig`]), code_size (`int`): of the vectors.
    """

    def __init__(self, config, code_size):
        super().__init__()
        self.proj = nn.Linear(code_size, config.hidden_size)
        self.start = nn.Parameter(torch.empty(config.hidden_size))
        self.trunk = AutoModel.from_config(trunk_config(config))
        self.trunk.embed_tokens = None  # it reads vectors
        self.head = nn.Linear(config.hidden_size, config.codebook_sizes[-1] + 1) if config.code_weight else None

    def forward(self, vectors, use_cache=False):
        """Vectors of segments, shape `(batch, segments, code_size)`, to the states after each, a start before the first, shape
        `(batch, 1 + segments, hidden_size)`; and transformers' cache, or `None`."""
        embeds = with_start(self.start, self.proj(vectors.to(self.proj.weight.dtype)))
        outputs = self.trunk(inputs_embeds=embeds, use_cache=use_cache)
        return outputs.last_hidden_state, outputs.past_key_values

    def rows(self, cache, seen):
        """[`TopRows`] of transformers' cache, of which the first `seen` places are each row's own, shape `(batch,)`."""
        return TopRows(seen.clone(), [LayerRows(layer.keys, layer.values) for layer in cache.layers])

    def step(self, vectors, rows, where=None):
        """One more segment of some rows, shape `(n, code_size)`, to the state after it, shape `(n, hidden_size)`; which rows,
        rising, `where` says, shape `(n,)`, by default all."""
        rows.make_room()
        cache = TopCache(rows, torch.arange(len(rows.seen), device=vectors.device) if where is None else where)
        embeds = self.proj(vectors.to(self.proj.weight.dtype))[:, None]
        place = torch.arange(cache.length, device=vectors.device)
        hidden = (place > cache.seen[:, None])[:, None, None]
        mask = torch.zeros(hidden.shape, dtype=embeds.dtype, device=embeds.device)
        outputs = self.trunk(
            inputs_embeds=embeds,
            attention_mask=mask.masked_fill(hidden, torch.finfo(embeds.dtype).min),
            position_ids=cache.seen[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        rows.seen[cache.where] += 1
        return outputs.last_hidden_state[:, 0]


def trunk_config(config):
    """The Llama configuration of the transformer over the top."""
    return LlamaConfig(
        vocab_size=1,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        rms_norm_eps=config.norm_eps,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=config._attn_implementation,
    )


@dataclass
class Arranged:
    """Texts moved left, each after one `<bos>`.

    Attributes:
        ids (`(batch, length)`), lengths (`(batch,)`): real ids, the start included.
        places (`(batch, given length)`): where each given token went.
        labels (`(batch, length)`): -100 where there is none; or `None`.
        given: places that end a segment, and places of which that was said, each of shape `(batch, length)`; or `None`.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor | None
    given: tuple | None


class AbstractinatorPreTrainedModel(TextAutoencoder):
    """Weights and loading of both models."""

    config: AbstractinatorConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["LocalLayer", "LlamaDecoderLayer"]
    _keep_in_fp32_modules_strict = ["quantizer", "limit"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, StepStatistics):
            module.reset()
        elif isinstance(module, nn.Linear):
            # Each layer's output begins as strong as its input.
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, LearnedQueryPooling):
            module.reset_parameters(self.config.initializer_range)
        elif isinstance(module, nn.ParameterList):  # the levels' starts
            for start in module:
                init.normal_(start, std=self.config.initializer_range)
        elif isinstance(module, CodeSequenceTransformer):
            init.normal_(module.start, std=self.config.initializer_range)
        else:
            super()._init_weights(module)

    def get_output_embeddings(self):
        """None: what is predicted is bytes and the end, and no vocabulary grows here."""
        return None

    def resize_token_embeddings(self, *args, **kwargs):
        """Raises `ValueError`: there are 256 bytes."""
        raise ValueError("the Abstractinator predicts bytes, and there are no more than 256: it cannot be resized")

    def arranged(self, input_ids, attention_mask=None, labels=None, segment_ids=None):
        """Texts moved to the left, whichever side their padding was on, and given a `<bos>` where they have none.

        Returns:
            [`Arranged`].

        Raises:
            ValueError: for ids that are no token, labels that are neither a byte nor the end, or numbers of segments that fall.
        """
        config = self.config
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
        if not torch.compiler.is_compiling():
            self.check_tokens(input_ids[real], labels)
        ids = moved_left(input_ids, real, config.pad_token_id)
        lengths = real.sum(1)
        # Rows that begin with <bos> have the start already; the others are shifted by one.
        first = nn.functional.pad(ids, (0, 1), value=config.pad_token_id)[:, :1]
        shift = ((first != config.bos_token_id) | (lengths[:, None] == 0)).long()
        source = torch.arange(ids.shape[1] + 1, device=ids.device) - shift

        def laid(values, fill):
            values = nn.functional.pad(values, (0, 1), value=fill)
            return values.gather(1, source.clamp(min=0)).masked_fill(source < 0, fill)

        ids = laid(ids, config.pad_token_id)
        ids[:, 0] = config.bos_token_id
        lengths = lengths + shift[:, 0]
        places = (real.cumsum(1) - 1 + shift).clamp(min=0)
        if labels is not None:
            labels = laid(moved_left(labels, real, -100), -100)
        given = None
        if segment_ids is not None:
            numbers = laid(moved_left(segment_ids, real, -1), -1)
            # A start that was added has no number; from the first -1 after it on, nothing has.
            said = numbers >= 0
            said[:, 1:] = said[:, 1:].long().cumprod(1).bool()
            numbers = numbers.where(said, -1)
            following = nn.functional.pad(numbers[:, 1:], (0, 1), value=-1)
            # Whether the last one given ends its segment nobody has said.
            given = (following != numbers) & said & (following >= 0), said
            if not torch.compiler.is_compiling() and bool(((following < numbers) & said & (following >= 0)).any()):
                raise ValueError("numbers of segments rise: segment_ids has one that is below the one before")
        return Arranged(ids, lengths, places, labels, given)

    def check_tokens(self, ids, labels):
        """Refuse ids that are no token, and labels that are never predicted."""
        if ids.numel():
            least, most = map(int, ids.aminmax())
            if least < 0 or most >= self.config.vocab_size:
                wrong = least if least < 0 else most
                raise ValueError(f"id {wrong} is no token: accepted are 0 to {self.config.vocab_size - 1}")
        if labels is not None:
            special = (labels == self.config.eos_token_id) | (labels == self.config.bos_token_id) | (labels == -100)
            wrong = labels[~special & ((labels < 0) | (labels >= NUM_BYTES))]
            if len(wrong):
                raise ValueError(f"label {int(wrong[0])} is never predicted: accepted are bytes, the end and -100")

    def calibrate_segmentation(self, texts, target_length, level=0, batch_size=16, steps=30, text_column="text"):
        """Set the limit of a level's entropies so that its segments have a wanted mean length, bounds on their lengths counted
        in. Training goes on from there towards `target_segment_lengths`.

        Args:
            texts (`datasets.Dataset`, or an iterable of `str` or `bytes`).
            target_length (`float`): mean symbols in a segment.
            level (`int`, defaults to 0): whose; where several are calibrated, the lowest comes first.
            batch_size (`int`, defaults to 16), steps (`int`, defaults to 30): halvings of the range of limits.
            text_column (`str`, defaults to `"text"`): of a dataset.

        Returns:
            `float`: the mean length that the limit gives on these texts.

        Raises:
            TypeError: where the level's rule has no limit, or for what is no text. ValueError: for a length that its bounds
                exclude, a column that the dataset lacks, or no text.
        """
        texts = encoded_texts(texts, text_column)
        stack = self.base_model.autoencoder
        compressor = stack.compressors[level]
        if compressor.limit is None:
            raise TypeError(f"the rule {compressor.rule!r} of level {level} has no limit to calibrate")
        if not compressor.shortest <= target_length <= compressor.longest:
            raise ValueError(
                f"a mean length of {target_length} is outside of the bounds {compressor.shortest} to {compressor.longest}"
            )
        if not any(texts):
            raise ValueError("without text there is nothing to calibrate on")
        found = []
        with in_use(self):
            for start in range(0, len(texts), batch_size):
                ids, mask = padded_prompts(
                    texts[start : start + batch_size], self.config.bos_token_id, self.config.pad_token_id, self.device
                )
                arranged = self.arranged(ids, mask)
                compressed = stack.analyse(arranged.ids, arranged.lengths)[level]
                # Segments begin after the start, which is left out.
                scores = compressor.cut_scores_of(compressed.values)[:, 1:]
                real = torch.arange(scores.shape[1], device=scores.device) < compressed.lengths[:, None] - 1
                found.append((scores, real))
        total = sum(int(real.sum()) for _, real in found)
        low, high = SCORE_RANGE
        for _ in range(steps):
            limit = (low + high) / 2
            cuts = sum(
                int(
                    (
                        bounded_cuts(scores > limit, ~scores.isfinite(), compressor.shortest, compressor.longest) & real
                    ).sum()
                )
                for scores, real in found
            )
            low, high = (limit, high) if total < target_length * cuts else (low, limit)
        compressor.limit.set(limit)
        return total / max(cuts, 1)

    def byte_logits(self, scores):
        """Scores of bytes and the end, shape `(..., 257)`, as scores of all ids; those of others have probability 0."""
        between = self.config.eos_token_id - NUM_BYTES
        others = scores.new_full((*scores.shape[:-1], self.config.vocab_size - NUM_BYTES - 1), IMPOSSIBLE)
        return torch.cat((scores[..., :NUM_BYTES], others[..., :between], scores[..., END:], others[..., between:]), -1)

    def next_symbols(self, labels):
        """What each arranged place is asked for, shape `(batch, length)`: the next label, 256 for the end, -100 for none."""
        following = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        following = following.masked_fill(following == self.config.bos_token_id, -100)
        return following.masked_fill(following == self.config.eos_token_id, END)


def asked_segments(levels, labels):
    """For each level, which of its segments have a label at their end, shape `(batch, segments)`: a text's last is one of them,
    cut short or not, since it is to be given back as well."""
    asked, found = labels != -100, []
    for level in levels:
        asked = asked.gather(1, level.ends) & level.real_segments
        found.append(asked)
        asked = nn.functional.pad(asked, (1, 0))
    return found


class AbstractinatorModel(AbstractinatorPreTrainedModel):
    """The autoencoder: texts to codes and back.

    Args:
        config ([`AbstractinatorConfig`]).
        predicts (`bool`, defaults to `False`): whether expanders are told states above, as part of a language model; they are
            then told codes only where the configuration has a `reconstruction_weight`.

    Raises:
        ValueError: where several levels are to be reconstructed and one below the top has no codes.

    Example:

    ```python
    >>> model = AbstractinatorModel(AbstractinatorConfig.nano(codebook_sizes=[512])).eval()
    >>> encoded = model.encode(torch.tensor([list(b"the river")]))
    >>> ids = model.decode(encoded.codes)
    ```
    """

    def __init__(self, config, predicts=False):
        super().__init__(config)
        self.reconstructs = self.has_decoder = not predicts or bool(config.reconstruction_weight)
        if self.reconstructs and not all(config.codebook_sizes[:-1]):
            raise ValueError("reconstruction through several levels needs codes below the top: give codebook_sizes")
        self.autoencoder = HierarchicalAutoencoder(config, self.reconstructs, predicts)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        """The table of bytes and special tokens."""
        return self.autoencoder.embed.symbols

    def set_input_embeddings(self, value):
        """Another table of bytes and special tokens."""
        self.autoencoder.embed.symbols = value

    @can_return_tuple
    def forward(self, input_ids, attention_mask=None, segment_ids=None, labels=None, num_items_in_batch=None, **kwargs):
        """Encode texts and score each token, told the code of its segment; with labels, compute the loss.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`).
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 0 on padding.
            segment_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): numbers of the first level's segments,
                rising; by default, and from the first -1 on, the rule decides.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): the tokens, -100 where not asked; shifted here.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): what sums over labels are divided by; by default their
                number.

        Returns:
            [`AbstractinatorOutput`].

        Raises:
            ValueError: for ids that are no token, labels that are never predicted, or segments that are too long.
        """
        refuse_unread(kwargs)
        arranged = self.arranged(input_ids, attention_mask, labels, segment_ids)
        levels = self.autoencoder.analyse(arranged.ids, arranged.lengths, arranged.given)
        states, _ = self.autoencoder.reconstruction_states(0, levels[0])
        scores = self.autoencoder.expanders[0].head(states)
        losses = {}
        if labels is not None:
            if num_items_in_batch is None:
                num_items_in_batch = (self.next_symbols(arranged.labels) != -100).sum()
            parts = self.reconstruction_losses(levels, scores, arranged.labels, num_items_in_batch)
            parts |= self.compression_losses(levels, arranged.labels, num_items_in_batch)
            losses = {"loss": sum(parts.values()), **{name: part.detach() for name, part in parts.items()}}
            losses |= self.figures(levels, scores, self.next_symbols(arranged.labels))
        told = {}
        if labels is None or not self.training:
            told["logits"] = self.byte_logits(at(scores, arranged.places))
            told["last_hidden_state"] = at(states, arranged.places)
        return AbstractinatorOutput(
            **losses,
            **told,
            latents=levels[-1].vectors,
            codes=levels[-1].codes,
            segment_lengths=levels[-1].segment_lengths,
        )

    def reconstruction_losses(self, levels, scores, labels, num_items_in_batch):
        """The losses of symbols and of lengths, told codes.

        Args:
            levels (`list[CompressedLevel]`), scores (`torch.Tensor` of shape `(batch, length, 257)`): of the bytes, told codes;
            labels (`torch.LongTensor` of shape `(batch, length)`): arranged; num_items_in_batch (`int`).

        Returns:
            `dict[str, torch.FloatTensor]`.
        """
        reconstruction = label_cross_entropy(scores, self.next_symbols(labels), num_items_in_batch)
        ended = (labels == self.config.eos_token_id).any(1, keepdim=True)
        asked, lengths = asked_segments(levels, labels), 0
        for number, level in enumerate(levels):
            expander = self.autoencoder.expanders[number]
            if number:
                states, _ = self.autoencoder.reconstruction_states(number, level)
                targets = next_codes(
                    levels[number - 1], asked[number - 1], ended, self.config.codebook_sizes[number - 1]
                )
                reconstruction = reconstruction + label_cross_entropy(
                    expander.head(states), targets, num_items_in_batch
                )
            told = expander.length(level.vectors[asked[number]].to(expander.from_code.weight.dtype))
            lengths = lengths + label_cross_entropy(told, level.segment_lengths[asked[number]] - 1, num_items_in_batch)
        return {"reconstruction_loss": reconstruction, "length_loss": lengths}

    def compression_losses(self, levels, labels, num_items_in_batch):
        """The losses of trunks and codes, weighted; arguments and result as of [`reconstruction_losses`]."""
        config, asked, entropy, commitment = self.config, asked_segments(levels, labels), [], []
        for number, level in enumerate(levels):
            if level.scores is not None:
                below = number - 1
                targets = next_codes(levels[below], asked[below]) if number else self.next_symbols(labels)
                entropy.append(label_cross_entropy(level.scores, targets, num_items_in_batch))
            if level.distances is not None:
                drawn = level.distances.masked_fill(~asked[number], 0).sum() / config.codebook_dim
                commitment.append(over_labels(drawn, labels, num_items_in_batch))
        parts = {
            "entropy_loss": (config.entropy_weight, entropy),
            "commitment_loss": (config.commitment_weight, commitment),
        }
        return {name: weight * sum(losses) for name, (weight, losses) in parts.items() if losses}

    def figures(self, levels, scores, wanted):
        """The share of labels that score best, of distinct top codes over top segments, and the mean bytes in a top segment."""
        right = (scores.detach().argmax(-1) == wanted).sum() / (wanted != -100).sum().clamp(min=1)
        figures = {"byte_accuracy": right}
        if levels[-1].codes is not None:
            codes = levels[-1].codes[levels[-1].real_segments]
            figures["code_use"] = torch.tensor(len(codes.unique()) / max(len(codes), 1), device=codes.device)
            quantizer = self.autoencoder.compressors[-1].quantizer
            figures["code_restarts"] = quantizer.restarts.clone()
            if self.training:
                figures["code_perplexity"] = quantizer.perplexity()
        figures["segment_length"] = (levels[0].lengths - 1).sum() / levels[-1].counts.sum().clamp(min=1)
        return figures

    @torch.no_grad()
    def encode(self, input_ids, attention_mask=None, segment_ids=None):
        """Codes of texts.

        Args:
            input_ids, attention_mask, segment_ids: as of `forward`.

        Returns:
            [`AbstractinatorOutput`] with `latents`, `codes` and `segment_lengths`.
        """
        arranged = self.arranged(input_ids, attention_mask, None, segment_ids)
        top = self.autoencoder.analyse(arranged.ids, arranged.lengths, arranged.given)[-1]
        return AbstractinatorOutput(latents=top.vectors, codes=top.codes, segment_lengths=top.segment_lengths)

    @torch.no_grad()
    def decode(self, codes, segment_lengths=None, known=None):
        """The likeliest texts of top codes.

        Args:
            codes (`torch.LongTensor` of shape `(batch, segments)`): numbers of codes, -1 beyond a text's last; or vectors, as
                `encode` gives them in `latents`, of shape `(batch, segments, code_size)`, which must come with their lengths.
            segment_lengths (`torch.LongTensor` of shape `(batch, segments)`, *optional*): of the top segments, 0 beyond the
                last; by default, and on lower levels, as codes tell.
            known (`list`, *optional*): of each level, the first symbols, and the lengths of the first segments, of a single text
                that is to go on: what [`AbstractinatorForCausalLM.ended`] gives.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`: bytes, and the padding id from each text's end on.

        Raises:
            TypeError: where the model was made without a way to reconstruct, or for codes where the top has none.
            ValueError: for vectors without lengths, codes that there are not, or lengths beyond `max_segment_lengths`.
        """
        if not self.reconstructs:
            raise TypeError("a language model without reconstruction_weight cannot decode codes")
        if codes.ndim == 3 and segment_lengths is None:
            raise ValueError("vectors without segment_lengths do not say where they end: give both, as encode does")
        stack, size, longest = self.autoencoder, self.config.codebook_sizes[-1], self.config.max_segment_lengths[-1]
        if codes.ndim == 2 and not size:
            raise TypeError("the top has no codes: give the vectors and lengths that encode gives")
        if codes.ndim == 2 and bool((codes >= size).any()):
            raise ValueError(f"code {int(codes.max())} is none: accepted are -1, for no segment, to {size - 1}")
        if segment_lengths is not None and bool((segment_lengths > longest).any()):
            raise ValueError(f"a segment of {int(segment_lengths.max())} is too long: at most {longest}")
        for number in reversed(range(len(stack.compressors))):
            quantizer, expander = stack.compressors[number].quantizer, stack.expanders[number]
            vectors = codes
            if codes.ndim == 2:
                vectors = quantizer.indices_to_codes(codes.clamp(min=0)) * (codes >= 0).unsqueeze(-1)
            vectors = vectors.to(expander.from_code.weight.dtype)
            if segment_lengths is None:
                segment_lengths = (expander.length(vectors).argmax(-1) + 1) * (codes >= 0)
            symbols = codes.new_zeros(0)
            if known is not None:
                symbols, lengths = known[number]
                segment_lengths[0, : len(lengths)] = lengths
                # The segment that was going on has one symbol more at least.
                begun = len(symbols) - lengths.sum() + 1
                segment_lengths[0, len(lengths) : len(lengths) + 1].clamp_(min=begun)
            codes, segment_lengths = self.spell(number, vectors, segment_lengths, symbols), None
        return codes.masked_fill(codes < 0, self.config.pad_token_id)

    def spell(self, number, vectors, segment_lengths, known):
        """The likeliest symbols of a level, one after the other, told its segments' codes.

        Args:
            number (`int`): of the level; vectors (`torch.Tensor` of shape `(batch, segments, code_size)`); segment_lengths
                (`torch.LongTensor` of shape `(batch, segments)`): 0 beyond the last; known (`torch.LongTensor` of shape `(n,)`):
                the first symbols, whatever is likeliest.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`: -1 beyond a row's end.
        """
        stack, expander = self.autoencoder, self.autoencoder.expanders[number]
        ends = segment_lengths.cumsum(1)
        totals = ends[:, -1] if ends.shape[1] else ends.new_zeros(len(ends))
        told, row = expander.from_code(vectors), torch.arange(len(vectors), device=vectors.device)
        rows, found, symbols = stack.empty_rows(number, len(vectors), told.dtype, told.device), [], None
        for place in range(int(totals.max()) if len(totals) else 0):
            segment = (ends <= place).sum(1).clamp(max=told.shape[1] - 1)
            states = stack.read(number, rows, stack.embedded(number, rows, symbols))
            scores = expander.head(stack.expanded(number, rows, states, told[row, segment]))
            if number:
                symbols = scores[:, :-1].argmax(-1)  # where the end is, lengths say
            else:
                symbols = scores.argmax(-1)
                symbols = torch.where(symbols == END, self.config.eos_token_id, symbols)
            if place < len(known):
                symbols = known[place].expand(len(vectors))
            found.append(symbols.where(place < totals, -1))
        return torch.stack(found, 1) if found else totals.new_zeros(len(vectors), 0)

    @torch.no_grad()
    def reconstruct(self, texts, tokenizer, batch_size=32):
        """Texts to codes and back, out of the codes alone.

        Args:
            texts (`list[str]`), tokenizer ([`AbstractinatorTokenizer`]), batch_size (`int`, defaults to 32).

        Returns:
            `list[str]`; bytes that are no UTF-8 become U+FFFD.
        """
        found = []
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(texts[start : start + batch_size], padding=True, return_tensors="pt").to(self.device)
            encoded = self.encode(batch["input_ids"], batch["attention_mask"])
            told = (encoded.latents, encoded.segment_lengths) if encoded.codes is None else (encoded.codes,)
            ids = self.decode(*told)
            found += [tokenizer.decode_bytes(row).decode("utf-8", "replace") for row in ids.cpu()]
        return found

    def latent_scale(self, bits=8):
        """Eight standard deviations to either side of vectors that are normed, in as many steps as there are levels."""
        return torch.full((self.autoencoder.code_size,), 16 / 2**bits, device=self.device)

    def latent_bits(self, latents, mask=None, bits=8):
        """Bits of each text's top segments, shape `(batch,)`: of codes as if all were as likely, with which lengths are told; of
        vectors their numbers and lengths.

        Args:
            latents (`torch.Tensor` of shape `(batch, segments, code_size)`), mask (`torch.Tensor` of shape `(batch, segments)`,
                *optional*): which are the text's own; by default those that are not 0; bits (`int`, defaults to 8): for each
                number of a vector.
        """
        mask = latents.abs().sum(-1) > 0 if mask is None else mask
        if self.config.codebook_sizes[-1]:
            return mask.sum(-1) * math.log2(self.config.codebook_sizes[-1])
        length_bits = math.ceil(math.log2(self.config.max_segment_lengths[-1]))
        return super().latent_bits(latents, mask, bits) + mask.sum(-1) * length_bits


def next_codes(below, asked, ended=None, end=None):
    """What each place of a level above the first is asked for, shape `(batch, 1 + segments)`: the next code of the level
    below, -100 for none; after the last code of rows that have `ended`, shape `(batch, 1)`, the number `end`."""
    targets = nn.functional.pad(below.codes.where(asked, -100), (0, 1), value=-100)
    if ended is None:
        return targets
    last = torch.arange(targets.shape[1], device=targets.device) == below.counts[:, None]
    return targets.masked_fill(last & ended, end)


class AbstractinatorForCausalLM(AbstractinatorPreTrainedModel, GenerationMixin):
    """The language model of bytes: each byte's probability, from the bytes before it and, of the levels above, from segments
    that have ended by then alone.

    Args:
        config ([`AbstractinatorConfig`]).

    Example:

    ```python
    >>> model = AbstractinatorForCausalLM(AbstractinatorConfig.nano()).eval()
    >>> model.generate_bytes(["The river"], max_new_bytes=20)
    ```
    """

    _is_stateful = True  # a cache cannot be rolled back

    def __init__(self, config):
        super().__init__(config)
        self.model = AbstractinatorModel(config, predicts=True)
        self.has_decoder = self.model.has_decoder
        self.code_transformer = CodeSequenceTransformer(config, self.model.autoencoder.code_size)
        self.gradient_checkpointing = False
        self.post_init()
        self.freeze()

    def freeze(self):
        """Take the gradient from what `frozen` names."""
        stack, frozen = self.model.autoencoder, self.config.frozen
        if frozen == "autoencoder":
            for name, parameter in stack.named_parameters():
                if ".from_state." not in name:
                    parameter.requires_grad_(False)
        elif frozen == "entropy":
            stack.embed.requires_grad_(False)
            for compressor in stack.compressors:
                compressor.trunk.requires_grad_(False)
                if compressor.head is not None:
                    compressor.head.requires_grad_(False)

    def train(self, mode=True):
        """As of any module; what is frozen stays so."""
        super().train(mode)
        self.freeze()  # weights that were loaded have their gradient again
        return self

    def get_input_embeddings(self):
        """The table of bytes and special tokens."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        """Another table of bytes and special tokens."""
        self.model.set_input_embeddings(value)

    # What it is as an autoencoder

    def encode(self, input_ids, attention_mask=None, segment_ids=None):
        """As of [`AbstractinatorModel`]."""
        return self.model.encode(input_ids, attention_mask, segment_ids)

    def decode(self, codes, segment_lengths=None, known=None):
        """As of [`AbstractinatorModel`], where there is a `reconstruction_weight`."""
        return self.model.decode(codes, segment_lengths, known)

    def reconstruct(self, texts, tokenizer, batch_size=32):
        """As of [`AbstractinatorModel`], where there is a `reconstruction_weight`."""
        return self.model.reconstruct(texts, tokenizer, batch_size)

    def latent_scale(self, bits=8):
        """As of [`AbstractinatorModel`]."""
        return self.model.latent_scale(bits)

    def latent_bits(self, latents, mask=None, bits=8):
        """As of [`AbstractinatorModel`]."""
        return self.model.latent_bits(latents, mask, bits)

    @classmethod
    def _supports_default_dynamic_cache(cls):
        # generate() would make one of transformers' own; forward makes a HierarchicalCache.
        return False

    @can_return_tuple
    def forward(
        self,
        input_ids,
        attention_mask=None,
        segment_ids=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        num_items_in_batch=None,
        **kwargs,
    ):
        """Score the next byte at each place; with labels, compute the loss.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): texts that begin with `<bos>`, or are read as if they
                did.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 0 on padding; beside a cache all new
                tokens are real.
            segment_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): numbers of the first level's segments,
                rising; by default, and from the first -1 on, the rule decides. The likelihood is one only where whether a segment
                ends turns on its bytes and those before: segments that begin with a space tell of it before it is read.
            past_key_values ([`HierarchicalCache`], *optional*): of the tokens before; new ones are read one after the other,
                which takes many times as long as reading a text at once. An empty cache of another kind begins one.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): the tokens, -100 where not asked; shifted here.
            use_cache (`bool`, *optional*): by default outside of training.
            logits_to_keep (`int`, defaults to 0): compute scores of the last so many places only; 0 for all.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): what sums over labels are divided by; by default their
                number.

        Returns:
            [`AbstractinatorCausalLMOutput`]; beside a cache, [`AbstractinatorStepOutput`].

        Raises:
            ValueError: for ids that are no token, labels that are never predicted, segments that are too long, or labels,
                segments or padding beside a cache.
            TypeError: for a cache of another kind that is not empty, or arguments that nothing reads.
        """
        refuse_unread(kwargs)
        past_key_values = own_cache(past_key_values)
        if past_key_values is not None:
            if labels is not None or segment_ids is not None:
                raise ValueError("labels and segment_ids are of whole texts: give them without past_key_values")
            if attention_mask is not None and not bool(attention_mask[:, -input_ids.shape[1] :].all()):
                raise ValueError("padding beside past_key_values cannot be left out: give rows that are equally long")
            self.check_tokens(input_ids, None)
            return self.continued(input_ids, past_key_values, logits_to_keep)
        use_cache = not self.training and labels is None if use_cache is None else use_cache
        use_cache = use_cache and not (self.training and self.is_gradient_checkpointing)
        stack, arranged = self.model.autoencoder, self.arranged(input_ids, attention_mask, labels, segment_ids)
        levels = stack.analyse(arranged.ids, arranged.lengths, arranged.given)
        above, top = self.code_transformer(levels[-1].vectors, use_cache)
        states, all_above, all_kept = stack.predicted(levels, above)
        losses, told = {}, {}
        if labels is not None:
            scores = stack.expanders[0].head(states)
            losses = self.losses(levels, scores, above, arranged.labels, num_items_in_batch)
        if labels is None or not self.training:
            states = at(states, kept_places(arranged.places, logits_to_keep if labels is None else 0))
            told = {"logits": self.byte_logits(stack.expanders[0].head(states)), "last_hidden_state": states}
        return AbstractinatorCausalLMOutput(
            **losses,
            **told,
            latents=levels[-1].vectors,
            codes=levels[-1].codes,
            segment_lengths=levels[-1].segment_lengths,
            past_key_values=self.cache(levels, all_above, all_kept, top, arranged.ids, input_ids.shape[1])
            if use_cache
            else None,
        )

    def losses(self, levels, scores, above, labels, num_items_in_batch):
        """The loss, its parts and figures of the batch; `labels` arranged, `scores` of arranged places."""
        config, wanted = self.config, self.next_symbols(labels)
        if num_items_in_batch is None:
            num_items_in_batch = (wanted != -100).sum()
        parts = {"language_loss": label_cross_entropy(scores, wanted, num_items_in_batch)}
        if config.frozen != "autoencoder":
            parts |= self.model.compression_losses(levels, labels, num_items_in_batch)
        if config.frozen == "entropy":
            parts.pop("entropy_loss", None)
        if config.reconstruction_weight and config.frozen != "autoencoder":
            told = self.model.autoencoder.expanders[0].head(
                self.model.autoencoder.reconstruction_states(0, levels[0])[0]
            )
            spelled = self.model.reconstruction_losses(levels, told, labels, num_items_in_batch)
            parts |= {name: config.reconstruction_weight * part for name, part in spelled.items()}
        if config.code_weight:
            told = label_cross_entropy(
                self.code_transformer.head(above), self.next_top_codes(levels, labels), num_items_in_batch
            )
            parts["code_loss"] = config.code_weight * told
        losses = {"loss": sum(parts.values()), **{name: part.detach() for name, part in parts.items()}}
        return losses | self.model.figures(levels, scores, wanted)

    def next_top_codes(self, levels, labels):
        """What the transformer is asked for after each top segment, shape `(batch, 1 + segments)`: the next code, the end
        after a text's last; -100 for none, as for a segment that the passage's end has cut short."""
        asked, top = asked_segments(levels, labels)[-1], levels[-1]
        ended = (labels == self.config.eos_token_id).any(1, keepdim=True)
        last = torch.arange(asked.shape[1], device=asked.device) == top.counts[:, None] - 1
        return next_codes(top, asked & (ended | ~last), ended, self.config.codebook_sizes[-1])

    # Generation

    def cache(self, levels, all_above, all_kept, top, ids, read):
        """The [`HierarchicalCache`] after a pass over whole texts of so many columns, as [`HierarchicalAutoencoder.predicted`]
        describes it."""
        stack, lengths, rows = self.model.autoencoder, levels[0].lengths, []
        for number, level in enumerate(levels):
            told = stack.expanders[number].from_state(all_above[number])
            rows.append(stack.rows(number, level, lengths, told, all_kept[number], ids))
            lengths = level.completed.gather(1, lengths[:, None] - 1)[:, 0] + 1
        return HierarchicalCache(rows, self.code_transformer.rows(top, lengths), read)

    def continued(self, input_ids, cache, logits_to_keep=0):
        """One token of each row after the other, shape `(batch, n)`, after a cache, which moves on."""
        stack, found = self.model.autoencoder, []
        cache.read += input_ids.shape[1]
        for ids in input_ids.T:
            rows = cache.levels[0]
            found.append(self.step(0, rows, stack.embedded(0, rows, ids), ids, cache))
        states = kept_places(torch.stack(found, 1), logits_to_keep)
        return AbstractinatorStepOutput(self.byte_logits(stack.expanders[0].head(states)), states, cache)

    def step(self, number, rows, embeds, symbols, cache, places=None):
        """One more symbol of a level in each row, and all that follows above.

        Args:
            number (`int`): of the level; rows ([`LevelRows`]); embeds (`torch.Tensor` of shape `(n, 1, size)`); symbols
                (`torch.LongTensor` of shape `(n,)`); cache ([`HierarchicalCache`]).
            places (`torch.LongTensor` of shape `(n,)`, *optional*): which of the cache's rows these are; by default all.

        Returns:
            `torch.Tensor` of shape `(n, size)`: the expander's states of what comes next.
        """
        stack, expander = self.model.autoencoder, self.model.autoencoder.expanders[number]
        states, ended, lengths = stack.step(number, rows, embeds, symbols)
        if len(ended):
            vectors, codes = stack.compressors[number].vector_of(rows.held[ended], lengths)
            where = ended if places is None else places[ended]
            if number + 1 < len(cache.levels):
                upper = cache.levels[number + 1].select(where)
                symbols = torch.zeros_like(ended) if codes is None else codes
                above = self.step(number + 1, upper, stack.above(number + 1, vectors), symbols, cache, where)
                cache.levels[number + 1].put(where, upper)
            else:
                above = self.code_transformer.step(vectors, cache.top, where)
            rows.condition[ended] = expander.from_state(above).to(rows.condition.dtype)
        return stack.expanded(number, rows, states, rows.condition)

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, attention_mask=None, **kwargs):
        """What the cache has not read yet; without one, all."""
        inputs = {"attention_mask": attention_mask, "use_cache": kwargs.get("use_cache"), "logits_to_keep": 1}
        past_key_values = own_cache(past_key_values)
        if past_key_values is None:
            segments = kwargs.get("segment_ids")
            if segments is not None:  # of the prompt: what comes after it the rule cuts
                segments = nn.functional.pad(segments, (0, input_ids.shape[1] - segments.shape[1]), value=-1)
            return inputs | {"input_ids": input_ids, "segment_ids": segments}
        unread = input_ids[:, past_key_values.read :]
        if not unread.shape[1]:
            raise ValueError("the cache has read all of input_ids already: give at least one token more")
        return inputs | {"input_ids": unread, "past_key_values": past_key_values}

    def _reorder_cache(self, past_key_values, beam_idx):
        past_key_values.reorder_cache(beam_idx)
        return past_key_values

    @torch.no_grad()
    def generate_bytes(
        self, prompts, max_new_bytes=100, mode="bytes", do_sample=False, temperature=1.0, top_k=0, top_p=1.0, seed=None
    ):
        """Go on with texts.

        Args:
            prompts (`list[str | bytes]`).
            max_new_bytes (`int`, defaults to 100): at most.
            mode (`str`, defaults to `"bytes"`): byte after byte, by the exact likelihood; or `"codes"`: top codes until their
                end, then what they spell, as the original does, which needs `code_weight` and `reconstruction_weight`.
            do_sample (`bool`, defaults to `False`), temperature (`float`, defaults to 1), top_k (`int`, defaults to 0, for
                all), top_p
                (`float`, defaults to 1): of the sampling, of bytes or of codes.
            seed (`int`, *optional*): of the sampling.

        Returns:
            `list[bytes]`: what comes after each prompt, without the end.

        Raises:
            ValueError: for another mode. TypeError: where the model cannot generate codes, or for a text alone.
        """
        prompts = encoded_texts(prompts)
        if mode not in ("bytes", "codes"):
            raise ValueError(f"mode {mode!r} is unknown: accepted are bytes and codes")
        if seed is not None:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(seed)
                return self.generate_bytes(prompts, max_new_bytes, mode, do_sample, temperature, top_k, top_p)
        if not prompts:
            return []
        sampling = {"do_sample": do_sample} | (
            {"temperature": temperature, "top_k": top_k, "top_p": top_p} if do_sample else {}
        )
        if mode == "codes":
            return [self.continued_by_codes(prompt, max_new_bytes, **sampling) for prompt in prompts]
        config = self.config
        ids, mask = padded_prompts(prompts, config.bos_token_id, config.pad_token_id, self.device)
        found = self.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_bytes, pad_token_id=config.pad_token_id,
            eos_token_id=config.eos_token_id, bos_token_id=config.bos_token_id, **sampling,
        )  # fmt: skip
        return [bytes_before_end(row, config.eos_token_id) for row in found[:, ids.shape[1] :].tolist()]

    def continued_by_codes(self, prompt, max_new_bytes, do_sample=False, temperature=1.0, top_k=0, top_p=1.0):
        """What top codes after those of a prompt spell, `bytes` to `bytes`; arguments as of [`generate_bytes`]."""
        if self.code_transformer.head is None or not self.model.reconstructs:
            raise TypeError("generating codes needs code_weight and reconstruction_weight in the configuration")
        config, quantizer = self.config, self.model.autoencoder.compressors[-1].quantizer
        known, codes = self.ended(prompt)
        codes, start = codes[None], len(codes)
        above, cache = self.code_transformer(quantizer.indices_to_codes(codes), use_cache=True)
        rows = self.code_transformer.rows(cache, torch.tensor([start + 1], device=self.device))
        state = above[:, -1]
        while codes.shape[1] - start < max_new_bytes:
            code = drawn(self.code_transformer.head(state).float(), do_sample, temperature, top_k, top_p)
            if int(code) == config.codebook_sizes[-1]:
                break
            codes = torch.cat((codes, code[:, None]), 1)
            state = self.code_transformer.step(quantizer.indices_to_codes(code), rows)
        row = self.model.decode(codes, known=known)[0].tolist()[len(prompt) : len(prompt) + max_new_bytes]
        return bytes_before_end(row, config.eos_token_id)

    def ended(self, text):
        """What of a text, `bytes`, goes on as it is, whatever comes next: the segments that have ended.

        Returns:
            `tuple[list, torch.LongTensor]`: of each level its symbols so far and the lengths of its segments that have ended,
            each of shape `(n,)`; and the codes of those of the top.
        """
        ids = torch.tensor([[self.config.bos_token_id, *text]], device=self.device)
        known, symbols = [], ids[0, 1:]
        for level in self.model.autoencoder.analyse(ids, torch.tensor([ids.shape[1]], device=self.device)):
            # The start has ended nothing.
            count = int(level.completed[0, len(symbols)])
            known.append((symbols, level.segment_lengths[0, :count]))
            symbols = level.codes[0, :count]
        return known, symbols

    # Bits

    def compress(self, data, stream_length=None, batch_size=256):
        """Bytes to fewer bytes, as many as the likelihood says; as of [`arithmetic_coding.compress`]."""
        return compress_bytes(self, data, stream_length, batch_size)

    def decompress(self, packed):
        """The bytes that [`compress`] was given; as of [`arithmetic_coding.decompress`]."""
        return decompress_bytes(self, packed)

    @torch.no_grad()
    def two_part_bits(self, input_ids, attention_mask=None):
        """Bits of texts in two parts: of their top codes and the end of these, then of all symbols below, told their codes: an
        upper bound of what the model needs at most.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`), attention_mask: texts that end with the end.

        Returns:
            `tuple`: bits of codes and bits of symbols, each of shape `(batch,)`.

        Raises:
            TypeError: where the model has no loss of codes or no reconstruction. ValueError: for a text without its end.
        """
        if self.code_transformer.head is None or not self.model.reconstructs:
            raise TypeError("the two-part code needs code_weight and reconstruction_weight in the configuration")
        arranged = self.arranged(
            input_ids,
            attention_mask,
            input_ids if attention_mask is None else input_ids.where(attention_mask != 0, -100),
        )
        labels, stack = arranged.labels, self.model.autoencoder
        ended = (labels == self.config.eos_token_id).any(1, keepdim=True)
        if not bool(ended.all()):
            raise ValueError("a text without its end has no two-part code: end each with eos_token_id")
        levels = stack.analyse(arranged.ids, arranged.lengths)
        above, _ = self.code_transformer(levels[-1].vectors)
        code_bits = bits_of(self.code_transformer.head(above), self.next_top_codes(levels, labels))
        told = stack.expanders[0].head(stack.reconstruction_states(0, levels[0])[0])
        symbol_bits, asked = bits_of(told, self.next_symbols(labels)), asked_segments(levels, labels)
        for number in range(1, len(levels)):
            states, _ = stack.reconstruction_states(number, levels[number])
            targets = next_codes(levels[number - 1], asked[number - 1], ended, self.config.codebook_sizes[number - 1])
            symbol_bits = symbol_bits + bits_of(stack.expanders[number].head(states), targets)
        return code_bits, symbol_bits


def refuse_unread(arguments):
    """Raise `TypeError` for arguments of `forward` that it does not read, or does not answer."""
    for name, value in arguments.items():
        if value is not None and name not in UNREAD and (name not in UNANSWERED or value):
            raise TypeError(f"forward() reads no {name}")


def own_cache(cache):
    """A [`HierarchicalCache`], or `None` for none, or for an empty one of another kind.

    Raises:
        TypeError: for another kind.
    """
    if cache is None or isinstance(cache, HierarchicalCache):
        return cache
    if cache.get_seq_length():
        raise TypeError(
            f"a {type(cache).__name__} keeps no segments: go on from the past_key_values of this model's output"
        )
    return None


def encoded_texts(texts, text_column="text"):
    """Texts, `str` or `bytes`, or a dataset's column of them, as a `list[bytes]`.

    Raises:
        TypeError: for a text alone, or what is none. ValueError: for a column that the dataset lacks.
    """
    columns = getattr(texts, "column_names", None)
    if columns is not None:
        if text_column not in columns:
            raise ValueError(f"the dataset has no column {text_column!r}, only {columns}")
        texts = texts[text_column]
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts are a list: give [text] for one alone")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"a {type(text).__name__} is no text: give str or bytes")
    return [text.encode("utf-8") if isinstance(text, str) else text for text in texts]


def kept_places(values, logits_to_keep):
    """Values of the last so many places, 0 for all, or of given ones; shape `(batch, length, ...)` to `(batch, n, ...)`."""
    return values[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else values[:, logits_to_keep]


def bits_of(scores, targets):
    """Bits of targets, -100 for none, under scores, summed over each row, shape `(batch,)`."""
    nats = nn.functional.cross_entropy(scores.float().transpose(1, 2), targets, ignore_index=-100, reduction="none")
    return nats.sum(1) / math.log(2)


def padded_prompts(prompts, bos, pad, device):
    """Prompts, a `list[bytes]`, as ids after `<bos>`, padded on the left, and their mask."""
    width = 1 + max(map(len, prompts), default=0)
    rows = [[pad] * (width - 1 - len(prompt)) + [bos, *prompt] for prompt in prompts]
    ids = torch.tensor(rows, dtype=torch.long, device=device).view(len(prompts), width)
    lengths = torch.tensor([len(prompt) + 1 for prompt in prompts], device=device)
    return ids, (torch.arange(width, device=device) >= width - lengths[:, None]).long()


def bytes_before_end(row, eos):
    """The bytes of ids, a `list[int]`, before the end."""
    row = row[: row.index(eos)] if eos in row else row
    return bytes(i for i in row if i < NUM_BYTES)


def drawn(scores, do_sample, temperature, top_k, top_p):
    """The best choice of each row of scores, shape `(batch, n)`, or one drawn, as `generate` draws; shape `(batch,)`."""
    if not do_sample:
        return scores.argmax(-1)
    warpers = [TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    return LogitsProcessorList(warpers)(None, scores).softmax(-1).multinomial(1)[:, 0]
