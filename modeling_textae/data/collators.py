"""Collators: from texts to the batches that models train on."""

from functools import partial

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling

from ..models.byte_tokenizer import NUM_BYTES
from ..models.chunks import chunks_of
from ..models.denoising import PIECES
from .noise import NoiseRate, mask_text
from .ocr_noise import OcrNoiseModel
from .text_noise import TextNoise


def example_generator(*numbers):
    """Random generator of one example from its numbers, like a seed, an epoch and an index, whatever process or order it is
    drawn in."""
    return np.random.default_rng(numbers)


def noisy_texts(texts, noise, strength, seed=0):
    """Noisy copies of texts, each by a generator of its own.

    Args:
        texts (`list[str]`), noise ([`TextNoise`] or [`OcrNoiseModel`]), strength (`float`), seed (`int`, defaults to 0).

    Returns:
        `list[str]`.
    """
    return [noise(text, strength, example_generator(seed, 0, i)).text for i, text in enumerate(texts)]


def seed_of(*numbers):
    """One seed of 64 bits from several numbers, as [`example_generator`] mixes them."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class ExampleNumbers:
    """What the noise of an example follows from: the seed, and its epoch and index, which [`NumberedDataset`] puts beside its
    text.

    Without them, as under transformers' own Trainer or in evaluation, how many examples came before, and in a worker of a
    `DataLoader` its seed, which is another in every worker and every epoch.

    Args:
        seed (`int`).
    """

    def __init__(self, seed):
        self.seed, self.seen = seed, 0

    def __call__(self, example):
        """The numbers of an example, a `dict`, which then counts as seen."""
        worker, self.seen = torch.utils.data.get_worker_info(), self.seen + 1
        if "index" in example:
            return self.seed, example.get("epoch", 0), example["index"]
        return self.seed, 0, self.seen - 1, *([] if worker is None else [worker.seed])


def check_texts(examples):
    """Raise `ValueError` where examples have no text."""
    if not examples or "text" not in examples[0]:
        raise ValueError(f"examples need a text, not only {sorted(examples[0]) if examples else 'nothing'}")


def pad_rows(rows, fill):
    """Stack rows of ids to a tensor, shape `(rows, longest)`, padded on the right."""
    matrix = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype=np.int64)
    for target, row in zip(matrix, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(matrix)


def padding_mask(rows):
    """1 where a row of ids, padded as by [`pad_rows`], has one, and 0 on its padding."""
    return pad_rows([np.ones(len(row), dtype=np.int64) for row in rows], 0)


class EncodzallMaskingCollator:
    """Tokenizes texts, masks words and characters, and labels them with the clean text.

    The noise of an example follows from the seed, the epoch and the example's index, which [`NumberedDataset`] puts
    beside its text, and so does not depend on workers, batches or where a run was resumed. Without them it follows from what
    [`ExampleNumbers`] says.

    Args:
        tokenizer ([`EncodzallTokenizer`]).
        rate (`float` or [`NoiseRate`], defaults to 0.1): the common rate of all masks.
        seed (`int`, defaults to 0): of the noise.
        max_length (`int`, *optional*): bytes of a text that are kept; by default all.

    Example:

    ```python
    >>> collator = EncodzallMaskingCollator(EncodzallTokenizer(), rate=0.2)
    >>> sorted(collator([{"text": "to be or not to be"}]))
    ['attention_mask', 'input_ids', 'target_word_index', 'labels', 'word_index']
    ```
    """

    def __init__(self, tokenizer, rate=0.1, seed=0, max_length=None):
        self.tokenizer = tokenizer
        self.noise_rate = rate if isinstance(rate, NoiseRate) else NoiseRate(rate)
        self.numbers = ExampleNumbers(seed)
        self.max_length = max_length

    def __call__(self, examples):
        """Collate examples, each a `dict` with a `text`.

        Returns:
            `dict` of tensors: `input_ids`, `attention_mask`, `word_index` of the noisy texts, shape `(batch, length)`, and
            `labels` and `target_word_index` of the clean texts with their ends, shape `(batch, label_length)`.

        Raises:
            ValueError: where an example has no text.
        """
        check_texts(examples)
        tokenized = self.tokenizer(
            [example["text"] for example in examples],
            add_special_tokens=False,  # the noisy text has none, the clean one gets its end below
            truncation=self.max_length is not None,
            max_length=self.max_length,
        )
        noisy, noisy_index, clean, clean_index = [], [], [], []
        for example, ids, index in zip(examples, tokenized["input_ids"], tokenized["word_index"], strict=True):
            generator = example_generator(*self.numbers(example))
            rate = self.noise_rate(example.get("step", 0))
            ids, index = np.array(ids, dtype=np.int64), np.array(index, dtype=np.int64)
            changed, changed_index = self.make_noisy(example, ids, index, rate, generator)
            noisy.append(changed)
            noisy_index.append(changed_index)
            clean.append(np.append(ids, self.tokenizer.eos_token_id))
            clean_index.append(np.append(index, -1))
        noisy_index = pad_rows(noisy_index, -1)
        return {
            "input_ids": pad_rows(noisy, self.tokenizer.pad_token_id),
            "attention_mask": (noisy_index >= 0).long(),
            "word_index": noisy_index,
            "labels": pad_rows(clean, -100),
            "target_word_index": pad_rows(clean_index, -1),
        }

    def make_noisy(self, example, ids, index, rate, generator):
        """An example's ids and word index, each of shape `(n,)`, with noise of a rate; to the same, each of shape `(m,)`."""
        return mask_text(ids, index, rate, generator)[:2]


