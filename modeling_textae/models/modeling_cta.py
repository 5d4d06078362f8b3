"""CTA: tokens to a short sequence of small vectors, and back, all at once.

Source: the Continuous Text Autoencoder, a convolutional variational autoencoder on tokens; latents made robust after CALM, Shao
et al. 2025, "Continuous autoregressive language models", section 3.2. Deviations: embeddings and what the head reads are normed,
latent vectors may be scaled to one length, evaluation decodes the mean, and no place of a shorter text ever sees padding.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple, logging

from .autoencoder import GRID_BITS, AutoencoderOutput, TextAutoencoder, check_bits, label_cross_entropy, on_grid
from .configuration_cta import CtaConfig
from .convolution import overlap_add, windows

logger = logging.get_logger(__name__)

TILE_LENGTH = 8192
LENGTH_BITS = 32
SCORED_AT_ONCE = 512  # places whose scores are held where only the best is asked for: few enough for a CPU's cache
SCORE_BLOCK = 128
FITTED_LATENTS = 4096  # evenly drawn, they fit a grid as well as all do


@dataclass
class CtaOutput(AutoencoderOutput):
    """What [`CtaModel`] returns.

    Attributes:
        loss (`torch.FloatTensor` of shape `()`): the sum of the part losses, in nats a label.
        reconstruction_loss (`torch.FloatTensor` of shape `()`): cross-entropy of the tokens, detached.
        kl_loss (`torch.FloatTensor` of shape `()`): weighted divergence of the latents from their prior, detached; only with
            `kl_weight`.
        logits (`torch.FloatTensor` of shape `(batch, length, vocabulary)`): scores of each token; none in training with
            `num_negatives`.
        latents (`torch.FloatTensor` of shape `(batch, latent_length, latent_dim)`): as decoded, the first a text's first.
        latent_mask (`torch.LongTensor` of shape `(batch, latent_length)`): 1 where a latent has a token, 0 on padding.
        hidden_states, attentions: none.
    """

    reconstruction_loss: torch.FloatTensor | None = None
    kl_loss: torch.FloatTensor | None = None
    latent_mask: torch.LongTensor | None = None


def level_channels(config):
    """Channels at each resolution, tokens first."""
    return [round(config.hidden_size * config.channel_growth**level) for level in range(config.num_levels + 1)]


def length_mask(lengths, size):
    """1.0 before each length and 0.0 from it on: `(batch,)` to `(batch, size, 1)`."""
    return (torch.arange(size, device=lengths.device) < lengths[:, None]).unsqueeze(-1).float()


def level_blocks(config):
    """Residual blocks at each resolution, tokens first."""
    return config.num_blocks or [1] * (config.num_levels + 1)


class ChannelNorm(nn.Module):
    """RMS norm over channels that gives 0 wherever the mask does. Source: Zhang and Sennrich 2019, "Root mean square layer
    normalization", equation 4.

    Args:
        channels (`int`), eps (`float`): added to the mean square.
    """

    def __init__(self, channels, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, states, mask):
        """States of shape `(batch, length, channels)` and their mask, shape `(batch, length, 1)`, to states."""
        return (
            states
            * root_mean_square(states, self.eps).reciprocal().mul(mask).to(states.dtype)
            * self.weight.to(states.dtype)
        )


def normal_divergence(mean, log_variance):
    """Divergence in nats of each normal distribution from the standard one. Source: Kingma and Welling 2014, "Auto-encoding
    variational Bayes", appendix B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def root_mean_square(states, eps):
    """Root of the mean square of the last axis, which stays with size 1, as float32."""
    norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True).float()
    return (norm.square() / states.shape[-1] + eps).sqrt()


