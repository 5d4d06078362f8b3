"""How much of a text survives its latents: teacher-forced and free-running accuracy, and accuracy on hidden bytes."""

from itertools import islice

import numpy as np
import torch

from ..data.collators import EncodzallMaskingCollator, example_generator, noisy_texts, pad_rows
from ..data.noise import HIDDEN_CHARACTER, HIDDEN_WORD, mask_text
from ..models.autoencoder import in_use
from .metrics import character_error_rate, count_correct, exact_rate, share
from .report import figure
from .texts import batches


@torch.no_grad()
def teacher_forced(model, tokenizer, passages, rate=0.0, batch_size=32, seed=0, stored=True):
    """Accuracy of the next byte, given the true bytes before it and the latents of the masked text.

    Args:
        model ([`EncodzallForConditionalGeneration`] or a subclass).
        tokenizer ([`EncodzallTokenizer`]).
        passages (`list[str]`).
        rate (`float`, defaults to 0): of the masks.
        batch_size (`int`, defaults to 32).
        seed (`int`, defaults to 0): of the masks.
        stored (`bool`, defaults to `True`): round the latents as they would be stored.

    Returns:
        `dict`: `byte_accuracy` over all bytes and ends; with masks also `hidden_character_accuracy` and
        `hidden_word_accuracy`, over the bytes that character and word masks hide, and how many those are.
    """
    counts = {"byte": [0, 0], "hidden_character": [0, 0], "hidden_word": [0, 0]}
    kinds = {"hidden_character": HIDDEN_CHARACTER, "hidden_word": HIDDEN_WORD}
    for start, batch in batches(passages, batch_size, f"teacher-forced, noise {rate:g}"):
        noisy, noisy_index, labels, hidden = [], [], [], []
        for i, text in enumerate(batch):
            encoded = tokenizer(text)
            ids, index = np.array(encoded["input_ids"]), np.array(encoded["word_index"])
            masked, masked_index, hides = mask_text(ids, index, rate, example_generator(seed, 0, start + i))
            noisy.append(masked)
            noisy_index.append(masked_index)
            labels.append(np.append(ids, tokenizer.eos_token_id))
            hidden.append(np.append(hides, 0))
        noisy_index, labels, hidden = pad_rows(noisy_index, -1), pad_rows(labels, -100), pad_rows(hidden, 0)
        inputs = (pad_rows(noisy, tokenizer.pad_token_id), (noisy_index >= 0).long(), noisy_index)
        encoded = model.model(*(x.to(model.device) for x in inputs))
        if stored:
            encoded.last_hidden_state = model.round_latents(encoded.last_hidden_state)
        labels = labels.to(model.device)
        logits = model(encoder_outputs=encoded, decoder_input_ids=model.shift_right(labels), use_cache=False).logits
        hidden = hidden.to(model.device)
        for name, count in counts.items():
            correct, asked = count_correct(logits, labels, hidden == kinds[name] if name in kinds else None)
            count[0] += correct
            count[1] += asked
    result = {"byte_accuracy": share(*counts["byte"])}
    if rate:
        for name in kinds:
            result |= {f"{name}_accuracy": share(*counts[name]), f"{name}_bytes": counts[name][1]}
    return result


@torch.no_grad()
def free_running(model, tokenizer, passages, batch_size=64, stored=True, **kwargs):
    """Character error rate and share of exact texts of `reconstruct`.

    Args:
        model, tokenizer, passages, stored: as of [`teacher_forced`].
        batch_size (`int`, defaults to 64).
        kwargs: passed to `generate`.

    Returns:
        `tuple[dict, list[str]]`: `character_error_rate` and `exact_rate`, and the texts.
    """
    texts = []
    for _, batch in batches(passages, batch_size, "free-running"):
        texts += model.reconstruct(batch, tokenizer, stored=stored, **kwargs)
    return {
        "character_error_rate": character_error_rate(texts, passages),
        "exact_rate": exact_rate(texts, passages),
    }, texts


@torch.no_grad()
def latent_rate(model, tokenizer, passages, batch_size=32):
    """Bits and numbers that the latents take for each byte of text, and bytes of text for each word."""
    stored_bits, stored_bytes, words, width = 0, 0, 0, 0
    for _, batch in batches(passages, batch_size, "latents"):
        inputs = tokenizer(batch, padding=True, return_tensors="pt").to(model.device)
        encoded = model.model(**inputs)
        stored_bits += int(model.latent_bits(encoded.last_hidden_state, encoded.word_mask).sum())
        stored_bytes += int(inputs["attention_mask"].sum())
        words += int(encoded.word_mask.sum())
        width = encoded.last_hidden_state.shape[-1]
    return {
        "bits_per_byte": stored_bits / stored_bytes,
        "numbers_per_byte": words * width / stored_bytes,
        "bytes_per_word": stored_bytes / words,
    }


