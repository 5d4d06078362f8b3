"""transformers' Llama on bytes with attention in a window: the flat model that a hierarchical one is measured beside.

Its attention is computed in blocks, as the hierarchical model's, so that it pays for no masked product.
"""

import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from modeling_textae import AbstractinatorConfig, ByteTokenizer
from modeling_textae.models.attention import attention_implementation, blocked_window_attention
from modeling_textae.models.hierarchical_autoencoder import SymbolEmbedding


def windowed(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention of whole texts, padded on the right, or of one more place after a cache."""
    window = module.config.window

    def attend(query, key, value, mask):
        implementation = attention_implementation("sdpa", module, query, key, mask)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        return function(module, query, key, value, mask, scaling=scaling, dropout=dropout)[0]

    if query.shape[2] == key.shape[2]:
        return blocked_window_attention(attend, query, key, value, window), None
    if query.shape[2] > 1:
        raise ValueError("after a cache this benchmark's attention reads one token at a time")
    return attend(query, key[:, :, -window:], value[:, :, -window:], None), None


AttentionInterface.register("window", windowed)


class NgramLlama(LlamaForCausalLM):
    """A flat model that reads hashed n-grams beside bytes, as the hierarchical one does. What these reach back to lives in the
    model while it writes: one batch at a time."""

    def __init__(self, config):
        super().__init__(config)
        fields = {"level_sizes": [config.hidden_size], "level_heads": [config.num_attention_heads], **config.ngrams}
        self.model.embed_tokens = SymbolEmbedding(AbstractinatorConfig(**fields))
        self.post_init()
        proj = self.model.embed_tokens.proj
        with torch.no_grad():  # as the Abstractinator begins
            proj.weight.normal_(std=proj.in_features**-0.5)

    def forward(self, input_ids, past_key_values=None, **kwargs):
        embed = self.model.embed_tokens
        after = past_key_values is not None and past_key_values.get_seq_length() > 0
        recent = self.recent if after else input_ids.new_full((len(input_ids), embed.recent), -1)
        self.recent = torch.cat((recent, input_ids), 1)[:, -embed.recent :]
        return super().forward(inputs_embeds=embed(input_ids, recent), past_key_values=past_key_values, **kwargs)


def flat_config(hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, window=128, ngrams=None):
    """The configuration of a flat model; of one that reads n-grams, with their sizes and table."""
    tokenizer = ByteTokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config.window, config.ngrams = window, ngrams
    return config


def class_of(config):
    """The class of a configuration."""
    return NgramLlama if config.ngrams else LlamaForCausalLM


def flat_llama(config):
    """A new flat model."""
    return class_of(config)._from_config(config, attn_implementation="window")


def load_flat_llama(folder):
    """A trained flat model."""
    kind = class_of(LlamaConfig.from_pretrained(folder))
    return kind.from_pretrained(folder, attn_implementation="window", use_safetensors=True)