class CtaBlock(GradientCheckpointingLayer):
    """Two convolutions, each normed and passed through SiLU, beside a skip.

    Args:
        channels (`int`), config ([`CtaConfig`]).
    """

    def __init__(self, channels, config):
        super().__init__()
        self.kernel_size = config.kernel_size
        self.conv1 = nn.Linear(config.kernel_size * channels, channels)
        self.norm1 = ChannelNorm(channels, config.norm_eps)
        self.conv2 = nn.Linear(config.kernel_size * channels, channels)
        self.norm2 = ChannelNorm(channels, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states, mask):
        """States, shape `(batch, length, channels)`, 0 where their mask, shape `(batch, length, 1)`, is; to the same."""
        inner = nn.functional.silu(self.norm1(self.conv1(windows(states, self.kernel_size)), mask))
        inner = nn.functional.silu(self.norm2(self.conv2(windows(inner, self.kernel_size)), mask))
        return states + self.dropout(inner)


class CtaLevel(nn.Module):
    """The blocks of one resolution.

    Args:
        config ([`CtaConfig`]), level (`int`): 0 is the tokens'.
    """

    def __init__(self, config, level):
        super().__init__()
        self.blocks = nn.ModuleList(
            CtaBlock(level_channels(config)[level], config) for _ in range(level_blocks(config)[level])
        )

    def forward(self, states, mask):
        """States and mask as of [`CtaBlock`]."""
        for block in self.blocks:
            states = block(states, mask)
        return states


class CtaEncoder(nn.Module):
    """Blocks at the resolution of tokens, then as often as there are levels: half the length, more channels, blocks.

    Args:
        config ([`CtaConfig`]).
    """

    def __init__(self, config):
        super().__init__()
        channels, levels = level_channels(config), range(config.num_levels)
        self.proj = embedding_projection(embedding_width(config), config.hidden_size)
        self.norm = ChannelNorm(config.hidden_size, config.norm_eps)
        self.levels = nn.ModuleList(CtaLevel(config, level) for level in range(config.num_levels + 1))
        self.down = nn.ModuleList(nn.Linear(4 * channels[level], channels[level + 1]) for level in levels)
        self.mean = nn.Linear(channels[-1], config.latent_dim)
        self.log_variance = nn.Linear(channels[-1], config.latent_dim) if config.kl_weight else None

    def forward(self, embeds, masks):
        """Embeddings, shape `(batch, length, embedding_size)`, and the masks of all resolutions, tokens first.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: means and log-variances of the latents, each of shape
            `(batch, latent_length, latent_dim)`; the second only with `kl_weight`.
        """
        states = self.levels[0](self.norm(self.proj(embeds), masks[0]), masks[0])
        for down, level, mask in zip(self.down, self.levels[1:], masks[1:], strict=True):
            states = level(down(windows(states, 4, stride=2)) * mask.to(states.dtype), mask)
        return self.mean(states), None if self.log_variance is None else self.log_variance(states)


class CtaDecoder(nn.Module):
    """The encoder's mirror: blocks, then as often as there are levels: twice the length, fewer channels, blocks.

    Args:
        config ([`CtaConfig`]).
    """

    def __init__(self, config):
        super().__init__()
        channels, levels = level_channels(config), range(config.num_levels)
        self.from_latent = nn.Linear(config.latent_dim, channels[-1])
        self.levels = nn.ModuleList(CtaLevel(config, level) for level in range(config.num_levels + 1))
        self.up = nn.ModuleList(nn.Linear(channels[level + 1], 4 * channels[level], bias=False) for level in levels)
        self.norm = ChannelNorm(config.hidden_size, config.norm_eps)
        self.proj = embedding_projection(config.hidden_size, embedding_width(config))

    def forward(self, latents, masks):
        """Latents, shape `(batch, latent_length, latent_dim)`, and masks as of [`CtaEncoder`]; to what the head reads, shape
        `(batch, length, embedding_size)`."""
        states = self.from_latent(latents)
        states = self.levels[-1](states * masks[-1].to(states.dtype), masks[-1])
        for i in reversed(range(len(self.up))):
            states = overlap_add(self.up[i](states))
            states = self.levels[i](states * masks[i].to(states.dtype), masks[i])
        return self.proj(self.norm(states, masks[0]))


