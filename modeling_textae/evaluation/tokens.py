"""How exactly token autoencoders give tokens back: on held-out text, on random tokens, and what they get wrong."""

import csv
import json
from itertools import groupby

import numpy as np
import torch
from tokenizers.decoders import ByteLevel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..models.autoencoder import check_bits
from ..models.modeling_cta import LENGTH_BITS
from .metrics import character_error_rate, exact_rate
from .report import table
from .texts import batches


def token_frequencies(rows, vocab_size):
    """How often each token occurs.

    Args:
        rows: an iterable of lists of ids.
        vocab_size (`int`).

    Returns:
        `np.ndarray` of int, shape `(vocab_size,)`.

    Raises:
        ValueError: for an id beyond the vocabulary.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    for ids in rows:
        found = np.bincount(ids, minlength=vocab_size) if len(ids) else counts[:0]
        if len(found) > vocab_size:
            raise ValueError(f"token {len(found) - 1} is beyond the vocabulary of {vocab_size}")
        counts[: len(found)] += found
    return counts


def write_frequencies(path, tokenizer, counts):
    """Write how often each token occurs, the commonest first, as CSV of `id`, `token` and `count`.

    Args:
        path, tokenizer, counts (`np.ndarray` of int): as of [`token_frequencies`].
    """
    order = np.argsort(-counts, kind="stable").tolist()
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "token", "count"])
        writer.writerows(zip(order, tokenizer.convert_ids_to_tokens(order), counts[order].tolist(), strict=True))


def common_tokens(counts, rarest=0.1):
    """Which tokens occur, and are not among the rarest.

    Args:
        counts (`np.ndarray` of int): as of [`token_frequencies`].
        rarest (`float`, defaults to 0.1): share of the tokens that occur, which is left out; of equally rare ones the later.

    Returns:
        `np.ndarray` of bool, of the counts' shape.
    """
    order = np.argsort(-counts, kind="stable")
    seen = int((counts > 0).sum())
    common = np.zeros(len(counts), dtype=bool)
    common[order[: seen - int(seen * rarest)]] = True
    return common


def text_samples(rows, length, number, common=None, seed=0):
    """Stretches of exactly so many tokens, one of each text that has as many, cut at a random place.

    Args:
        rows (`list[list[int]]`): the texts' ids. Shorter ones are left out.
        length (`int`): tokens of a sample.
        number (`int`): how many samples at most, drawn at random.
        common (`np.ndarray` of bool, *optional*): tokens that a sample may have; one with any other is left out. By default all.
        seed (`int`, defaults to 0): of places and draw.

    Returns:
        `np.ndarray` of int, shape `(samples, length)`, in the texts' order.

    Raises:
        ValueError: where there is none.
    """
    generator = np.random.default_rng(seed)
    samples = []
    for ids in rows:
        if len(ids) >= length:
            start = generator.integers(len(ids) - length + 1)
            sample = np.array(ids[start : start + length])
            if common is None or common[sample].all():
                samples.append(sample)
    if not samples:
        raise ValueError(f"no text has {length} tokens in a row that may be asked for")
    if len(samples) > number:
        samples = [samples[i] for i in np.sort(generator.choice(len(samples), number, replace=False))]
    return np.stack(samples)


def random_samples(allowed, shape, seed=0):
    """Tokens drawn uniformly and independently, of a shape, from the allowed ids."""
    return np.random.default_rng(seed).choice(np.asarray(allowed), shape)


@torch.no_grad()
def latents_of(model, samples, batch_size=32):
    """Latents of samples, shape `(samples, latent_length, latent_dim)`."""
    encoded = []
    for _, batch in batches(samples, batch_size, "encode"):
        encoded.append(model.encode(torch.from_numpy(batch).to(model.device)))
    return torch.cat(encoded)


@torch.no_grad()
def decoded_from(model, latents, length, bits=8, noise=0.0, seed=0, batch_size=32):
    """Decode samples from their latents as they would be stored.

    Args:
        model ([`CtaModel`]).
        latents (`torch.Tensor` of shape `(samples, latent_length, latent_dim)`).
        length (`int`): tokens of a sample.
        bits (`int`, *optional*, defaults to 8): as of `round_latents`; `None` leaves the latents as they are.
        noise (`float`, defaults to 0): standard deviation of noise on the stored latents, in units of each channel's own root
            mean square over all samples.
        seed (`int`, defaults to 0): of the noise.
        batch_size (`int`, defaults to 32): samples at once.

    Returns:
        `np.ndarray` of int, shape `(samples, length)`.
    """
    stored = latents if bits is None else model.round_latents(latents, bits)
    if noise:
        scale = stored.flatten(0, -2).square().mean(0).sqrt()
        drawn = torch.randn(stored.shape, generator=torch.Generator().manual_seed(seed))
        stored = stored + drawn.to(stored) * scale * noise
    decoded = []
    for _, batch in batches(stored, batch_size, "decode"):
        lengths = torch.full((len(batch),), length, device=batch.device)
        decoded.append(model.decode_tokens(batch, lengths)[:, :length].cpu().numpy())
    return np.concatenate(decoded)


def token_bytes(tokenizer):
    """The bytes of every token of a byte-level BPE tokenizer, `list[bytes]` by id; of added tokens those of their names.

    Raises:
        ValueError: for a tokenizer of another kind.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(getattr(backend, "decoder", None), ByteLevel):
        raise ValueError(f"{type(tokenizer).__name__} is not of byte-level BPE: its tokens' bytes are unknown")
    value = {character: byte for byte, character in bytes_to_unicode().items()}
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    found = []
    for i, token in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        if i in added or token is None:
            found.append(added.get(i, "").encode("utf-8"))
        else:
            found.append(bytes(value[character] for character in token))
    return found


