"""Runs side by side, each a process of its own with one thread."""

import os
import subprocess
import time


def run_all(commands, at_once=2):
    """Run commands, so many at a time; all end with the first that fails.

    Args:
        commands: an iterable of `list[str]`.
        at_once (`int`, defaults to 2): processes at a time.

    Raises:
        SystemExit: where one fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    waiting, running = list(commands), []
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(subprocess.Popen(waiting.pop(0), env=environment))
        time.sleep(1)
        if any(run.poll() for run in running):
            for run in running:
                run.terminate()
            raise SystemExit("a run failed; the same command goes on from its last checkpoint")
        running = [run for run in running if run.poll() is None]
