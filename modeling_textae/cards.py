"""Writes model cards out of runs, and stages them as Hub repositories with the code that loads them.

    python -m modeling_textae.cards write runs/encodzall-nano-long model_cards/encodzall-nano
    python -m modeling_textae.cards stage model_cards hub

A staged folder can be uploaded as it is. Where the package is not installed it loads with `trust_remote_code=True`, which runs
the code in the folder: for its reader to allow, never for this package, which passes that flag nowhere.
"""

import shutil
import sys
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

import modeling_textae
from modeling_textae.data.ocr_noise import FILE_NAME as NOISE


def saved_class(folder):
    """The class of a saved model, which loads all of it.

    Raises:
        ValueError: for a class that is none of this package's.
    """
    (saved,) = AutoConfig.from_pretrained(folder).architectures or [""]
    if not hasattr(modeling_textae, saved):
        raise ValueError(f"{folder} holds a {saved or 'model without a class'}, which is none of this package's")
    return getattr(modeling_textae, saved)


def stage(card, target):
    """Stage one card.

    Args:
        card (`Path`): folder with config, tokenizer, weights and README.md.
        target (`Path`): folder to write; an earlier one of that name is replaced.

    Raises:
        FileNotFoundError: where the card has no weights.
    """
    if not (card / "model.safetensors").is_file():
        raise FileNotFoundError(f"{card} has no model.safetensors")
    model = saved_class(card).from_pretrained(card, dtype=AutoConfig.from_pretrained(card).dtype, use_safetensors=True)
    aside = target.with_name(f".{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    AutoTokenizer.from_pretrained(card).save_pretrained(aside)
    for path in card.iterdir():
        if path.suffix in (".md", ".png", ".jsonl") or path.name == NOISE:
            shutil.copyfile(path, aside / path.name)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


def write(run, card):
    """Put a run's weights, in bfloat16, its configuration and tokenizer into a card's folder, without code.

    Args:
        run (`Path`): output folder of run_pretraining.py.
        card (`Path`): folder to write into; what else it holds stays.

    Raises:
        FileNotFoundError: where the run has no weights.
    """
    if not (run / "model.safetensors").is_file():
        raise FileNotFoundError(f"{run} has no model.safetensors")
    saved_class(run).from_pretrained(run, dtype="bfloat16", use_safetensors=True).save_pretrained(card)
    AutoTokenizer.from_pretrained(run).save_pretrained(card)
    for code in card.glob("*.py"):
        code.unlink()


def main(arguments=None):
    """Write one card, or stage every card of a folder; exit 2 for bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 3 or arguments[0] not in ("write", "stage") or not Path(arguments[1]).is_dir():
        print(
            "usage: python -m modeling_textae.cards write RUN CARD | stage CARDS_FOLDER TARGET_FOLDER", file=sys.stderr
        )
        return 2
    source, target = map(Path, arguments[1:])
    if arguments[0] == "write":
        write(source, target)
        return 0
    target.mkdir(parents=True, exist_ok=True)
    for card in sorted(path.parent for path in source.glob("*/config.json")):
        stage(card, target / card.name)
        print(target / card.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
