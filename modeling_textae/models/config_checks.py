"""Checks that the families' configurations share: each raises a ValueError that names the field and what is accepted."""


def check_sizes(config, names):
    """Refuse named fields below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} {getattr(config, name)} is too small: accepted is 1 and above")


def check_rates(config, names):
    """Refuse named fields that are no rate of what may be dropped: all of it may not."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} {getattr(config, name)} is no rate: accepted are 0 to below 1")


def check_positive(config, names):
    """Refuse named fields that are 0, negative or no number."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} {getattr(config, name)} must be above 0")


def check_not_negative(config, names):
    """Refuse named fields below 0, or no number."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} {getattr(config, name)} is negative: accepted are 0 and above")


def check_ngrams(config):
    """Refuse the fields of a table of hashed runs that can be none."""
    check_sizes(config, ("ngram_buckets", "ngram_embedding_size"))
    if any(size < 2 for size in config.ngram_sizes):
        raise ValueError(f"ngram_sizes {config.ngram_sizes} are too small: accepted are lists of numbers from 2")
