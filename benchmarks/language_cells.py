"""Language models that are trained for equal seconds of the processor, each in a process of its own: what benchmarks of them
share.

Two cells at a time, each on one thread; seconds are those of the processor, which neighbours touch through its caches alone:
leave the machine to them. The last fiftieth of the rows validates and is not trained on. A finished cell is not run again.
"""

import hashlib
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from processes import run_all
from transformers import LlamaForCausalLM

from modeling_textae import FsqAutoencoderForCausalLM
from modeling_textae.data.collators import pad_rows, padding_mask
from modeling_textae.models.autoencoder import linear_cross_entropy
from modeling_textae.training.optimizers import MuonWithAdamW, bfloat16_is_fast

NEGATIVES = 4096  # tokens that a batch's are told from, where there are more than twice as many
VALIDATION_ROWS = 256  # of the held-out rows, at most
WARMUP = 0.05  # of the seconds


def digest_of(files, *settings):
    """The name of a folder for what files and settings, as JSON writes them, decide."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in files:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:12]


def store_rows(path, rows, **fields):
    """Write rows of ids, and what else a cell needs to know of them, as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"partial-{path.name}")
    flat = np.concatenate([np.array(row, dtype=np.int32) for row in rows])
    np.savez(aside, ids=flat, lengths=np.array([len(row) for row in rows]), **fields)
    aside.replace(path)


def stored_rows(path):
    """The rows that [`store_rows`] wrote, and the whole file."""
    stored = np.load(path)
    return np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1]), stored


def batch_of(rows, pad):
    """A padded batch of rows of ids, all but the first of each labelled."""
    labels = pad_rows(rows, -100)
    labels[:, 0] = -100
    return {"input_ids": pad_rows(rows, pad), "attention_mask": padding_mask(rows), "labels": labels}


def states_and_scores(model, batch):
    """A model's states at all places, and the matrix whose products with them are the scores."""
    inputs = {"attention_mask": batch["attention_mask"]}
    if isinstance(model, FsqAutoencoderForCausalLM):
        embeds = model.embeddings(batch["input_ids"])[0]
        return model.trunk(inputs_embeds=embeds, use_cache=False, **inputs).last_hidden_state, model.score_matrix()
    states = model.model(input_ids=batch["input_ids"], use_cache=False, **inputs).last_hidden_state
    return states, model.lm_head.weight


def sampled_cross_entropy(states, weight, labels):
    """Cross-entropy against the tokens of the batch and [`NEGATIVES`] others, drawn evenly, which stand for all that are neither.

    Source: Jean et al. 2015, "On using very large target vocabulary for neural machine translation", section 3.
    """
    asked = labels != -100
    states, labels = states[asked], labels[asked]
    own = labels.unique()
    others = torch.randint(len(weight), (NEGATIVES,))
    others = others[~torch.isin(others, own)]
    standing_for = torch.zeros(len(own) + len(others))
    standing_for[len(own) :] = math.log((len(weight) - len(own)) / len(others))
    scores = torch.nn.functional.linear(states, weight[torch.cat((own, others))], standing_for)
    return torch.nn.functional.cross_entropy(scores, torch.searchsorted(own, labels))


def loss_of(model, batch):
    """The loss of a batch. Where tokens are many, scores of all of them cost more than all the rest: such a model is trained on a
    sample of them."""
    if not isinstance(model, (LlamaForCausalLM, FsqAutoencoderForCausalLM)):
        return model(**batch).loss
    states, weight = states_and_scores(model, batch)
    labels = batch["labels"][:, 1:]
    if len(weight) > 2 * NEGATIVES:
        return sampled_cross_entropy(states[:, :-1], weight, labels)
    return linear_cross_entropy(states[:, :-1], weight, labels, (labels != -100).sum())


def training_step(model, optimizer, batch):
    """One step; returns the loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16_is_fast()):
        loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def train_for(seconds, model, rows, pad, rate, seed, batch_size, name):
    """Train a model for so many seconds of the processor, the rate rising for a twentieth of them and then falling to 0.

    Args:
        seconds (`float`), model: a causal language model; rows (`list`): of ids; pad (`int`): the padding id.
        rate (`float`): of AdamW; Muon's matrices take twice as much.
        seed (`int`): of the order of rows; batch_size (`int`); name (`str`): for the log.

    Returns:
        `dict`: `steps`, `tokens` that were trained on and `validation nats`, the sum over the rows held out.
    """
    held_out = max(len(rows) // 50, 1)
    optimizer = MuonWithAdamW(model.train(), rate, 2 * rate)
    rates = [group["lr"] for group in optimizer.param_groups]
    generator, start, steps, tokens = np.random.default_rng(seed), time.process_time(), 0, 0
    while (done := (time.process_time() - start) / seconds) < 1:
        for group, highest in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = highest * min(1.0, done / WARMUP) * (1 - done)
        chosen = generator.choice(len(rows) - held_out, batch_size, replace=False)
        batch = batch_of([rows[i] for i in chosen], pad)
        loss = training_step(model, optimizer, batch)
        steps, tokens = steps + 1, tokens + int((batch["labels"] != -100).sum())
        if steps % 100 == 0:
            print(f"{name}: step {steps}, {done:.0%}, loss {loss.item():.3f}", flush=True)
    nats = 0.0
    model.eval()
    with torch.no_grad():
        for row in rows[-held_out:][:VALIDATION_ROWS]:
            logits = model(**{k: v for k, v in batch_of([row], pad).items() if k != "labels"}).logits[0, :-1].float()
            wanted = torch.as_tensor(row[1:], dtype=torch.long)
            nats += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
    return {"steps": steps, "tokens": tokens, "validation nats": nats}


class Cells:
    """Cells of one benchmark, each `(name, rate, seconds, seed)`.

    Args:
        script (`str`): the benchmark, which trains a cell where it is given `--cell`, `--rate`, `--seconds`, `--seed` and
            `--output`.
        output (`Path`): where the cells live; options (`dict`): more arguments of the script.
    """

    def __init__(self, script, output, **options):
        self.script, self.output, self.options = script, output, options

    def folder(self, name, rate, seconds, seed):
        """Where a cell lives."""
        return self.output / f"{name.replace(', ', '-').replace(' ', '-')}-{rate}-{seconds:g}s-seed-{seed}"

    def run(self, cells):
        """Run what is missing of cells, and give the results of all."""
        commands = []
        for cell in cells:
            if not (self.folder(*cell) / "result.json").is_file():
                fields = dict(zip(("cell", "rate", "seconds", "seed"), cell, strict=True), output=self.output)
                options = [
                    part for name, value in (fields | self.options).items() for part in (f"--{name}", str(value))
                ]
                commands.append([sys.executable, self.script, *options])
        run_all(commands)
        return [json.loads((self.folder(*cell) / "result.json").read_text()) for cell in cells]

    def save(self, cell, model, result):
        """Keep what a cell has found: its weights, and last of all its figures."""
        path = self.folder(*cell)
        path.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(path)
        (path / "result.json").write_text(json.dumps({"cell": cell[0], "rate": cell[1], **result}))

    def best_rates(self, names, rates, seconds):
        """Train each named cell at each rate; give the rate that validation text likes best, for each name."""
        trials = self.run([(name, rate, seconds, 0) for name in names for rate in rates])
        return {
            name: min((row for row in trials if row["cell"] == name), key=lambda row: row["validation nats"])["rate"]
            for name in names
        }
