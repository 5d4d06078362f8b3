import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

import run_pretraining
from modeling_textae import CtaModel, FsqAutoencoderModel, MlmEncoderTokenizer
from modeling_textae.data.ocr_noise import OcrNoiseModel
from modeling_textae.models.bpe_tokenizer import byte_symbols
from modeling_textae.training.optimizers import bfloat16_is_fast
from modeling_textae.training.recipe import FAMILIES, check_resumed, checkpoint_to_resume, parse_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_is_valid_and_every_field_reaches_the_run(path, tmp_path):
    fields = yaml.safe_load(path.read_text())
    arguments = [str(path)]
    if "initial_checkpoint" in fields:
        begun = FAMILIES[fields["family"]].config
        config = getattr(begun, fields["size"])(**fields.get("config", {}))
        (tmp_path / "config.json").write_text(json.dumps(config.to_dict(), default=str))
        arguments += ["--initial_checkpoint", str(tmp_path)]
        fields.pop("initial_checkpoint")
    for name in ("train_file", "pairs_file"):
        if fields.pop(name, None):
            (tmp_path / f"{name}.parquet").touch()
            arguments += [f"--{name}", str(tmp_path / f"{name}.parquet")]
    recipe = parse_recipe(arguments)
    parts = (recipe.model, recipe.data, recipe.noise, recipe.training)
    for name, value in fields.items():
        (part,) = [p for p in parts if hasattr(p, name)]
        found = getattr(part, name)
        if name == "config":
            found = json.loads(found)
        assert (found == value) or str(getattr(found, "value", found)) == str(value), name