def speller(tokenizer):
    """A function from ids to the bytes that they spell: of byte-level BPE exactly, of another tokenizer those of the text that it
    decodes. Ids beyond the tokenizer's spell nothing."""
    try:
        spelled = token_bytes(tokenizer)
    except ValueError:
        return lambda ids: tokenizer.decode([int(i) for i in ids if i < len(tokenizer)]).encode("utf-8")
    return lambda ids: b"".join(spelled[i] for i in ids if i < len(spelled))


def exactness(samples, decoded):
    """Shares of tokens and of whole samples that came back.

    Returns:
        `dict`: `token_accuracy`, `sequence_accuracy`, `samples`, `length`.
    """
    right = samples == decoded
    return {
        "token_accuracy": float(right.mean()),
        "sequence_accuracy": float(right.all(1).mean()),
        "samples": len(samples),
        "length": samples.shape[1],
    }


def stored_bits_per_byte(model, latents, written, bits=8):
    """Bits that latents take for each byte of their texts.

    Args:
        model ([`CtaModel`]).
        latents (`torch.Tensor` of shape `(samples, latent_length, latent_dim)`): all of them a text's own.
        written (`list[bytes]`): the texts.
        bits (`int`, defaults to 8): for each number.
    """
    mask = torch.ones(latents.shape[:2])
    return float(model.latent_bits(latents, mask, bits).sum()) / sum(map(len, written))


def byte_accuracy(texts, decoded):
    """Share of the bytes of texts (`list[bytes]`) that stand where they stood; what comes after an insertion counts as wrong."""
    right = total = 0
    for text, other in zip(texts, decoded, strict=True):
        a, b = np.frombuffer(text, np.uint8), np.frombuffer(other, np.uint8)
        n = min(len(a), len(b))
        right, total = right + int((a[:n] == b[:n]).sum()), total + len(a)
    return right / total


def token_errors(tokenizer, samples, decoded, bits):
    """The samples that did not come back, as what an error report holds of each.

    Args:
        tokenizer, samples, decoded: the last two of shape `(samples, length)`.
        bits (`int`): that the latents' numbers were stored in.

    Returns:
        `list[dict]`: `sample` (its number), `bits`, `text` and `decoded_text`, `ids` and `decoded_ids`, and `wrong`, the places.
    """
    return [
        {
            "sample": int(i),
            "bits": bits,
            "text": tokenizer.decode(samples[i]),
            "decoded_text": tokenizer.decode(decoded[i]),
            "ids": samples[i].tolist(),
            "decoded_ids": decoded[i].tolist(),
            "wrong": np.flatnonzero(samples[i] != decoded[i]).tolist(),
        }
        for i in np.flatnonzero((samples != decoded).any(1))
    ]