class EncodzallDenoisingCollator(EncodzallMaskingCollator):
    """Tokenizes texts, makes them noisy as the world does, and labels them with the clean text.

    Noise changes the number of words, so that it trains [`EncodzallForConditionalGeneration`], which has no word decoder. Seeds
    and batches are as of [`EncodzallMaskingCollator`]. An example may bring a noisy text of its own, as `noisy`.

    Args:
        tokenizer ([`EncodzallTokenizer`]).
        rate (`float` or [`NoiseRate`], defaults to 0.1): mean strength of the noise; texts get their own by its `draw_strength`.
        seed (`int`, defaults to 0): of the noise.
        max_length (`int`, *optional*): bytes of a clean text that are kept; by default all.
        noise_model (`str`, *optional*): folder or Hub name of an [`OcrNoiseModel`]; by default [`TextNoise`].
    """

    def __init__(self, tokenizer, rate=0.1, seed=0, max_length=None, noise_model=None):
        super().__init__(tokenizer, rate, seed, max_length)
        self.noise = OcrNoiseModel.from_pretrained(noise_model) if noise_model else TextNoise()

    def make_noisy(self, example, ids, index, rate, generator):
        """As of [`EncodzallMaskingCollator`]; a noisy text that the example brings stays as it is.

        Raises:
            ValueError: for such a text where clean ones are cut, or special tokens in a text that is to be made noisy.
        """
        noisy = example.get("noisy")
        if noisy is not None and self.max_length is not None:
            raise ValueError(
                "max_length cuts clean texts, and a noisy one cannot be cut where they are: cut both before"
            )
        if noisy is None:
            if (ids >= NUM_BYTES).any():
                raise ValueError(
                    "noise is made of text, and special tokens are none: tokenize with split_special_tokens"
                )
            # A text that was cut within a character loses what there is of it.
            text = bytes(ids.astype(np.uint8)).decode("utf-8", "ignore")
            noisy = self.noise(text, self.noise.draw_strength(rate, generator), generator).text
        noisy = self.tokenizer(noisy, add_special_tokens=False)
        return np.array(noisy["input_ids"], dtype=np.int64), np.array(noisy["word_index"], dtype=np.int64)


