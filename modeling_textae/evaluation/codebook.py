"""How well an autoencoder of chunks, and the tokenizer that its codes make, serve a text."""

import numpy as np
import torch
from matplotlib import pyplot as plt

from ..data.chunk_lists import count_chunks, token_uses
from ..models.modeling_fsq_autoencoder import chunk_matrix
from .language import language_figures
from .metrics import adaptive_code_bits
from .report import figure
from .texts import batches


@torch.no_grad()
def chunk_figures(model, chunks, counts, batch_size=2048):
    """Reconstruction of chunks through their codes, each as often as it occurs.

    Args:
        model ([`FsqAutoencoderModel`]).
        chunks (`list[bytes]`), counts (`sequence of int`): how often each occurs.
        batch_size (`int`, defaults to 2048).

    Returns:
        `dict`: `chunks` and `distinct_chunks`; `byte_accuracy`; `exact_chunks`, bytes and length; `perplexity` a byte;
        `distinct_codes` for each distinct chunk; `codes_used`, of all that the quantizer has; and `level_use`, the entropy of
        FSQ's numbers over that of even use, mean over numbers.
    """
    counts = torch.as_tensor(np.asarray(counts), dtype=torch.float64)
    right, exact, nats, codes = [], [], [], []
    for _, batch in batches(chunks, batch_size, "chunks"):
        ids, lengths = (x.to(model.device) for x in chunk_matrix(batch, model.config.max_chunk_length))
        latents, indices, _ = model.quantized(ids, lengths)
        states, length_scores = model.decoder(latents.to(model.dtype))
        scores = model.decoder.byte_head(states).float()
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        correct = (scores.argmax(-1) == ids) & real
        right.append(correct.sum(1))
        exact.append((correct.sum(1) == lengths) & (length_scores.argmax(-1) == lengths))
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), ids.flatten(), reduction="none")
        nats.append((loss.view_as(ids) * real).sum(1))
        codes.append(indices)
    codes = torch.cat(codes).cpu()
    size = (counts * torch.tensor([len(chunk) for chunk in chunks])).sum()
    weighted = [(torch.cat(x).double().cpu() * counts).sum() for x in (right, exact, nats)]
    return {
        "chunks": int(counts.sum()),
        "distinct_chunks": len(chunks),
        "byte_accuracy": float(weighted[0] / size),
        "exact_chunks": float(weighted[1] / counts.sum()),
        "perplexity": float(torch.exp(weighted[2] / size)),
        "distinct_codes": len(codes.unique(dim=0)) / len(chunks),
        "codes_used": len(codes.unique()) / model.config.codebook_size,
        "level_use": None if model.config.vq_codes else level_use(model.config.levels, codes),
    }


def level_use(levels, indices):
    """How evenly codes of these numbers, shape `(n, num_codes)`, use each of the levels, 0 to 1."""
    shares, digits = [], indices
    for number in levels:
        for column in (digits % number).T:
            p = torch.bincount(column, minlength=number).double() / len(column)
            shares.append(float(torch.special.entr(p).sum() / np.log(number)))
        digits = digits // number
    return float(np.mean(shares))


def tokenizer_figures(tokenizer, texts):
    """What a tokenizer makes of texts.

    Args:
        tokenizer: any.
        texts (`list[str]`).

    Returns:
        `dict`: `bytes`, `tokens`, `bytes_per_token`, `ids_used` and `ids_used_share`, of all ids.
    """
    used, tokens = np.zeros(len(tokenizer), dtype=bool), 0
    for _, batch in batches(texts, 256, "tokenizing"):
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            used[ids] = True
            tokens += len(ids)
    size = sum(len(text.encode("utf-8")) for text in texts)
    return {
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": size / max(tokens, 1),
        "ids_used": int(used.sum()),
        "ids_used_share": float(used.mean()),
    }


