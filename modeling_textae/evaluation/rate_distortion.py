"""Stored bits against what comes back, for latents and for whole-text compressors."""

import gzip
import lzma

import numpy as np
import torch

from .metrics import character_error_rate, exact_rate
from .reconstruction import free_running, latent_rate, teacher_forced
from .texts import batches
from .tokens import byte_accuracy, token_bytes

COMPRESSORS = {
    "gzip -9": lambda data: gzip.compress(data, 9),
    "xz -9": lambda data: lzma.compress(data, preset=9),
}


@torch.no_grad()
def token_rate_distortion(model, tokenizer, passages, batch_size=32, roundings=(None, 16, 8, 6, 5, 4, 3)):
    """One row for each way to store a token autoencoder's latents, one for the tokens' own entropy code, one for each compressor.

    Args:
        model ([`CtaModel`]).
        tokenizer: its tokenizer, a byte-level BPE.
        passages (`list[str]`): held-out text; the compressors get all of it as one file.
        batch_size (`int`, defaults to 32).
        roundings (`sequence of int`): bits for each number; `None` for float32.

    Returns:
        `list[dict]`: `what`, `bits per byte of text`, `token accuracy`, `byte accuracy`, `character error rate`, `exact`. The
        entropy code of tokens knows how often each occurs in these very passages, but nothing of their order.
    """
    spelled, counts = token_bytes(tokenizer), np.zeros(len(tokenizer))
    size = sum(len(passage.encode("utf-8")) for passage in passages)
    totals = {bits: {"stored": 0, "right": 0, "written": []} for bits in roundings}
    for _, batch in batches(passages, batch_size, "rate and distortion"):
        inputs = tokenizer(batch, padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt")
        ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
        np.add.at(counts, ids[mask == 1].cpu().numpy(), 1)
        latents, latent_mask = model.encode(ids, mask), model.latent_mask(mask)
        for bits, total in totals.items():
            stored = latents if bits is None else model.round_latents(latents, bits)
            decoded = model.decode_tokens(stored, mask.sum(1))[:, : ids.shape[1]]
            total["stored"] += int(model.latent_bits(latents, latent_mask, bits or 32).sum())
            total["right"] += int(((decoded == ids) & (mask == 1)).sum())
            rows = zip(decoded.tolist(), mask.sum(1).tolist(), strict=True)
            total["written"] += [b"".join(spelled[i] for i in row[:n]) for row, n in rows]
    rows, data = [], [passage.encode("utf-8") for passage in passages]
    for bits, total in totals.items():
        texts = [written.decode("utf-8", "replace") for written in total["written"]]
        rows.append(
            {
                "what": f"latents, {'float32' if bits is None else 'bfloat16' if bits == 16 else f'int{bits}'}",
                "bits per byte of text": total["stored"] / size,
                "token accuracy": total["right"] / counts.sum(),
                "byte accuracy": byte_accuracy(data, total["written"]),
                "character error rate": character_error_rate(texts, passages),
                "exact": exact_rate(texts, passages),
            }
        )
    exact = {"token accuracy": 1.0, "byte accuracy": 1.0, "character error rate": 0.0, "exact": 1.0}
    occurring = counts[counts > 0]
    entropy = -(occurring * np.log2(occurring / counts.sum())).sum()
    rows.append({"what": "tokens, entropy code", "bits per byte of text": entropy / size, **exact})
    return rows + [{"token accuracy": 1.0, **row} for row in compressor_rows(passages)]


def rate_distortion(model, tokenizer, passages, batch_size=32):
    """One row for the latents as stored, one without rounding, and one for each compressor.

    Args:
        model ([`TextAutoencoder`] with bottleneck and decoder).
        tokenizer: its tokenizer.
        passages (`list[str]`): held-out text; the compressors get all of it as one file.
        batch_size (`int`, defaults to 32).

    Returns:
        `list[dict]`: `what`, `bits per byte of text`, `byte accuracy` (teacher-forced), `character error rate` and `exact`
        (free-running).
    """
    rate = latent_rate(model, tokenizer, passages, batch_size)
    # Unrounded numbers take 24 bits more each.
    wider = rate["bits_per_byte"] + 24 * rate["numbers_per_byte"]
    rows = []
    for what, stored, bits_per_byte in (
        ("latents, int8", True, rate["bits_per_byte"]),
        ("latents, float32", False, wider),
    ):
        free, _ = free_running(model, tokenizer, passages, stored=stored)
        rows.append(
            {
                "what": what,
                "bits per byte of text": bits_per_byte,
                "byte accuracy": teacher_forced(model, tokenizer, passages, 0.0, batch_size, stored=stored)[
                    "byte_accuracy"
                ],
                "character error rate": free["character_error_rate"],
                "exact": free["exact_rate"],
            }
        )
    return rows + compressor_rows(passages)


def compressor_rows(passages):
    """One row for each whole-text compressor, which gets all passages as one file."""
    data, rows = "".join(passages).encode("utf-8"), []
    for name, compress in COMPRESSORS.items():
        exact = {"byte accuracy": 1.0, "character error rate": 0.0, "exact": 1.0}
        rows.append({"what": name, "bits per byte of text": 8 * len(compress(data)) / len(data), **exact})
    return rows
