"""Timing of alternatives in one process, interleaved, so that a machine's moods touch all alike."""

import time

import numpy as np


def interleaved_seconds(functions, rounds=5, warmup=1):
    """Time functions in turn.

    Args:
        functions (`dict[str, callable]`).
        rounds (`int`, defaults to 5): calls of each that are timed.
        warmup (`int`, defaults to 1): calls of each before.

    Returns:
        `dict[str, float]`: the median seconds of each.
    """
    seconds = {name: [] for name in functions}
    for i in range(warmup + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in seconds.items()}
