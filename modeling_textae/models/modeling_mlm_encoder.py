"""The MLM encoder: the classic Transformer encoder, which tells the tokens that masks hide.

Source: Vaswani et al. 2017, "Attention is all you need", sections 3.1 to 3.5 (the encoder), trained as in Devlin et al. 2019,
"BERT", section 3.1, by masked tokens alone. The output projection is the embedding matrix (section 3.4) and a bias. Deviation:
the first layer's heads begin by attending to fixed offsets, which sinusoids make linear; it ends the plateau on which a small
encoder otherwise spends its first thousands of steps, telling tokens by their frequency alone.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import attention_implementation, eager_attention_forward
from .autoencoder import AutoencoderOutput, TextAutoencoder, in_use, label_cross_entropy
from .configuration_mlm_encoder import MlmEncoderConfig


def sinusoids(positions, hidden_size, theta=10000.0):
    """Sinusoidal positions: sines in even channels, cosines of the same angles in odd ones, computed in float32.

    Source: Vaswani et al. 2017, section 3.5.

    Args:
        positions (`torch.Tensor` of any shape): whole or fractional.
        hidden_size (`int`): even number of channels.
        theta (`float`, defaults to 10000): base of the wavelengths, which run from 2π to nearly 2π·theta.

    Returns:
        `torch.FloatTensor` of shape `(*positions.shape, hidden_size)`.
    """
    exponent = torch.arange(0, hidden_size, 2, device=positions.device, dtype=torch.float32) / hidden_size
    angles = positions[..., None].float() * theta**-exponent
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


# Initial attention score of a head of the first layer at its offset, before noise: about as much as the few places beside it
# can be told apart by, and little enough to be unlearned.
OFFSET_SCORE = 4.0


def offset_projections(num_heads, head_dim, hidden_size, theta=10000.0):
    """Query and key matrices under which each head attends to one fixed offset: the first to the left neighbour, then the right
    one, the second on the left, and so on.

    For any offset the sinusoids of one position are a rotation of those of the other. Keys are the `head_dim` channels of the
    shortest wavelengths, queries the same turned by the offset. Source: Vaswani et al. 2017, section 3.5, which gives this as the
    reason for sinusoids but leaves it to be learned; Trockman and Kolter 2023, "Mimetic initialization of self-attention layers",
    who begin with what trained models show.

    Args:
        num_heads, head_dim, hidden_size (`int`), theta (`float`): of the attention and its sinusoids.

    Returns:
        `tuple[torch.FloatTensor, torch.FloatTensor]`: each of shape `(num_heads * head_dim, hidden_size)`.
    """
    pairs = head_dim // 2
    frequency = theta ** -(torch.arange(0, head_dim - 1, 2, dtype=torch.float32) / hidden_size)
    scale = (OFFSET_SCORE * head_dim**0.5 / max(pairs, 1)) ** 0.5
    query = torch.zeros(num_heads, head_dim, hidden_size)
    key = torch.zeros(num_heads, head_dim, hidden_size)
    even = torch.arange(pairs) * 2
    for head in range(num_heads):
        angle = frequency * (head // 2 + 1) * (1 if head % 2 else -1)
        key[head, even, even] = key[head, even + 1, even + 1] = scale
        query[head, even, even] = query[head, even + 1, even + 1] = scale * angle.cos()
        query[head, even, even + 1] = scale * angle.sin()
        query[head, even + 1, even] = -scale * angle.sin()
    return query.flatten(0, 1), key.flatten(0, 1)


class MlmEncoderEmbeddings(nn.Module):
    """Token vectors, scaled by the root of their width, plus sinusoidal positions, which are computed and never stored.

    Args:
        config ([`MlmEncoderConfig`]).
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids, attention_mask=None, position_ids=None, inputs_embeds=None):
        """Embed tokens; arguments as of [`MlmEncoderModel`].

        Returns:
            `torch.FloatTensor` of shape `(batch, length, hidden_size)`.
        """
        states = self.tokens(input_ids) if inputs_embeds is None else inputs_embeds
        states = states * self.config.hidden_size**0.5
        width, theta = states.shape[-1], self.config.position_theta
        if position_ids is not None:
            positions = sinusoids(position_ids, width, theta)
        else:
            positions = sinusoids(torch.arange(states.shape[1], device=states.device), width, theta)
            if attention_mask is not None:
                # Positions count from a text's first token, on whichever side its padding is.
                place = ((attention_mask != 0).cumsum(-1) - 1).clamp(min=0)
                positions = nn.functional.embedding(place, positions)
        return self.dropout(states + positions.to(states.dtype))


