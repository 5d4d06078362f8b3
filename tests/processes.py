"""Processes of a test's own, one or several ranks of torch.distributed.

They are forked by a process that has imported what they need and has done nothing else: to import it takes seconds.
"""

import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

import torch

SECONDS = 300  # that a process may take


def call(function, arguments, environment, errors):
    """What a process does."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        function(*arguments)
    except BaseException:
        Path(errors, str(os.getpid())).write_text(traceback.format_exc())
        raise


def run(function, *arguments, ranks=1):
    """Call a function of a module in so many new processes at once.

    Returns:
        `tuple[list[int], str]`: their exit codes, and the traces of errors.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_run"])
    # In this Python the server does not take over the path of modules.
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
    environments = [{}]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        world = {
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environments = [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    with tempfile.TemporaryDirectory() as errors:
        processes = [
            context.Process(target=call, args=(function, arguments, environment, errors))
            for environment in environments
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=SECONDS)
            process.kill()
            process.join()
        return [process.exitcode for process in processes], "".join(path.read_text() for path in Path(errors).iterdir())
