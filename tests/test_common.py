"""The tests that every model class passes; model_cases.py holds the records."""

import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys

import pytest
import torch
from model_cases import TEXTS, cases
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

# Fields that transformers itself reads: generation, loading and tying.
READ_BY_TRANSFORMERS = {
    "eos_token_id",
    "initializer_range",
    "is_encoder_decoder",
    "tie_word_embeddings",
}
# Fields that say what others need to know of a model, and that it does not read itself.
FOR_OTHERS = {"cta": {"pad_token_id"}, "fsq_autoencoder": {"pad_token_id", "bos_token_id"}}


def forward(model, inputs):
    with torch.no_grad():
        return model(**inputs)


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_gradients_equal(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=lambda m, name=name: f"{name}: {m}", **tolerance)


@pytest.mark.parametrize("case", cases())
def test_save_and_load_give_equal_outputs(case, tmp_path):
    model, inputs = case.model(), case.inputs(TEXTS)
    model.save_pretrained(tmp_path)
    loaded, info = case.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not list(tmp_path.glob("*.bin"))
    assert torch.equal(forward(model, inputs)[case.output], forward(loaded.eval(), inputs)[case.output])


@pytest.mark.parametrize("case", cases())
def test_auto_classes_load_what_was_saved(case, tmp_path):
    case.model().save_pretrained(tmp_path)
    case.tokenizer_class().save_pretrained(tmp_path)
    assert type(case.auto_class.from_pretrained(tmp_path)) is case.model_class
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is case.tokenizer_class
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(case.config())


REMOTE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_textae":
            raise ImportError("the package must not be needed")
