"""Bits for each byte of text under a language model, whatever its tokens."""

import math

import torch
from torch import nn

from .texts import batches


def rows_after_start(tokenizer, passages, device):
    """Passages as one batch of ids, each after `<bos>` and padded on the right, and its mask; both of shape `(batch, length)`."""
    rows = [[tokenizer.bos_token_id, *ids] for ids in tokenizer(passages, add_special_tokens=False)["input_ids"]]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


@torch.no_grad()
def language_figures(model, tokenizer, passages, batch_size=16):
    """Bits of the canonical tokens of passages, each after `<bos>`, over their bytes in UTF-8.

    Other ways to tokenize a passage would add to its probability: this is an upper bound of its bits, as for every tokenizer.

    Args:
        model: any causal language model; of one that knows its tokenizer's fingerprint, another tokenizer raises `ValueError`.
        tokenizer: its tokenizer, with a `<bos>` and a padding token.
        passages (`list[str]`).
        batch_size (`int`, defaults to 16).

    Returns:
        `dict`: `bits_per_byte`, `bytes_per_token`, `bits_per_token`, `bytes` and `tokens`.
    """
    if hasattr(model, "check_tokenizer"):
        model.check_tokenizer(tokenizer)
    nats, tokens, size = 0.0, 0, 0
    for _, batch in batches(passages, batch_size, "scoring"):
        ids, mask = rows_after_start(tokenizer, batch, model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        wanted = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        nats += nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum"
        ).item()
        tokens += int(mask[:, 1:].sum())
        size += sum(len(text.encode("utf-8")) for text in batch)
    bits = nats / math.log(2)
    return {
        "bits_per_byte": bits / size,
        "bits_per_token": bits / max(tokens, 1),
        "bytes_per_token": size / max(tokens, 1),
        "bytes": size,
        "tokens": tokens,
    }
