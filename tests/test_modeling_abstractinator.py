"""The Abstractinator: layers against plain references, and what makes its likelihood one."""

import itertools
import math
from pathlib import Path

import datasets
import pytest
import torch
from model_cases import TEXTS, abstractinator_config, abstractinator_inputs, two_levels, with_limits
from transformers import DynamicCache

import modeling_textae as textae
import run_eval
from modeling_textae.evaluation.segments import flipped_cuts, segment_figures
from modeling_textae.models.arithmetic_coding import HEADER
from modeling_textae.models.attention import rotary_table
from modeling_textae.models.hierarchical_autoencoder import (
    HierarchicalAutoencoder,
    LearnedQueryAttention,
    LocalTrunk,
    SlidingWindowAttention,
    SymbolEmbedding,
)

CARD = Path(__file__).parent.parent / "model_cards" / "abstractinator-nano"
BOS, EOS, PAD = 257, 258, 256
WITH_CODES = {"code_weight": 0.5, "reconstruction_weight": 0.5}
CONFIGS = {
    "rise_or_threshold": lambda **f: abstractinator_config(**f),
    "white_space": lambda **f: abstractinator_config(**{"segmentations": ["white_space"]} | f),
    "fixed": lambda **f: abstractinator_config(**{"segmentations": ["fixed"]} | f),
    "no_layers": lambda **f: abstractinator_config(**{"compressor_layers": [0], "ngram_sizes": [2, 3]} | f),
    "codes": lambda **f: abstractinator_config(**{"codebook_sizes": [64]} | WITH_CODES | f),
    "two_levels": lambda **f: two_levels(**WITH_CODES | f),
}


def build(config, model_class=textae.AbstractinatorForCausalLM):
    torch.manual_seed(0)
    model = model_class(config).eval()
    with_limits(model)
    return model


def some_ids(rows=3, length=40):
    """Ids of some text, with spaces, after `<bos>`."""
    ids = torch.randint(97, 110, (rows, length))
    ids[torch.rand(rows, length) < 0.2] = 32
    ids[:, 0] = BOS
    return ids


@pytest.fixture(params=[*CONFIGS, "card"])
def model(request):
    """Models with random weights, and the one that is published."""
    if request.param == "card":
        return textae.AbstractinatorForCausalLM.from_pretrained(CARD, dtype=torch.float32).eval()
    return build(CONFIGS[request.param]())


# Layers


@pytest.mark.parametrize("length", [1, 5, 8, 9, 16, 37])
def test_blocks_attend_as_a_band_of_the_whole(length):
    attention = SlidingWindowAttention(abstractinator_config(attn_implementation="eager"), 0).double()
    states = torch.randn(2, length, 32, dtype=torch.float64, requires_grad=True)
    table = rotary_table(torch.arange(length)[None], 8, dtype=torch.float64)
    output, key, _ = attention(states, table)

    query, key_, value = attention.projected(states, table)
    scores = query @ key_.transpose(2, 3) / math.sqrt(8)
    distance = torch.arange(length)[:, None] - torch.arange(length)
    scores = scores.masked_fill((distance < 0) | (distance >= 8), -math.inf)
    expected = attention.o_proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(2, length, 32))
    torch.testing.assert_close(output, expected)
    assert key.shape == (2, 4, length, 8)
    weights = torch.randn_like(output)
    found, wanted = (torch.autograd.grad((o * weights).sum(), states, retain_graph=True)[0] for o in (output, expected))
    torch.testing.assert_close(found, wanted)


def test_a_trunk_s_steps_equal_its_whole_pass():
    config = abstractinator_config(compressor_layers=[2])
    model = build(config)
    trunk: LocalTrunk = model.model.autoencoder.compressors[0].trunk
    states = torch.randn(2, 30, 32)
    expected, kept = trunk(states)
    rows = model.model.autoencoder.empty_rows(0, 2, torch.float32, states.device).compressor
    for place in range(30):
        found = trunk.step(states[:, place : place + 1], trunk.place(torch.full((2,), place)), rows)
        torch.testing.assert_close(found[:, 0], expected[:, place], atol=1e-5, rtol=1e-4)
    # The rows that a whole pass leaves are those of the steps, of texts of different lengths too.
    for row, length in enumerate((30, 5)):
        left = trunk.rows(kept, torch.tensor([length, length]))[0]
        real = min(length, 7)
        expected_keys = kept[0][0][row, :, length - real : length]
        torch.testing.assert_close(left.keys[row, :, 7 - real :], expected_keys)


def test_learned_queries_pool_each_segment_as_a_softmax():
    pool = LearnedQueryAttention(12, 3, 5)
    torch.nn.init.normal_(pool.pool.query)
    values, lengths = torch.randn(9, 12), (4, 2, 3)
    segments = torch.tensor([0] * 4 + [1] * 2 + [2] * 3)
    found = pool(values, segments, 3, torch.tensor([3, 5, 8]))
    start = 0
    for number, length in enumerate(lengths):
        own = values[start : start + length]
        heads = pool.value(own).view(length, 3, 4)
        weights = ((heads * pool.pool.query).sum(-1) / 2).softmax(0)
        pooled = (heads * weights[..., None]).sum(0).flatten()
        torch.testing.assert_close(found[number], pool.out(torch.cat((pooled, own[-1]))))
        start += length


