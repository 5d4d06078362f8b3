"""How well embeddings find texts again, and tell how alike people find them."""

import numpy as np
import torch

from ..data.collators import noisy_texts
from .report import figure


def retrieval(model, tokenizer, passages, noise, strength, batch_size=64, seed=0):
    """Share of noisy passages whose own clean passage lies nearest of all.

    Args:
        model ([`EncodzallForSentenceEmbedding`]), tokenizer, passages (`list[str]`): all different.
        noise ([`TextNoise`] or [`OcrNoiseModel`]), strength (`float`), seed (`int`, defaults to 0): of the noise.
        batch_size (`int`, defaults to 64).

    Returns:
        `float`.
    """
    noisy = noisy_texts(passages, noise, strength, seed)
    first, second = (model.embed(texts, tokenizer, batch_size) for texts in (noisy, passages))
    return float(((first @ second.T).argmax(1) == torch.arange(len(passages))).float().mean())


def run_report(model, tokenizer, passages, noise, strength):
    """What a training run reports of its model on held-out passages; arguments as of [`retrieval`].

    Returns:
        `tuple[dict, list[str]]`: the figures, and lines to print.
    """
    passages = list(dict.fromkeys(passages))
    found = {f"{rate:g}": retrieval(model, tokenizer, passages, noise, rate) for rate in sorted({0.05, 0.2, strength})}
    lines = [f"noise {rate}: {figure(share)} of {len(passages)} found again" for rate, share in found.items()]
    return {"retrieval": found, "passages": len(passages)}, lines


def similarity_rows(embed, pairs, scores, noise, strength, seed=0):
    """How well the cosines of embeddings follow scores that people gave pairs of texts, clean and with noise on both.

    Args:
        embed (callable): `list[str]` to vectors of length 1, shape `(texts, size)`; a tensor, or a sparse matrix.
        pairs (`list[tuple[str, str]]`), scores (`list[float]`): one for one.
        noise, strength, seed: as of [`retrieval`].

    Returns:
        `dict`: `clean` and `noisy`, Spearman's rank correlation.

    Raises:
        ValueError: for scores that are no numbers.
    """
    try:
        scores = np.asarray(scores, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scores are numbers: {error}") from error
    if not np.isfinite(scores).all():
        raise ValueError(f"score {np.flatnonzero(~np.isfinite(scores))[0]} is no number")
    texts = [text for pair in pairs for text in pair]
    found = {}
    for name, written in (("clean", texts), ("noisy", noisy_texts(texts, noise, strength, seed))):
        vectors = embed(written)
        first, second = vectors[0::2], vectors[1::2]
        products = (first * second).sum(1) if isinstance(vectors, torch.Tensor) else first.multiply(second).sum(1)
        found[name] = rank_correlation(np.asarray(products).ravel(), scores)
    return found


def rank_correlation(first, second):
    """Spearman's: of the ranks, equal values sharing theirs.

    Args:
        first, second (`np.ndarray` of shape `(n,)`).
    """
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def ranks(values):
    """Mean ranks, from 0, shape as given."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def n_gram_embedding(corpus, analyzer="char", sizes=(2, 4)):
    """A baseline without learning: n-grams, weighted by how few texts have them.

    Source: as scikit-learn's `TfidfVectorizer` has them, with logarithms of counts (`sublinear_tf`).

    Args:
        corpus (`list[str]`): that frequencies are counted in; where it is what is embedded then, to its advantage.
        analyzer (`str`, defaults to `"char"`): or `"word"`; sizes (`tuple[int, int]`, defaults to (2, 4)).

    Returns:
        A callable as of [`similarity_rows`].

    Raises:
        ImportError: without scikit-learn.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError("n-grams need scikit-learn: pip install 'modeling_textae[eval]'") from error
    vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=sizes, sublinear_tf=True).fit(corpus)
    return vectorizer.transform
