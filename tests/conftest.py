import os

import pytest
import torch

# The models of the tests are so small that threads cost more than they bring; subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """No test reaches beyond this machine: the Hub's client is told to stay offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