class MlmEncoderAttention(nn.Module):
    """Multi-head scaled dot-product attention of all tokens to all tokens that are no padding, with its output projection.

    Args:
        config ([`MlmEncoderConfig`]).
        begins_with_offsets (`bool`, defaults to `False`): whether its initial weights are those of [`offset_projections`].
    """

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config, begins_with_offsets=False):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        if begins_with_offsets:
            self.q_proj.offset_role, self.k_proj.offset_role = "query", "key"

    def forward(self, hidden_states, attention_mask):
        """Attend.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch, length, hidden_size)`).
            attention_mask (`torch.Tensor`, *optional*): as transformers' masking functions make it.

        Returns:
            `tuple`: output of the shape of `hidden_states`, and weights `(batch, heads, length, length)`, or `None` from the
            fused kernels.
        """
        shape = (*hidden_states.shape[:-1], self.config.num_attention_heads, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(shape).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
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
        return self.o_proj(output.reshape(hidden_states.shape)), weights


class MlmEncoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each added to its input; the norm comes after each sum, or first with `norm_first`.

    Args:
        config ([`MlmEncoderConfig`]).
        layer_index (`int`, defaults to 0): its place in the stack.
    """

    def __init__(self, config, layer_index=0):
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = MlmEncoderAttention(config, config.offset_heads and layer_index == 0)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.hidden_size, config.intermediate_size),
            ACT2FN[config.hidden_act],
            nn.Linear(config.intermediate_size, config.hidden_size),
        )
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states, attention_mask):
        """Hidden states, shape `(batch, length, hidden_size)`, to the same; the mask as of [`MlmEncoderAttention`]."""
        if self.norm_first:
            attended, _ = self.attention(self.attention_norm(hidden_states), attention_mask)
            hidden_states = hidden_states + self.dropout(attended)
            return hidden_states + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_states)))
        attended, _ = self.attention(hidden_states, attention_mask)
        hidden_states = self.attention_norm(hidden_states + self.dropout(attended))
        return self.feed_forward_norm(hidden_states + self.dropout(self.feed_forward(hidden_states)))


class MlmEncoderPreTrainedModel(TextAutoencoder):
    """Loading, saving and initial weights of the MLM encoder's models: vectors of tokens, no bottleneck, no decoder."""

    config: MlmEncoderConfig
    has_bottleneck = False
    has_decoder = False
    supports_gradient_checkpointing = True
    _input_embed_layer = "tokens"  # of `embeddings`
    _no_split_modules = ["MlmEncoderLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": MlmEncoderLayer,
        "attentions": OutputRecorder(MlmEncoderAttention, index=1),
    }

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        config = self.config
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=config.embedding_initializer_range)
        elif hasattr(module, "offset_role"):
            # On the projection itself: of custom models, transformers initialises no module without parameters of its own.
            heads, width = config.num_attention_heads, config.hidden_size
            query, key = offset_projections(heads, width // heads, width, config.position_theta)
            init.copy_(module.weight, query if module.offset_role == "query" else key)


class MlmEncoderModel(MlmEncoderPreTrainedModel):
    """The encoder: one vector a token, each of which has seen the whole text.

    Args:
        config ([`MlmEncoderConfig`]).

    Example:

    ```python
    >>> from transformers import AutoModel, AutoTokenizer
    >>> tokenizer = AutoTokenizer.from_pretrained("org/mlm-encoder-nano")
    >>> model = AutoModel.from_pretrained("org/mlm-encoder-nano")
    >>> vectors = model(**tokenizer("any text", return_tensors="pt")).last_hidden_state
    ```
    """

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = MlmEncoderEmbeddings(config)
        self.layers = nn.ModuleList(MlmEncoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps) if config.norm_first else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, **kwargs):
        """Encode texts.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*).
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 0 on padding; by default every
                id but `pad_token_id` counts.
            position_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): by default a text's tokens are counted
                from 0.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden_size)`, *optional*): in place of `input_ids`,
                vectors as the embedding matrix holds them, before they are scaled.

        Returns:
            `BaseModelOutput` with `last_hidden_state` of shape `(batch, length, hidden_size)`; hidden states and,
            with eager attention, attention weights where asked for.

        Raises:
            ValueError: without exactly one of `input_ids` and `inputs_embeds`, or without any token.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if not (input_ids if inputs_embeds is None else inputs_embeds).shape[1]:
            raise ValueError("there is nothing to encode: no text of the batch has a token")
        if attention_mask is None and input_ids is not None:
            attention_mask = input_ids != self.config.pad_token_id
        states = self.embeddings(input_ids, attention_mask, position_ids, inputs_embeds)
        mask = create_bidirectional_mask(self.config, states, attention_mask)
        for layer in self.layers:
            states = layer(states, mask)
        return BaseModelOutput(last_hidden_state=self.norm(states))

    def encode(self, input_ids, attention_mask=None):
        """Return the tokens' vectors, shape `(batch, length, hidden_size)`; arguments as of `forward`."""
        return self(input_ids, attention_mask, return_dict=True).last_hidden_state