class EncodzallViewsCollator(EncodzallDenoisingCollator):
    """Two views of each text, for [`EncodzallForSentenceEmbedding`]: each a run of its words of which some are missing, and the
    first one noisy. By default both are whole; at a rate of 0 they are then one text, which dropout must tell apart.

    Args:
        tokenizer, rate, seed, noise_model: as of [`EncodzallDenoisingCollator`].
        max_length (`int`, *optional*): bytes of a view that are kept; by default all.
        min_crop (`float`, defaults to 1): least share of the text's words that a view is a run of; each draws its own.
        word_dropout (`float`, defaults to 0): rate at which words of a view are missing.
    """

    def __init__(self, tokenizer, rate=0.1, seed=0, max_length=None, noise_model=None, min_crop=1.0, word_dropout=0.0):
        super().__init__(tokenizer, rate, seed, max_length, noise_model)
        self.min_crop, self.word_dropout = min_crop, word_dropout

    def __call__(self, examples):
        """Collate examples, each a `dict` with a `text`.

        Returns:
            `dict` of tensors: `input_ids`, `attention_mask`, `word_index` of the first views, shape `(batch, length)`, and
            `second_input_ids`, `second_attention_mask`, `second_word_index` of the others.

        Raises:
            ValueError: where an example has no text.
        """
        check_texts(examples)
        firsts, seconds = [], []
        for example in examples:
            generator = example_generator(*self.numbers(example))
            first, second = (self.view_of(example["text"], generator) for _ in range(2))
            strength = self.noise.draw_strength(self.noise_rate(example.get("step", 0)), generator)
            firsts.append(self.noise(first, strength, generator).text)
            seconds.append(second)
        tokenize = partial(
            self.tokenizer,
            add_special_tokens=False,
            padding=True,
            padding_side="right",
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return dict(tokenize(firsts)) | {f"second_{name}": rows for name, rows in tokenize(seconds).items()}

    def view_of(self, text, generator):
        """A run of a text's words, of which some are missing, but never all."""
        if self.min_crop == 1 and not self.word_dropout:
            return text
        words = np.array(PIECES.findall(text), dtype=object)
        if not len(words):
            return text
        count = max(round(len(words) * generator.uniform(self.min_crop, 1)), 1)
        start = generator.integers(len(words) - count + 1)
        stays = generator.random(count) >= self.word_dropout
        stays[generator.integers(count)] = True
        return "".join(words[start : start + count][stays])


def whole_characters(offsets):
    """Offsets in which tokens that share a character follow each other, so that none of its bytes begins a word.

    Args:
        offsets (`list[tuple[int, int]]`): start and end of each token, as a fast tokenizer returns them.

    Returns:
        `torch.LongTensor` of shape `(tokens, 2)`.
    """
    offsets = torch.tensor(offsets, dtype=torch.long).reshape(-1, 2)
    offsets[1:, 0] = torch.maximum(offsets[1:, 0], offsets[:-1, 1])
    return offsets


class MlmEncoderMaskingCollator:
    """Tokenizes texts and masks tokens at random by transformers' `DataCollatorForLanguageModeling`.

    Of the tokens that are chosen, 80 % become the mask, 10 % a random token and 10 % stay; whole words all become the mask. The
    masks of an example follow from the seed, the epoch and the example's index as in [`EncodzallMaskingCollator`].

    Args:
        tokenizer (`PreTrainedTokenizerFast`): with a mask token.
        rate (`float` or [`NoiseRate`], defaults to 0.15): probability of each token, or of each word.
        seed (`int`, defaults to 0): of the masks.
        max_length (`int`, *optional*): tokens of a text that are kept; by default all.
        whole_words (`bool`, defaults to `False`): mask all tokens between two spaces or none.

    Example:

    ```python
    >>> collator = MlmEncoderMaskingCollator(tokenizer, rate=0.15)
    >>> sorted(collator([{"text": "to be or not to be"}]))
    ['attention_mask', 'input_ids', 'labels']
    ```
    """

    def __init__(self, tokenizer, rate=0.15, seed=0, max_length=None, whole_words=False):
        self.tokenizer = tokenizer
        self.noise_rate = rate if isinstance(rate, NoiseRate) else NoiseRate(rate)
        self.numbers = ExampleNumbers(seed)
        self.max_length = max_length
        replacing = {"mask_replace_prob": 1.0, "random_replace_prob": 0.0} if whole_words else {}
        self.masking = DataCollatorForLanguageModeling(tokenizer, whole_word_mask=whole_words, **replacing)

    def __call__(self, examples):
        """Collate examples, each a `dict` with a `text`.

        Returns:
            `dict` of tensors of shape `(batch, length)`: `input_ids`, `attention_mask`, and `labels`, -100 where nothing is
            asked.

        Raises:
            ValueError: where an example has no text.
        """
        check_texts(examples)
        tokenized = self.tokenizer(
            [example["text"] for example in examples],
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_special_tokens_mask=True,
            return_offsets_mapping=self.masking.whole_word_mask,
        )
        special = np.array(self.tokenizer.all_special_ids)
        inputs, labels = [], []
        for i, example in enumerate(examples):
            ids = tokenized["input_ids"][i]
            # A special token that stands in the text itself is no word to be told either.
            kept = np.isin(ids, special) | (np.array(tokenized["special_tokens_mask"][i]) == 1)
            numbers = self.numbers(example)
            if not ids:  # transformers cannot find words in nothing
                inputs.append([])
                labels.append([])
                continue
            self.masking.generator = torch.Generator().manual_seed(seed_of(*numbers))
            self.masking.mlm_probability = self.noise_rate(example.get("step", 0))
            masked, asked = self.masking.torch_mask_tokens(
                torch.tensor([ids], dtype=torch.long),
                torch.from_numpy(kept)[None],
                whole_characters(tokenized["offset_mapping"][i])[None] if self.masking.whole_word_mask else None,
            )
            inputs.append(masked[0].numpy())
            labels.append(asked[0].numpy())
        return {
            "input_ids": pad_rows(inputs, self.tokenizer.pad_token_id),
            "attention_mask": padding_mask(inputs),
            "labels": pad_rows(labels, -100),
        }


class CtaCollator:
    """Tokenizes texts and labels every token with itself; some tokens may be replaced by random ones, in inputs and labels alike.

    Random tokens have to be told by their latents alone: they teach rare tokens, and keep the decoder from guessing what text
    would say. They follow from the seed, the epoch and the example's index as in [`EncodzallMaskingCollator`].

    Args:
        tokenizer: any that pads.
        rate (`float` or [`NoiseRate`], defaults to 0): probability of each token to be replaced.
        seed (`int`, defaults to 0): of the replacements.
        max_length (`int`, *optional*): tokens of a text that are kept; by default all.

    Raises:
        ValueError: for a tokenizer without a padding token.

    Example:

    ```python
    >>> collator = CtaCollator(CtaTokenizer())
    >>> sorted(collator([{"text": "to be or not to be"}]))
    ['attention_mask', 'input_ids', 'labels']
    ```
    """

    def __init__(self, tokenizer, rate=0.0, seed=0, max_length=None):
        if tokenizer.pad_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no padding token: set tokenizer.pad_token, for one to its eos_token"
            )
        self.tokenizer = tokenizer
        self.noise_rate = rate if isinstance(rate, NoiseRate) else NoiseRate(rate)
        self.numbers = ExampleNumbers(seed)
        self.max_length = max_length
        self.replacements = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)

    def __call__(self, examples):
        """Collate examples, each a `dict` with a `text`.

        Returns:
            `dict` of tensors of shape `(batch, length)`: `input_ids`, `attention_mask`, and `labels`, -100 on padding.

        Raises:
            ValueError: where an example has no text.
        """
        check_texts(examples)
        texts = [example["text"] for example in examples]
        # Latents are of text alone, in training as in use.
        cut = {"truncation": self.max_length is not None, "max_length": self.max_length}
        tokenized = self.tokenizer(texts, add_special_tokens=False, **cut)
        rows = []
        for example, ids in zip(examples, tokenized["input_ids"], strict=True):
            generator = example_generator(*self.numbers(example))
            replaced = generator.random(len(ids)) < self.noise_rate(example.get("step", 0))
            rows.append(
                np.where(replaced, generator.choice(self.replacements, len(ids)), np.array(ids, dtype=np.int64))
            )
        return {
            "input_ids": pad_rows(rows, self.tokenizer.pad_token_id),
            "attention_mask": padding_mask(rows),
            "labels": pad_rows(rows, -100),
        }