def pruning_rows(tokenizer, texts, sizes=(1024, 2048, 4096, 8192, 16384)):
    """What fewer codes would do: the first so many, which are the most used, and all.

    Args:
        tokenizer ([`AutoEncoderTokenizer`]).
        texts (`list[str]`): held-out text.
        sizes (sequence of `int`).

    Returns:
        `list[dict]`: `codes`, `bytes per token`, `ids used` and `perplexity of ids`, two to the power of their entropy.
    """
    strings, counted, rows = tokenizer.strings(), count_chunks(texts, tokenizer.max_chunk_length), []
    size = sum(len(text.encode("utf-8")) for text in texts)
    for number in [*(n for n in sizes if n < len(strings)), len(strings)]:
        uses, _ = token_uses(strings[:number], *counted, longest=tokenizer.max_chunk_length)
        p = uses[uses > 0] / uses.sum()
        rows.append(
            {
                "codes": number,
                "bytes per token": size / uses.sum(),
                "ids used": float((uses > 0).mean()),
                "perplexity of ids": float(2 ** -(p * np.log2(p)).sum()),
            }
        )
    return rows


def growth_rows(tokenizer, texts, parts=8):
    """How many ids are in use after ever more text.

    Args:
        tokenizer, texts: as of [`pruning_rows`].
        parts (`int`, defaults to 8): each doubles the text.

    Returns:
        `list[dict]`: `bytes` and `ids used`, a share.
    """
    used, size, rows = np.zeros(len(tokenizer), dtype=bool), 0, []
    bounds = [len(texts) >> (parts - 1 - i) for i in range(parts)]
    for low, high in zip([0, *bounds], bounds, strict=False):
        for ids in tokenizer(texts[low:high], add_special_tokens=False)["input_ids"] if high > low else ():
            used[ids] = True
        size += sum(len(text.encode("utf-8")) for text in texts[low:high])
        rows.append({"bytes": size, "ids used": float(used.mean())})
    return rows


def plot_codebook(uses, pruning, growth, path):
    """Draw how often ids occur by rank, what pruning costs, and how use grows with text.

    Args:
        uses (`np.ndarray`): how often each id occurs.
        pruning, growth (`list[dict]`): of [`pruning_rows`] and [`growth_rows`].
        path: where to write the PNG.
    """
    drawing, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    axes[0].loglog(np.arange(1, len(uses) + 1), np.sort(uses)[::-1] + 0.1)
    axes[0].set_xlabel("rank of id")
    axes[0].set_ylabel("occurrences")
    axes[1].semilogx([row["codes"] for row in pruning], [row["bytes per token"] for row in pruning], marker="o", base=2)
    axes[1].set_xlabel("codes kept")
    axes[1].set_ylabel("bytes a token")
    axes[2].semilogx([row["bytes"] for row in growth], [row["ids used"] for row in growth], marker="o")
    axes[2].set_xlabel("bytes of text")
    axes[2].set_ylabel("share of ids used")
    for axis in axes:
        axis.grid(alpha=0.3)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


def neighbours(tokenizer, word, number=8):
    """The tokens whose codes are nearest to a string's, by the distance of the codes' numbers.

    Args:
        tokenizer ([`AutoEncoderTokenizer`]), word (`str`): of at most one chunk.
        number (`int`, defaults to 8).

    Returns:
        `list[str]`, the nearest first, the string itself left out.
    """
    quantizer = tokenizer.autoencoder.quantizer
    codes = quantizer.indices_to_codes(torch.from_numpy(tokenizer.kept.astype(np.int64))).flatten(1)
    own, _ = tokenizer._codes([word.encode("utf-8")])
    own = quantizer.indices_to_codes(torch.from_numpy(own)).flatten(1)
    order = (codes - own).square().sum(1).argsort().tolist()
    found = (tokenizer.strings()[i].decode("utf-8") for i in order[: number + 1])
    return [string for string in found if string != word][:number]