def test_hashes_of_runs_turn_on_the_run_alone():
    embed = SymbolEmbedding(abstractinator_config(ngram_sizes=[3]))
    ids = torch.tensor([list(b"abcdxbcd"), list(b"zzbcdqab")])
    whole = embed(ids)
    only = whole - embed.symbols(ids)
    torch.testing.assert_close(only[0, 3], only[0, 7])  # "bcd"
    torch.testing.assert_close(only[0, 3], only[1, 4])
    assert not torch.allclose(only[0, 3], only[0, 2])
    torch.testing.assert_close(embed(ids[:, 5:], recent=ids[:, 3:5]), whole[:, 5:])


def test_runs_have_the_buckets_of_a_plain_hash():
    embed = SymbolEmbedding(abstractinator_config(ngram_sizes=[5, 3], ngram_buckets=999))
    seen = []
    embed.ngrams.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    ids = [*list(b"the river"), 260]
    embed(torch.tensor([ids]))
    whole = [1] * 4 + [i + 2 for i in ids]  # 1 is the place before the first
    for place in range(len(ids)):
        for column, size in enumerate((5, 3)):
            number = size
            for i in whole[place + 5 - size : place + 5]:
                number = (number * 1_000_003 + i) % 2**40
            assert seen[0][0, place, column] == (number ^ (number >> 17)) % 999


def test_no_two_common_runs_share_a_bucket_more_than_chance():
    embed = SymbolEmbedding(abstractinator_config(ngram_sizes=[3], ngram_buckets=4096))
    seen = []
    embed.ngrams.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    runs = torch.tensor(list(itertools.product(b"abcdefghij", repeat=3)))
    embed(runs)
    buckets = seen[0][:, 2, 0]
    expected = 4096 * (1 - (1 - 1 / 4096) ** 1000)
    assert len(buckets.unique()) == pytest.approx(expected, rel=0.05)


# Segments


def test_segments_are_those_of_the_entropies():
    model = build(abstractinator_config())
    stack: HierarchicalAutoencoder = model.model.autoencoder
    ids = some_ids()
    level = stack.analyse(ids, torch.tensor([40, 40, 25]))[0]
    values, limit = level.values, float(stack.compressors[0].limit.limit)
    for row, length in enumerate((40, 40, 25)):
        cuts, count = [], 0
        for place in range(1, length):
            count += 1
            rises = values[row, place] - values[row, place - 1] > limit
            cuts.append(bool(rises) or count == 6)
            count = 0 if cuts[-1] else count
        assert level.cuts[row, 1:length].tolist() == cuts
        assert not level.cuts[row, length:].any()
        ends = [i + 1 for i, cut in enumerate(cuts) if cut]
        lengths = [b - a for a, b in itertools.pairwise([0, *ends])]
        if count:
            lengths.append(count)
        assert level.segment_lengths[row, : len(lengths)].tolist() == lengths
        assert level.counts[row] == len(lengths)
    assert 1.2 < (level.lengths - 1).sum() / level.counts.sum() < 5


def test_vectors_of_single_segments_equal_those_of_the_whole():
    model = build(abstractinator_config(codebook_sizes=[64]))
    compressor = model.model.autoencoder.compressors[0]
    level = model.model.autoencoder.analyse(some_ids(), torch.full((3,), 40))[0]
    for row in range(3):
        start = 1
        for number in range(int(level.counts[row])):
            length = int(level.segment_lengths[row, number])
            held = torch.zeros(1, 6, 32)
            held[0, -length:] = level.states[row, start : start + length]
            vector, code = compressor.vector_of(held, torch.tensor([length]))
            torch.testing.assert_close(vector[0], level.vectors[row, number])
            assert code[0] == level.codes[row, number]
            start += length


def test_white_space_and_fixed_rules():
    ids = torch.tensor([[BOS, *b"to be, or not  to be"]])
    lengths = build(CONFIGS["white_space"]())(ids).segment_lengths
    assert lengths.tolist() == [[3, 4, 3, 4, 1, 3, 2]]
    assert build(CONFIGS["fixed"]())(ids).segment_lengths.tolist() == [[3, 3, 3, 3, 3, 3, 2]]


def test_given_segments_are_kept_and_too_long_ones_refused():
    model = build(abstractinator_config())
    ids = torch.tensor([[BOS, *b"to be, or not"]])
    segments = torch.tensor([[0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4]])
    assert model(ids, segment_ids=segments).segment_lengths.tolist() == [[3, 4, 5, 1]]
    with pytest.raises(ValueError, match="a segment is too long: max_segment_lengths accepts up to 6"):
        model(ids, segment_ids=segments.clamp(max=1))


@pytest.mark.parametrize("length", [5, 6])
def test_a_given_last_segment_may_be_as_long_as_any(length):
    model = build(abstractinator_config())
    ids = some_ids(2, 7 + length + 8)
    segments = (torch.arange(ids.shape[1]) >= 7).long() + (torch.arange(ids.shape[1]) >= 7 + length).long()
    segments[0] = 0
    given = 7 + length
    segments = torch.stack([segments, segments])
    with torch.no_grad():
        output = model(ids[:, :given], segment_ids=segments[:, :given], use_cache=True)
        for place in range(given, ids.shape[1]):
            output = model(ids[:, place : place + 1], past_key_values=output.past_key_values)
    assert output.logits.isfinite().all()
    assert int(output.past_key_values.levels[0].held_count.max()) <= 6


