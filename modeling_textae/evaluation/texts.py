"""Held-out texts, and batches of them."""

from itertools import islice

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..data.corpora import split_passages


def sample_passages(documents, length, number, seed=0):
    """Passages of nearly `length` bytes, drawn evenly from all of a corpus.

    Args:
        documents: an iterable of texts.
        length (`int`): bytes at most; the short ends of documents, below half of it, are left out.
        number (`int`, *optional*): how many; all where `None`.
        seed (`int`, defaults to 0): of the draw.

    Returns:
        `list[str]`, in the corpus's order.

    Raises:
        ValueError: where no passage is long enough.
    """
    passages = [p for text in documents for p in split_passages(text, length) if 2 * len(p.encode("utf-8")) >= length]
    if not passages:
        raise ValueError(f"no document has a passage of {length // 2} to {length} bytes")
    if number is not None and number < len(passages):
        chosen = np.sort(np.random.default_rng(seed).choice(len(passages), number, replace=False))
        passages = [passages[i] for i in chosen]
    return passages


def batches(items, size, description):
    """Yield lists of `size` items, with a progress bar."""
    with tqdm(total=len(items), desc=description, unit="text", leave=False) as bar:
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            yield start, batch
            bar.update(len(batch))


def texts_of(dataset, limit=None):
    """The texts of a dataset, streamed or not, at most `limit` of them; rows without one are left out, as in training."""
    if isinstance(dataset, datasets.Dataset) and limit is None:
        return [text for text in dataset["text"] if text]
    return list(islice((example["text"] for example in dataset if example["text"]), limit))
