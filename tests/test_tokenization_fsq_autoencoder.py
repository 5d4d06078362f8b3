import copy
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from fsq_training import TEXT, learn, trained_autoencoder, trained_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import fsq_autoencoder_config
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import modeling_textae as textae
from modeling_textae.models.chunks import chunks_of, fewest_parts
from modeling_textae.models.tokenization_fsq_autoencoder import CODE_MARGIN, Cache

HARD = [
    "", " ", "   ", "\x00", "a\x00b", "\n\n\n", "e\u0301\u0302", "\u0301", "🙂👩‍👩‍👧", "שלום עולם", "日本語", "<eos> <pad>",
    "x" * 1_000_000, "The river of the land", " of the of the", "\u200b\ufeff", "\r\n\t", "�",
]  # fmt: skip


@pytest.fixture
def tokenizer():
    return trained_tokenizer()


@pytest.mark.parametrize("kind", ["bare", "trained"])
@pytest.mark.parametrize("text", HARD)
def test_hard_strings_round_trip(kind, text):
    tokenizer = trained_tokenizer() if kind == "trained" else textae.AutoEncoderTokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(ids)) == text
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == ids


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=50))
def test_every_string_round_trips(text):
    text = text.encode("utf-8", "replace").decode()
    tokenizer = trained_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_lone_surrogate_raises_with_its_place(tokenizer):
    with pytest.raises(UnicodeEncodeError, match="position 2:"):
        tokenizer("a \ud800")
    with pytest.raises(ValueError, match="more than 16 bytes"):
        tokenizer.encode_chunks(["x" * 17])
    assert tokenizer.encode_chunks([]) == []


def test_the_encoder_gives_every_token_that_the_table_has(tokenizer):
    strings = tokenizer.strings()
    assert len(strings) == len(tokenizer.kept) == len(tokenizer) - 261 > 40
    for i, string in enumerate(strings, start=261):
        codes, _ = tokenizer._codes([string])
        assert (codes == tokenizer.kept[i - 261]).all()
        # The encoder path alone gives the table's entry.
        assert tokenizer._owned([string]) == [i]


def test_ids_are_the_fewest_that_spell_each_chunk(tokenizer):
    id_of = {bytes([i]): i for i in range(256)} | {s: 261 + i for i, s in enumerate(tokenizer.strings())}
    for chunk in dict.fromkeys(chunks_of(TEXT + "thermal landscape\n\n rivered")):
        assert tokenizer.encode_chunks([chunk]) == [fewest_parts(chunk.encode(), id_of)]


def test_spans_of_words_are_one_token(tokenizer):
    tokens = tokenizer.tokenize(TEXT)
    assert any(len(chunks_of(token)) > 1 for token in tokens)
    assert len(tokens) < len(chunks_of(TEXT))


def test_without_spans_a_context_does_not_depend_on_what_follows(tokenizer, tmp_path):
    apart = tokenizer.without_spans()
    context, answer = "The end of the river", " of the land"
    whole = apart(context + answer)["input_ids"]
    assert whole == apart(context)["input_ids"] + apart(answer)["input_ids"]
    assert apart.decode(whole) == context + answer
    assert len(tokenizer(context + answer)["input_ids"]) < len(whole)
    apart.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(context + answer)["input_ids"] == whole
    assert apart.add_tokens(["<new>"]) == 1
    assert "<new>" not in tokenizer.get_vocab()
    assert tokenizer.convert_ids_to_tokens([258]) == apart.convert_ids_to_tokens([258]) == ["<eos>"]


def test_nothing_depends_on_batch_cache_thread_or_precision(tokenizer, tmp_path):
    texts = [TEXT[i : i + 90] for i in range(0, 900, 45)] + HARD
    tokenizer.save_pretrained(tmp_path)
    fresh = [AutoTokenizer.from_pretrained(tmp_path, **options) for options in ({}, {"cache_size": 3})]
    expected = [fresh[1](text)["input_ids"] for text in texts]
    assert fresh[0](texts)["input_ids"] == expected
    assert fresh[0](texts[::-1])["input_ids"] == expected[::-1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: fresh[1](text)["input_ids"], texts)) == expected
    int8 = AutoTokenizer.from_pretrained(tmp_path, int8_encoder=True)
    assert int8(texts)["input_ids"] == expected
    assert np.array_equal(int8.token_codes(), tokenizer.token_codes())  # or two models would share a fingerprint
    # Which int8 products often round as float32 does; where they do not, the table corrects them.
    owned = np.array(int8._owned(int8.strings()))
    assert ((owned == np.arange(261, len(int8))) | (owned == -1)).all()
    assert (owned >= 0).mean() > 0.3
    hashed = Hasher.hash(int8)
    assert pickle.loads(pickle.dumps(int8))(texts)["input_ids"] == expected
    assert Hasher.hash(int8) == hashed


