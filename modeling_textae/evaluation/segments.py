"""Segments and codes of the Abstractinator on held-out text: how long, how many in use, what they give back, and whether
batches change where they end."""

import math

import torch
from rapidfuzz.distance import Levenshtein

from .language import language_figures, rows_after_start
from .report import figure
from .texts import batches


def segment_figures(model, tokenizer, passages, batch_size=16):
    """Mean length of the top segments and the use of their codes.

    Args:
        model ([`AbstractinatorModel`] or [`AbstractinatorForCausalLM`]), tokenizer ([`AbstractinatorTokenizer`]).
        passages (`list[str]`), batch_size (`int`, defaults to 16).

    Returns:
        `dict`: `bytes_per_segment`, `segments`, and, where the top has codes, `codebook_size`, `codes_used` (a share),
        `perplexity` (of the codes' frequencies) and `code_bits_per_byte` (each code at log2 of the codebook's size).
    """
    encoder, size = model.base_model, model.config.codebook_sizes[-1]
    counts, segments, length = torch.zeros(size or 1), 0, 0
    for _, batch in batches(passages, batch_size, "encoding"):
        ids, mask = rows_after_start(tokenizer, batch, model.device)
        encoded = encoder.encode(ids, mask)
        segments += int((encoded.segment_lengths > 0).sum())
        length += int(mask[:, 1:].sum())
        if size:
            counts += torch.bincount(encoded.codes[encoded.codes >= 0].cpu(), minlength=size)
    figures = {"bytes_per_segment": length / max(segments, 1), "segments": segments}
    if size:
        shares = counts[counts > 0] / counts.sum()
        figures |= {
            "codebook_size": size,
            "codes_used": float((counts > 0).float().mean()),
            "perplexity": float(torch.exp(-(shares * shares.log()).sum())),
            "code_bits_per_byte": segments * math.log2(size) / max(length, 1),
        }
    return figures


def given_back(model, tokenizer, passages, batch_size=32):
    """What the autoencoder gives back of passages out of their codes alone, or, without codes, of vectors and lengths.

    Args:
        model ([`AbstractinatorModel`]), tokenizer ([`AbstractinatorTokenizer`]), passages (`list[str]`), batch_size (`int`).

    Returns:
        `dict`: `bytes_right`, one less the edits of bytes that turn what came back into the original, over its bytes; and
        `exact`, the share of passages without any.
    """
    edits, size, exact = 0, 0, 0
    for _, batch in batches(passages, batch_size, "reconstructing"):
        ids, mask = rows_after_start(tokenizer, batch, model.device)
        encoded = model.encode(ids, mask)
        told = (encoded.latents, encoded.segment_lengths) if encoded.codes is None else (encoded.codes,)
        for row, passage in zip(model.decode(*told).cpu(), batch, strict=True):
            wanted = passage.encode("utf-8")
            distance = Levenshtein.distance(tokenizer.decode_bytes(row), wanted)
            edits, size, exact = edits + distance, size + len(wanted), exact + (distance == 0)
    return {"bytes_right": 1 - edits / max(size, 1), "exact": exact / max(len(passages), 1)}


@torch.no_grad()
def flipped_cuts(model, tokenizer, passages, batch_size=16):
    """Places whose first-level segment ends in a batch but not alone, or the other way round, in a million bytes.

    Args:
        model, tokenizer, passages, batch_size: as of [`segment_figures`].

    Returns:
        `float`.
    """
    encoder, flipped, size = model.base_model, 0, 0

    def cuts(batch):
        arranged = encoder.arranged(*rows_after_start(tokenizer, batch, model.device))
        return encoder.autoencoder.analyse(arranged.ids, arranged.lengths)[0].cuts

    for _, batch in batches(passages, batch_size, "cutting"):
        together = cuts(batch)
        for row, passage in zip(together, batch, strict=True):
            alone = cuts([passage])[0]
            flipped += int((row[: len(alone)] != alone).sum())
            size += len(passage.encode("utf-8"))
    return flipped / max(size, 1) * 1e6


@torch.no_grad()
def two_part_figures(model, tokenizer, passages, batch_size=16):
    """Bits a byte of the two-part code.

    Args:
        model ([`AbstractinatorForCausalLM`]): with a code model and a way to reconstruct; tokenizer, passages, batch_size: as of
            [`segment_figures`].

    Returns:
        `dict`: `code_bits`, of the top codes and their end under the trained code model, and `symbol_bits`, of what is below,
        told these.
    """
    bits, size = torch.zeros(2, dtype=torch.double), 0
    for _, batch in batches(passages, batch_size, "scoring"):
        ids, mask = rows_after_start(tokenizer, batch, model.device)
        ids, mask = (torch.nn.functional.pad(part, (0, 1)) for part in (ids, mask))
        ends = mask.sum(1, keepdim=True)
        ids, mask = ids.scatter(1, ends, tokenizer.eos_token_id), mask.scatter(1, ends, 1)
        bits += torch.stack([part.sum().double().cpu() for part in model.two_part_bits(ids, mask)])
        size += sum(len(passage.encode("utf-8")) for passage in batch)
    return {"code_bits": float(bits[0]) / max(size, 1), "symbol_bits": float(bits[1]) / max(size, 1)}


def run_report(model, tokenizer, passages):
    """What a training run reports of its model on held-out passages.

    Args:
        model ([`AbstractinatorModel`] or [`AbstractinatorForCausalLM`]), tokenizer ([`AbstractinatorTokenizer`]).
        passages (`list[str]`).

    Returns:
        `tuple[dict, list[str]]`: the figures, and lines to print.
    """
    figures, lines = {}, []
    if hasattr(model, "code_transformer"):
        figures |= language_figures(model, tokenizer, passages)
        lines.append(f"bits per byte: {figure(figures['bits_per_byte'])}")
    figures |= segment_figures(model, tokenizer, passages)
    lines.append(f"bytes in a top segment: {figure(figures['bytes_per_segment'])}")
    figures["flipped_cuts"] = flipped_cuts(model, tokenizer, passages)
    lines.append(f"cuts that a batch flips in a million bytes: {figure(figures['flipped_cuts'])}")
    if "codes_used" in figures:
        lines.append(
            f"codes used by {figures['segments']} segments: {figure(figures['codes_used'])} of {figures['codebook_size']}, "
            f"perplexity {figure(figures['perplexity'])}, {figure(figures['code_bits_per_byte'])} bits a byte"
        )
    if model.base_model.reconstructs:
        figures |= given_back(model.base_model, tokenizer, passages)
        told = "codes alone" if "codes_used" in figures else "vectors and lengths"
        lines.append(f"bytes right out of {told}, 1 less edits by bytes: {figure(figures['bytes_right'])}")
    if model.base_model.reconstructs and getattr(model, "code_transformer", None) and model.config.code_weight:
        figures |= two_part_figures(model, tokenizer, passages)
        lines.append(
            f"two-part code, bits a byte: {figure(figures['code_bits'])} of codes under the code model, "
            f"{figure(figures['symbol_bits'])} of bytes told these"
        )
    return figures, lines
