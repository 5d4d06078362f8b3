"""Numbering of examples, so that noise depends on which example it is and not on when or where it is drawn."""

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler


class NumberedDataset(Dataset):
    """Wraps a dataset so that each example knows its index, the epoch and the step it is drawn for.

    It is indexed by what [`NumberedBatchSampler`] yields, `(step, epoch, index)`; an index alone stands for step and epoch 0.

    Args:
        dataset: any map-style dataset whose examples are `dict`s.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.epoch = 0

    def set_epoch(self, epoch):
        """Set the epoch, from 0, whose order the sampler draws; the Trainer calls it."""
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, key):
        step, epoch, index = (0, 0, key) if isinstance(key, int) else key
        return {**self.dataset[index], "step": step, "epoch": epoch, "index": index}


class NumberedIterable(IterableDataset):
    """Wraps a streamed dataset so that each example knows its index in the stream and its epoch.

    The step is what the number of examples so far and the number of examples a step say. A second pass over the stream goes
    on counting; only a run that is resumed in one counts anew.

    Args:
        dataset: any iterable dataset whose examples are `dict`s.
        step_size (`int`): examples that all ranks together use in one optimizer step.
    """

    def __init__(self, dataset, step_size):
        self.dataset = dataset
        self.step_size = step_size
        self.epoch = 0
        self.seen = 0

    def set_epoch(self, epoch):
        """Set the epoch, from 0; the Trainer calls it."""
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __iter__(self):
        before = self.seen
        for index, example in enumerate(self.dataset):
            self.seen = before + index + 1
            yield {**example, "step": (before + index) // self.step_size, "epoch": self.epoch, "index": index}


class NumberedBatchSampler(Sampler):
    """Batches of `(step, epoch, index)` in an order that the seed and the epoch alone decide.

    Args:
        dataset ([`NumberedDataset`]): read for its length and its epoch.
        batch_size (`int`): examples a batch.
        batches_per_step (`int`, defaults to 1): batches that one optimizer step uses, over all ranks.
        seed (`int`, defaults to 0): of the order.

    Raises:
        ValueError: where the dataset is too small for one step.
    """

    def __init__(self, dataset, batch_size, batches_per_step=1, seed=0):
        if len(dataset) < batch_size * batches_per_step:
            raise ValueError(
                f"{len(dataset)} examples are too few for one step of {batch_size * batches_per_step}: "
                "give more text, shorter passages or a smaller batch"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.batches_per_step = batches_per_step
        self.seed = seed
        self.drop_last = True

    def __len__(self):
        """Batches in an epoch: whole steps only, so that every step sees as many examples."""
        return len(self.dataset) // (self.batch_size * self.batches_per_step) * self.batches_per_step

    def __iter__(self):
        epoch = self.dataset.epoch
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        first = epoch * len(self) // self.batches_per_step
        for batch in range(len(self)):
            step = first + batch // self.batches_per_step
            yield [(step, epoch, i) for i in order[batch * self.batch_size : (batch + 1) * self.batch_size]]