@torch.no_grad()
def restored_samples(model, tokenizer, passages, rate, number=3, seed=0):
    """Samples of masked passages and what the model makes of them.

    Args:
        model, tokenizer, passages: as of [`teacher_forced`].
        rate (`float`): of the masks.
        number (`int`, defaults to 3).
        seed (`int`, defaults to 0): of the masks.

    Returns:
        `list[dict]` with `clean`, `noisy` (masks shown as `_`, a whole word as `[…]`) and `restored`.
    """
    collator = EncodzallMaskingCollator(tokenizer, rate, seed)
    samples = []
    for index, text in enumerate(islice(passages, number)):
        batch = collator([{"text": text, "index": index}])
        inputs = {k: batch[k].to(model.device) for k in ("input_ids", "attention_mask", "word_index")}
        ids = model.generate(**inputs, max_new_tokens=len(text.encode("utf-8")) * 5 // 4 + 16, do_sample=False)
        shown = b"".join(
            bytes([i]) if i < 256 else "[…] ".encode() if i == tokenizer.mask_token_id else b"_"
            for i in batch["input_ids"][0].tolist()
        )
        restored = tokenizer.decode(ids[0], skip_special_tokens=True)
        samples.append({"clean": text, "noisy": shown.decode("utf-8", "replace"), "restored": restored})
    return samples


def reconstruction_report(model, tokenizer, passages, rates=(0.1, 0.2, 0.4), batch_size=32, seed=0, generate=True):
    """All figures of reconstruction, latents rounded as they would be stored, where a text is its latents alone.

    Args:
        model, tokenizer, passages, batch_size, seed: as of [`teacher_forced`].
        rates (`sequence of float`): mask rates at which hidden bytes are asked for.
        generate (`bool`, defaults to `True`): also run freely.

    Returns:
        `dict` of figures; see the functions of this module.
    """
    report = {"passages": len(passages), "bytes": sum(len(p.encode("utf-8")) for p in passages)}
    stored = model.has_bottleneck

    def at_rate(rate):
        return teacher_forced(model, tokenizer, passages, rate, batch_size, seed, stored)

    with in_use(model):
        report["clean"] = at_rate(0.0)
        report["masked"] = {f"{rate:g}": at_rate(rate) for rate in rates}
        if generate:
            report["free_running"], _ = free_running(model, tokenizer, passages, stored=stored)
            if stored:
                report["latents"] = latent_rate(model, tokenizer, passages, batch_size)
    return report


def reconstruction_rows(results):
    """Rows of a table: one a figure, one column a result of [`reconstruction_report`].

    Args:
        results (`dict[str, dict]`): reports on the same passages at the same rates, by column.

    Returns:
        `list[dict]`: `figure`, and a value or `None` for each column.
    """
    first = next(iter(results.values()))
    paths = {"byte accuracy, teacher-forced, clean": ("clean", "byte_accuracy")}
    for rate, masked in first["masked"].items():
        for kind in ("character", "word"):
            asked = masked[f"hidden_{kind}_bytes"]
            paths[f"bytes hidden by {kind} masks, rate {rate} (n = {asked})"] = (
                "masked",
                rate,
                f"hidden_{kind}_accuracy",
            )
    paths["free-running: character error rate"] = ("free_running", "character_error_rate")
    paths["free-running: exact texts"] = ("free_running", "exact_rate")
    paths["stored bits for each byte of text"] = ("latents", "bits_per_byte")

    def look_up(result, path):
        for key in path:
            result = result.get(key) if result else None
        return result

    return [
        {"figure": figure} | {name: look_up(result, path) for name, result in results.items()}
        for figure, path in paths.items()
    ]


@torch.no_grad()
def restoration(model, tokenizer, passages, noise, strength, batch_size=32, seed=0):
    """How much of noise on text a model takes away, freely running.

    Args:
        model, tokenizer, passages, batch_size: as of [`teacher_forced`].
        noise ([`TextNoise`] or [`OcrNoiseModel`]), strength (`float`), seed (`int`, defaults to 0): of the noise.

    Returns:
        `tuple[dict, list[dict]]`: `strength`, `noisy_character_error_rate` and `restored_character_error_rate`; and each
        passage's `clean`, `noisy` and `restored`.
    """
    noisy = noisy_texts(passages, noise, strength, seed)
    restored = [
        text for _, batch in batches(noisy, batch_size, "restoring") for text in model.reconstruct(batch, tokenizer)
    ]
    rates = {
        "strength": strength,
        "noisy_character_error_rate": character_error_rate(noisy, passages),
        "restored_character_error_rate": character_error_rate(restored, passages),
    }
    texts = zip(passages, noisy, restored, strict=True)
    return rates, [{"clean": a, "noisy": b, "restored": c} for a, b, c in texts]


def run_report(model, tokenizer, passages, noise=None, strength=0.0):
    """What a training run reports of its model on held-out passages.

    Args:
        model, tokenizer, passages: as of [`teacher_forced`].
        noise, strength (*optional*): as of [`restoration`], of a run that was trained to take such noise away; by default masks
            are filled.

    Returns:
        `tuple[dict, list[str]]`: the figures, and lines to print.
    """
    report = reconstruction_report(model, tokenizer, passages, **{} if noise is None else {"rates": ()})
    free = report["free_running"]
    lines = [
        f"byte accuracy, teacher-forced: {figure(report['clean']['byte_accuracy'])}",
        f"free-running: character error rate {figure(free['character_error_rate'])}, exact {figure(free['exact_rate'])}",
    ]
    for rate, masked in report["masked"].items():
        lines.append(
            f"hidden bytes told right at mask rate {rate}: characters {figure(masked['hidden_character_accuracy'])}, "
            f"words {figure(masked['hidden_word_accuracy'])}"
        )
    if noise is None:
        samples = restored_samples(model, tokenizer, passages, rate=0.2)
    else:
        report["restoration"], samples = restoration(model, tokenizer, passages, noise, strength)
        before, after = (report["restoration"][f"{name}_character_error_rate"] for name in ("noisy", "restored"))
        lines.append(f"noise of strength {strength:g}: character error rate {figure(before)}, restored {figure(after)}")
        samples = samples[:3]
    for sample in samples:
        lines += ["", *(f"{name + ':':<9} {sample[name]!r}" for name in ("clean", "noisy", "restored"))]
    return report | {"samples": samples}, lines
