"""What a user of the Hub does, against a small Hub on loopback: load by name, with and without the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fsq_training import TEXT, language_model
from hub_server import serve
from model_cases import TEXTS, encodzall_config
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import modeling_textae as textae
import run_eval
from modeling_textae import cards
from modeling_textae.data.ocr_noise import OcrNoiseModel

CARDS = Path(__file__).parent.parent / "model_cards"

OUTPUTS = ("pooler_output", "last_hidden_state", "latents", "logits")
LOAD = """
import sys
if sys.argv[2] == "without":
    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "modeling_textae":
                raise ImportError("the package must not be needed")
    sys.meta_path.insert(0, Blocker())
    trust = {"trust_remote_code": True}
else:
    import modeling_textae
    trust = {}
import json, torch, transformers
def load(name, auto):
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **trust)
    model = getattr(transformers, auto).from_pretrained(name, **trust).eval()
    assert (type(model).__module__.split(".")[0] == "modeling_textae") == (sys.argv[2] == "with")
    with torch.no_grad():
        output = model(**tokenizer(sys.argv[3], return_tensors="pt"))
    return next(output[name] for name in OUTPUTS if name in output).float().flatten().tolist()
print(json.dumps([load(name, auto) for name, auto in json.loads(sys.argv[1]).items()]))
""".replace("OUTPUTS", str(OUTPUTS))


def load_by_name(autos, package, text, endpoint, home):
    """Embedding of a text, or its scores, by each model that a fresh process loads from a Hub by name and Auto class."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(autos), package, text],
        capture_output=True, text=True, env=environment, cwd=home, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.tensor(found) for found in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("package", ["with", "without"])
def test_models_load_by_name_from_a_hub(package, tmp_path):
    torch.manual_seed(0)
    model, tokenizer = textae.EncodzallForPreTraining(encodzall_config()).eval(), textae.EncodzallTokenizer()
    folder = tmp_path / "repository"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    home = tmp_path / "home"
    home.mkdir()
    with serve({"org/encodzall": folder}) as endpoint:
        (found,) = load_by_name({"org/encodzall": "AutoModel"}, package, TEXTS[1], endpoint, home)
    with torch.no_grad():
        expected = model.model(**tokenizer(TEXTS[1], return_tensors="pt")).pooler_output[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_trained_tokenizer_and_its_language_model_load_without_the_package(tmp_path):
    model, tokenizer = language_model()
    folder, home = tmp_path / "repository", tmp_path / "home"
    home.mkdir()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with serve({"org/fsq": folder}) as endpoint:
        (found,) = load_by_name({"org/fsq": "AutoModelForCausalLM"}, "without", TEXT[:60], endpoint, home)
    with torch.no_grad():
        expected = model(**tokenizer(TEXT[:60], return_tensors="pt")).logits.flatten()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_cards_are_staged_with_their_code_and_load_as_remote_code(tmp_path):
    names = sorted(path.parent.name for path in CARDS.glob("*/config.json"))
    assert cards.main(["stage", str(CARDS), str(tmp_path / "hub")]) == 0
    # Where a card's model writes, all of it is loaded: the autoencoder beneath reads chunks, not texts.
    write = {name for name in names if cards.saved_class(CARDS / name).__name__.endswith("ForCausalLM")}
    autos = {name: AutoModelForCausalLM if name in write else AutoModel for name in names}
    for name in names:
        assert (tmp_path / "hub" / name / "README.md").is_file()
        assert not list((CARDS / name).glob("*.py"))
    home = tmp_path / "home"
    home.mkdir()
    staged = {str(tmp_path / "hub" / name): autos[name].__name__ for name in names}
    loaded = load_by_name(staged, "without", TEXTS[1], "http://127.0.0.1:9", home)
    for name, found in zip(names, loaded, strict=True):
        model, tokenizer = autos[name].from_pretrained(CARDS / name).eval(), AutoTokenizer.from_pretrained(CARDS / name)
        with torch.no_grad():
            output = model(**tokenizer(TEXTS[1], return_tensors="pt"))
        expected = next(output[name] for name in OUTPUTS if name in output)
        torch.testing.assert_close(found, expected.float().flatten())


def test_a_card_is_written_in_bfloat16_without_code(tmp_path):
    model = textae.EncodzallForPreTraining(encodzall_config())
    model.save_pretrained(tmp_path / "run")
    textae.EncodzallTokenizer().save_pretrained(tmp_path / "run")
    assert cards.main(["write", str(tmp_path / "run"), str(tmp_path / "card")]) == 0
    assert not list((tmp_path / "card").glob("*.py"))
    loaded = textae.EncodzallForPreTraining.from_pretrained(tmp_path / "card")
    assert loaded.dtype == torch.bfloat16
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(a.to(torch.bfloat16), b)


def test_a_card_keeps_the_class_that_was_trained(tmp_path):
    for kind in (textae.EncodzallForConditionalGeneration, textae.EncodzallForSentenceEmbedding):
        run, card = tmp_path / f"run-{kind.__name__}", tmp_path / f"card-{kind.__name__}"
        kind(encodzall_config()).save_pretrained(run)
        textae.EncodzallTokenizer().save_pretrained(run)
        cards.write(run, card)
        assert cards.saved_class(card) is kind
        assert (card / "modules.json").exists() == (kind is textae.EncodzallForSentenceEmbedding)
    (card / "config.json").write_text('{"model_type": "encodzall", "architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="holds a BertModel, which is none"):
        cards.saved_class(card)


def test_a_cards_noise_and_what_sentence_transformers_reads_are_staged(tmp_path):
    card = tmp_path / "cards" / "denoiser"
    model = textae.EncodzallForConditionalGeneration(encodzall_config(sketch_size=8))
    model.save_pretrained(card)
    textae.EncodzallTokenizer().save_pretrained(card)
    noise = OcrNoiseModel.fit([("tlie river", "the river")] * 2)
    noise.save_pretrained(card)
    assert cards.main(["stage", str(tmp_path / "cards"), str(tmp_path / "hub")]) == 0
    staged = tmp_path / "hub" / "denoiser"
    assert OcrNoiseModel.from_pretrained(staged).counts == noise.counts
    theirs = SentenceTransformer(str(staged), device="cpu").encode(TEXTS, normalize_embeddings=True)
    embeddings = textae.EncodzallForSentenceEmbedding.from_pretrained(card)
    torch.testing.assert_close(torch.tensor(theirs), embeddings.embed(TEXTS, textae.EncodzallTokenizer()))


def test_weights_that_are_pickled_are_not_read(tmp_path, capsys):
    model = textae.EncodzallForPreTraining(encodzall_config())
    model.config.save_pretrained(tmp_path)
    textae.EncodzallTokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert run_eval.main(["reconstruct", "--checkpoint", str(tmp_path)]) == 2
    assert "model.safetensors" in capsys.readouterr().err


def test_staging_refuses_what_is_no_card(tmp_path, capsys):
    assert cards.main([]) == 2
    assert "usage" in capsys.readouterr().err
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        cards.main(["stage", str(tmp_path), str(tmp_path / "hub")])
