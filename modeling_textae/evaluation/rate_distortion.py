"""Stored bits against what comes back, for latents and for whole-text compressors."""

import gzip
import lzma

from .reconstruction import free_running, latent_rate, teacher_forced

COMPRESSORS = {
    "gzip -9": lambda data: gzip.compress(data, 9),
    "xz -9": lambda data: lzma.compress(data, preset=9),
}


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
    data = "".join(passages).encode("utf-8")
    for name, compress in COMPRESSORS.items():
        exact = {"byte accuracy": 1.0, "character error rate": 0.0, "exact": 1.0}
        rows.append({"what": name, "bits per byte of text": 8 * len(compress(data)) / len(data), **exact})
    return rows