@pytest.mark.parametrize("name", ["rise_or_threshold", "white_space", "fixed", "two_levels"])
@pytest.mark.parametrize("given", [9, 12, 13])
def test_after_given_segments_the_rule_decides_with_a_cache_and_without(name, given):
    model = build(CONFIGS[name]())
    ids = some_ids(2, 30)
    segments = (torch.arange(30) // 4).expand(2, 30).clone()
    segments[1] = (torch.arange(30) + 2) // 5
    with torch.no_grad():
        output = model(ids[:, :given], segment_ids=segments[:, :given], use_cache=True)
        found = [output.logits]
        for place in range(given, 30):
            output = model(ids[:, place : place + 1], past_key_values=output.past_key_values)
            found.append(output.logits)
        segments[:, given:] = -1
        whole = model(ids, segment_ids=segments).logits
        segments[:, given + 1 :] = 99  # beyond a -1 nobody reads them
        assert torch.equal(model(ids, segment_ids=segments).logits, whole)
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-4, rtol=1e-4)


def test_numbers_of_segments_rise():
    model = build(abstractinator_config())
    with pytest.raises(ValueError, match="numbers of segments rise"):
        model(torch.tensor([[BOS, *b"to be"]]), segment_ids=torch.tensor([[0, 3, 3, 1, 1, 3]]))


def test_training_holds_the_wanted_mean_length():
    model = build(abstractinator_config(target_segment_lengths=[3.0]), textae.AbstractinatorModel).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    lengths = []
    for _ in range(25):
        ids = some_ids(8, 60)
        output = model(ids, labels=ids)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        lengths.append(output.segment_length.item())
    assert sum(lengths[-5:]) / 5 == pytest.approx(3.0, abs=0.6)


# The likelihood


@pytest.mark.parametrize("place", [1, 7, 20, 39])
def test_no_logit_sees_what_it_predicts_or_what_comes_later(model, place):
    ids = some_ids()
    changed = ids.clone()
    changed[:, place] = 120
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    # Products of other shapes, of another number of segments, round otherwise.
    torch.testing.assert_close(before[:, :place], after[:, :place], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, place:], after[:, place:], atol=1e-2)


@pytest.mark.parametrize("length", [1, 2, 9, 26])
def test_a_prefix_has_the_logits_of_the_whole(model, length):
    ids = some_ids()
    with torch.no_grad():
        torch.testing.assert_close(model(ids[:, :length]).logits, model(ids).logits[:, :length], atol=1e-4, rtol=1e-4)


FOUR = [ord("a"), ord("b"), ord(" "), EOS]


def only_four(model):
    """Leave four symbols possible: three bytes and the end."""
    head = model.model.autoencoder.expanders[0].head
    impossible = torch.ones(257, dtype=torch.bool)
    impossible[[ord("a"), ord("b"), ord(" "), 256]] = False
    with torch.no_grad():
        head.bias[impossible] = -1e4


def all_strings(longest):
    """All strings that end before a length, and all of just that length."""
    ended = [[*s, EOS] for n in range(longest) for s in itertools.product(FOUR[:3], repeat=n)]
    return ended, [list(s) for s in itertools.product(FOUR[:3], repeat=longest)]


@pytest.mark.parametrize("given_bos", [True, False])
def test_probabilities_of_all_strings_sum_to_one(model, given_bos):
    only_four(model)
    total = 0.0
    ended, whole = all_strings(3)
    for string in ended + whole:
        ids = torch.tensor([[BOS] * given_bos + string])
        with torch.no_grad():
            start = torch.tensor([[BOS]])
            told = torch.cat((model(start).logits, model(ids).logits), 1) if not given_bos else model(ids).logits
        told = told.double().log_softmax(-1)[0, :-1]
        total += told[torch.arange(len(string)), torch.tensor(string)].sum().exp().item()
    assert total == pytest.approx(1, abs=1e-5)


def test_what_is_neither_byte_nor_end_has_probability_zero(model):
    with torch.no_grad():
        shares = model(some_ids()).logits.softmax(-1)
    assert not shares[..., [256, 257, 259, 260]].any()
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 40))


def few_codes(model, number=3):
    """Leave few codes possible, and all texts one code: what is left of the two-part code is large enough to be summed."""
    model.code_transformer.head.bias.data[number:-1] = -1e4
    for compressor in model.model.autoencoder.compressors:
        compressor.quantizer.codebook[number:] = 1e3


@pytest.mark.parametrize("name", ["codes", "two_levels"])
def test_the_two_part_code_spends_at_least_what_the_strings_need(name):
    model = build(CONFIGS[name]())
    with torch.no_grad():
        only_four(model)
        few_codes(model)
        if name == "two_levels":
            model.model.autoencoder.expanders[1].head.bias[3:-1] = -1e4
    ended, _ = all_strings(5)
    total = 0.0
    for string in ended:
        codes, symbols = model.two_part_bits(torch.tensor([[BOS, *string]]))
        total += 2 ** -(codes + symbols).item()
    # Of each text the codes are known: what another code would leave to it is lost, as is all that is longer.
    assert 1e-3 < total <= 1 + 1e-6
    with pytest.raises(ValueError, match="without its end"):
        model.two_part_bits(torch.tensor([[BOS, *b"ab"]]))


