"""From a checked recipe to a trainer: corpus, tokenizer, collator, model."""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, set_seed

from ..data.chunk_lists import ChunkDraws, count_chunks, token_list
from ..data.corpora import load_corpus, passage_dataset
from ..data.pairs import read_pairs, with_pairs
from .latents import KlAnnealingCallback, some_passages
from .optimizers import optimizer_class_and_arguments
from .samples import SamplesCallback
from .stored_weights import StoredWeightsCallback
from .trainer import TextAETrainer

SAMPLES, PROMPT_WORDS = (
    3,
    8,
)  # held-out texts whose first so many words a language model goes on with while it is trained
RARITY_PASSAGES = 100_000  # at most, in which rare words are told from common ones
STREAMED_TOKENIZER_DOCUMENTS = 20_000  # of a streamed corpus, the first so many teach the tokenizer


@dataclass(frozen=True)
class RecipeCorpus:
    """The corpus of a recipe, checked against it.

    Attributes:
        documents: dataset with the column `text`, that is trained on; streamed or not.
        passages: the same cut to passages, or the chunks that are drawn from it.
        validation: dataset of held-out documents.
    """

    documents: Any
    passages: Any
    validation: Any


def load_recipe_corpus(recipe):
    """Load the corpus that a recipe names and cut it to passages.

    Returns:
        [`RecipeCorpus`].

    Raises:
        ValueError: where the corpus cannot serve the recipe, or as of [`load_corpus`].
    """
    data, training = recipe.data, recipe.training
    corpus = load_corpus(
        data.dataset_name,
        data.dataset_config,
        data.train_file,
        data.validation_file,
        data.text_column,
        data.streaming,
    )
    if recipe.family.reads_chunks:
        return RecipeCorpus(corpus["train"], draw_chunks(recipe, corpus["train"]), corpus["validation"])
    passages = passage_dataset(corpus["train"], data.passage_length, data.min_passage_length)
    if not data.streaming and not len(passages):
        raise ValueError(f"the corpus has no passage of {data.min_passage_length} bytes: lower --min_passage_length")
    if data.pairs_file:
        pairs = read_pairs(data.pairs_file, data.noisy_column, data.clean_column, last=data.pairs_last)
        passages = with_pairs(
            passages, pairs, data.passage_length, data.min_passage_length, data.pairs_share, training.seed
        )
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    if not data.streaming and len(passages) < per_step:
        raise ValueError(
            f"{len(passages)} passages are too few for one step of {per_step}: give more text or a smaller batch"
        )
    return RecipeCorpus(corpus["train"], passages, corpus["validation"])


TOKEN_LIST = "token_list.json"


def draw_chunks(recipe, documents):
    """The chunks that an autoencoder is trained on. The list of strings worth a token takes minutes to choose, and is kept
    beside the run's checkpoints for when it is resumed.

    Returns:
        [`ChunkDraws`].
    """
    data, training = recipe.data, recipe.training
    texts, longest = [text for text in documents["text"] if text], recipe.config.max_chunk_length
    path, tokens, counted = Path(training.output_dir) / TOKEN_LIST, [], None
    if training.resume_from_checkpoint and path.is_file():
        tokens = [token.encode("latin-1") for token in json.loads(path.read_text())]
    elif data.token_list_size:
        tokens, counted = token_list(texts, data.token_list_size, longest=longest)
        if training.process_index == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".partial")
            aside.write_text(json.dumps([token.decode("latin-1") for token in tokens]))
            aside.replace(path)
    counted = counted or count_chunks(texts, longest)
    return ChunkDraws(counted, tokens, data.token_list_share, data.chunk_temper, seed=training.seed)