sys.meta_path.insert(0, Blocker())
import json, torch, traceback, transformers
def load(folder, autos, name):
    inputs = torch.load(folder + "/inputs.pt", weights_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert tokenizer.decode(tokenizer("naïve")["input_ids"]) == "naïve"
    result = {}
    for auto in autos:
        model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
        result[auto] = type(model).__name__
        if auto == autos[0]:
            with torch.no_grad():
                output = model.eval()(**inputs)
            torch.save(output[name], folder + "/output.pt")
    return result
def try_to_load(arguments):
    try:
        return load(*arguments)
    except Exception:
        return traceback.format_exc()
print(json.dumps([try_to_load(arguments) for arguments in json.loads(sys.argv[1])]))
"""


def autos_of(folder, case):
    """The Auto classes by which a folder's model can be had, the case's own first, and the classes that they give."""
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    autos = [case.auto_class.__name__] + [a for a in auto_map if a not in ("AutoConfig", "AutoTokenizer")]
    return {auto: auto_map[auto].split(".")[1] for auto in autos}


@pytest.fixture(scope="module")
def loaded_as_remote_code(tmp_path_factory):
    """Of every case its folder and what one process without the package, which takes seconds to start, loads from there."""
    home = tmp_path_factory.mktemp("remote")
    every = [param.values[0] for param in cases()]
    arguments = []
    for case in every:
        folder = home / case.name
        case.model().save_pretrained(folder)
        case.tokenizer_class().save_pretrained(folder)
        torch.save(case.inputs(TEXTS), folder / "inputs.pt")
        arguments.append((str(folder), list(autos_of(folder, case)), case.output))
    script = home / "load.py"
    script.write_text(REMOTE)
    environment = {"HF_HOME": str(home / "home"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(arguments)],
        capture_output=True, text=True, env=environment, cwd=home, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = json.loads(done.stdout.splitlines()[-1])
    return {case.name: (home / case.name, found) for case, found in zip(every, loaded, strict=True)}


@pytest.mark.parametrize("case", cases())
def test_remote_code_loads_without_the_package(case, loaded_as_remote_code):
    folder, loaded = loaded_as_remote_code[case.name]
    assert loaded == autos_of(folder, case)
    model = case.model_class.from_pretrained(folder).eval()
    torch.testing.assert_close(torch.load(folder / "output.pt"), forward(model, case.inputs(TEXTS))[case.output])


@pytest.mark.parametrize("case", cases())
def test_every_config_field_is_read(case):
    own = {f.name for f in dataclasses.fields(case.config())} - {f.name for f in dataclasses.fields(PreTrainedConfig)}
    source = "".join(
        inspect.getsource(importlib.import_module(f"modeling_textae.models.{name}"))
        for name in case.family_files
        if not name.startswith("configuration")
    )
    unread = {name for name in own if not re.search(rf"config\.{name}\b", source)}
    assert unread <= READ_BY_TRANSFORMERS | FOR_OTHERS.get(case.config().model_type, set())


@pytest.mark.parametrize("case", cases())
def test_misspelt_config_sizes_are_refused(case):
    ((name, value),) = case.wrong.items()
    with pytest.raises(Exception, match=f"{name} {value}"):
        case.config(**case.wrong)


@pytest.mark.parametrize("case", cases())
def test_tied_weights_are_one_tensor_after_loading(case, tmp_path):
    model = case.model()
    model.save_pretrained(tmp_path)
    loaded = case.model_class.from_pretrained(tmp_path)
    tied = loaded._tied_weights_keys if loaded.config.tie_word_embeddings else None
    for target, source in (tied or {}).items():
        assert loaded.get_parameter(target) is loaded.get_parameter(source)


@pytest.mark.parametrize("case", cases(has_loss=True))
def test_ignored_labels_do_not_count(case):
    model, inputs = case.model(), case.inputs(TEXTS)
    number = (inputs["labels"][:2] != -100).sum()
    fewer = {k: v[:2] for k, v in inputs.items()}
    ignored = {k: v.clone() for k, v in inputs.items()}
    ignored["labels"][2:] = -100
    ignored = {k: v for k, v in ignored.items() if k != "target_word_index"} | (
        {"target_word_index": ignored["target_word_index"].masked_fill(ignored["labels"] == -100, -1)}
        if "target_word_index" in ignored
        else {}
    )
    torch.testing.assert_close(forward(model, fewer).loss, forward(model, ignored).loss)
    half = forward(model, fewer | {"num_items_in_batch": number * 2}).loss
    torch.testing.assert_close(half * 2, forward(model, fewer).loss)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("case", cases())
def test_padding_and_company_change_nothing(case, side):
    model = case.model()
    inputs = case.inputs(TEXTS, padding_side=side)
    output = forward(model, inputs)
    mask = case.output_mask(inputs, output)
    for i, text in enumerate(TEXTS):
        alone = case.inputs([text])
        alone_output = forward(model, alone)
        alone_mask = case.output_mask(alone, alone_output)
        torch.testing.assert_close(
            output[case.output][i][mask[i]], alone_output[case.output][0][alone_mask[0]], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("case", cases())
def test_evaluation_is_deterministic_and_training_drops_out(case):
    model, inputs = case.model(), case.inputs(TEXTS)
    assert torch.equal(forward(model, inputs)[case.output], forward(model, inputs)[case.output])
    for rate in case.rates:
        model = case.model(**dict.fromkeys(case.rates, 0.0) | {rate: 0.3})
        assert torch.equal(forward(model, inputs)[case.output], forward(model, inputs)[case.output])
        model.train()
        name = "loss" if case.has_loss else case.output  # scores may be left out in training
        assert not torch.equal(forward(model, inputs)[name], forward(model, inputs)[name]), rate


def scalar(case, output):
    return output.loss if case.has_loss else output[case.output].float().square().mean()


@pytest.mark.parametrize("case", cases())
def test_every_parameter_gets_a_gradient(case):
    model = case.model().train()
    scalar(case, model(**case.inputs(TEXTS))).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []


@pytest.mark.parametrize("case", cases(has_loss=True))
def test_part_losses_sum_to_the_loss(case):
    output = case.model()(**case.inputs(TEXTS))
    parts = {name: value for name, value in output.items() if name.endswith("_loss")}
    assert set(parts) == set(case.loss_parts)
    if parts:
        torch.testing.assert_close(sum(parts.values()), output.loss.detach())
    assert not any(part.requires_grad for part in parts.values())
    assert output.loss.requires_grad


@pytest.mark.parametrize("case", cases(has_loss=True, is_stochastic=False))
def test_accumulation_equals_a_large_batch(case):
    inputs = case.inputs(TEXTS)
    number = (inputs["labels"] != -100).sum()
    whole = case.model().train()
    whole(**inputs).loss.backward()
    parts = case.model().train()
    for i in range(len(TEXTS)):
        parts(**{k: v[i : i + 1] for k, v in inputs.items()}, num_items_in_batch=number).loss.backward()
    assert_gradients_equal(gradients(whole), gradients(parts), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", cases(has_loss=True))
def test_overfits_one_batch(case):
    model, inputs = case.model().train(), case.inputs(TEXTS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = model(**inputs).loss.item()
    for _ in range(150):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05 * first


@pytest.mark.parametrize("case", cases(resizable=True))
def test_embeddings_can_be_resized(case):
    model, inputs = case.model(), case.inputs(TEXTS)
    before = forward(model, inputs)[case.output]
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 7)
    assert model.get_input_embeddings().num_embeddings == size + 7
    after = forward(model, inputs)[case.output]
    torch.testing.assert_close(after[..., : before.shape[-1]], before)


@pytest.mark.parametrize("case", cases(expensive=True))
def test_compiled_forward_equals_eager(case):
    model, inputs = case.model(), case.inputs(TEXTS)
    expected = forward(model, inputs)[case.output]
    torch._dynamo.reset()
    compiled = torch.compile(model)
    torch.testing.assert_close(forward(compiled, inputs)[case.output], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", cases(has_attention=True))
def test_sdpa_equals_eager(case):
    model, inputs = case.model(), case.inputs([TEXTS[1] * 30, *TEXTS])
    model.set_attn_implementation("eager")
    eager = forward(model, inputs)
    model.set_attn_implementation("sdpa")
    fused = forward(model, inputs)
    mask = case.output_mask(inputs, eager)
    torch.testing.assert_close(fused[case.output][mask], eager[case.output][mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", cases(is_stochastic=False))
def test_gradient_checkpointing_changes_nothing(case):
    inputs = case.inputs(TEXTS)
    plain, checkpointed = case.model().train(), case.model().train()
    checkpointed.gradient_checkpointing_enable()
    assert checkpointed.is_gradient_checkpointing
    for model in (plain, checkpointed):
        scalar(case, model(**inputs)).backward()
    assert_gradients_equal(gradients(plain), gradients(checkpointed))


@pytest.mark.parametrize("case", cases(is_stochastic=False))
def test_bfloat16_autocast_stays_finite_and_near(case):
    model, inputs = case.model(), case.inputs(TEXTS)
    expected = forward(model, inputs)[case.output]
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs)
    scalar(case, output).backward()
    assert all(g.isfinite().all() for g in gradients(model).values())
    if case.output not in output:  # in training a model may leave out what its loss does not need
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            output = model.eval()(**inputs)
    assert (output[case.output] - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.mark.parametrize("case", cases())
def test_bfloat16_weights_run(case):
    model = case.model().to(torch.bfloat16)
    assert forward(model, case.inputs(TEXTS))[case.output].isfinite().all()
