import os

# No test reaches beyond this machine; the Hub's client reads this once, when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from transformers import set_seed

# The models of the tests are so small that threads cost more than they bring; subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers alone as in the whole suite."""
    set_seed(0)