def make_tokenizer(recipe, documents, checkpoint=None):
    """The tokenizer of a run: of the checkpoint it goes on from, or the one it names, or learned, or the family's only one.

    Args:
        recipe ([`Recipe`]).
        documents: dataset with the column `text`, streamed or not, that a tokenizer may learn from.
        checkpoint (`str`, *optional*): that the run is resumed from.

    Returns:
        A tokenizer.

    Raises:
        ValueError: where its tokens are not as many as the configuration's `vocab_size`, or none can pad.
        OSError: where there is none of that name.
    """
    kind, named = recipe.family.tokenizer, checkpoint or recipe.model.initial_checkpoint or recipe.model.tokenizer
    if not hasattr(kind, "train"):
        if not recipe.family.needs_tokenizer:
            return kind(**{name: getattr(recipe.config, name) for name in recipe.family.tokenizer_fields})
        # Every text that the model is trained on begins with <bos>, and so shall every other that it reads.
        return kind.from_pretrained(named, starts_with_bos=True)
    if not named:
        texts = (example["text"] for example in documents if example["text"])
        if recipe.data.streaming:
            texts = islice(texts, STREAMED_TOKENIZER_DOCUMENTS)
        return kind.train(texts, recipe.config.vocab_size)
    tokenizer = AutoTokenizer.from_pretrained(named)
    if tokenizer.pad_token is None:  # as GPT-2's; the mask, not the id, says what is padding
        if tokenizer.eos_token is None:
            raise ValueError(f"the tokenizer {named!r} has neither a pad token nor an end: batches need one")
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) != recipe.config.vocab_size:
        raise ValueError(
            f"the tokenizer {named!r} has {len(tokenizer)} tokens, vocab_size is {recipe.config.vocab_size}: give that size "
            "in --config"
        )
    return tokenizer


def begins_sketch(recipe):
    """Whether a recipe's model has a sketch, and no checkpoint that it starts from has told rare words from common ones."""
    start = recipe.model.initial_checkpoint
    return bool(
        getattr(recipe.config, "sketch_size", 0) and not (start and AutoConfig.from_pretrained(start).sketch_size)
    )


def build_trainer(recipe, corpus, checkpoint=None, make_model=None):
    """Make the trainer of a recipe.

    Args:
        recipe ([`Recipe`]).
        corpus ([`RecipeCorpus`]).
        checkpoint (`str`, *optional*): that the run is resumed from.
        make_model (callable, *optional*): from the tokenizer to a model to train in place of the recipe's own, as benchmarks do.

    Returns:
        [`TextAETrainer`].

    Raises:
        ValueError, OSError: as of [`make_tokenizer`].
    """
    data, training, family = recipe.data, recipe.training, recipe.family
    tokenizer = make_tokenizer(recipe, corpus.documents, checkpoint)
    recipe.config.pad_token_id = tokenizer.pad_token_id
    if family.needs_tokenizer:
        recipe.config.vocab_size = len(tokenizer)
        saved = AutoConfig.from_pretrained(recipe.model.initial_checkpoint)
        if saved.tokenizer_fingerprint not in (None, tokenizer.fingerprint):
            raise ValueError(
                f"{recipe.model.initial_checkpoint!r} was trained with the tokenizer {saved.tokenizer_fingerprint}, but the "
                f"one there has the fingerprint {tokenizer.fingerprint}"
            )
    set_seed(training.seed)
    if make_model is not None:
        model = make_model(tokenizer)
    elif recipe.model.initial_checkpoint:
        model = family.model.from_pretrained(
            recipe.model.initial_checkpoint, config=recipe.config, dtype="float32", use_safetensors=True
        )
    else:
        model = family.model(recipe.config)
    if family.needs_tokenizer and make_model is None:
        model.adopt(tokenizer)
    if make_model is None and checkpoint is None and begins_sketch(recipe):
        model.model.sketch.fit(some_passages(corpus.passages, RARITY_PASSAGES, training.seed))
    sources = (recipe.noise, data, recipe.config)
    options = {
        name: next(getattr(source, name) for source in sources if hasattr(source, name))
        for name in family.collator_fields
    }
    collator, eval_collator = (
        family.collator(tokenizer, recipe.noise.noise_rate, training.seed, data.max_tokens, **options) for _ in range(2)
    )
    callbacks = recipe.noise.callbacks()
    if training.kl_annealing_steps:
        callbacks.append(KlAnnealingCallback(training.kl_annealing_steps))
    if training.stored_weights:
        callbacks.append(StoredWeightsCallback())
    held_out = passage_dataset(corpus.validation, data.passage_length, data.min_passage_length)
    if training.sample_steps:
        prompts = [" ".join(text.split()[:PROMPT_WORDS]) for text in some_passages(held_out, SAMPLES)]
        path = Path(training.output_dir) / "samples.md"
        callbacks.append(SamplesCallback(tokenizer, ["", *prompts], training.sample_steps, path))
    return TextAETrainer(
        model=model,
        args=training,
        data_collator=collator,
        eval_collator=eval_collator,
        train_dataset=corpus.passages,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=optimizer_class_and_arguments(
            training.optimizer, training, training.muon_learning_rate
        ),
    )
