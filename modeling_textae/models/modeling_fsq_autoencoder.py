"""The FSQ autoencoder: chunks of up to 16 bytes to a few codes and back; and the language model on the tokens that these make.

Source: the LoopOS design of an autoencoder tokenizer; finite scalar quantization after Mentzer et al. 2023. Deviations: the
chunk's length is told beside its bytes, numbers are normed before they are bounded, no place of a shorter chunk sees padding,
and each half may be a perceptron over all bytes of a chunk, which a CPU runs faster than convolutions. The trunk is
transformers' Llama.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, LlamaConfig
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple

from .autoencoder import AutoencoderOutput, TextAutoencoder, label_cross_entropy, linear_cross_entropy
from .byte_tokenizer import NUM_BYTES
from .configuration_fsq_autoencoder import FsqAutoencoderConfig
from .convolution import overlap_add, windows
from .packing import moved_left
from .quantization import FSQLayer, RunningNorm, StepStatistics, VectorQuantizer


@dataclass
class FsqAutoencoderOutput(AutoencoderOutput):
    """What [`FsqAutoencoderModel`] returns.

    Attributes:
        loss (`torch.FloatTensor` of shape `()`): the sum of the part losses, in nats a byte.
        byte_loss (`torch.FloatTensor` of shape `()`): cross-entropy of the bytes, detached.
        length_loss (`torch.FloatTensor` of shape `()`): weighted cross-entropy of the chunks' lengths, a byte, detached.
        commitment_loss (`torch.FloatTensor` of shape `()`): weighted distance to the codes, a byte, detached; of a learned
            codebook.
        byte_accuracy (`torch.FloatTensor` of shape `()`): share of the labels that score best.
        chunk_accuracy (`torch.FloatTensor` of shape `()`): share of the labelled chunks whose bytes and length all do.
        byte_perplexity (`torch.FloatTensor` of shape `()`): of the labels of this batch.
        code_use (`torch.FloatTensor` of shape `()`): distinct codes over chunks in this batch.
        logits (`torch.FloatTensor` of shape `(batch, length, 256)`): scores of each byte; in training with labels without a
            gradient, and 0 where no label is.
        length_logits (`torch.FloatTensor` of shape `(batch, max_chunk_length + 1)`): scores of each length from 0.
        latents (`torch.FloatTensor` of shape `(batch, num_codes, code_size)`): the codes; FSQ's numbers are in [-1, 1].
        indices (`torch.LongTensor` of shape `(batch, num_codes)`): the codes' numbers, from 0 to `codebook_size - 1`.
        hidden_states, attentions: none.
    """

    byte_loss: torch.FloatTensor | None = None
    length_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    byte_accuracy: torch.FloatTensor | None = None
    chunk_accuracy: torch.FloatTensor | None = None
    byte_perplexity: torch.FloatTensor | None = None
    code_use: torch.FloatTensor | None = None
    length_logits: torch.FloatTensor | None = None
    indices: torch.LongTensor | None = None


@dataclass
class FsqAutoencoderCausalLMOutput(AutoencoderOutput):
    """What [`FsqAutoencoderForCausalLM`] returns.

    Attributes:
        loss (`torch.FloatTensor` of shape `()`): the sum of the part losses, in nats a token.
        language_loss (`torch.FloatTensor` of shape `()`): cross-entropy of the next token, detached.
        reconstruction_loss (`torch.FloatTensor` of shape `()`): weighted cross-entropy of bytes and length of the next chunk,
            spelled by the decoder out of the trunk's states, and of the own chunk out of its code, detached; where it has a
            weight.
        logits (`torch.FloatTensor` of shape `(batch, length, vocab_size)`): `logits[:, t]` are the scores of token `t + 1`;
            `None` in training with labels, where they never exist all at once.
        past_key_values (`Cache`): of the trunk.
        hidden_states, attentions (`tuple`): of the trunk, where asked for.
    """

    language_loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    past_key_values: Cache | None = None


class PerceptronBlock(GradientCheckpointingLayer):
    """A residual layer: norm, twice a matrix with SiLU between.

    Args:
        width (`int`), eps (`float`): of the norm.
    """

    def __init__(self, width, eps):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps, bias=False)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, states):
        """States of shape `(batch, width)` to the same."""
        return states + self.down(nn.functional.silu(self.up(self.norm(states))))


def perceptron(inputs, config, width):
    """From `inputs` numbers to `width`: a matrix, residual blocks, a norm."""
    blocks = [PerceptronBlock(width, config.norm_eps) for _ in range(config.num_blocks)]
    return nn.Sequential(nn.Linear(inputs, width), *blocks, nn.LayerNorm(width, eps=config.norm_eps, bias=False))


class PerceptronEncoder(nn.Module):
    """All bytes of a chunk, side by side, through a perceptron.

    Args:
        config ([`FsqAutoencoderConfig`]).
    """

    def __init__(self, config):
        super().__init__()
        self.layers = perceptron(
            config.max_chunk_length * config.byte_embedding_size, config, config.encoder_hidden_size
        )

    def forward(self, embeds, mask):
        """Embeddings, shape `(batch, max_chunk_length, byte_embedding_size)`, and their mask, shape `(batch,
        max_chunk_length, 1)`, to states of shape `(batch, encoder_hidden_size)`."""
        return self.layers((embeds * mask.to(embeds.dtype)).flatten(1))


class ConvolutionEncoder(nn.Module):
    """Three convolutions of three places, two of which halve the length, and the mean of what is left.

    Args:
        config ([`FsqAutoencoderConfig`]).
    """

    def __init__(self, config):
        super().__init__()
        width = config.encoder_hidden_size
        sizes = [config.byte_embedding_size, width // 2, width, width]
        self.convs = nn.ModuleList(nn.Linear(3 * i, o) for i, o in pairwise(sizes))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps, bias=False)

    def forward(self, embeds, mask):
        """As of [`PerceptronEncoder`]."""
        states = embeds
        for conv, stride in zip(self.convs, (1, 2, 2), strict=True):
            states = nn.functional.silu(conv(windows(states * mask.to(states.dtype), 3, stride)))
            mask = mask[:, ::stride]
        mask = mask.to(states.dtype)
        return self.norm((states * mask).sum(1) / mask.sum(1).clamp(min=1))


class CharacterEncoder(nn.Module):
    """Bytes of a chunk to the numbers that are quantized; the original's name.

    Args:
        config ([`FsqAutoencoderConfig`]).
    """

    def __init__(self, config):
        super().__init__()
        self.embed_bytes = nn.Embedding(NUM_BYTES, config.byte_embedding_size)
        self.layers = (ConvolutionEncoder if config.block_type == "conv" else PerceptronEncoder)(config)
        self.proj = nn.Linear(config.encoder_hidden_size, config.num_codes * config.code_size)
        self.norm = RunningNorm(config.num_codes * config.code_size, config.norm_momentum, config.norm_eps)
        self.num_codes = config.num_codes

    def forward(self, ids, lengths):
        """Bytes, shape `(batch, max_chunk_length)`, of which each chunk's first `lengths` count, shape `(batch,)`, to numbers
        of shape `(batch, num_codes, code_size)`."""
        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).unsqueeze(-1)
        values = self.proj(self.layers(self.embed_bytes(ids), mask))
        return self.norm(values, self.proj.weight).unflatten(-1, (self.num_codes, -1))


def waves(codes, number):
    """Numbers and the sines and cosines of so many whole multiples of half a turn each, side by side.

    Source: Tancik et al. 2020, "Fourier features let networks learn high frequency functions in low dimensional domains",
    section 4, with whole multiples instead of random ones.

    Args:
        codes (`torch.FloatTensor` of shape `(batch, numbers)`), number (`int`).

    Returns:
        `torch.FloatTensor` of shape `(batch, (1 + 2 * number) * numbers)`.
    """
    turns = [math.pi * i * codes for i in range(1, number + 1)]
    return torch.cat([codes, *(wave for turn in turns for wave in (turn.sin(), turn.cos()))], dim=1)


def width_of_waves(config):
    """How many numbers [`waves`] makes of a chunk's codes."""
    return (1 + 2 * config.num_frequencies) * config.num_codes * config.code_size


