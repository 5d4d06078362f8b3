"""lm-evaluation-harness: the Abstractinator as a model of its own name, and tasks that read local files instead of the Hub."""

import csv
import json
import lzma
import tempfile
from pathlib import Path
from string import Template

import lm_eval
import torch
from lm_eval.api.registry import register_model
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

DEFAULT_TASKS = ("lambada_openai", "hellaswag", "arc_easy")
TEMPLATES = Path(__file__).parent / "lm_tasks"
# Where a folder of local data has each task's documents, with the fields of its set on the Hub.
FILES = {
    "lambada_openai": "lm_eval/lambada_openai.jsonl.xz",
    "hellaswag": "lm_eval/hellaswag_validation_2000.jsonl.xz",
    "arc_easy": "lm_eval/arc_easy_validation.jsonl.xz",
    "piqa": "lm_eval/piqa_validation.jsonl.xz",
    "winogrande": "lm_eval/winogrande_validation.jsonl.xz",
    "text_bits": "text.jsonl",
}
BLIMP_FILE = "lm_eval/blimp_12x300.jsonl.xz"
EXAMPLES = 4  # of a CUTE task's rows, the first so many are shown as solved
QUESTIONS = {
    "spell_rand": "Spell {{input1}}, its letters parted by spaces.",
    "spell_inverse": "Write {{input1}} as one word.",
    "contains_char": "Is there a {{input1}} in {{input2}}? Yes or No.",
    "contains_word": "Is there the word {{input1}} in: {{input2}} Yes or No.",
    "sem": "Which is closer in meaning to {{input1}}: {{input2}} or {{input3}}?",
    "ins_char": "Add {{input2}} after every {{input1}} in {{input3}}.",
    "ins_word": "Add the word {{input1}} after every {{input2}} in: {{input3}}",
    "del_char_rand": "Take every {{input1}} out of {{input2}}.",
    "sub_char_rand": "Put {{input2}} for every {{input1}} in {{input3}}.",
    "swap_char": "Swap {{input1}} and {{input2}} in {{input3}}.",
    "swap_word": "Swap the words {{input1}} and {{input2}} in: {{input3}}",
}


@register_model("hier_ae")
class HierarchicalAELM(HFLM):
    """The Abstractinator in lm-eval: `--model hier_ae --model_args checkpoint=...`.

    Its scores are those of [`AbstractinatorForCausalLM`]'s exact likelihood, so that lm-eval's own `hf` backend gives the same
    numbers. A context and its continuation are read together, which gives nothing away: no logit sees what it predicts.

    Args:
        checkpoint (`str` or `PreTrainedModel`): folder or Hub name, or a model.
        pretrained (*optional*): another name of the same.
        tokenizer (*optional*): by default the checkpoint's.
        max_length (`int`, *optional*, by default the configuration's `n_positions`): bytes of context and continuation; what
            comes before is cut off.
        device (`str`, *optional*): by default a GPU where there is one.
        dtype (`str`, defaults to `"float32"`).
        use_accelerate (*optional*): today's lm-eval has no such argument; accepted, and said so.
        kwargs: as of lm-eval's `HFLM`, `batch_size` among them.

    Raises:
        ValueError: without a checkpoint.
    """

    def __init__(
        self,
        checkpoint=None,
        pretrained=None,
        tokenizer=None,
        max_length=None,
        device=None,
        dtype="float32",
        use_accelerate=None,
        **kwargs,
    ):
        checkpoint = pretrained if checkpoint is None else checkpoint
        if checkpoint is None:
            raise ValueError("hier_ae needs a checkpoint: --model_args checkpoint=FOLDER")
        if use_accelerate is not None:
            logger.warning(
                "use_accelerate is no argument of lm-eval any more: several processes come from `accelerate launch`"
            )
        config = AutoConfig.from_pretrained(checkpoint) if isinstance(checkpoint, str) else checkpoint.config
        if config.model_type != "abstractinator":
            raise ValueError(f"hier_ae is for the Abstractinator, not for {config.model_type!r}: use --model hf")
        super().__init__(
            pretrained=checkpoint if isinstance(checkpoint, str) else checkpoint.eval(),
            tokenizer=tokenizer,
            max_length=config.n_positions if max_length is None else int(max_length),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            dtype=dtype,
            **kwargs,
        )