def write_errors(path, errors):
    """Write errors as JSON lines."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(error, ensure_ascii=False) + "\n" for error in errors)


ERROR_FIELDS = {"sample": int, "bits": int, "text": str, "ids": list, "wrong": list}


def read_errors(path):
    """The error cases of a file that `run_eval.py tokens` wrote.

    Returns:
        `list[dict]`: as of [`token_errors`].

    Raises:
        ValueError: for a line that is no error case, by its number, or a file without any.
    """
    errors = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                error = json.loads(line)
                for name, kind in ERROR_FIELDS.items():
                    if not isinstance(error[name], kind):
                        raise ValueError(f"{name} {error[name]!r} is no {kind.__name__}")
                if not all(isinstance(i, int) and i >= 0 for i in error["ids"]):
                    raise ValueError("ids are no tokens")
                if error["bits"] != 16:
                    check_bits(error["bits"])
            except (ValueError, KeyError, TypeError) as problem:
                raise ValueError(f"{path} line {number} is no error case: {problem!r}") from problem
            errors.append({name: error[name] for name in ERROR_FIELDS})
    if not errors:
        raise ValueError(f"{path} has no error cases")
    return errors


def compared_tokens(tokenizer, ids, decoded):
    """Two texts as stretches of equal and of different tokens, place by place; no stretch ends within a character.

    Args:
        tokenizer: of the tokens.
        ids, decoded (`list[int]`): of one length.

    Returns:
        `tuple[list[tuple[str, str | None]], list[tuple[str, str | None]]]`: text and label, "lost" in the first, "wrong" in the
        second, `None` where both agree.
    """
    spell = speller(tokenizer)
    whole = []  # stretches of tokens that begin and end with a character in both texts
    for a, b in zip(ids, decoded, strict=True):
        first, second = spell([a]), spell([b])
        if not whole or not (continues(first) or continues(second)):
            whole.append([True, b"", b""])
        stretch = whole[-1]
        stretch[:] = stretch[0] and a == b, stretch[1] + first, stretch[2] + second
    originals, written = [], []
    for same, stretches in groupby(whole, lambda stretch: stretch[0]):
        stretches = list(stretches)
        originals.append((b"".join(s[1] for s in stretches).decode("utf-8", "replace"), None if same else "lost"))
        written.append((b"".join(s[2] for s in stretches).decode("utf-8", "replace"), None if same else "wrong"))
    return originals, written


def continues(data):
    """Whether bytes begin within a character."""
    return bool(data) and data[0] & 0xC0 == 0x80


@torch.no_grad()
def latent_rows(model, tokenizer, passages, roundings, batch_size=32):
    """What comes back from latents, for each way to store them.

    Args:
        model ([`CtaModel`]), tokenizer, passages (`list[str]`).
        roundings (sequence of `int`): bits for each number; `None` for float32.
        batch_size (`int`, defaults to 32): passages at once.

    Returns:
        `tuple[list[dict], np.ndarray, list[str]]`: rows of `what`, `bits per byte of text`, `token accuracy`, `byte accuracy`,
        `character error rate`, `exact`; how often each token occurs; and what the last rounding wrote. A model with a variance
        has a row more, for sampled latents, which cost their divergence from the prior and the number of tokens.
    """
    spell, counts = speller(tokenizer), np.zeros(len(tokenizer), dtype=np.int64)
    names = {bits: "float32" if bits is None else "bfloat16" if bits == 16 else f"int{bits}" for bits in roundings}
    if model.config.kl_weight:
        names = {"KL": "sampled, KL / ln 2"} | names
    totals = {bits: {"stored": 0.0, "right": 0, "written": []} for bits in names}
    generator = torch.Generator(model.device).manual_seed(0)
    for _, batch in batches(passages, batch_size, "rate and distortion"):
        inputs = tokenizer(batch, padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt")
        ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
        np.add.at(counts, ids[mask == 1].cpu().numpy(), 1)
        latents, latent_mask = model.encode(ids, mask), model.latent_mask(mask)
        for bits, total in totals.items():
            if bits == "KL":
                stored = model.sample_latents(ids, mask, generator)
                total["stored"] += float(model.information_bits(ids, mask).sum()) + LENGTH_BITS * len(batch)
            else:
                stored = latents if bits is None else model.round_latents(latents, bits)
                total["stored"] += int(model.latent_bits(latents, latent_mask, bits or 32).sum())
            decoded = model.decode_tokens(stored, mask.sum(1))[:, : ids.shape[1]]
            total["right"] += int(((decoded == ids) & (mask == 1)).sum())
            total["written"] += [spell(row[:n]) for row, n in zip(decoded.tolist(), mask.sum(1).tolist(), strict=True)]
    data, rows = [passage.encode("utf-8") for passage in passages], []
    for bits, total in totals.items():
        texts = [written.decode("utf-8", "replace") for written in total["written"]]
        rows.append(
            {
                "what": f"latents, {names[bits]}",
                "bits per byte of text": total["stored"] / sum(map(len, data)),
                "token accuracy": total["right"] / int(counts.sum()),
                "byte accuracy": byte_accuracy(data, total["written"]),
                "character error rate": character_error_rate(texts, passages),
                "exact": exact_rate(texts, passages),
            }
        )
    return rows, counts, texts


def run_report(model, tokenizer, passages, samples=3, batch_size=32, roundings=(8, 4, 2)):
    """What a training run reports of its model on held-out passages: a row for each way to store latents.

    Args:
        model ([`CtaModel`]), tokenizer, passages (`list[str]`).
        samples (`int`, defaults to 3): passages to show as the last rounding wrote them.
        batch_size (`int`, defaults to 32): passages at once.
        roundings (sequence of `int`, defaults to (8, 4, 2)): bits for each number.

    Returns:
        `tuple[dict, list[str]]`: the figures, and lines to print.
    """
    rows, _, written = latent_rows(model, tokenizer, passages, roundings, batch_size)
    lines = table(rows, list(rows[0])).splitlines()
    shown = [{"clean": a, "decoded": b} for a, b in zip(passages[:samples], written, strict=False)]
    for sample in shown:
        lines += ["", *(f"{name + ':':<8} {text!r}" for name, text in sample.items())]
    return {"rows": rows, "reconstructed": shown}, lines