class PerceptronDecoder(nn.Module):
    """Codes through a perceptron to all bytes of a chunk at once.

    Args:
        config ([`FsqAutoencoderConfig`]), width (`int`).
    """

    def __init__(self, config, width):
        super().__init__()
        self.layers = perceptron(width_of_waves(config), config, width)
        self.proj = nn.Linear(width, config.max_chunk_length * config.byte_embedding_size)
        self.length = nn.Linear(width, config.max_chunk_length + 1)
        self.embedding_size = config.byte_embedding_size

    def forward(self, codes):
        """Waves of codes, shape `(batch, width)`, to states of the bytes, shape
        `(batch, max_chunk_length, byte_embedding_size)`, and scores of the length, shape `(batch, max_chunk_length + 1)`."""
        states = self.layers(codes)
        return self.proj(states).unflatten(-1, (-1, self.embedding_size)), self.length(states)


class ConvolutionDecoder(nn.Module):
    """A matrix to a quarter of the places, then two transposed convolutions, each of which doubles them.

    Args:
        config ([`FsqAutoencoderConfig`]), width (`int`).
    """

    def __init__(self, config, width):
        super().__init__()
        places = config.max_chunk_length // 4
        self.start = nn.Linear(width_of_waves(config), places * width)
        self.up = nn.ModuleList([nn.Linear(width, 2 * width), nn.Linear(width // 2, 4 * config.byte_embedding_size)])
        self.length = nn.Linear(places * width, config.max_chunk_length + 1)
        self.places = places

    def forward(self, codes):
        """As of [`PerceptronDecoder`]."""
        start = nn.functional.silu(self.start(codes))
        first, second = self.up
        states = nn.functional.silu(overlap_add(first(start.unflatten(-1, (self.places, -1)))))
        return overlap_add(second(states)), self.length(start)


class VectorDecoder(nn.Module):
    """Codes to scores of each byte of a chunk, by `byte_head`, and of its length; the original's name.

    Args:
        config ([`FsqAutoencoderConfig`]).
    """

    def __init__(self, config):
        super().__init__()
        width = config.decoder_hidden_size or config.encoder_hidden_size
        self.layers = (ConvolutionDecoder if config.block_type == "conv" else PerceptronDecoder)(config, width)
        self.num_frequencies = config.num_frequencies
        self.norm = nn.LayerNorm(config.byte_embedding_size, eps=config.norm_eps, bias=False)
        self.byte_head = nn.Linear(config.byte_embedding_size, NUM_BYTES)

    def forward(self, codes):
        """Codes, shape `(batch, num_codes, code_size)`, to what `byte_head` reads of each byte, shape
        `(batch, max_chunk_length, byte_embedding_size)`, and scores of the length, shape `(batch, max_chunk_length + 1)`."""
        states, length_scores = self.layers(waves(codes.flatten(1), self.num_frequencies))
        return self.norm(states), length_scores


class FsqPreTrainedModel(TextAutoencoder):
    """Weights and loading of both models."""

    config: FsqAutoencoderConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["PerceptronBlock", "LlamaDecoderLayer"]
    _keep_in_fp32_modules_strict = ["encoder.norm", "quantizer"]  # codes turn on these statistics
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, StepStatistics):
            module.reset()
        elif isinstance(module, FsqAutoencoderModel):
            # Each layer's output begins as strong as its input: the quantizer has to see differences from the first step on.
            for layer in module.modules():
                if isinstance(layer, nn.Linear):
                    init.normal_(layer.weight, std=layer.in_features**-0.5)
                elif isinstance(layer, nn.Embedding):
                    init.normal_(layer.weight)


class FsqAutoencoderModel(FsqPreTrainedModel):
    """The autoencoder of chunks: each row of a batch is one chunk of at most `max_chunk_length` bytes.

    Args:
        config ([`FsqAutoencoderConfig`]).

    Example:

    ```python
    >>> model = FsqAutoencoderModel(FsqAutoencoderConfig.nano()).eval()
    >>> model.encode(torch.tensor([list(b" river")])).shape
    torch.Size([1, 2, 8])
    ```
    """

    def __init__(self, config):
        super().__init__(config)
        self.encoder = CharacterEncoder(config)
        if config.vq_codes:
            self.quantizer = VectorQuantizer(config.vq_codes, config.vq_dim)
        else:
            self.quantizer = FSQLayer(config.levels, config.bound_temperature)
        self.decoder = VectorDecoder(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        """The 256 bytes' vectors."""
        return self.encoder.embed_bytes

    def get_output_embeddings(self):
        """None: no vocabulary grows here."""
        return None

    def resize_token_embeddings(self, *args, **kwargs):
        """Raises `ValueError`: there are 256 bytes."""
        raise ValueError(
            "the autoencoder reads bytes, and there are no more than 256: only the language model can be resized"
        )

    def arranged(self, input_ids, attention_mask):
        """Chunks moved to the left and padded to the longest length, whichever side their padding was on.

        Returns:
            `tuple`: bytes, shape `(batch, max_chunk_length)`; lengths, shape `(batch,)`; and where each byte went, shape
            `(batch, length)`.

        Raises:
            ValueError: for a chunk that is too long, or what is no byte.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        real, longest = attention_mask != 0, self.config.max_chunk_length
        if not torch.compiler.is_compiling():
            if bool((real.sum(1) > longest).any()):
                raise ValueError(
                    f"a chunk of {int(real.sum(1).max())} bytes is too long: accepted are up to {longest}; chunks_of() cuts text"
                )
            wrong = input_ids[real & ((input_ids < 0) | (input_ids >= NUM_BYTES))]
            if len(wrong):
                raise ValueError(f"id {int(wrong[0])} is no byte: the autoencoder reads bytes, 0 to 255")
        ids = moved_left(input_ids, real, 0)
        ids = nn.functional.pad(ids[:, :longest], (0, max(longest - ids.shape[1], 0)))
        return ids, real.sum(1), (real.cumsum(1) - 1).clamp(min=0)

    def quantized(self, ids, lengths):
        """Codes, their numbers, and distances to a learned codebook, shape `(batch, num_codes)`, or `None`; of arranged
        chunks."""
        values = self.encoder(ids, lengths)
        if self.config.vq_codes:
            return self.quantizer(values, self.encoder.proj.weight)
        return *self.quantizer(values), None

    @can_return_tuple
    def forward(self, input_ids, attention_mask=None, labels=None, num_items_in_batch=None, **kwargs):
        """Encode and decode chunks; with labels, compute the loss.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): bytes, 0 to 255; what the mask leaves is at most
                `max_chunk_length` long.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 0 on padding; by default all are bytes.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): the byte to be told at each place, or -100. The
                length to be told is that of the inputs, for chunks that have a label.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): what sums over labels are divided by; by default their
                number here.

        Returns:
            [`FsqAutoencoderOutput`].

        Raises:
            ValueError: for a chunk that is too long, or ids that are no bytes.
        """
        ids, lengths, places = self.arranged(input_ids, attention_mask)
        codes, indices, distances = self.quantized(ids, lengths)
        states, length_logits = self.decoder(codes.to(self.dtype))
        losses, logits = {}, None
        if labels is not None:
            # Most places of most chunks are padding: training computes the scores that count alone.
            asked = labels != -100
            logits = self.decoder.byte_head(states[asked.nonzero()[:, 0], places[asked]])
            losses = self.losses(logits, length_logits, distances, labels, lengths, num_items_in_batch)
            # One number for each row: to sort numbers is far faster than to sort rows.
            row = indices[:, 0]
            for column in indices.T[1:]:
                row = row * self.config.codebook_size + column
            losses["code_use"] = torch.tensor(len(row.unique()) / max(len(row), 1), device=row.device)
        if logits is not None and self.training:
            scores = logits.detach()
            logits = scores.new_zeros(*labels.shape, NUM_BYTES)
            logits[asked] = scores
        else:
            states = states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
            logits = self.decoder.byte_head(states)
        return FsqAutoencoderOutput(
            **losses,
            logits=logits,
            length_logits=length_logits,
            latents=codes,
            indices=indices,
        )

    def losses(self, logits, length_logits, distances, labels, lengths, num_items_in_batch):
        """The loss, its parts and the accuracies, as [`FsqAutoencoderOutput`] names them."""
        asked = labels != -100
        if num_items_in_batch is None:
            num_items_in_batch = asked.sum()
        told = lengths.where(asked.any(1), -100)
        wanted = labels[asked]
        parts = {
            "byte_loss": label_cross_entropy(logits, wanted, num_items_in_batch),
            "length_loss": self.config.length_loss_weight
            * label_cross_entropy(length_logits, told, num_items_in_batch),
        }
        if distances is not None:
            drawn = distances.sum(1).masked_fill(told < 0, 0).sum()
            total = torch.as_tensor(num_items_in_batch, device=drawn.device).clamp(min=1)
            parts["commitment_loss"] = self.config.commitment_weight * drawn / self.config.vq_dim / total
        # The largest score is found far sooner than its place.
        best = logits.detach().gather(1, wanted.unsqueeze(1)).squeeze(1) >= logits.detach().amax(1)
        right = torch.ones_like(asked).masked_scatter(asked, best)
        whole = right.all(1) & (length_logits.argmax(-1) == told)
        return {
            "loss": sum(parts.values()),
            **{name: part.detach() for name, part in parts.items()},
            "byte_accuracy": (right & asked).sum() / asked.sum().clamp(min=1),
            "chunk_accuracy": whole.sum() / (told >= 0).sum().clamp(min=1),
            "byte_perplexity": torch.exp(parts["byte_loss"].detach() * num_items_in_batch / asked.sum().clamp(min=1)),
        }

    def encode(self, input_ids, attention_mask=None):
        """Codes of chunks.

        Args:
            input_ids, attention_mask: as of `forward`.

        Returns:
            `torch.FloatTensor` of shape `(batch, num_codes, code_size)`; FSQ's numbers are in [-1, 1].
        """
        ids, lengths, _ = self.arranged(input_ids, attention_mask)
        return self.quantized(ids, lengths)[0]

    def decode(self, latents):
        """Scores of the bytes of chunks, shape `(batch, max_chunk_length, 256)`, from codes as of [`encode`]; beyond a
        chunk's length, which [`decode_chunks`] heeds, without meaning."""
        return self.decoder.byte_head(self.decoder(latents.to(self.dtype))[0])

    @torch.no_grad()
    def decode_chunks(self, latents):
        """The likeliest bytes and lengths, and by how much they lead.

        Args:
            latents (`torch.FloatTensor` of shape `(batch, num_codes, code_size)`).

        Returns:
            `tuple[torch.LongTensor, torch.LongTensor, torch.FloatTensor]`: bytes, shape `(batch, max_chunk_length)`, 256
            beyond the length; lengths, shape `(batch,)`; and the least lead of a score, the length's or a byte's, over the
            next, shape `(batch,)`.
        """
        states, length_scores = self.decoder(latents.to(self.dtype))
        best, ids = self.decoder.byte_head(states).float().topk(2, dim=-1)
        longest, lengths = length_scores.float().topk(2, dim=-1)
        lengths = lengths[:, 0]
        beyond = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
        leads = (best[..., 0] - best[..., 1]).masked_fill(beyond, math.inf).amin(1)
        return ids[..., 0].masked_fill(beyond, NUM_BYTES), lengths, leads.minimum(longest[:, 0] - longest[:, 1])

    @torch.no_grad()
    def reconstruct(self, texts, tokenizer, batch_size=1024):
        """Texts cut into chunks, each through its code and back, without the tokenizer's table: what the autoencoder alone
        makes of them.

        Args:
            texts (`list[str]`).
            tokenizer ([`AutoEncoderTokenizer`]): cuts the texts.
            batch_size (`int`, defaults to 1024): chunks at once.

        Returns:
            `list[str]`; bytes that are no UTF-8 become U+FFFD.
        """
        rows = [tokenizer.chunks(text) for text in texts]
        chunks = list(dict.fromkeys(chunk.encode("utf-8") for row in rows for chunk in row))
        spelled = {}
        for start in range(0, len(chunks), batch_size):
            batch = chunks[start : start + batch_size]
            ids, lengths = chunk_matrix(batch, self.config.max_chunk_length)
            codes, _, _ = self.quantized(ids.to(self.device), lengths.to(self.device))
            found, lengths, _ = self.decode_chunks(codes)
            for chunk, ids, length in zip(batch, found.tolist(), lengths.tolist(), strict=True):
                spelled[chunk] = bytes(ids[:length])
        return [b"".join(spelled[chunk.encode("utf-8")] for chunk in row).decode("utf-8", "replace") for row in rows]

    def latent_bits(self, latents, mask=None, bits=None):
        """Bits of each chunk's codes, shape `(batch,)`, as if all were as likely: log2 of how many there are, for each code."""
        bits = self.config.num_codes * math.log2(self.config.codebook_size)
        return torch.full((len(latents),), bits, device=latents.device)