def space_between(tokenizer, seen, number=4096, seed=0):
    """What lies beside the tokens in the space of codes: strings of codes that differ from a kept one by one step of one number.

    Args:
        tokenizer ([`AutoEncoderTokenizer`]): of FSQ codes.
        seen (`str`): training text.
        number (`int`, defaults to 4096): of codes to draw.
        seed (`int`, defaults to 0): of the draw.

    Returns:
        `dict`: `codes` drawn; `owned`, the share whose string's own code they are; and `unseen`, the share of these strings that
        never occur in the text.
    """
    generator, quantizer = np.random.default_rng(seed), tokenizer.autoencoder.quantizer
    codes = tokenizer.kept[generator.integers(len(tokenizer.kept), size=number)].astype(np.int64)
    levels = np.array(quantizer.levels)
    basis = np.cumprod(levels) // levels
    column, digit = generator.integers(codes.shape[1], size=number), generator.integers(len(levels), size=number)
    value = codes[np.arange(number), column] // basis[digit] % levels[digit]
    step = np.where(value == 0, 1, np.where(value == levels[digit] - 1, -1, generator.choice([-1, 1], size=number)))
    codes[np.arange(number), column] += step * basis[digit]
    strings = tokenizer._spell(codes)[0]
    own = tokenizer._codes([string or b"\0" for string in strings])[0]
    owned = []
    for string, row, other in zip(strings, codes, own, strict=True):
        try:
            if (row == other).all() and string:
                owned.append(string.decode("utf-8"))
        except UnicodeDecodeError:
            continue
    unseen = [string for string in owned if string not in seen]
    return {"codes": number, "owned": len(owned) / number, "unseen": len(unseen) / max(len(owned), 1)}


def chunk_report(model, tokenizer, texts, tokens=()):
    """All figures of an autoencoder and its tokenizer on held-out texts.

    Args:
        model ([`FsqAutoencoderModel`]), tokenizer ([`AutoEncoderTokenizer`]), texts (`list[str]`).
        tokens (`list[bytes]`): the strings that were chosen as worth a token, whether or not they became one.

    Returns:
        `dict`: `chunks` of [`chunk_figures`], at the frequency of the texts; `token_list`, the same of the chosen strings; and
        `tokenizer` of [`tokenizer_figures`].
    """
    chunks, counts, _ = count_chunks(texts, model.config.max_chunk_length)
    report = {"chunks": chunk_figures(model, chunks, counts)}
    if len(tokens):
        report["token_list"] = chunk_figures(model, tokens, [1] * len(tokens))
    return report | {"tokenizer": tokenizer_figures(tokenizer, texts)}


def rate_rows(model, tokenizer, passages):
    """What it takes to store passages as codes or as ids; all come back exactly.

    Args:
        model ([`FsqAutoencoderModel`] or [`FsqAutoencoderForCausalLM`]), tokenizer ([`AutoEncoderTokenizer`]).
        passages (`list[str]`): held-out text.

    Returns:
        `list[dict]`: `what` and `bits per byte of text`.
    """
    rows = tokenizer(passages, add_special_tokens=False)["input_ids"]
    uses = np.bincount([i for row in rows for i in row], minlength=len(tokenizer))
    size = sum(len(text.encode("utf-8")) for text in passages)
    bits = {
        "ids, log2 of their number": np.log2(len(tokenizer)) * uses.sum(),
        "ids, adaptive code": adaptive_code_bits(uses),
    }
    if hasattr(model, "trunk"):
        figures = language_figures(model, tokenizer, passages)
        bits["ids, under the language model"] = figures["bits_per_byte"] * size
    return [{"what": what, "bits per byte of text": float(value / size)} for what, value in bits.items()]


def run_report(model, tokenizer, passages, tokens=()):
    """What a training run reports of its model on held-out passages: of chunks, or, of a language model, of the next token.

    Args:
        model ([`FsqAutoencoderModel`] or [`FsqAutoencoderForCausalLM`]), tokenizer ([`AutoEncoderTokenizer`]).
        passages (`list[str]`).
        tokens (`list[bytes]`): as of [`chunk_report`].

    Returns:
        `tuple[dict, list[str]]`: the figures, and lines to print.
    """
    if hasattr(model, "trunk"):
        figures = language_figures(model, tokenizer, passages)
        return figures, [
            f"bits per byte: {figure(figures['bits_per_byte'])}",
            f"bytes per token: {figure(figures['bytes_per_token'])}",
        ]
    report = chunk_report(model, tokenizer, passages, tokens)
    chunks, made = report["chunks"], report["tokenizer"]
    lines = [
        f"chunks at the text's frequency: byte accuracy {figure(chunks['byte_accuracy'])}, "
        f"exact {figure(chunks['exact_chunks'])}, perplexity {figure(chunks['perplexity'])}",
        f"tokenizer: {len(tokenizer)} ids, {figure(made['bytes_per_token'])} bytes a token",
    ]
    if "token_list" in report:
        lines.append(f"of {len(tokens)} strings worth a token, exact: {figure(report['token_list']['exact_chunks'])}")
    return report, lines
