"""Stored bits against what comes back, for latents and for whole-text compressors."""

import gzip
import lzma

from .metrics import adaptive_code_bits
from .reconstruction import free_running, latent_rate, teacher_forced
from .tokens import latent_rows

COMPRESSORS = {
    "gzip -9": lambda data: gzip.compress(data, 9),
    "xz -9": lambda data: lzma.compress(data, preset=9),
}


def token_rate_distortion(model, tokenizer, passages, batch_size=32, roundings=(None, 16, 8, 6, 5, 4, 3, 2, 1)):
    """One row for each way to store a token autoencoder's latents, one for the tokens' own code, one for each compressor.

    Args:
        model ([`CtaModel`]), tokenizer.
        passages (`list[str]`): held-out text; the compressors get all of it as one file.
        batch_size (`int`, defaults to 32).
        roundings (sequence of `int`): bits for each number; `None` for float32.

    Returns:
        `list[dict]`: as of [`latent_rows`]. The tokens' own code learns how often each occurs as it goes, nothing of their order.
    """
    rows, counts, _ = latent_rows(model, tokenizer, passages, roundings, batch_size)
    size = sum(len(passage.encode("utf-8")) for passage in passages)
    exact = {"token accuracy": 1.0, "byte accuracy": 1.0, "character error rate": 0.0, "exact": 1.0}
    rows.append({"what": "tokens, adaptive code", "bits per byte of text": adaptive_code_bits(counts) / size, **exact})
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