def chunk_matrix(chunks, longest):
    """Chunks as a matrix.

    Args:
        chunks (`list[bytes]`), longest (`int`): bytes of a row.

    Returns:
        `tuple[torch.LongTensor, torch.LongTensor]`: bytes, shape `(n, longest)`, 0 beyond the end; and lengths, shape `(n,)`.

    Raises:
        ValueError: for a chunk that is too long.
    """
    joined = b"".join(chunk.ljust(longest, b"\0") for chunk in chunks)
    if len(joined) > longest * len(chunks):
        wrong = next(chunk for chunk in chunks if len(chunk) > longest)
        raise ValueError(f"{wrong!r} is no chunk: accepted are up to {longest} bytes")
    ids = torch.frombuffer(bytearray(joined), dtype=torch.uint8) if joined else torch.zeros(0, dtype=torch.uint8)
    return ids.view(-1, longest).long(), torch.tensor([len(chunk) for chunk in chunks], dtype=torch.long)


def trunk_config(config):
    """The Llama configuration of a language model's trunk."""
    return LlamaConfig(
        vocab_size=1,  # the table of tokens is not the trunk's
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        initializer_range=config.initializer_range,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=config._attn_implementation,
    )


def rounded(model):
    """A copy of an autoencoder, in float32, whose weights are those that are stored; without gradients, in evaluation."""
    again = deepcopy(model).to("cpu").float().eval().requires_grad_(False)
    again.load_state_dict({name: tensor.float() for name, tensor in stored(model).items()}, strict=False)
    return again