def test_the_cache_is_bounded_and_remembers_the_last():
    cache, made = Cache(4), []

    def make(strings):
        made.extend(strings)
        return [string.upper() for string in strings]

    assert cache.find(["a", "b", "a"], make) == ["A", "B", "A"]
    assert cache.find(list("cd"), make) == list("CD")
    assert cache.find(list("ea"), make) == list("EA")
    assert cache.find(list("acd"), make) == list("ACD")  # the one used longest ago made room
    assert made == list("abcde")
    assert cache.find(list("b"), make) == list("B")
    assert made == list("abcdeb")
    assert len(cache) <= 4
    assert cache.find(list("ghijklmnop"), make) == list("GHIJKLMNOP")
    assert set(cache) == set("mnop")
    made.clear()
    assert cache.find(["p", "x" * 65], make) == ["P", "X" * 65]  # of many, the last are kept; long strings never
    assert made == ["x" * 65]
    assert "x" * 65 not in cache


def test_pickling_drops_the_cache_so_that_datasets_fingerprints_stay(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    before = Hasher.hash(loaded)
    ids = loaded(TEXT)["input_ids"]
    assert Hasher.hash(loaded) == before
    again = pickle.loads(pickle.dumps(loaded))
    assert not again._words
    assert again(TEXT)["input_ids"] == ids
    mapped = datasets.Dataset.from_dict({"text": HARD}).map(lambda row: again(row["text"]), num_proc=2)
    assert mapped["input_ids"] == loaded(HARD)["input_ids"]


def test_saving_keeps_ids_and_holds_no_strings(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is textae.AutoEncoderTokenizer
    assert (
        loaded.fingerprint
        == tokenizer.fingerprint
        == json.loads((tmp_path / "tokenizer_config.json").read_text())["fingerprint"]
    )
    assert loaded(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert len(loaded) == len(tokenizer)
    for path in (p for p in tmp_path.iterdir() if p.suffix != ".py"):
        assert b"river" not in path.read_bytes()
    tensors = load_file(tmp_path / "tokenizer.safetensors")
    assert tensors["kept"].shape == (len(tokenizer.kept), 2)
    assert tensors["encoder.proj.weight"].dtype == torch.bfloat16
    assert loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.safetensors").read_bytes() == (
        tmp_path / "tokenizer.safetensors"
    ).read_bytes()


def test_files_that_do_not_belong_together_are_refused(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"kept": tensors["kept"].flip(0).contiguous()}, path, metadata=metadata)
    with pytest.raises(ValueError, match="fingerprint"):
        AutoTokenizer.from_pretrained(tmp_path)
    save_file(tensors | {"kept": tensors["kept"][[0, 0]]}, path, metadata=metadata)
    with pytest.raises(ValueError, match="damaged"):
        textae.AutoEncoderTokenizer(str(path))
    del tensors["encoder.proj.weight"]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"lacks encoder\.proj\.weight"):
        textae.AutoEncoderTokenizer(str(path))
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("state", ["autocast", "precision", "dtype"])
def test_the_table_does_not_turn_on_the_callers_settings(state, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    try:
        if state == "precision":
            torch.set_float32_matmul_precision("medium")
        if state == "dtype":
            torch.set_default_dtype(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=state == "autocast"):
            loaded = AutoTokenizer.from_pretrained(tmp_path)
            assert loaded(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
            assert (loaded._codes(loaded.strings())[0] == tokenizer.kept).all()
        assert torch.get_float32_matmul_precision() == ("medium" if state == "precision" else "highest")
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)


FORKED = """
import sys, torch, datasets
torch.set_num_threads(2)
import modeling_textae
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
tokenizer.autoencoder.encoder(torch.zeros(4096, 16, dtype=torch.long), torch.ones(4096))
rows = datasets.Dataset.from_dict({"text": [f"river {i} sea" for i in range(600)]})
mapped = rows.map(lambda batch: tokenizer(batch["text"]), batched=True, batch_size=300, num_proc=2)
assert mapped[599]["input_ids"] == tokenizer("river 599 sea")["input_ids"]
"""


def test_forked_processes_tokenize_after_the_parent_has_used_threads(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", FORKED, str(tmp_path)], check=True, timeout=120, env=environment)


def test_a_file_keeps_its_fingerprint_whatever_fields_its_configuration_names(tokenizer, tmp_path):
    """As one that an older version of this package wrote."""
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    del config["num_frequencies"]
    save_file(load_file(path), path, metadata={"config": json.dumps(config)})
    older = textae.AutoEncoderTokenizer(str(path))
    older.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").fingerprint == older.fingerprint
    assert older(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]


def test_loading_leaves_the_random_state_alone(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    AutoTokenizer.from_pretrained(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_batches_pad_truncate_and_return_tensors(tokenizer):
    batch = tokenizer([" of the river", "the"], padding=True, padding_side="left", return_tensors="pt")
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == [" of the river", "the"]
    assert (batch["input_ids"][1][batch["attention_mask"][1] == 0] == tokenizer.pad_token_id).all()
    assert tokenizer("日本", truncation=True, max_length=4)["input_ids"] == list("日".encode())
    assert len(tokenizer(TEXT, truncation=True, max_length=5)["input_ids"]) == 5


def test_special_tokens_are_text_unless_asked_for(tokenizer):
    assert tokenizer.eos_token_id not in tokenizer("the <eos>")["input_ids"]
    whole = tokenizer("the <eos>", split_special_tokens=False)["input_ids"]
    assert whole[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(whole) == "the <eos>"
    assert tokenizer.decode(whole, skip_special_tokens=True) == "the "
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) == len(tokenizer)
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    with pytest.raises(ValueError, match="no token"):
        tokenizer.decode([len(tokenizer)])
    with pytest.raises(ValueError, match="no token"):
        tokenizer.convert_tokens_to_ids("日")


def test_codes_and_bytes_of_every_token(tokenizer):
    codes, rows = tokenizer.token_codes(), tokenizer.token_bytes()
    assert codes.shape == (len(tokenizer), 2)
    assert (codes[256:261] == -1).all()
    assert (codes[261:] == tokenizer.kept).all()
    for i in (0, 97, 261, len(tokenizer) - 1):
        string = bytes(rows[i][rows[i] < 256].tolist())
        assert string == tokenizer.decode_bytes([i])
        if i >= 261:
            latents = tokenizer.autoencoder.encode(torch.tensor([list(string)]))
            assert (tokenizer.autoencoder.quantizer.codes_to_indices(latents)[0].numpy() == codes[i]).all()
    with pytest.raises(ValueError, match="no autoencoder"):
        textae.AutoEncoderTokenizer().token_codes()


def test_only_codes_that_are_safe_are_kept():
    model, tokens, _ = trained_autoencoder()
    tokenizer = textae.AutoEncoderTokenizer.from_autoencoder(model, [*tokens, tokens[0], b"<eos>", b"qqzzxx"])
    strings = tokenizer.strings()
    assert len(set(strings)) == len(strings)
    assert b"<eos>" not in strings
    values = tokenizer.autoencoder.encoder(*_matrix(strings))
    assert (tokenizer.autoencoder.quantizer.margins(values) >= CODE_MARGIN).all()
    _, leads = tokenizer._spell(tokenizer.kept)
    assert (leads >= 1e-3).all()


def _matrix(strings):
    ids = np.zeros((len(strings), 16), dtype=np.int64)
    for row, string in zip(ids, strings, strict=True):
        row[: len(string)] = list(string)
    return torch.from_numpy(ids), torch.tensor([len(s) for s in strings])


def test_a_cache_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match="cache_size 0"):
        textae.AutoEncoderTokenizer(cache_size=0)


def test_tokens_of_a_users_own_take_no_bytes_away(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    wide = next(string for string in tokenizer.strings() if not string.isascii())
    for name in ("ã", wide.decode("latin-1")):  # how the vocabulary writes a byte, and the bytes of a token
        with pytest.raises(ValueError, match="cannot be added"):
            tokenizer.add_tokens([name])
    assert tokenizer.add_tokens(["foo", "日本"]) == 2
    text = "the foo of 日本 あ"
    ids = tokenizer(text)["input_ids"]
    assert {len(tokenizer) - 2, len(tokenizer) - 1} <= set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == ids


@pytest.mark.parametrize("num_codes", [1, 3, 4])
def test_any_number_of_codes_makes_a_tokenizer(num_codes, tmp_path):
    torch.manual_seed(0)
    config = fsq_autoencoder_config(num_codes=num_codes, levels=[8, 8, 8, 8, 8, 5, 5, 5])
    tokens = [b" river", b" of the", b"sea"]
    model = learn(textae.FsqAutoencoderModel(config), tokens, 60, 1e-2)
    made = textae.AutoEncoderTokenizer.from_autoencoder(model, tokens)
    assert len(made.kept)
    made.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode_chunks([string.decode() for string in made.strings()]) == [
        (made.first_code + i,) for i in range(len(made.kept))
    ]


def test_the_process_is_left_as_it_was(tokenizer):
    """Threads at once, and a forked child, find and leave torch's settings as the user made them."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with ThreadPoolExecutor(4) as pool:
            rows = list(pool.map(lambda i: tokenizer.encode_chunks([f" w{i}x{j}" for j in range(300)]), range(8)))
        assert len(rows) == 8
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_float32_matmul_precision(precision)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        context = multiprocessing.get_context("fork")
        with context.Pool(1) as pool:
            assert pool.apply(threads_after, (tokenizer,)) == 2
    finally:
        torch.set_num_threads(threads)


def threads_after(tokenizer):
    tokenizer.encode_chunks([" never seen"])
    return torch.get_num_threads()


def test_a_string_that_is_no_chunk_is_named():
    with pytest.raises(ValueError, match="up to 16 bytes"):
        textae.AutoEncoderTokenizer.from_autoencoder(trained_autoencoder()[0], [b"x" * 20])