def best_tokens(head, states):
    """The likeliest token of each place, shape `(batch, length)`, of what the head reads, shape `(batch, length, channels)`."""
    rows = states.flatten(0, -2).split(SCORED_AT_ONCE)
    return torch.cat([first_maximum(head(part)) for part in rows]).view(states.shape[:-1])


def first_maximum(scores):
    """`scores.argmax(-1)`, the first of equals, found by blocks where they fit: of a block, a CPU finds the maximum several times
    faster than its place."""
    if scores.shape[-1] % SCORE_BLOCK:
        return scores.argmax(-1)
    blocks = scores.unflatten(-1, (-1, SCORE_BLOCK))
    best = blocks.amax(-1).argmax(-1, keepdim=True)
    within = blocks.gather(-2, best.unsqueeze(-1).expand(*best.shape, SCORE_BLOCK)).squeeze(-2).argmax(-1)
    return best.squeeze(-1) * SCORE_BLOCK + within


def embedding_width(config):
    """Width of the embeddings."""
    return config.embedding_size or config.hidden_size


def embedding_projection(width, other):
    """What leads from one width to the other: nothing where they are the same."""
    return nn.Identity() if width == other else nn.Linear(width, other, bias=False)


class CtaModel(TextAutoencoder):
    """The autoencoder: one small vector for every `ratio` tokens, and scores of all tokens from these vectors alone.

    Args:
        config ([`CtaConfig`]).

    Attributes:
        kl_annealing (`float`): factor of `kl_weight` in training, 1 unless a callback moves it.
        scale (`torch.FloatTensor` of shape `(8, latent_dim)`): step of each channel's grid for 1 to 8 bits, a buffer that
            `fit_latent_scale` sets; not a number before, and again once training goes on.

    Example:

    ```python
    >>> from transformers import AutoModel, AutoTokenizer
    >>> tokenizer = AutoTokenizer.from_pretrained("org/cta-nano")
    >>> model = AutoModel.from_pretrained("org/cta-nano")
    >>> latents = model.encode(**tokenizer("any text", return_tensors="pt"))
    >>> model.reconstruct(["any text"], tokenizer)
    ['any text']
    ```
    """

    config: CtaConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["CtaBlock"]
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, embedding_width(config))
        self.encoder = CtaEncoder(config)
        self.decoder = CtaDecoder(config)
        self.lm_head = nn.Linear(embedding_width(config), config.vocab_size)
        self.register_buffer("scale", torch.empty(len(GRID_BITS), config.latent_dim))
        self.kl_annealing = 1.0
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ChannelNorm):
            init.ones_(module.weight)
        elif isinstance(module, CtaModel):
            init.constant_(module.scale, math.nan)

    # Lengths

    def masks(self, lengths, size):
        """Masks of all resolutions, tokens first, each of shape `(batch, size / 2 ** level, 1)`.

        Args:
            lengths (`torch.LongTensor` of shape `(batch,)`): tokens of each text.
            size (`int`): a multiple of the ratio.
        """
        halvings = range(self.config.num_levels + 1)
        return [length_mask(-(-lengths // 2**level), size >> level) for level in halvings]

    def reach(self):
        """Tokens on either side beyond which nothing enters a latent, and likewise a token decoded: a multiple of the ratio."""
        config = self.config
        blocks = sum(n * 2 * (config.kernel_size // 2) * 2**level for level, n in enumerate(level_blocks(config)))
        resampling = sum(2 * 2**level for level in range(config.num_levels))
        return -(-(blocks + resampling) // config.ratio) * config.ratio

    def arranged(self, input_ids, attention_mask):
        """Texts moved to the left and padded to a multiple of the ratio, whichever side their padding was on.

        Returns:
            `tuple`: ids, shape `(batch, size)`; `lengths`, shape `(batch,)`; and where each token went, shape
            `(batch, length)`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        real = attention_mask != 0
        ids = input_ids.gather(1, (~real).to(torch.int8).argsort(dim=1, stable=True))
        ids = nn.functional.pad(ids, (0, -ids.shape[1] % self.config.ratio))
        return ids, real.sum(1), (real.cumsum(1) - 1).clamp(min=0)

    # The two halves

    def encode_moments(self, ids, lengths, token_dropout=0.0):
        """Means and log-variances of texts as [`arranged`] gives them.

        Args:
            ids (`torch.LongTensor` of shape `(batch, size)`), lengths (`torch.LongTensor` of shape `(batch,)`).
            token_dropout (`float`, defaults to 0): rate of tokens to hide.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: each of shape `(batch, size / ratio, latent_dim)`; the second only with
            `kl_weight`.
        """
        embeds = self.embed_tokens(ids)
        if token_dropout:
            kept = torch.rand(ids.shape, device=ids.device) >= token_dropout
            embeds = embeds * kept.unsqueeze(-1).to(embeds.dtype)
        mean, log_variance = self.encoder(embeds, self.masks(lengths, ids.shape[1]))
        if self.config.latent_norm:
            mean = mean / root_mean_square(mean, self.config.norm_eps).to(mean.dtype)
        return mean, log_variance

    def decode_states(self, latents, lengths):
        """What the head reads, shape `(batch, ratio * latent_length, embedding_size)`."""
        return self.decoder(latents, self.masks(lengths, latents.shape[1] * self.config.ratio))

    def latent_mask(self, attention_mask):
        """Which latents hold a token: a mask of tokens, shape `(batch, length)`, to one of shape `(batch, latent_length)`."""
        lengths, size = (attention_mask != 0).sum(1), attention_mask.shape[1]
        return self.masks(lengths, size + -size % self.config.ratio)[-1].squeeze(-1).long()

    def perturb(self, mean, log_variance):
        """Latents as they are decoded in training: sampled, noisy and thinned, as far as the configuration says.

        Args:
            mean (`torch.Tensor` of shape `(batch, latent_length, latent_dim)`), log_variance (the same, or `None`).

        Returns:
            `torch.Tensor` of the mean's shape.
        """
        config, latents = self.config, mean
        if log_variance is not None:
            latents = latents + torch.randn_like(latents) * (0.5 * log_variance).exp()
        if config.latent_noise:
            latents = latents + torch.randn_like(latents) * config.latent_noise
        return nn.functional.dropout(latents, config.latent_dropout)

    def can_sample(self):
        """Whether training scores candidates alone: as `num_negatives` says, but not with an adapter on the head, which has no
        weights to pick from."""
        if self.config.num_negatives and type(self.lm_head) is not nn.Linear:
            logger.warning_once(
                f"the head is a {type(self.lm_head).__name__}: num_negatives {self.config.num_negatives} is passed over and "
                "every token is scored"
            )
            return False
        return bool(self.config.num_negatives)

    def candidate_scores(self, states, labels):
        """Scores of the tokens that are asked for anywhere in the batch, and of random others.

        Source: Jean et al. 2015, "On using very large target vocabulary for neural machine translation", section 3, its
        partitions drawn at random and without a correction of the scores.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: scores of shape `(batch, length, candidates)`, and the labels as places among
            the candidates, -100 where they were.
        """
        others = torch.randint(self.config.vocab_size, (self.config.num_negatives,), device=labels.device)
        candidates = torch.cat([labels[labels != -100], others]).unique()
        scores = nn.functional.linear(states, self.lm_head.weight[candidates], self.lm_head.bias[candidates])
        return scores, torch.searchsorted(candidates, labels).where(labels != -100, -100)

    def kl_divergence(self, mean, log_variance):
        """Divergence of each number of a latent from a standard normal, in nats, never below the free bits.

        Source of free bits: Kingma et al. 2016, "Improved variational inference with inverse autoregressive flow", section
        4; here of each number instead of a batch's mean.
        """
        nats = normal_divergence(mean.float(), log_variance.float())
        return nats.clamp(min=self.config.free_bits * math.log(2))

    # The interface

    @can_return_tuple
    def forward(self, input_ids, attention_mask=None, labels=None, num_items_in_batch=None, **kwargs):
        """Encode and decode texts; with labels, compute the loss.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`).
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 0 on padding; by default every id
                counts.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): the token to be told at each place, or -100, as on
                padding, of which the latents hold nothing.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): what sums over labels are divided by; by default their
                number here.

        Returns:
            [`CtaOutput`].
        """
        ids, lengths, places = self.arranged(input_ids, attention_mask)
        token_dropout = self.config.token_dropout if self.training else 0.0
        mean, log_variance = self.encode_moments(ids, lengths, token_dropout)
        latents = self.perturb(mean, log_variance) if self.training else mean
        states = self.decode_states(latents, lengths)
        states = states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        sampled = self.training and labels is not None and self.can_sample()
        logits = None if sampled else self.lm_head(states)
        latent_mask = self.masks(lengths, ids.shape[1])[-1].squeeze(-1).long()
        loss = reconstruction_loss = kl_loss = None
        if labels is not None:
            scores, told = self.candidate_scores(states, labels) if sampled else (logits, labels)
            loss = label_cross_entropy(scores, told, num_items_in_batch)
            reconstruction_loss = loss.detach()
            if self.training and loss.requires_grad:
                self.scale.fill_(math.nan)  # grids of what the weights were before
            if log_variance is not None:
                asked = labels != -100
                if num_items_in_batch is None:
                    num_items_in_batch = asked.sum()
                # Of the latents that hold a token that is asked for.
                counted = (
                    torch.zeros_like(ids).scatter_add(1, places, asked.to(ids)).unflatten(1, (-1, self.config.ratio))
                )
                divergence = (self.kl_divergence(mean, log_variance) * counted.any(-1, keepdim=True)).sum()
                weight = self.config.kl_weight * (self.kl_annealing if self.training else 1.0)
                kl = weight * divergence / torch.as_tensor(num_items_in_batch, device=loss.device).clamp(min=1)
                loss, kl_loss = loss + kl, kl.detach()
        return CtaOutput(
            loss=loss,
            reconstruction_loss=reconstruction_loss,
            kl_loss=kl_loss,
            logits=logits,
            latents=latents,
            latent_mask=latent_mask,
        )

    def tiles(self, batch, size, tile_length):
        """Texts, and stretches of them with what they can see.

        Short texts go together, as many as have `tile_length` tokens; longer ones alone, in stretches.

        Returns:
            `list[tuple[slice, list[tuple[int, int, int, int]]]]`: which texts, and `(first, start, end, last)` in tokens.

        Raises:
            ValueError: where `tile_length` is no multiple of the ratio.
        """
        if tile_length < 1 or tile_length % self.config.ratio:
            raise ValueError(f"tile_length {tile_length} must be a multiple of the ratio {self.config.ratio}")
        reach, stretches = self.reach(), []
        for start in range(0, max(size, 1), tile_length):
            end = min(start + tile_length, size)
            stretches.append((max(start - reach, 0), start, end, min(end + reach, size)))
        texts = max(tile_length // max(size, 1), 1)
        return [(slice(i, i + texts), stretches) for i in range(0, max(batch, 1), texts)]

    def encode(self, input_ids, attention_mask=None, tile_length=TILE_LENGTH, token_type_ids=None):
        """Encode texts of any length, one stretch after the other; the result is that of the whole.

        Under `torch.no_grad()` memory does not grow with the text but for ids and latents.

        Args:
            input_ids, attention_mask: as of `forward`.
            tile_length (`int`, defaults to 8192): tokens at once, beside those on either side that they can see; a multiple of
                the ratio.
            token_type_ids (*optional*): passed over; some tokenizers give them.

        Returns:
            `torch.FloatTensor` of shape `(batch, latent_length, latent_dim)`, the latents' means, a text's first one first.

        Raises:
            ValueError: where `tile_length` is no multiple of the ratio.
        """
        ids, lengths, _ = self.arranged(input_ids, attention_mask)
        ratio, encoded = self.config.ratio, []
        for texts, stretches in self.tiles(*ids.shape, tile_length):
            parts = []
            for first, start, end, last in stretches:
                mean, _ = self.encode_moments(ids[texts, first:last], (lengths[texts] - first).clamp(0, last - first))
                parts.append(mean[:, (start - first) // ratio : (end - first) // ratio])
            encoded.append(torch.cat(parts, dim=1))
        return torch.cat(encoded)

    def decoded(self, latents, lengths, tile_length, of_states):
        """What a function makes of what the head reads of every stretch, shape `(batch, ratio * latent_length, ...)`."""
        ratio, size, decoded = self.config.ratio, latents.shape[1] * self.config.ratio, []
        if lengths is None:
            lengths = torch.full((len(latents),), size, device=latents.device)
        for texts, stretches in self.tiles(len(latents), size, tile_length):
            parts = []
            for first, start, end, last in stretches:
                part = latents[texts, first // ratio : last // ratio]
                states = self.decode_states(part, (lengths[texts] - first).clamp(0, last - first))
                parts.append(of_states(states[:, start - first : end - first]))
            decoded.append(torch.cat(parts, dim=1))
        return torch.cat(decoded)

    def decode(self, latents, lengths=None, tile_length=TILE_LENGTH):
        """Decode latents of any length to scores, all of which are held: of a long text, take [`decode_tokens`].

        Args:
            latents (`torch.FloatTensor` of shape `(batch, latent_length, latent_dim)`).
            lengths (`torch.LongTensor` of shape `(batch,)`, *optional*): tokens of each text; by default all that fit.
            tile_length (`int`, defaults to 8192): as of [`encode`].

        Returns:
            `torch.FloatTensor` of shape `(batch, ratio * latent_length, vocabulary)`; beyond a text's length without meaning.

        Raises:
            ValueError: where `tile_length` is no multiple of the ratio.
        """
        # All places meet before the head: scores put together afterwards would be copied.
        return self.lm_head(self.decoded(latents, lengths, tile_length, lambda states: states))

    @torch.no_grad()
    def decode_tokens(self, latents, lengths=None, tile_length=TILE_LENGTH):
        """The likeliest tokens, shape `(batch, ratio * latent_length)`, without ever holding all scores; arguments as of
        [`decode`]."""
        return self.decoded(latents, lengths, tile_length, lambda states: best_tokens(self.lm_head, states))

    @torch.no_grad()
    def reconstruct(self, texts, tokenizer, batch_size=32, bits=None):
        """Encode texts and decode them from their latents alone.

        Args:
            texts (`list[str]`).
            tokenizer: that the model was trained with.
            batch_size (`int`, defaults to 32): texts at once.
            bits (`int`, *optional*): round the latents to so many bits a number, as they would be stored; by default not at all.

        Returns:
            `list[str]`.

        Raises:
            ValueError: for one text instead of a list, or as of [`round_latents`].
        """
        if isinstance(texts, str):
            raise ValueError("reconstruct takes a list of texts, not one: give [text]")
        training, written = self.training, []
        self.eval()
        try:
            for start in range(0, len(texts), batch_size):
                batch = texts[start : start + batch_size]
                # Special tokens would be written back as text.
                inputs = tokenizer(
                    batch, padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt"
                )
                ids, mask = inputs["input_ids"].long().to(self.device), inputs["attention_mask"].to(self.device)
                latents = self.encode(ids, mask)
                lengths = mask.sum(1)
                tokens = self.decode_tokens(latents if bits is None else self.round_latents(latents, bits), lengths)
                written += [tokenizer.decode(row[:n]) for row, n in zip(tokens, lengths.tolist(), strict=True)]
        finally:
            self.train(training)
        return written

    # The cost of latents

    @torch.no_grad()
    def sample_latents(self, input_ids, attention_mask=None, generator=None):
        """Latents drawn from what a text's latents are told to be, as in training.

        Args:
            input_ids, attention_mask: as of `forward`.
            generator (`torch.Generator`, *optional*).

        Returns:
            `torch.FloatTensor` of shape `(batch, latent_length, latent_dim)`.

        Raises:
            TypeError: where the model has no variance (`kl_weight` 0).
        """
        mean, log_variance = self.distribution(input_ids, attention_mask)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + noise * (0.5 * log_variance).exp()

    def distribution(self, input_ids, attention_mask):
        """Means and log-variances, each of shape `(batch, latent_length, latent_dim)`; a TypeError where there are none."""
        ids, lengths, _ = self.arranged(input_ids, attention_mask)
        mean, log_variance = self.encode_moments(ids, lengths)
        if log_variance is None:
            raise TypeError("latents without variance carry what they are stored in: see latent_bits")
        return mean, log_variance

    @torch.no_grad()
    def information_bits(self, input_ids, attention_mask=None):
        """Bits that a text's noisy latents carry: their divergence from the prior, without free bits, over ln 2.

        Args:
            input_ids, attention_mask: as of `forward`.

        Returns:
            `torch.FloatTensor` of shape `(batch,)`.

        Raises:
            TypeError: where the model has no variance (`kl_weight` 0): its latents are stored as they are.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        mean, log_variance = self.distribution(input_ids, attention_mask)
        nats = normal_divergence(mean.float(), log_variance.float()).sum(-1)
        return (nats * self.latent_mask(attention_mask)).sum(1) / math.log(2)

    def latent_bits(self, latents, mask, bits=8):
        """Bits that each text's latents take, and 32 for its number of tokens, which the decoder is told; arguments and returns
        as of [`TextAutoencoder.latent_bits`]."""
        return super().latent_bits(latents, mask, bits) + LENGTH_BITS

    def latent_scale(self, bits=8):
        """Step of the grid of each channel, shape `(latent_dim,)`, as [`fit_latent_scale`] found it.

        Raises:
            ValueError: where no grid was fitted, or for bits that none has.
        """
        check_bits(bits)
        if self.scale.isnan().any():
            raise ValueError(
                "the range of these latents is unknown: call fit_latent_scale with latents of training text first, as "
                "run_pretraining.py does at the end of a run"
            )
        return self.scale[bits - GRID_BITS.start]

    @torch.no_grad()
    def fit_latent_scale(self, latents):
        """Set the grids such that given latents, of training text, are rounded with the least mean square error, as near as
        steps 4 % apart and 4,096 of the latents come to it: before a model is saved, and again after it was trained further.

        The grids are a buffer of the model, which an adapter does not save: merge it first.

        Args:
            latents (`torch.Tensor` of shape `(..., latent_dim)`): of real tokens only.

        Raises:
            ValueError: for none, or any that is not finite.
        """
        values = latents.float().flatten(0, -2)
        if not len(values) or not values.isfinite().all():
            raise ValueError(f"{len(values)} latents make no grid: accepted are one and more, all of them finite")
        widest = values.abs().amax(0).clamp(min=1e-6)
        values = values[:: -(-len(values) // FITTED_LATENTS)]
        for row, bits in zip(self.scale, GRID_BITS, strict=True):
            # From a grid that holds all values down to one that cuts off all but the smallest.
            steps = 2 * widest / 2**bits * 0.96 ** torch.arange(100, device=widest.device)[:, None]
            errors = torch.stack([(on_grid(values, step, bits) - values).square().mean(0) for step in steps])
            row.copy_(steps.gather(0, errors.argmin(0, keepdim=True))[0])
