"""A tiny autoencoder of chunks, trained in seconds on the strings of a short text, and its tokenizer."""

from functools import cache

import torch
from model_cases import fsq_autoencoder_config

import modeling_textae as textae
from modeling_textae.data.chunk_lists import count_chunks, pieces_of, spans_of
from modeling_textae.data.collators import FsqChunkCollator

TEXT = (
    "The river runs to the sea, and the sea runs to the river. The end of the river is the end of the land, and then "
    "the rivers of the land run to the end of the sea.\nThe naïve café of the river was near the sea in 1984. " * 6
)


def learn(model, tokens, steps, lr):
    """Train an autoencoder on strings, all of them at each step."""
    batch = FsqChunkCollator(textae.AutoEncoderTokenizer())([{"text": token.decode()} for token in tokens])
    optimizer = torch.optim.Adam(model.train().parameters(), lr=lr)
    for _ in range(steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@cache
def trained_autoencoder():
    """The model, the strings worth a token, and the counted chunks."""
    torch.manual_seed(0)
    chunks, counts, stream = counted = count_chunks([TEXT])
    tokens = list(dict.fromkeys(pieces_of(chunks, counts, 70) + sorted(spans_of(chunks, stream, 12))[:12]))
    model = textae.FsqAutoencoderModel(fsq_autoencoder_config(encoder_hidden_size=96, levels=[8, 5, 5, 5]))
    return learn(model, tokens, 200, 5e-3), tokens, counted


@cache
def trained_tokenizer():
    """A tokenizer of the codes by which the trained model owns strings."""
    model, tokens, _ = trained_autoencoder()
    tokenizer = textae.AutoEncoderTokenizer.from_autoencoder(model, tokens)
    assert len(tokenizer.kept) > 40
    return tokenizer


def language_model(**fields):
    """A language model on the trained tokenizer's tokens, begun from its autoencoder."""
    tokenizer, (autoencoder, _, _) = trained_tokenizer(), trained_autoencoder()
    torch.manual_seed(0)
    config = fsq_autoencoder_config(
        encoder_hidden_size=96, levels=[8, 5, 5, 5], vocab_size=len(tokenizer), max_position_embeddings=256, **fields
    )
    model = textae.FsqAutoencoderForCausalLM(config)
    model.model.load_state_dict(autoencoder.state_dict())
    model.adopt(tokenizer)
    return model.eval(), tokenizer
