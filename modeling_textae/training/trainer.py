"""The trainer of all families: transformers' own, with part losses, each step's loss and exact resume."""

from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainingArguments

from ..data.numbering import NumberedBatchSampler, NumberedDataset, NumberedIterable


@dataclass
class TextAETrainingArguments(TrainingArguments):
    """Arguments of [`TextAETrainer`]: those of transformers, with defaults that text autoencoders need."""

    output_dir: str | None = field(default="runs/textae", metadata={"help": "Where checkpoints and reports go."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Collators read columns that models do not."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Resume the state of the noise control with the run."}
    )
    schedule_steps: int | None = field(
        default=None,
        metadata={
            "help": "Steps of the learning-rate schedule, where a run is to stop before its end; by default all."
        },
    )
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "tensorboard, mlflow, trackio or none."}
    )
    use_cache: bool = field(
        default=True,
        metadata={"help": "What the saved configuration says; Trainer's own default turns its users' caches off."},
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs; the loss logged is their mean."})


LOGGED = ("_loss", "_accuracy", "_perplexity", "_use", "_length", "_restarts")


class TextAETrainer(Trainer):
    """transformers' Trainer, plus:

    - each part of a loss (`<part>_loss` of the model's output), and each figure of a batch (`_accuracy`, `_perplexity`,
      `_use`, `_length`, `_restarts`), is logged under its name, in training and evaluation;
    - callbacks find the step's losses, averaged over accumulation and ranks, in `state.step_losses`;
    - examples carry their index, epoch and step, so that noise drawn from them survives a resume in mid-epoch exactly;
      a map-style dataset is cut to whole steps an epoch.

    Args:
        eval_collator (*optional*): collates in evaluation, so that the noise there stays the same while training's moves;
            by default the training collator.

    All other arguments are those of `Trainer`.
    """

    def __init__(self, *args, eval_collator=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_collator = eval_collator
        self._step_losses = {}
        self._logged_losses = {}
        self._logged_steps = 0
        self._eval_losses = {}
        self._eval_examples = 0

    # Data

    def get_train_dataloader(self):
        """The loader of numbered examples; sizes and workers as the arguments say."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        args = self.args
        loader = {
            "collate_fn": self.data_collator,
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory,
            "persistent_workers": args.dataloader_persistent_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
        }
        batches_per_step = args.gradient_accumulation_steps * args.world_size
        if isinstance(self.train_dataset, IterableDataset) or not hasattr(self.train_dataset, "__len__"):
            if args.dataloader_num_workers:
                raise ValueError(
                    "each worker would count a stream's examples for itself: give dataloader_num_workers 0 with streaming"
                )
            numbered = NumberedIterable(self.train_dataset, self._train_batch_size * batches_per_step)
            return self.accelerator.prepare(DataLoader(numbered, batch_size=self._train_batch_size, **loader))
        numbered = NumberedDataset(self.train_dataset)
        seed = args.seed if args.data_seed is None else args.data_seed
        sampler = NumberedBatchSampler(numbered, self._train_batch_size, batches_per_step, seed)
        return self.accelerator.prepare(DataLoader(numbered, batch_sampler=sampler, **loader))

    def get_eval_dataloader(self, eval_dataset=None):
        """Trainer's loader, with numbered examples and the evaluation collator."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        dataset = NumberedDataset(dataset) if hasattr(dataset, "__len__") else NumberedIterable(dataset, step_size=1)
        training_collator = self.data_collator
        self.data_collator = self.eval_collator or training_collator
        try:
            return super().get_eval_dataloader(dataset)
        finally:
            self.data_collator = training_collator

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Trainer's schedule, over `schedule_steps` where they are given."""
        return super().create_scheduler(getattr(self.args, "schedule_steps", None) or num_training_steps, optimizer)

    # Losses

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the loss as Trainer does and keep the parts that the output names."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        named = {name: v for name, v in outputs.items() if name.endswith(LOGGED) and v is not None}
        parts = {name: value.detach().float().mean() for name, value in named.items()}
        if model.training:
            # As Trainer treats the loss: scaled to the ranks' mean, or divided by the number of micro-batches. Accuracies are
            # shares.
            scale = self._part_scale(num_items_in_batch)
            for name, value in parts.items():
                factor = scale if name.endswith("_loss") else 1 / self.current_gradient_accumulation_steps
                self._step_losses[name] = self._step_losses.get(name, 0.0) + value * factor
        else:
            examples = len(next(iter(inputs.values())))
            for name, value in parts.items():
                self._eval_losses[name] = self._eval_losses.get(name, 0.0) + value * examples
            self._eval_examples += examples
        return (loss, outputs) if return_outputs else loss

    def _part_scale(self, num_items_in_batch):
        if not (self.model_accepts_loss_kwargs and num_items_in_batch is not None):
            return 1 / self.current_gradient_accumulation_steps
        return self.accelerator.num_processes if self.args.average_tokens_across_devices else 1

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Train on a micro-batch; after a step's last one, show callbacks the step's losses."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_losses["loss"] = self._step_losses.get("loss", 0.0) + loss
        if self.accelerator.sync_gradients:
            names = sorted(self._step_losses)
            values = torch.stack([torch.as_tensor(self._step_losses[name]).float() for name in names])
            values = self.accelerator.reduce(values.to(self.args.device), reduction="mean").tolist()
            self.state.step_losses = dict(zip(names, values, strict=True))
            self._step_losses = {}
            self._logged_steps += 1
            for name, value in self.state.step_losses.items():
                self._logged_losses[name] = self._logged_losses.get(name, 0.0) + value
        return loss

    def log(self, logs, start_time=None):
        """Log as Trainer does, with the part losses and what noise callbacks have to say."""
        if "loss" in logs and self._logged_steps:
            logs |= {k: v / self._logged_steps for k, v in self._logged_losses.items()}
            self._logged_losses, self._logged_steps = {}, 0
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "logs"):
                    logs |= callback.logs()
        super().log(logs, start_time)

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        """Evaluate as Trainer does; the part losses join the metrics as `<prefix>_<part>_loss`, means over examples."""
        self._eval_losses, self._eval_examples = {}, 0
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._eval_losses:
            names = sorted(self._eval_losses)
            values = [self._eval_losses[name] for name in names] + [torch.tensor(float(self._eval_examples))]
            values = torch.stack([value.float().to(self.args.device) for value in values])
            *sums, examples = self.accelerator.reduce(values, reduction="sum").tolist()
            output.metrics.update(
                {f"{metric_key_prefix}_{name}": value / examples for name, value in zip(names, sums, strict=True)}
            )
        return output