def check_no_noise(name, rate):
    """Raise `ValueError` for a rate of noise where a collator makes none."""
    if (rate(0) if isinstance(rate, NoiseRate) else rate) != 0:
        raise ValueError(f"{name} makes no noise: accepted is the rate 0")


class FsqChunkCollator:
    """Chunks as rows of bytes, labelled with themselves. A text of more bytes than a chunk has is cut into several rows.

    Args:
        tokenizer ([`AutoEncoderTokenizer`]): says how long a chunk may be, where nothing else does.
        rate (`float`, defaults to 0): of noise, of which there is none.
        seed (`int`, defaults to 0), max_length (`int`, *optional*): as of other collators, and of no effect.
        max_chunk_length (`int`, *optional*): bytes of a chunk.

    Raises:
        ValueError: for a rate that is not 0.

    Example:

    ```python
    >>> collator = FsqChunkCollator(AutoEncoderTokenizer())
    >>> collator([{"text": " river"}])["input_ids"].shape
    torch.Size([1, 6])
    ```
    """

    def __init__(self, tokenizer, rate=0.0, seed=0, max_length=None, max_chunk_length=None):
        check_no_noise(type(self).__name__, rate)
        self.longest = max_chunk_length or tokenizer.max_chunk_length

    def __call__(self, examples):
        """Collate examples, each a `dict` with a `text`.

        Returns:
            `dict` of tensors of shape `(chunks, longest)`: `input_ids`, `attention_mask`, and `labels`, -100 on padding.

        Raises:
            ValueError: where an example has no text.
        """
        check_texts(examples)
        rows = []
        for example in examples:
            data = example["text"].encode("utf-8")
            if len(data) <= self.longest:
                rows.append(data)
            else:
                rows += [chunk.encode("utf-8") for chunk in chunks_of(example["text"], self.longest)]
        rows = [np.frombuffer(row, dtype=np.uint8) for row in rows]
        labels = pad_rows(rows, -100)
        return {
            "input_ids": labels.where(labels >= 0, NUM_BYTES),
            "attention_mask": (labels >= 0).long(),
            "labels": labels,
        }


