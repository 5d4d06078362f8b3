"""The examples, as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

import modeling_textae  # noqa: F401  registers the classes

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--lora"]])
def test_texts_of_a_file_are_classified(options, tmp_path):
    rows = [{"text": f"we {'like' if i % 3 else 'hate'} the {i}th river", "label": int(i % 3 > 0)} for i in range(200)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, str(ROOT / "examples" / "classify.py"), "--data_file", str(tmp_path / "texts.jsonl")]
    command += ["--checkpoint", str(ROOT / "model_cards" / "encodzall-nano"), "--steps", "60", *options]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "20 held-out texts: 100.0% right" in done.stdout
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").config.id2label == {0: "0", 1: "1"}
    done = subprocess.run([*command, "--label_column", "stars"], capture_output=True, text=True, check=False)
    assert "has no column 'stars'" in done.stderr