def stored(model):
    """What a tokenizer's file holds of an autoencoder: weights in bfloat16, and the statistics that its use needs."""
    tensors = {name: p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in model.named_parameters()}
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] in ("mean", "variance", "codebook"):
            tensors[name] = buffer.detach().to("cpu", torch.float32).contiguous()
    return tensors


class FsqAutoencoderForCausalLM(FsqPreTrainedModel, GenerationMixin):
    """A Llama on the tokens of [`AutoEncoderTokenizer`], whose embeddings are a trained table plus a projection of each
    token's code.

    With `chunk_bytes` the codes are computed by the encoder, which then gets the language model's gradient; without them they are
    looked up, as the tokenizer left them. [`adopt`] takes on a tokenizer's codes.

    Args:
        config ([`FsqAutoencoderConfig`]).

    Example:

    ```python
    >>> tokenizer = AutoTokenizer.from_pretrained("model_cards/fsq-autoencoder-nano")
    >>> model = AutoModelForCausalLM.from_pretrained("model_cards/fsq-autoencoder-nano")
    >>> ids = model.generate(**tokenizer("The river", return_tensors="pt"), max_new_tokens=20)
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = FsqAutoencoderModel(config)
        self.trunk = AutoModel.from_config(trunk_config(config))
        self.trunk.embed_tokens = None
        width = config.token_embedding_size or config.hidden_size
        codes_width = config.num_codes * config.code_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.embed_proj = self.head_proj = None
        if width != config.hidden_size:
            self.embed_proj = nn.Linear(width, config.hidden_size, bias=False)
            self.head_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.code_proj = nn.Linear(codes_width, config.hidden_size, bias=False) if config.code_embeddings else None
        self.score_proj = nn.Linear(codes_width, width, bias=False) if config.code_scores else None
        self.to_codes = nn.Linear(config.hidden_size, codes_width) if config.reconstruction_weight else None
        # Of each token the numbers of its codes, -1 for special tokens, and for all until a tokenizer is adopted.
        self.register_buffer("token_codes", torch.empty(config.vocab_size, config.num_codes, dtype=torch.int32))
        self.gradient_checkpointing = False
        self.post_init()
        self.freeze()

    def freeze(self):
        """Take the gradient from what the phase leaves alone, and from what no loss reaches."""
        spells = self.config.reconstruction_weight > 0
        if self.config.frozen != "nothing" or not (self.config.code_embeddings or spells):
            self.model.encoder.requires_grad_(False)
        if self.config.frozen == "autoencoder" or not spells:
            self.model.decoder.requires_grad_(False)

    @property
    def trains_autoencoder(self):
        """Whether training reads chunks: to move the encoder, or to reconstruct."""
        return self.to_codes is not None or any(p.requires_grad for p in self.model.encoder.parameters())

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, FsqAutoencoderForCausalLM):
            init.constant_(module.token_codes, -1)
            for proj in (module.code_proj, module.score_proj):
                if proj is not None:
                    init.normal_(proj.weight, std=self.config.initializer_range)

    def train(self, mode=True):
        """As of any module; the autoencoder's statistics stay those that the tokenizer was made with."""
        super().train(mode)
        self.model.encoder.norm.eval()
        self.model.quantizer.eval()
        self.freeze()  # weights that were loaded have their gradient again
        return self

    def get_input_embeddings(self):
        """The table of tokens."""
        return self.embed_tokens

    def set_input_embeddings(self, value):
        """Put another table in its place."""
        self.embed_tokens = value

    def get_output_embeddings(self):
        """The scores' matrix, tied to the table."""
        return self.lm_head

    def resize_token_embeddings(self, new_num_tokens=None, *args, **kwargs):
        """Resize the table; new tokens have no code."""
        table = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        codes, size = self.token_codes, table.num_embeddings
        if size != len(codes):
            added = codes.new_full((max(size - len(codes), 0), codes.shape[1]), -1)
            self.token_codes = torch.cat((codes[:size], added))
        return table

    def keep_tokens(self, rows):
        """Drop all tokens but some, in the given order.

        Args:
            rows (`list[int]`): ids of those that stay.
        """
        if list(rows) != list(range(len(self.token_codes))):
            table = self.embed_tokens.weight.detach()[rows].clone()
            scores = None if self.config.tie_word_embeddings else self.lm_head.weight.detach()[rows].clone()
            self.resize_token_embeddings(len(rows))
            self.embed_tokens.weight.data.copy_(table)
            if scores is not None:
                self.lm_head.weight.data.copy_(scores)

    def adopt(self, tokenizer):
        """Take on a tokenizer's codes and fingerprint.

        Args:
            tokenizer ([`AutoEncoderTokenizer`]).

        Raises:
            ValueError: where its tokens or codes are not as many as the model's, or its autoencoder, as it is stored, is another.
        """
        codes = torch.from_numpy(tokenizer.token_codes())
        if codes.shape != self.token_codes.shape:
            raise ValueError(
                f"a tokenizer of {len(codes)} tokens with {codes.shape[1]} codes each does not fit a model of "
                f"{len(self.token_codes)} with {self.token_codes.shape[1]}"
            )
        mine, theirs = stored(self.model), stored(tokenizer.autoencoder)
        if mine.keys() != theirs.keys() or not all(torch.equal(mine[name], theirs[name]) for name in mine):
            raise ValueError(
                "the tokenizer's autoencoder is not the model's: load both from one folder, or let "
                "training.codes.export_again() make the tokenizer of an autoencoder that was trained further"
            )
        self.token_codes.copy_(codes)
        self.config.tokenizer_fingerprint = tokenizer.fingerprint

    def check_tokenizer(self, tokenizer):
        """Raise `ValueError` for a tokenizer whose tokens are not those that the model was trained on."""
        fingerprint = getattr(tokenizer, "fingerprint", None)
        if self.config.tokenizer_fingerprint is None:
            raise ValueError(
                "the model has no tokenizer: adopt() takes one on, and training.codes.export_again() makes the one of an "
                "autoencoder that was trained further"
            )
        if fingerprint != self.config.tokenizer_fingerprint:
            raise ValueError(
                f"the tokenizer's fingerprint is {fingerprint}, the model was trained with "
                f"{self.config.tokenizer_fingerprint}: load both from one folder"
            )

    def embeddings(self, input_ids, chunk_bytes=None):
        """What the trunk reads.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`).
            chunk_bytes (`torch.LongTensor` of shape `(batch, length, max_chunk_length)`, *optional*): each token's bytes, 256
                beyond their end; its code is then the encoder's, with a gradient.

        Returns:
            `tuple`: embeddings, shape `(batch, length, hidden_size)`; and codes, shape `(batch, length, num_codes,
            code_size)`, with 0 for tokens that have none, or `None` where nothing needs them.
        """
        embeds = self.embed_tokens(input_ids)
        if self.embed_proj is not None:
            embeds = self.embed_proj(embeds)
        if self.code_proj is None and (self.to_codes is None or chunk_bytes is None):
            return embeds, None
        if chunk_bytes is None:
            codes = self.encode(input_ids)
        else:
            indices = self.token_codes[input_ids]
            has_code = (indices >= 0).all(-1)[..., None, None]
            # Only what has a code is encoded: padding is no chunk.
            chunks = chunk_bytes[has_code.flatten(2).any(-1)]
            # Not in autocast's precision: in bfloat16 many a chunk has another code than the tokenizer's.
            with torch.autocast(chunks.device.type, enabled=False):
                found = self.model.quantized(chunks.where(chunks < NUM_BYTES, 0), (chunks < NUM_BYTES).sum(1))[0]
            codes = found.new_zeros(*indices.shape, found.shape[-1])
            codes = codes.masked_scatter(has_code.expand_as(codes), found)
        if self.code_proj is not None:
            embeds = embeds + self.code_proj(codes.flatten(2).to(self.dtype))
        return embeds, codes

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        chunk_bytes=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        num_items_in_batch=None,
        **kwargs,
    ):
        """Score the next token at each place; with labels, compute the loss.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`).
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 0 on padding.
            position_ids, past_key_values, use_cache: as of transformers' Llama.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden_size)`, *optional*): instead of `input_ids`;
                what the trunk reads, as [`embeddings`] gives it: codes included, and not only the table's rows, which is why
                PEFT's prompt methods do not serve.
            chunk_bytes (`torch.LongTensor` of shape `(batch, length, max_chunk_length)`, *optional*): each token's bytes, 256
                beyond their end: codes are computed by the encoder. Needed, with labels, where `reconstruction_weight` is not 0.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): the tokens, -100 where not asked; shifted here.
            logits_to_keep (`int`, defaults to 0): compute scores of the last so many places only; 0 for all.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): what sums over labels are divided by; by default the
                labels that are asked for.

        Returns:
            [`FsqAutoencoderCausalLMOutput`].

        Raises:
            ValueError: where neither or both of `input_ids` and `inputs_embeds` are given, embeddings have another width, or
                `chunk_bytes` are missing, or stand beside embeddings.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of them")
        if inputs_embeds is not None and (
            inputs_embeds.shape[-1] != self.config.hidden_size or chunk_bytes is not None
        ):
            raise ValueError(
                f"inputs_embeds of width {inputs_embeds.shape[-1]} are not what the trunk reads: accepted is what embeddings() "
                f"gives, {self.config.hidden_size} wide, without chunk_bytes"
            )
        if labels is not None and chunk_bytes is None and self.training and self.trains_autoencoder:
            raise ValueError(
                "to train the autoencoder, or reconstruction, needs chunk_bytes: LanguageCollator(..., with_bytes=True) gives "
                "them"
            )
        codes = None
        if inputs_embeds is None:
            inputs_embeds, codes = self.embeddings(input_ids, chunk_bytes)
        # Once the autoencoder's weights move, its tokenizer is no longer the model's.
        trained = self.training and labels is not None and torch.is_grad_enabled()
        if trained and any(p.requires_grad for p in self.model.parameters()):
            self.config.tokenizer_fingerprint = None
        outputs = self.trunk(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=not self.training if use_cache is None else use_cache,
            **kwargs,
        )
        states = outputs.last_hidden_state
        kept = states[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else states[:, logits_to_keep]
        # An adapter on the head has no one matrix.
        in_parts = self.training and labels is not None and type(self.lm_head) is nn.Linear
        before_head = kept if self.head_proj is None else self.head_proj(kept)
        logits = None if in_parts else self.scores(before_head)
        losses = {}
        if labels is not None:
            if num_items_in_batch is None:
                num_items_in_batch = (labels[:, 1:] != -100).sum()
            if in_parts:
                told = before_head[:, :-1], self.score_matrix(), labels[:, 1:]
                parts = {"language_loss": linear_cross_entropy(*told, num_items_in_batch)}
            else:
                parts = {"language_loss": label_cross_entropy(logits[:, :-1], labels[:, 1:], num_items_in_batch)}
            if self.to_codes is not None and chunk_bytes is not None:
                parts["reconstruction_loss"] = self.config.reconstruction_weight * self.spelling_loss(
                    states, codes, chunk_bytes, labels, num_items_in_batch
                )
            losses = {"loss": sum(parts.values()), **{name: part.detach() for name, part in parts.items()}}
        return FsqAutoencoderCausalLMOutput(
            **losses,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def codes_of_tokens(self):
        """The codes of all tokens, shape `(vocab_size, num_codes * code_size)`; 0 for those that have none."""
        return self.encode(slice(None)).flatten(1).to(self.dtype)

    def score_matrix(self, rows=slice(None)):
        """The matrix whose products with what comes before the head are the scores, shape `(vocab_size, width)`, or some of its
        rows."""
        matrix = self.lm_head.weight[rows]
        return matrix if self.score_proj is None else matrix + self.score_proj(self.codes_of_tokens()[rows])

    def scores(self, states):
        """Scores of all tokens from what comes before the head, shape `(..., width)`."""
        scores = self.lm_head(states)
        if self.score_proj is not None:  # few numbers a code: cheaper than the whole matrix
            scores = scores + (states @ self.score_proj.weight) @ self.codes_of_tokens().T
        return scores

    def spelling_loss(self, states, codes, chunk_bytes, labels, num_items_in_batch):
        """Cross-entropy of bytes and length, over all tokens that are asked for and have a code: of the next out of a state,
        and of the same out of its own code, without which the decoder would forget the table."""
        asked = (labels[:, 1:] != -100) & (self.token_codes[labels[:, 1:].clamp(min=0)] >= 0).all(-1)
        wanted = chunk_bytes[:, 1:][asked]
        lengths = (wanted < NUM_BYTES).sum(1)
        real = wanted < NUM_BYTES
        expected = self.to_codes(states[:, :-1][asked]).view(len(wanted), *codes.shape[2:])
        if not self.config.vq_codes:
            expected = torch.tanh(expected)  # as far as levels reach; a learned codebook has no such bounds
        loss = 0
        for source in (expected, codes[:, 1:][asked]):
            states, length_scores = self.model.decoder(source.to(self.dtype))
            scores = self.model.decoder.byte_head(states[real])
            loss = loss + label_cross_entropy(scores, wanted[real], num_items_in_batch)
            loss = loss + label_cross_entropy(length_scores, lengths, num_items_in_batch)
        return loss

    def encode(self, input_ids, attention_mask=None):
        """The codes of tokens, shape `(batch, length, num_codes, code_size)`; 0 for special tokens."""
        indices = self.token_codes[input_ids].long()
        return self.model.quantizer.indices_to_codes(indices.clamp(min=0)) * (indices >= 0).unsqueeze(-1)

    def decode(self, latents):
        """Scores of the bytes of codes, shape `(batch, length, num_codes, code_size)` to `(batch, length, max_chunk_length,
        256)`."""
        return self.model.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    def reconstruct(self, texts, tokenizer, batch_size=1024):
        """As of [`FsqAutoencoderModel`], after the tokenizer was checked."""
        self.check_tokenizer(tokenizer)
        return self.model.reconstruct(texts, tokenizer, batch_size)

    def latent_bits(self, latents, mask, bits=None):
        """Bits of each text's tokens, shape `(batch,)`, as if all were as likely; `run_eval.py rate-distortion` prints what they
        take under the language model."""
        return mask.sum(-1) * math.log2(self.config.vocab_size)