def test_both_parts_of_the_two_part_code_are_probabilities():
    """Of all code strings ended before a length and all of that length; and of all strings, told the same codes."""
    model = build(CONFIGS["codes"]())
    with torch.no_grad():
        only_four(model)
        few_codes(model)
        vectors = model.model.autoencoder.compressors[-1].quantizer.codebook
        head, total = model.code_transformer.head, 0.0
        strings = [s for n in range(4) for s in itertools.product(range(3), repeat=n)]
        for string in strings:
            told = head(model.code_transformer(vectors[list(string)].view(1, -1, vectors.shape[1]))[0])[0]
            shares = told.double().log_softmax(-1)
            chosen = sum(shares[i, code] for i, code in enumerate(string))
            total += (chosen + (shares[len(string), -1] if len(string) < 3 else 0.0)).exp().item()
        assert total == pytest.approx(1, abs=1e-5)
        total, (ended, whole) = 0.0, all_strings(3)
        for string in ended + whole:
            ids = torch.tensor([[BOS, *string]])
            one_segment = torch.zeros_like(ids, dtype=torch.bool), torch.ones_like(ids, dtype=torch.bool)
            levels = model.model.autoencoder.analyse(ids, torch.tensor([ids.shape[1]]), one_segment)
            if ids.shape[1] > 1:
                levels[0].vectors = vectors[2].expand_as(levels[0].vectors)
            told = model.model.autoencoder.reconstruction_states(0, levels[0])[0]
            shares = model.model.autoencoder.expanders[0].head(told)[0].double().log_softmax(-1)
            chosen = [256 if i == EOS else i for i in string]
            total += shares[torch.arange(len(chosen)), torch.tensor(chosen)].sum().exp().item()
        assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["codes", "two_levels"])