def test_families_begin_with_noise_of_their_own(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("family: mlm_encoder\nnoise_rate: 0.2\n")
    for arguments, expected in (
        ([], ("pid", 0.1)),
        (["--family", "mlm_encoder"], ("fixed", 0.15)),
        (["--family=mlm_encoder", "--noise", "linear"], ("linear", 0.15)),
        ([str(path)], ("fixed", 0.2)),
        ([str(path), "--family", "encodzall"], ("pid", 0.2)),
    ):
        noise = parse_recipe(arguments).noise
        assert (noise.noise, noise.noise_rate) == expected


def test_the_command_line_overrides_the_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("max_steps: 7\nlearning_rate: 1.0e-2\nconfig: {dropout: 0.1}\n")
    recipe = parse_recipe([str(path), "--learning_rate", "0.5"])
    assert (recipe.training.max_steps, recipe.training.learning_rate) == (7, 0.5)
    assert recipe.config.dropout == 0.1
    assert recipe.training.bf16 == bfloat16_is_fast()
    assert parse_recipe(["--precision", "float32"]).training.bf16 is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], "no recipe 'missing.yaml'"),
        (["bad.yaml"], "unknown field 'lerning_rate'; did you mean learning_rate"),
        (["list.yaml"], "must be a mapping"),
        (["--lerning_rate", "1"], "unknown field 'lerning_rate'; did you mean learning_rate"),
        (["--size", "huge"], "'huge' is unknown: accepted are nano, xs, s, l"),
        (
            ["--family", "bert"],
            "'bert' is unknown: accepted are abstractinator, abstractinator_lm, cta, encodzall, encodzall_denoise, "
            "encodzall_embedding, fsq_autoencoder, fsq_autoencoder_lm, mlm_encoder",
        ),
        (["--config", '{"hidden_size": 32}'], "hidden_size 32 does not split"),
        (["--config", '{"hiden_size": 32}'], "no field 'hiden_size'; did you mean hidden_size"),
        (["--config", "{"], "must be JSON"),
        (["--config", "[1]"], "must be a JSON object"),
        (["--train_file", "missing.jsonl"], "no file 'missing.jsonl'"),
        (["--passage_length", "2"], "passage_length 2 is too small: accepted is 4"),
        (["--min_passage_length", "500"], "exceeds passage_length"),
        (["--streaming", "true"], "give --max_steps"),
        (["--streaming", "true", "--max_steps", "5", "--dataloader_num_workers", "2"], "--dataloader_num_workers 0"),
        (["--whole_words", "true"], "cannot mask whole_words"),
        (["--noise_model", "somewhere"], "noise_model is for encodzall_denoise and"),
        (["--pairs_file", "bad.yaml"], "cannot tell the format of 'bad.yaml'"),
        (["--pairs_share", "0"], "pairs_share 0.0 is no share"),
        (["--pairs_last", "0.5"], "pairs_last tells of pairs, and there are none"),
        (
            ["--family", "encodzall_denoise", "--pairs_file", "pairs.jsonl", "--pairs_share", "1"],
            "pairs_share 1 leaves nothing to make noisy",
        ),
        (["--family", "encodzall_embedding", "--noise_rate", "0"], "both views of a text are one"),
        (["--min_crop", "0.5"], "min_crop and word_dropout are for encodzall_embedding"),
        (["--family", "encodzall_embedding", "--word_dropout", "1"], "word_dropout 1.0 are no shares"),
        (
            ["--config", '{"contrastive_loss_weight": 1}', "--per_device_train_batch_size", "1"],
            "needs batches of two or more",
        ),
        (["--tokenizer", "somewhere", "--initial_checkpoint", "else"], "brings its tokenizer"),
        (["--tokenizer", "somewhere"], "brings its own tokenizer"),
        (["--noise", "white"], "'white' is unknown: accepted are pid, linear and fixed"),
        (["--noise_rate", "1.5"], "outside the bounds"),
        (["--noise_maximum", "1.5"], "accepted are 0 to 1"),
        (["--optimizer", "sgd"], "'sgd' is unknown"),
        (["--precision", "int4"], "'int4' is unknown"),
        (["--initial_checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
        (["broken.yaml"], "is no YAML"),
        (["--bf16", "true"], "decided by --precision"),
        (["--optim", "adafactor"], "would be ignored"),
        (["--schedule_steps", "-5"], "schedule_steps -5"),
        (["--loss_setpoint", "-1"], "setpoint -1.0 is negative"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("lerning_rate: 1\n")
    Path("list.yaml").write_text("- 1\n")
    Path("broken.yaml").write_text("a: [1\n")
    Path("pairs.jsonl").write_text('{"noisy": "tbe", "clean": "the"}\n')
    files = sorted(os.listdir())
    with pytest.raises((ValueError, OSError), match=message):
        parse_recipe(arguments)
    assert run_pretraining.main(arguments) == 2
    assert sorted(os.listdir()) == files


def test_a_run_is_not_continued_under_another_recipe(tmp_path):
    arguments = ["--output_dir", str(tmp_path), "--max_steps", "5"]
    check_resumed(parse_recipe(arguments))
    check_resumed(parse_recipe(arguments))
    with pytest.raises(ValueError, match=r"lr_scheduler_type \(.*linear there, .*cosine here\)"):
        check_resumed(parse_recipe([*arguments, "--lr_scheduler_type", "cosine"]))
    with pytest.raises(ValueError, match=r"loss_setpoint \(0.3 there, 0.4 here\)"):
        check_resumed(parse_recipe([*arguments, "--loss_setpoint", "0.4"]))


def test_runs_older_than_a_field_had_its_default(tmp_path):
    arguments = ["--output_dir", str(tmp_path), "--max_steps", "5"]
    check_resumed(parse_recipe(arguments))
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "whole_words"}))
    check_resumed(parse_recipe(arguments))
    with pytest.raises(ValueError, match=r"whole_words \(False there, True here\)"):
        check_resumed(parse_recipe([*arguments, "--family", "mlm_encoder", "--whole_words", "true"]))


def test_abbreviated_fields_are_refused():
    with pytest.raises(ValueError, match="unknown field 'fam'; did you mean"):
        parse_recipe(["--fam", "mlm_encoder"])


def test_a_checkpoint_of_another_shape_is_no_start(tmp_path):
    import modeling_textae as textae

    textae.EncodzallForPreTraining(textae.EncodzallConfig.nano(pooling="max")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"pooling \(max there, mean here\)"):
        parse_recipe(["--initial_checkpoint", str(tmp_path)])
    parse_recipe(["--initial_checkpoint", str(tmp_path), "--config", '{"pooling": "max"}'])