def local_tasks(data_dir, folder):
    """Write lm-eval's tasks for local files into a folder.

    Prompts and metrics are lm-eval's own, by `include`; only where documents come from differs. CUTE, which lm-eval lacks, is
    added.

    Args:
        data_dir (`str` or `Path`): with [`FILES`], BLiMP's and CUTE's; tasks whose files are missing are left out.
        folder (`str` or `Path`): for the tasks' YAML files, and data that had to be brought into another form.

    Returns:
        `list[str]`: the tasks' names, groups among them.

    Raises:
        FileNotFoundError: where the data folder has none of the files.
    """
    data, folder = Path(data_dir).resolve(), Path(folder)
    library = Path(lm_eval.__file__).parent / "tasks"
    names = []

    def write(template, name, **values):
        whole = {"library": library, "data": data, "folder": folder.resolve()} | values
        text = Template((TEMPLATES / f"{template}.yaml").read_text()).substitute(whole)
        (folder / f"{name}.yaml").write_text(text)
        names.append(name)

    def group(name, members):
        lines = [f"group: {name}", "task:", *(f"  - {member}" for member in members)]
        lines += ["aggregate_metric_list:", "  - {metric: acc, weight_by_size: true}", "metadata: {version: 1.0}"]
        (folder / f"_{name}.yaml").write_text("\n".join(lines) + "\n")
        names.append(name)

    for name, source in FILES.items():
        if (data / source).is_file():
            write(name, name)
    if (data / BLIMP_FILE).is_file():
        phenomena = split_by_phenomenon(data / BLIMP_FILE, folder)
        for phenomenon in phenomena:
            write("blimp", f"blimp_{phenomenon}", phenomenon=phenomenon)
        group("blimp", [f"blimp_{phenomenon}" for phenomenon in phenomena])
    found = [task for task in QUESTIONS if (data / "cute" / f"{task}.tsv").is_file()]
    for task in found:
        rewrite_table(data / "cute" / f"{task}.tsv", folder, f"cute_{task}")
        write("cute", f"cute_{task}", task=task, question=QUESTIONS[task].replace('"', '\\"'))
    if found:
        group("cute", [f"cute_{task}" for task in found])
    if not names:
        raise FileNotFoundError(f"{str(data_dir)!r} has none of the tasks' files, like {FILES['lambada_openai']}")
    return names


def split_by_phenomenon(path, folder):
    """Write BLiMP's pairs, a file of all, into a file for each phenomenon; return the phenomena."""
    lines = {}
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            lines.setdefault(json.loads(line)["UID"], []).append(line)
    for phenomenon, own in lines.items():
        (folder / f"blimp_{phenomenon}.jsonl").write_text("".join(own), encoding="utf-8")
    return sorted(lines)


def rewrite_table(path, folder, name):
    """Write a table of tab-separated values as jsonl: the first rows as examples, the rest as questions."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for ending, part in (("_train", rows[:EXAMPLES]), ("", rows[EXAMPLES:])):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}{ending}.jsonl").write_text(lines, encoding="utf-8")


def evaluate(model, model_args, tasks, data_dir=None, **kwargs):
    """Run lm-eval.

    Args:
        model (`str` or `LM`): `hier_ae`, `hf` or any other that lm-eval knows; model_args (`str` or `dict`).
        tasks (`list[str]`): of lm-eval, or, with `data_dir`, of [`local_tasks`] before lm-eval's.
        data_dir (`str`, *optional*): a folder of local data.
        kwargs: of lm-eval's `simple_evaluate`: `limit`, `batch_size`, `num_fewshot` and so on.

    Returns:
        `dict`: lm-eval's results.

    Raises:
        ValueError: for a task that neither knows. FileNotFoundError: for one of [`local_tasks`] whose file the folder lacks.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = local_tasks(data_dir, folder) if data_dir is not None else []
        known = FILES | {"blimp": BLIMP_FILE, "cute": "cute/"}
        missing = [task for task in tasks if data_dir is not None and task in known and task not in own]
        if missing:
            raise FileNotFoundError(f"{str(data_dir)!r} has no {known[missing[0]]}, which {missing[0]} is read from")
        # To look through all of lm-eval's tasks takes seconds.
        manager = TaskManager(include_path=folder, include_defaults=not set(tasks) <= set(own))
        unknown = [task for task in tasks if not manager.match_tasks([task])]
        if unknown:
            raise ValueError(f"task {unknown[0]!r} is unknown to lm-eval, and no local file gives it")
        return simple_evaluate(model=model, model_args=model_args, tasks=list(tasks), task_manager=manager, **kwargs)


def result_rows(results):
    """lm-eval's results as rows of a table: task, metric, value, its standard error, and of how many questions.

    Args:
        results (`dict`): what [`evaluate`] returns.

    Returns:
        `list[dict]`.
    """
    rows, counts = [], results.get("n-samples", {})
    for task, figures in sorted((results["results"] | results.get("groups", {})).items()):
        for key, value in figures.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = figures.get(f"{metric}_stderr,{kind}")
            error = error if isinstance(error, (int, float)) else None
            count = counts.get(task, {}).get("effective")
            row = {"task": task, "metric": metric, "value": float(value), "standard error": error, "questions": count}
            rows.append(row)
    return rows