def test_two_part_bits_of_a_batch_are_those_of_its_texts(name):
    model = build(CONFIGS[name]())
    rows = [[BOS, *text.encode(), EOS] for text in TEXTS]
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    codes, symbols = model.two_part_bits(ids, (ids != PAD).long())
    for row, text in enumerate(rows):
        alone = model.two_part_bits(torch.tensor([text]))
        torch.testing.assert_close(codes[row : row + 1], alone[0], atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(symbols[row : row + 1], alone[1], atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_given_segments_batches_and_padding_change_nothing(model, side):
    inputs = abstractinator_inputs(TEXTS, padding_side=side)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    segments = (mask.cumsum(1) // 4) * mask
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, segment_ids=segments).logits
        for row in range(len(TEXTS)):
            real = mask[row] == 1
            alone = model(ids[row : row + 1, real], segment_ids=segments[row : row + 1, real]).logits
            torch.testing.assert_close(whole[row, real], alone[0], atol=1e-4, rtol=1e-4)


def test_a_missing_start_is_read_as_if_it_were_there(model):
    ids = some_ids()
    with torch.no_grad():
        torch.testing.assert_close(model(ids[:, 1:]).logits, model(ids).logits[:, 1:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_cache_changes_nothing(model, side):
    ids = some_ids()
    with torch.no_grad():
        whole = model(ids).logits
        mask = torch.ones(3, 12, dtype=torch.long)
        mask[1, :5] = 0  # one row has a shorter prompt
        prompts = ids[:, :12].clone()
        prompts[1, 5:] = ids[1, :7]
        if side == "right":
            prompts[1], mask[1] = prompts[1].roll(-5), mask[1].roll(-5)
        output = model(prompts, attention_mask=mask, use_cache=True)
        for step in range(28):
            following = torch.stack((ids[0, 12 + step], ids[1, 7 + step], ids[2, 12 + step]))[:, None]
            output = model(following, past_key_values=output.past_key_values)
            for row, place in enumerate((12 + step, 7 + step, 12 + step)):
                torch.testing.assert_close(output.logits[row, 0], whole[row, place], atol=1e-4, rtol=1e-4)


def test_several_tokens_after_a_cache_equal_one_after_the_other(model):
    ids = some_ids()
    with torch.no_grad():
        cache = model(ids[:, :9], use_cache=True).past_key_values
        found = model(ids[:, 9:25], past_key_values=cache)
        torch.testing.assert_close(found.logits, model(ids).logits[:, 9:25], atol=1e-4, rtol=1e-4)
        last = model(ids[:, 25:30], past_key_values=found.past_key_values, logits_to_keep=1)
        assert last.logits.shape[1] == 1


def test_labels_beside_a_cache_are_refused(model):
    with torch.no_grad():
        cache = model(some_ids(), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="labels and segment_ids are of whole texts"):
        model(torch.tensor([[97]] * 3), past_key_values=cache, labels=torch.tensor([[97]] * 3))
    for name in ("atention_mask", "position_ids"):
        with pytest.raises(TypeError, match=f"reads no {name}"):
            model(some_ids(), **{name: torch.ones(3, 40)})


@pytest.mark.parametrize("given_bos", [True, False])
def test_generation_goes_on_from_a_cache_with_all_that_it_has_not_read(model, given_bos):
    ids = some_ids(2, 30)[:, 0 if given_bos else 1 :]
    options = {"pad_token_id": PAD, "eos_token_id": None, "do_sample": False, "return_dict_in_generate": True}
    first = model.generate(ids[:, :10], attention_mask=torch.ones_like(ids[:, :10]), max_new_tokens=4, **options)
    more = torch.cat((first.sequences, ids[:, 10:21]), 1)
    options |= {"max_new_tokens": 5, "attention_mask": torch.ones_like(more)}
    expected = model.generate(more, **options).sequences
    found = model.generate(more, past_key_values=first.past_key_values, **options)
    assert torch.equal(found.sequences, expected)
    with pytest.raises(ValueError, match="has read all of input_ids"):
        model.generate(more[:, :5], past_key_values=found.past_key_values, **options)


def test_generation_reads_given_segments():
    model = build(abstractinator_config())
    ids = some_ids(1, 13)
    segments = torch.arange(13)[None] // 4
    options = {"max_new_tokens": 1, "pad_token_id": PAD, "eos_token_id": None, "do_sample": False}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    told = model.generate(ids, segment_ids=segments, attention_mask=torch.ones_like(ids), **options).logits[0]
    with torch.no_grad():
        torch.testing.assert_close(told, model(ids, segment_ids=segments).logits[:, -1])
        assert not torch.allclose(told, model(ids).logits[:, -1], atol=1e-3)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_goes_beyond_given_segments(use_cache):
    model = build(abstractinator_config())
    ids = some_ids(2, 13)
    options = {"max_new_tokens": 9, "pad_token_id": PAD, "eos_token_id": None, "do_sample": False}
    options |= {"segment_ids": (torch.arange(13) // 4).expand(2, 13), "attention_mask": torch.ones_like(ids)}
    options |= {"return_dict_in_generate": True, "output_logits": True, "use_cache": use_cache}
    found = model.generate(ids, **options)
    segments = torch.nn.functional.pad(options["segment_ids"], (0, 9), value=-1)
    with torch.no_grad():
        whole = model(found.sequences, segment_ids=segments).logits[:, 12:-1]
    torch.testing.assert_close(torch.stack(found.logits, 1), whole, atol=1e-4, rtol=1e-4)


def test_caches_and_padding_that_cannot_be_gone_on_from_are_refused():
    model, ids = build(abstractinator_config()), some_ids(2, 12)
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(model(ids, past_key_values=DynamicCache(), use_cache=True).logits, expected)
        full = DynamicCache()
        full.update(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4), 0)
        with pytest.raises(TypeError, match="a DynamicCache keeps no segments"):
            model(ids, past_key_values=full)
        cache = model(ids, use_cache=True).past_key_values
        assert not cache.is_croppable
        with pytest.raises(TypeError, match="cannot be cropped"):
            cache.crop(3)
        with pytest.raises(TypeError, match="cannot be reset"):
            cache.reset()
        with pytest.raises(ValueError, match="padding beside past_key_values"):
            model(ids[:, :2], past_key_values=cache, attention_mask=torch.tensor([[1] * 14, [1] * 13 + [0]]))
        with pytest.raises(TypeError, match="reads no nonsense"):
            model(ids[:, :2], past_key_values=cache, nonsense=3)
        with pytest.raises(ValueError, match="id 300 is no token"):
            model(torch.full((2, 1), 300), past_key_values=cache)
    with pytest.raises(TypeError, match="reads no output_hidden_states"):
        model(ids, output_hidden_states=True)


def test_a_text_that_has_ended_runs_the_top_no_more():
    model = build(CONFIGS["fixed"]())
    ids = torch.tensor([[BOS, *b"to be"], [BOS, *b"or no"]])
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        model(torch.tensor([[EOS], [97]]), past_key_values=cache)
        seen = cache.top.seen.clone()
        for _ in range(6):
            model(torch.tensor([[PAD], [97]]), past_key_values=cache)
    assert (cache.top.seen - seen).tolist() == [0, 2]


def test_wrong_tokens_and_labels_are_refused(model):
    with pytest.raises(ValueError, match="id 261 is no token: accepted are 0 to 260"):
        model(torch.tensor([[BOS, 261]]))
    with pytest.raises(ValueError, match="label 260 is never predicted"):
        model(torch.tensor([[BOS, 260]]), labels=torch.tensor([[BOS, 260]]))
    with pytest.raises(ValueError, match="cannot be resized"):
        model.resize_token_embeddings(300)


def test_the_loss_is_the_mean_of_the_labels_nats():
    model = build(abstractinator_config(entropy_weight=0.0))
    ids = some_ids()
    labels = ids.clone()
    labels[0, :20] = -100
    with torch.no_grad():
        output = model(ids, labels=labels)
        told = output.logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        torch.testing.assert_close(output.loss, -told[labels[:, 1:] != -100].mean())


# Generation


@pytest.mark.parametrize("arguments", [{"do_sample": False}, {"do_sample": True, "top_k": 5}])
def test_generation_in_a_batch_equals_that_without_cache(model, arguments):
    ids = some_ids(2, 10)
    options = {"max_new_tokens": 15, "pad_token_id": PAD, "eos_token_id": EOS} | arguments
    torch.manual_seed(1)
    cached = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    torch.manual_seed(1)
    plain = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
    assert torch.equal(cached, plain)
    assert cached.shape == (2, 25)


def test_generation_can_be_asked_for_all_that_transformers_knows(model):
    ids = some_ids(2, 10)
    options = {
        "return_dict_in_generate": True,
        "output_hidden_states": True,
        "output_attentions": True,
        "output_scores": True,
    }
    found = model.generate(input_ids=ids, max_new_tokens=3, pad_token_id=PAD, eos_token_id=None, **options)
    assert found.sequences.shape == (2, 13)
    assert len(found.scores) == 3


def test_prompts_of_different_lengths_go_on_as_alone(model):
    prompts = ["hello world", b"a", "to be or not to be, that"]
    together = model.generate_bytes(prompts, max_new_bytes=12)
    assert together == [model.generate_bytes([prompt], max_new_bytes=12)[0] for prompt in prompts]
    assert all(len(found) <= 12 for found in together)


def test_generation_stops_at_the_end(model):
    with torch.no_grad():
        model.model.autoencoder.expanders[0].head.bias[256] = 1e3
    assert model.generate_bytes(["hello"], max_new_bytes=12) == [b""]


def test_beams_follow_their_rows(model):
    ids = some_ids(2, 10)
    options = {"max_new_tokens": 6, "pad_token_id": PAD, "eos_token_id": EOS, "num_beams": 3, "do_sample": False}
    cached = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    plain = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
    assert torch.equal(cached, plain)


def test_the_top_runs_once_a_segment():
    model = build(CONFIGS["fixed"]())
    calls = []
    model.code_transformer.trunk.register_forward_hook(lambda *_: calls.append(1))
    model.generate_bytes(["ab"], max_new_bytes=31)
    # The prompt's own pass, then one for each three of the thirty bytes that are read again.
    assert len(calls) == 1 + 32 // 3


@pytest.mark.parametrize("name", ["codes", "two_levels"])
def test_codes_generate_until_their_end(name):
    model = build(CONFIGS[name]())
    assert 0 < len(model.generate_bytes(["hello"], max_new_bytes=9, mode="codes")[0]) <= 9
    sampled = [model.generate_bytes(["hello"], 9, "codes", do_sample=True, top_p=0.9, seed=s)[0] for s in (1, 1, 2)]
    assert sampled[0] == sampled[1]
    with torch.no_grad():
        model.code_transformer.head.bias[-1] = 1e3
    assert model.generate_bytes(["hello"], max_new_bytes=9, mode="codes") == [b""]
    with pytest.raises(ValueError, match="mode 'tokens' is unknown"):
        model.generate_bytes(["hello"], mode="tokens")
    with pytest.raises(TypeError, match="generating codes needs code_weight"):
        build(abstractinator_config()).generate_bytes(["hello"], mode="codes")


@pytest.mark.parametrize("name", ["codes", "two_levels"])
def test_codes_go_on_from_the_segments_that_have_ended(name):
    """Of those only the transformer is told, as in training; the bytes of a segment that is going on are spelled as they are."""
    model, prompt = build(CONFIGS[name]()), b"to be or not to be, that"
    ids = torch.tensor([[BOS, *prompt]])
    known, codes = model.ended(prompt)
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    assert len(codes) == int(cache.top.seen) - 1
    for (_, lengths), level in zip(known, cache.levels, strict=True):
        assert int(lengths.sum()) == int(level.seen - 1 - level.held_count)
    for more in ([], [3], [3, 5, 7]):
        spelled = model.decode(torch.cat((codes, torch.tensor(more, dtype=torch.long)))[None], known=known)[0].tolist()
        assert spelled[: len(prompt)] == list(prompt)[: len(spelled)]
        assert bool(more) == (len(spelled) > len(prompt))


# The autoencoder


@pytest.mark.parametrize("name", ["codes", "two_levels"])
def test_reconstruction_reaches_every_compressor(name):
    model = build(CONFIGS[name](entropy_weight=0.0, commitment_weight=0.0), textae.AbstractinatorModel)
    ids = some_ids()
    output = model(ids, labels=ids)
    output.loss.backward()
    for compressor in model.autoencoder.compressors:
        assert compressor.pool.out.weight.grad.any()
        assert compressor.trunk.layers[0].attention.qkv_proj.weight.grad.any()


@pytest.mark.parametrize("name", ["codes", "two_levels"])
def test_a_fitted_autoencoder_gives_texts_back_out_of_codes_alone(name):
    texts = ["to be or not to be", "that is the question", "whether ’tis nobler 🙂"]
    torch.manual_seed(0)
    levels = 2 if name == "two_levels" else 1
    config = CONFIGS[name](history_dropout=0.5, segmentations=["fixed"] * levels)
    model = textae.AbstractinatorModel(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    inputs = abstractinator_inputs(texts)
    for _ in range(400):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    tokenizer = textae.AbstractinatorTokenizer()
    assert model.reconstruct(texts, tokenizer) == texts
    encoded = model.encode(inputs["input_ids"], inputs["attention_mask"])
    assert torch.equal(encoded.codes >= 0, encoded.segment_lengths > 0)
    bits = model.latent_bits(encoded.latents)
    size = model.config.codebook_sizes[-1]
    torch.testing.assert_close(bits, (encoded.codes >= 0).sum(1) * math.log2(size))


def test_vectors_without_codes_are_decoded_with_their_lengths():
    model = build(CONFIGS["white_space"](), textae.AbstractinatorModel)
    ids = torch.tensor([[BOS, *b"to be or not"]])
    encoded = model.encode(ids)
    assert encoded.codes is None
    assert model.decode(encoded.latents, encoded.segment_lengths).shape == (1, 12)
    with pytest.raises(ValueError, match="vectors without segment_lengths"):
        model.decode(encoded.latents)
    with pytest.raises(TypeError, match="the top has no codes"):
        model.decode(torch.tensor([[1]]))
    with pytest.raises(ValueError, match="a segment of 500 is too long"):
        model.decode(encoded.latents, encoded.segment_lengths * 0 + 500)
    # Eight bits a number, and a length of at most 24.
    longest, numbers = model.config.max_segment_lengths[0], encoded.latents.shape[1] * encoded.latents.shape[2]
    lengths = encoded.latents.shape[1] * math.ceil(math.log2(longest))
    assert model.latent_bits(encoded.latents).tolist() == [numbers * 8 + lengths]
    assert (model.round_latents(encoded.latents) - encoded.latents).abs().max() <= model.latent_scale().max() * 0.51


def test_codes_that_there_are_not_are_refused():
    model = build(CONFIGS["codes"](), textae.AbstractinatorModel)
    with pytest.raises(ValueError, match="code 9999 is none: accepted are -1, for no segment, to 63"):
        model.decode(torch.tensor([[9999]]))


def test_a_language_model_is_the_autoencoder_that_it_holds():
    texts, tokenizer = ["to be or not", "that"], textae.AbstractinatorTokenizer()
    ids = tokenizer(texts, padding=True, return_tensors="pt")
    for name in ("codes", "rise_or_threshold"):
        model = build(CONFIGS[name]())
        assert model.has_decoder is (name == "codes")
        encoded = model.encode(ids["input_ids"], ids["attention_mask"])
        assert torch.equal(encoded.latents, model.model.encode(ids["input_ids"], ids["attention_mask"]).latents)
        assert torch.equal(model.latent_bits(encoded.latents), model.model.latent_bits(encoded.latents))
        if name == "codes":
            assert torch.equal(model.decode(encoded.codes), model.model.decode(encoded.codes))
            assert model.reconstruct(texts, tokenizer) == model.model.reconstruct(texts, tokenizer)
        else:
            with pytest.raises(TypeError, match="without reconstruction_weight"):
                model.reconstruct(texts, tokenizer)


def test_texts_without_a_byte_are_texts():
    tokenizer = textae.AbstractinatorTokenizer()
    model = build(CONFIGS["codes"]())
    assert model(torch.zeros(1, 0, dtype=torch.long)).logits.shape[:2] == (1, 0)
    assert model.reconstruct([""], tokenizer) == [""]
    assert model.generate_bytes([]) == []
    assert len(model.generate_bytes([""], max_new_bytes=3)) == 1
    with pytest.raises(TypeError, match="texts are a list"):
        model.generate_bytes("hello")
    state = torch.get_rng_state()
    model.generate_bytes(["a"], 2, do_sample=True, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_decoding_follows_the_scores_of_forward():
    """The bytes that decode() spells are those that forward() scores best, told the same codes and bytes before."""
    model = build(CONFIGS["codes"](), textae.AbstractinatorModel)
    encoded = model.encode(some_ids(2, 30))
    spelled = model.decode(encoded.codes, encoded.segment_lengths)
    segments = torch.repeat_interleave(
        torch.arange(encoded.codes.shape[1]).repeat(2), encoded.segment_lengths.flatten()
    ).view(2, 29)
    ids = torch.cat((torch.full((2, 1), BOS), spelled), 1)
    cuts = torch.nn.functional.pad(segments[:, 1:] != segments[:, :-1], (1, 1))
    levels = model.autoencoder.analyse(ids, torch.full((2,), 30), (cuts, torch.ones_like(cuts)))
    levels[0].vectors = encoded.latents
    scores = model.autoencoder.expanders[0].head(model.autoencoder.reconstruction_states(0, levels[0])[0])
    best = scores.argmax(-1)[:, :-1]
    assert torch.equal(torch.where(best == 256, EOS, best), spelled)


def test_a_language_model_of_an_autoencoder_starts_from_its_weights(tmp_path):
    autoencoder = build(CONFIGS["codes"](), textae.AbstractinatorModel)
    autoencoder.save_pretrained(tmp_path)
    model = textae.AbstractinatorForCausalLM.from_pretrained(tmp_path, frozen="autoencoder")
    for name, value in autoencoder.autoencoder.state_dict().items():
        assert torch.equal(value, model.model.autoencoder.state_dict()[name]), name
    model.train()
    ids = some_ids()
    model(ids, labels=ids).loss.backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {n for n, p in model.named_parameters() if "code_transformer" in n or "from_state" in n}
    # Nothing is computed of which there is no gradient; and what somebody else has frozen stays so.
    assert model(ids, labels=ids).reconstruction_loss is None
    model.requires_grad_(False)
    model.train()
    assert not any(p.requires_grad for p in model.parameters())


def test_a_frozen_entropy_model_cuts_as_before(tmp_path):
    build(CONFIGS["codes"](), textae.AbstractinatorModel).save_pretrained(tmp_path)
    model = textae.AbstractinatorForCausalLM.from_pretrained(tmp_path, frozen="entropy").train()
    ids = some_ids()
    before = model.eval()(ids).segment_lengths
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        output = model(ids, labels=ids)
        assert output.entropy_loss is None
        assert output.commitment_loss is not None  # vectors still move, and stay near their codes
        output.loss.backward()
        optimizer.step()
    assert torch.equal(model.eval()(ids).segment_lengths, before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"level_sizes": [32, 32]}, "must have one entry a level"),
        ({"level_sizes": [30]}, "multiples of twice level_heads"),
        ({"segmentations": ["words"]}, "segmentation 'words' is unknown on level 0"),
        ({"codebook_sizes": [1]}, "codebook_sizes"),
        ({"target_segment_lengths": [9.0]}, "segment lengths of level 0 must be"),
        ({"frozen": "levels"}, "frozen 'levels' is unknown: accepted are nothing, entropy, autoencoder"),
        ({"code_weight": 1.0}, "needs codes at the top"),
        ({"ngram_sizes": [1]}, "ngram_sizes"),
        ({"vocab_size": 200}, "vocab_size 200 has no room"),
        ({"history_dropout": 1.0}, "history_dropout 1.0"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        abstractinator_config(**fields)


def test_entropies_above_the_first_level_need_codes_below():
    with pytest.raises(Exception, match="needs codes below it"):
        two_levels(codebook_sizes=[0, 48])
    fixed = two_levels(codebook_sizes=[0, 48], segmentations=["rise", "fixed"])
    assert build(fixed)(some_ids()).logits.isfinite().all()
    with pytest.raises(ValueError, match="reconstruction through several levels needs codes below the top"):
        textae.AbstractinatorModel(fixed)


def test_presets():
    assert (
        sum(p.numel() for p in textae.AbstractinatorForCausalLM(textae.AbstractinatorConfig.nano()).parameters())
        < 3.1e6
    )
    base = textae.AbstractinatorConfig.base()
    with torch.device("meta"):
        assert sum(p.numel() for p in textae.AbstractinatorForCausalLM(base).parameters()) < 30e6


# Limits


@pytest.mark.parametrize("rule", ["rise", "threshold", "rise_or_threshold"])
def test_calibration_finds_the_limit_of_a_wanted_length(rule):
    model = build(abstractinator_config(segmentations=[rule], threshold_margin=0.1))
    texts = [text * 4 for text in TEXTS]
    reached = model.calibrate_segmentation(texts, 2.5)
    assert reached == pytest.approx(2.5, abs=0.1)
    lengths = segment_figures(model, textae.AbstractinatorTokenizer(), texts)
    assert lengths["bytes_per_segment"] == pytest.approx(reached, rel=0.05)
    limit = model.model.autoencoder.compressors[0].limit.limit.clone()
    for same in (datasets.Dataset.from_dict({"text": texts}), [text.encode() for text in texts], iter(texts)):
        assert model.calibrate_segmentation(same, 2.5) == reached
        assert torch.equal(model.model.autoencoder.compressors[0].limit.limit, limit)
    with pytest.raises(ValueError, match="no column 'body'"):
        model.calibrate_segmentation(datasets.Dataset.from_dict({"text": texts}), 2.5, text_column="body")
    with pytest.raises(TypeError, match="a int is no text"):
        model.calibrate_segmentation([3], 2.5)
    with pytest.raises(ValueError, match="mean length of 7 is outside of the bounds 1 to 6"):
        model.calibrate_segmentation(texts, 7)
    with pytest.raises(ValueError, match="nothing to calibrate on"):
        model.calibrate_segmentation(["", ""], 3)
    with pytest.raises(TypeError, match="rule 'fixed' of level 0 has no limit"):
        build(CONFIGS["fixed"]()).calibrate_segmentation(texts, 3)
    # Training begins where calibration has left off.
    limit = model.model.autoencoder.compressors[0].limit
    before = limit.limit.clone()
    optimizer, ids = torch.optim.SGD(model.train().parameters(), lr=1e-6), some_ids()
    model.calibrate_segmentation(texts, 2.5)
    assert model.training
    for _ in range(2):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    highest = model.model.autoencoder.compressors[0].cut_scores_of(
        model.model.autoencoder.analyse(ids, torch.full((3,), 40))[0].values
    )
    assert (limit.limit - before).abs() <= 0.2 * (highest.max() - highest.min())


def test_a_checkpointed_pass_keeps_no_cache():
    model = build(abstractinator_config()).train()
    model.gradient_checkpointing_enable()
    assert model(some_ids(), use_cache=True).past_key_values is None


def test_batches_flip_no_cut(model):
    assert flipped_cuts(model, textae.AbstractinatorTokenizer(), [text * 3 for text in TEXTS]) == 0


# Compression


@pytest.mark.parametrize(
    "data", [b"", b"a", "To be, or not to be – that is the question. ".encode() * 12, bytes(range(256))]
)
def test_files_come_back_and_take_the_bits_that_are_reported(model, data):
    packed = model.compress(data, stream_length=300, batch_size=2)
    assert model.decompress(packed) == data
    assert 8 * (len(packed) - HEADER.size) <= 1.01 * reported_bits(model, data, 300) + 64


def test_what_training_keeps_beside_the_weights_changes_no_file():
    model = build(abstractinator_config())
    packed = model.compress(b"to be or not to be")
    model.train()(some_ids(), labels=some_ids())  # gathers statistics, and nothing more
    assert model.model.autoencoder.compressors[0].limit.pending_scores.any()
    assert model.eval().decompress(packed) == b"to be or not to be"
    other = build(abstractinator_config(max_segment_lengths=[5]))
    other.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="other weights"):
        other.decompress(packed)


def reported_bits(model, data, stream_length):
    """The bits of streams of a file by forward(), the end among what might come."""
    bits = 0.0
    for start in range(0, len(data), stream_length):
        ids = torch.tensor([[BOS, *data[start : start + stream_length]]])
        with torch.no_grad():
            told = model(ids).logits[0, :-1].double().log_softmax(-1)
        bits -= told.gather(1, ids[0, 1:, None]).sum().item() / math.log(2)
    return bits


def test_a_file_takes_one_hundredth_more_than_the_reported_bits_at_most():
    model = build(abstractinator_config())
    data = bytes(torch.randint(97, 123, (10_000,)).tolist())
    size, bits = 8 * len(model.compress(data, stream_length=500)), reported_bits(model, data, 500)
    assert 0.98 * bits < size <= 1.01 * bits


def test_rates_are_asked_for_where_they_are(capsys):
    assert run_eval.main(["rate-distortion", "--checkpoint", str(CARD)]) == 2
    assert "see benchmarks/byte_compression.py" in capsys.readouterr().err


def test_files_of_others_are_refused(model):
    packed = model.compress(b"to be or not to be")
    with pytest.raises(ValueError, match="no file that compress"):
        model.decompress(b"PK" + packed)
    for place in (-5, 5, 14, 18, 26, 30):  # of the body, the digest and every number
        changed = bytearray(packed)
        changed[place] ^= 255
        with pytest.raises(ValueError, match=r"did not come out|header does not add up"):
            model.decompress(bytes(changed))
    with pytest.raises(ValueError, match="cut short or changed"):
        model.decompress(packed[:-1])
    with pytest.raises(TypeError, match="takes bytes, not str"):
        model.compress("a")
    with pytest.raises(ValueError, match="must both be 1 or above"):
        model.compress(b"a", stream_length=0)
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="other weights"):
        model.decompress(packed)
    with pytest.raises(ValueError, match="training mode"):
        model.train().compress(b"a")