def test_a_run_may_give_a_checkpoint_what_it_has_none_of(tmp_path):
    import modeling_textae as textae

    def start(**config):
        return parse_recipe(["--initial_checkpoint", str(tmp_path), "--config", json.dumps(config)])

    grown = {"ngram_sizes": [2, 3], "ngram_buckets": 64, "sketch_size": 8}
    textae.EncodzallForPreTraining(textae.EncodzallConfig.nano()).save_pretrained(tmp_path)
    start(**grown)
    textae.EncodzallForPreTraining(textae.EncodzallConfig.nano(**grown)).save_pretrained(tmp_path)
    start(**grown)
    with pytest.raises(ValueError, match=r"ngram_buckets \(64 there, 32 here\)"):
        start(**grown | {"ngram_buckets": 32})
    with pytest.raises(ValueError, match=r"sketch_size \(8 there, 0 here\)"):
        start(**grown | {"sketch_size": 0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--per_device_train_batch_size", "500"], "passages are too few for one step of 500"),
        (["--passage_length", "40000"], "no document has a passage of 20000"),
        (["--min_passage_length", "5000", "--passage_length", "6000"], "lower --min_passage_length"),
    ],
)
def test_corpora_that_cannot_serve_are_refused_before_training(arguments, message, corpus_file, tmp_path, capsys):
    where = ["--train_file", str(corpus_file), "--output_dir", str(tmp_path / "run"), "--passage_length", "64"]
    assert run_pretraining.main([*where, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def resumed(tmp_path, *arguments):
    return checkpoint_to_resume(parse_recipe(["--output_dir", str(tmp_path), *arguments]).training)


def test_checkpoints_to_resume(tmp_path):
    assert resumed(tmp_path) is None
    assert resumed(tmp_path, "--resume_from_checkpoint") is None
    for step, state in ((5, "{}"), (10, '{"cut')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    with pytest.raises(FileExistsError, match="already holds a run"):
        resumed(tmp_path)
    assert resumed(tmp_path, "--resume_from_checkpoint").endswith("checkpoint-5")
    assert any(p.name.startswith("incomplete-checkpoint-10") for p in tmp_path.iterdir())  # set aside, not lost
    assert resumed(tmp_path, "--resume_from_checkpoint", str(tmp_path / "checkpoint-5")).endswith("checkpoint-5")
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        resumed(tmp_path, "--resume_from_checkpoint", str(tmp_path / "checkpoint-7"))


# The script as a user runs it


def script(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, str(ROOT / "run_pretraining.py"), *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text(
        "\n".join(json.dumps({"text": f"Document {i * 7919} is about {i**5} words. " * 12}) for i in range(60))
    )
    return path


TINY = '{"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "word_key_value_heads": 1}'


def test_a_run_from_recipe_to_checkpoint_report_and_picture(tmp_path, corpus_file, capsys):
    output = tmp_path / "run"
    arguments = (
        "--train_file", corpus_file, "--output_dir", output, "--config", TINY, "--max_steps", 6, "--save_steps", 3,
        "--logging_steps", 2, "--report_passages", 3, "--passage_length", 64, "--resume_from_checkpoint",
    )  # fmt: skip
    done = script(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "byte accuracy, teacher-forced" in done.stdout
    assert "restored:" in done.stdout
    assert (output / "training.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((output / "report.json").read_text())
    assert report["fields"]["max_steps"] == 6
    assert "run_pretraining.py" in report["command"]
    from transformers import AutoModelForPreTraining, AutoTokenizer

    assert AutoModelForPreTraining.from_pretrained(output).config.hidden_size == 32
    assert AutoTokenizer.from_pretrained(output)("a")["input_ids"] == [97]
    stamp = (output / "model.safetensors").stat().st_mtime_ns
    assert run_pretraining.main([str(argument) for argument in arguments]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (output / "model.safetensors").stat().st_mtime_ns == stamp


MASKED = '{"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}'


def masked_run(corpus_file, output, *arguments):
    where = ["--train_file", str(corpus_file), "--output_dir", str(output), "--passage_length", "64"]
    sizes = ["--max_steps", "4", "--save_steps", "2", "--report_passages", "3", "--logging_steps", "1"]
    family = ["--family", "mlm_encoder", "--config", MASKED]
    return run_pretraining.main([*where, *sizes, *family, *arguments])


def test_a_masked_run_learns_its_tokenizer_and_keeps_it(tmp_path, corpus_file, capsys):
    from transformers import AutoModelForMaskedLM

    first, second = tmp_path / "first", tmp_path / "second"
    assert masked_run(corpus_file, first, "--whole_words", "true") == 0
    printed = capsys.readouterr().out
    assert "accuracy, rate 0.15" in printed
    assert "filled:" in printed
    tokenizer = AutoTokenizer.from_pretrained(first)
    assert len(tokenizer) == 300 == AutoModelForMaskedLM.from_pretrained(first).config.vocab_size
    # A resumed run takes the tokenizer of its checkpoint, another one that it names.
    assert masked_run(corpus_file, first, "--whole_words", "true", "--resume_from_checkpoint") == 0
    assert "finished already" in capsys.readouterr().out
    assert masked_run(corpus_file, second, "--tokenizer", str(first)) == 0
    assert AutoTokenizer.from_pretrained(second).get_vocab() == tokenizer.get_vocab()


def test_tokenizers_that_do_not_fit_are_refused(tmp_path, corpus_file, capsys):
    assert masked_run(corpus_file, tmp_path / "run", "--config", '{"vocab_size": 90000}') == 2
    assert "too large for this text" in capsys.readouterr().err
    MlmEncoderTokenizer.train(["some words"] * 3, 262).save_pretrained(tmp_path / "tokenizer")
    arguments = ["--tokenizer", str(tmp_path / "tokenizer"), "--config", '{"vocab_size": 260}']
    assert masked_run(corpus_file, tmp_path / "run", *arguments) == 2
    assert "has 262 tokens, vocab_size is 260" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_originals_recipe_of_cta_runs_on_a_file_of_its_corpus_with_a_foreign_tokenizer(tmp_path, capsys):
    """The schema of Falcon RefinedWeb, streamed, and a tokenizer that, as GPT-2's, has no padding."""
    texts = [f"Page {i * 7919} is about {i**5} words. " * 30 for i in range(40)]
    columns = {
        "content": texts,
        "url": ["https://example.org"] * 40,
        "timestamp": ["2020-01-01"] * 40,
        "dump": ["x"] * 40,
    }
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "part.parquet")
    bpe = Tokenizer(BPE(vocab={"<|endoftext|>": 256} | {b: i for i, b in enumerate(byte_symbols())}, merges=[]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(tmp_path / "tokenizer")
    arguments = [
        str(ROOT / "recipes" / "cta-seed.yaml"), "--dataset_name", "", "--train_file", str(tmp_path / "part.parquet"),
        "--validation_file", str(tmp_path / "part.parquet"), "--tokenizer", str(tmp_path / "tokenizer"),
        "--config", '{"vocab_size": 257, "hidden_size": 16, "num_blocks": [1, 1, 1]}', "--max_steps", "3",
        "--per_device_train_batch_size", "4", "--report_passages", "3", "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    assert run_pretraining.main(arguments) == 0
    assert "token accuracy" in capsys.readouterr().out
    model = CtaModel.from_pretrained(tmp_path / "run")
    assert model.config.vocab_size == 257
    assert model.scale.isfinite().all()  # fitted to training text
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert log[-1]["train_loss"] < 10


@pytest.mark.parametrize(
    "levels", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_the_recipe_for_a_gpu_runs_at_every_ratio(levels, tmp_path):
    texts = [f"Page {i * 7919} is about {i**5} words. " * 40 for i in range(8)]
    datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "text.parquet")
    text = str(tmp_path / "text.parquet")
    config = {"num_levels": levels, "vocab_size": 257, "embedding_size": 8, "hidden_size": 16, "latent_noise": 0.5}
    arguments = [
        str(ROOT / "recipes" / "cta-small.yaml"), "--train_file", text, "--validation_file", text, "--max_steps", "2",
        "--config", json.dumps(config), "--per_device_train_batch_size", "2", "--report_passages", "3",
        "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    assert run_pretraining.main(arguments) == 0
    config = CtaModel.from_pretrained(tmp_path / "run").config
    assert (config.ratio, config.latent_dim) == (2**levels, 15 * 2**levels)


def test_grids_are_fitted_to_passages_that_may_be_short_or_missing(tmp_path):
    """Null rows are passed over, and no passage need be as long as half of passage_length."""
    texts = [None, *(f"Page {i * 7919} is about {i**5}." for i in range(40))]
    datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "train.parquet")
    held_out = " ".join(f"Page {i * 7919}." for i in range(200, 400))
    datasets.Dataset.from_dict({"text": [held_out]}).to_parquet(tmp_path / "held_out.parquet")
    arguments = [
        str(ROOT / "recipes" / "cta-nano.yaml"), "--train_file", str(tmp_path / "train.parquet"),
        "--validation_file", str(tmp_path / "held_out.parquet"), "--min_passage_length", "8", "--max_steps", "2",
        "--config", '{"vocab_size": 257, "hidden_size": 16, "latent_dim": 8}', "--per_device_train_batch_size", "4",
        "--report_passages", "3", "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    assert run_pretraining.main(arguments) == 0
    model = CtaModel.from_pretrained(tmp_path / "run")
    assert model.scale.isfinite().all()
    # What shapes no weight may differ from the checkpoint that a run starts from, what does may not.
    again = ["--initial_checkpoint", str(tmp_path / "run"), "--output_dir", str(tmp_path / "again"), "--config"]
    sizes = '"vocab_size": 257, "hidden_size": 16'
    for config, code in (('"latent_dim": 8, "num_negatives": 9, "latent_noise": 0.1', 0), ('"latent_dim": 4', 2)):
        assert run_pretraining.main([*arguments, *again, f"{{{sizes}, {config}}}"]) == code


def test_wrong_fields_end_the_script_with_a_sentence(capsys):
    assert run_pretraining.main(["--size", "huge"]) == 2
    assert capsys.readouterr().err == "run_pretraining: size 'huge' is unknown: accepted are nano, xs, s, l\n"


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit) as stop:
        run_pretraining.main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for words in ("loss_setpoint", "Training loss to hold", "passage_length"):
        assert words in printed


def test_the_command_lines_configuration_goes_over_the_recipes_field_by_field():
    recipe = parse_recipe(
        [str(ROOT / "recipes" / "cta-nano.yaml"), "--config", '{"vocab_size": 257, "num_negatives": null}']
    )
    assert (recipe.config.vocab_size, recipe.config.latent_noise, recipe.config.num_negatives) == (257, 0.5, None)
    assert parse_recipe([str(ROOT / "recipes" / "cta-nano.yaml")]).config.num_negatives == 512
    with pytest.raises(ValueError, match="must be a JSON object"):
        parse_recipe([str(ROOT / "recipes" / "cta-nano.yaml"), "--config", "[1]"])


def test_from_chunks_to_codes_to_a_language_model_to_both_together(tmp_path, capsys):
    """The three phases of the FSQ autoencoder, each from the last one's checkpoint, by the recipes that are shipped."""
    words = ["river", "sea", "land", "end", "of the", "runs to", "in the", "naïve", "1984", "and then"]
    draw = random.Random(0)
    texts = [". ".join(" ".join(draw.choices(words, k=9)) for _ in range(9)) for _ in range(60)]
    datasets.Dataset.from_dict({"text": [None, *texts[:50]]}).to_parquet(tmp_path / "train.parquet")
    datasets.Dataset.from_dict({"text": texts[50:]}).to_parquet(tmp_path / "held_out.parquet")
    files = ["--train_file", str(tmp_path / "train.parquet"), "--validation_file", str(tmp_path / "held_out.parquet")]
    sizes = {"encoder_hidden_size": 48, "decoder_hidden_size": 48, "byte_embedding_size": 16, "levels": [8, 5, 5, 5]}
    trunk = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "token_embedding_size": None}

    def phase(name, folder, config, *arguments):
        return run_pretraining.main(
            [str(ROOT / "recipes" / f"fsq-autoencoder-{name}.yaml"), *files, "--output_dir", str(tmp_path / folder),
             "--config", json.dumps(config), "--report_passages", "9", *arguments]
        )  # fmt: skip

    chunked = ["--max_steps", "500", "--per_device_train_batch_size", "64", "--token_list_size", "40"]
    assert phase("nano", "chunks", sizes, *chunked) == 0
    assert "become tokens" in capsys.readouterr().out
    first = AutoTokenizer.from_pretrained(tmp_path / "chunks")
    assert 261 + 10 < len(first) <= 261 + 40
    report = json.loads((tmp_path / "chunks" / "report.json").read_text())
    assert report["tokenizer"]["bytes_per_token"] > 1.5
    logs = json.loads((tmp_path / "chunks" / "trainer_state.json").read_text())["log_history"]
    assert logs[0].keys() >= {"byte_loss", "length_loss", "byte_accuracy", "chunk_accuracy"}

    short = ["--max_steps", "20", "--per_device_train_batch_size", "4"]
    start = ["--initial_checkpoint", str(tmp_path / "chunks")]
    assert phase("nano-lm", "lm", sizes | trunk, *short, *start) == 0
    assert "bits per byte" in capsys.readouterr().out
    model, second = (auto.from_pretrained(tmp_path / "lm") for auto in (AutoModelForCausalLM, AutoTokenizer))
    assert second.starts_with_bos
    assert second.fingerprint == first.fingerprint == model.config.tokenizer_fingerprint
    assert model.config.vocab_size == len(first)
    trained = FsqAutoencoderModel.from_pretrained(tmp_path / "chunks")
    for a, b in zip(trained.parameters(), model.model.parameters(), strict=True):
        assert torch.equal(a, b)  # frozen

    start = ["--initial_checkpoint", str(tmp_path / "lm")]
    joint = {"frozen": "nothing", "reconstruction_weight": 0.1}
    assert phase("nano-joint", "joint", sizes | trunk | joint, *short, *start) == 0
    model, third = (auto.from_pretrained(tmp_path / "joint") for auto in (AutoModelForCausalLM, AutoTokenizer))
    assert third.fingerprint == model.config.tokenizer_fingerprint != first.fingerprint
    assert not torch.equal(model.model.encoder.proj.weight, trained.encoder.proj.weight)
    assert third.decode(third(texts[0])["input_ids"], skip_special_tokens=True) == texts[0]
    capsys.readouterr()

    # A tokenizer that is not the one that the model was trained with is no start.
    mixed = shutil.copytree(tmp_path / "joint", tmp_path / "mixed")
    shutil.copy(tmp_path / "lm" / "tokenizer.safetensors", mixed)
    settings = json.loads((mixed / "tokenizer_config.json").read_text())
    (mixed / "tokenizer_config.json").write_text(json.dumps(settings | {"fingerprint": first.fingerprint}))
    assert phase("nano-joint", "again", sizes | trunk | joint, *short, "--initial_checkpoint", str(mixed)) == 2
    assert "was trained with the tokenizer" in capsys.readouterr().err

    # Another shape of the autoencoder is no start, and a language model needs one.
    assert (
        phase(
            "nano-lm",
            "other",
            sizes | trunk | {"levels": [5, 5]},
            *short,
            "--initial_checkpoint",
            str(tmp_path / "chunks"),
        )
        == 2
    )
    assert "levels ([8, 5, 5, 5] there, [5, 5] here)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_recipes_for_a_gpu_run_from_chunks_to_a_language_model(tmp_path):
    texts = [f"Page {i * 7919} is about {i**5} words and the river. " * 40 for i in range(8)]
    datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "text.parquet")
    text = str(tmp_path / "text.parquet")
    sizes = {"encoder_hidden_size": 16, "decoder_hidden_size": 16, "hidden_size": 16, "intermediate_size": 16}
    common = ["--train_file", text, "--validation_file", text, "--max_steps", "2", "--report_passages", "3"]
    common += ["--config", json.dumps(sizes | {"num_attention_heads": 2}), "--per_device_train_batch_size", "8"]
    first, second = tmp_path / "first", tmp_path / "second"
    recipe = str(ROOT / "recipes" / "fsq-autoencoder-small.yaml")
    assert run_pretraining.main([recipe, *common, "--token_list_size", "30", "--output_dir", str(first)]) == 0
    recipe = str(ROOT / "recipes" / "fsq-autoencoder-small-lm.yaml")
    assert run_pretraining.main([recipe, *common, "--initial_checkpoint", str(first), "--output_dir", str(second)]) == 0
    assert AutoModelForCausalLM.from_pretrained(second).config.num_hidden_layers == 8


def test_the_abstractinator_s_recipe_for_a_gpu_runs(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The end of the river is not the end of the water. " * 400)
    sizes = {"level_sizes": [16], "level_heads": [2], "level_intermediate_sizes": [16], "hidden_size": 16}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 16}
    arguments = [
        str(ROOT / "recipes" / "abstractinator-base.yaml"), "--train_file", str(text), "--validation_file", str(text),
        "--max_steps", "2", "--config", json.dumps(sizes), "--per_device_train_batch_size", "2", "--report_passages", "3",
        "--passage_length", "512", "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    assert run_pretraining.main(arguments) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").config.num_hidden_layers == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "fsq_autoencoder_lm"], "needs --initial_checkpoint"),
        (["--family", "fsq_autoencoder", "--token_list_share", "0.5"], "no share of 0 tokens"),
        (["--family", "fsq_autoencoder", "--chunk_temper", "-1"], "chunk_temper -1.0 is negative"),
        (["--family", "fsq_autoencoder", "--noise_rate", "0.1"], "has no noise"),
        (["--family", "fsq_autoencoder", "--streaming", "true", "--max_steps", "3"], "leave --streaming out"),
        (["--family", "fsq_autoencoder", "--max_tokens", "9"], "leave --max_tokens out"),
        (["--kept_codes", "5"], "kept_codes is for fsq_autoencoder"),
        (["--with_bytes", "true"], "with_bytes is for fsq_autoencoder_lm"),
    ],
)
def test_fields_of_chunks_are_refused_where_they_would_be_ignored(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(arguments)


def test_from_masks_to_noise_as_the_world_makes_it(tmp_path, corpus_file):
    common = [
        "--train_file", str(corpus_file), "--validation_file", str(corpus_file), "--max_steps", "4", "--report_passages", "3",
        "--passage_length", "64", "--min_passage_length", "8", "--per_device_train_batch_size", "4",
        "--logging_steps", "1", "--disable_tqdm", "true",
    ]  # fmt: skip
    config = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "byte_key_value_heads": 1}
    config |= {"word_key_value_heads": 2}
    first, second = str(tmp_path / "masks"), str(tmp_path / "noise")
    assert run_pretraining.main(["--config", json.dumps(config), "--output_dir", first, *common]) == 0
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps({"noisy": "Docunient 1", "clean": "Document 1"}) for _ in range(9)))
    OcrNoiseModel.fit([("Docunient 1 is ahout 3 vvords", "Document 1 is about 3 words")] * 9).save_pretrained(
        tmp_path / "fitted"
    )
    arguments = [
        "--family", "encodzall_denoise", "--initial_checkpoint", first, "--output_dir", second, *common,
        "--config", json.dumps(config | {"contrastive_loss_weight": 0.1}),
        "--noise_model", str(tmp_path / "fitted"), "--noise_minimum", "0.05", "--pairs_file", str(pairs),
    ]  # fmt: skip
    assert run_pretraining.main(arguments) == 0
    report = json.loads((Path(second) / "report.json").read_text())
    assert report["restoration"]["noisy_character_error_rate"] > 0
    assert len(report["samples"]) == 3
    model = AutoModelForSeq2SeqLM.from_pretrained(second)
    assert model.config.contrastive_loss_weight == 0.1
    assert model.config.use_cache
    logs = [
        log for log in json.loads((Path(second) / "trainer_state.json").read_text())["log_history"] if "loss" in log
    ]
    filtered = []
    for log in logs:
        assert log["loss"] == pytest.approx(log["sequence_loss"] + log["contrastive_loss"], rel=1e-3)
        # The decoder's loss is controlled, not the sum.
        filtered.append(log["sequence_loss"] if not filtered else 0.9 * filtered[-1] + 0.1 * log["sequence_loss"])
        assert log["noise_error"] == pytest.approx(0.3 - filtered[-1], rel=1e-3)