class LanguageCollator:
    """Tokenizes texts for a language model: each row begins with `<bos>`, and every other token is a label; a passage that is the
    last of its document, and was not cut, ends with `<eos>`.

    At a rate, texts are read without tokens that span words, as those read them who score an answer apart from its context. Which
    texts follows from the seed, the epoch and the example's index as in [`EncodzallMaskingCollator`].

    Args:
        tokenizer: any with a `<bos>` and a padding token.
        rate (`float` or [`NoiseRate`], defaults to 0): probability of a text to be read so; needs an [`AutoEncoderTokenizer`].
        seed (`int`, defaults to 0): of the choice.
        max_length (`int`, *optional*): tokens of a text that are kept; by default all.
        with_bytes (`bool`, defaults to `False`): also give each token's bytes, for a model that encodes chunks itself; needs an
            [`AutoEncoderTokenizer`].

    Example:

    ```python
    >>> collator = LanguageCollator(tokenizer)
    >>> sorted(collator([{"text": "to be or not to be"}]))
    ['attention_mask', 'input_ids', 'labels']
    ```
    """

    def __init__(self, tokenizer, rate=0.0, seed=0, max_length=None, with_bytes=False):
        self.tokenizer, self.max_length, self.numbers = tokenizer, max_length, ExampleNumbers(seed)
        self.noise_rate = rate if isinstance(rate, NoiseRate) else NoiseRate(rate)
        if (self.noise_rate(0) or with_bytes) and not hasattr(tokenizer, "without_spans"):
            raise ValueError(
                f"{type(tokenizer).__name__} has no spans and no bytes of tokens: an AutoEncoderTokenizer has"
            )
        self.token_bytes = torch.from_numpy(tokenizer.token_bytes()) if with_bytes else None

    def __call__(self, examples):
        """Collate examples, each a `dict` with a `text` and, as [`passage_dataset`] gives it, `ends_document`.

        Returns:
            `dict` of tensors: `input_ids`, `attention_mask` and `labels` of shape `(batch, length)`, the latter -100 on
            `<bos>` and padding, and with bytes `chunk_bytes` of shape `(batch, length, max_chunk_length)`, 256 beyond a
            token's end.

        Raises:
            ValueError: where an example has no text.
        """
        check_texts(examples)
        apart = []
        for example in examples:
            generator = example_generator(*self.numbers(example))
            apart.append(generator.random() < self.noise_rate(example.get("step", 0)))
        texts = [example["text"] for example in examples]
        joined = self.tokens_of(texts, self.tokenizer)
        if any(apart):
            split = self.tokens_of(texts, self.tokenizer.without_spans())
            joined = [b if a else j for a, b, j in zip(apart, split, joined, strict=True)]
        rows = []
        for example, (ids, whole) in zip(examples, joined, strict=True):
            end = [self.tokenizer.eos_token_id] if whole and example.get("ends_document") else []
            rows.append(np.array([self.tokenizer.bos_token_id, *ids, *end]))
        labels = pad_rows(rows, -100)
        labels[:, 0] = -100
        batch = {
            "input_ids": pad_rows(rows, self.tokenizer.pad_token_id),
            "attention_mask": padding_mask(rows),
            "labels": labels,
        }
        if self.token_bytes is not None:
            batch["chunk_bytes"] = self.token_bytes[batch["input_ids"]]
        return batch

    def tokens_of(self, texts, tokenizer):
        """The tokens of each text, as many as are kept, and whether they are the whole of it."""
        found = tokenizer(texts, add_special_tokens=False)["input_ids"]
        if self.max_length is None or max(map(len, found), default=0) <= self.max_length:
            return [(ids, True) for ids in found]
        cut = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=self.max_length)["input_ids"]
        return [(kept, len(kept) == len(ids)) for kept, ids in zip(cut, found, strict=True)]