class MlmEncoderForMaskedLM(MlmEncoderPreTrainedModel):
    """The encoder with scores of every token of the vocabulary at each place: fills masks.

    Args:
        config ([`MlmEncoderConfig`]).

    Example:

    ```python
    >>> from transformers import pipeline
    >>> fill = pipeline("fill-mask", model="org/mlm-encoder-seed")
    >>> fill("Mars is called the [MASK] planet")[0]["token_str"]
    ' red'
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = MlmEncoderModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def encode(self, input_ids, attention_mask=None):
        """Return the tokens' vectors, shape `(batch, length, hidden_size)`; arguments as of [`MlmEncoderModel`]."""
        return self.model.encode(input_ids, attention_mask)

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        inputs_embeds=None,
        labels=None,
        num_items_in_batch=None,
        **kwargs,
    ):
        """Score tokens and, with labels, compute the loss.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds: as of [`MlmEncoderModel`].
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): the token at each place asked for, -100 elsewhere.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): what the sum over labels is divided by; by default their
                number here.

        Returns:
            [`AutoencoderOutput`]: `loss` in nats a label, with labels; `logits` of shape `(batch, length, vocab_size)`, or
            `(labels, vocab_size)` under `sparse_prediction` while training with labels; `latents` of shape
            `(batch, length, hidden_size)`; the rest as of [`MlmEncoderModel`].
        """
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        states = asked = outputs.last_hidden_state
        if labels is not None and self.training and self.config.sparse_prediction:
            labels = labels.to(states.device)
            labelled = labels != -100
            asked, labels = states[labelled], labels[labelled]
        logits = self.lm_head(asked)
        return AutoencoderOutput(
            loss=None if labels is None else label_cross_entropy(logits, labels, num_items_in_batch),
            logits=logits,
            latents=states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def fill_masks(self, input_ids, attention_mask, tokenizer):
        """Fill masks, the surest first: each round fills one mask of each text and looks again.

        Args:
            input_ids, attention_mask (`torch.LongTensor` of shape `(batch, length)`).
            tokenizer: names the mask, and the special tokens and ids beyond its vocabulary, which are no answers.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`.
        """
        no_answer = [*tokenizer.all_special_ids, *range(len(tokenizer), self.config.vocab_size)]
        no_answer = torch.tensor(no_answer, device=self.device)
        with in_use(self):
            while (hidden := (input_ids == tokenizer.mask_token_id) & (attention_mask != 0)).any():
                logits = self(input_ids, attention_mask).logits.float()
                sureness, best = logits.index_fill(-1, no_answer, -torch.inf).log_softmax(-1).max(-1)
                surest = sureness.masked_fill(~hidden, -torch.inf).argmax(-1, keepdim=True)
                chosen = hidden & torch.zeros_like(hidden).scatter(1, surest, True)
                input_ids = torch.where(chosen, best, input_ids)
        return input_ids

    def reconstruct(self, texts, tokenizer, batch_size=32):
        """Fill the masks of texts, as [`fill_masks`] does.

        Args:
            texts (`list[str]`): with any number of the tokenizer's mask token in each.
            tokenizer ([`MlmEncoderTokenizer`]).
            batch_size (`int`, defaults to 32): texts at once.

        Returns:
            `list[str]`: the texts with a token in place of each mask.
        """
        filled = []
        for start in range(0, len(texts), batch_size):
            inputs = tokenizer(texts[start : start + batch_size], padding=True, return_tensors="pt").to(self.device)
            mask = inputs["attention_mask"]
            ids = self.fill_masks(inputs["input_ids"], mask, tokenizer)
            filled += [tokenizer.decode(row[real != 0]) for row, real in zip(ids, mask, strict=True)]
        return filled
