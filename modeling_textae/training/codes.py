"""From a trained autoencoder of chunks to its tokenizer: which codes become tokens."""

import numpy as np

from ..data.chunk_lists import pruned
from ..models.tokenization_fsq_autoencoder import AutoEncoderTokenizer

# What a user may have set, and is kept when a tokenizer is exported again.
SETTINGS = (
    "starts_with_bos", "ends_with_eos", "split_special_tokens", "int8_encoder", "cache_size", "join_spans", "padding_side",
    "truncation_side", "model_max_length", "chat_template",
)  # fmt: skip


def commonest_chunks(counted, number):
    """The commonest chunks of at least two bytes, as candidates where no list of tokens was chosen.

    Args:
        counted (`tuple`): what `count_chunks` gives.
        number (`int`): how many at most.

    Returns:
        `list[bytes]`.
    """
    chunks, counts, _ = counted
    order = np.argsort(-counts, kind="stable").tolist()
    return [chunks[i] for i in order if len(chunks[i]) > 1][:number]


def keep_codes(model, candidates, counted, number):
    """A tokenizer of the codes that save the most tokens, among those by which an autoencoder owns a candidate.

    Uses are counted over the chunks of a corpus and the parts that splitting yields, with spans joined; whatever saves least is
    dropped and the rest counted anew, until all that is kept is used.

    Args:
        model ([`FsqAutoencoderModel`]).
        candidates (`list[bytes]`): strings worth a token.
        counted (`tuple`): what `count_chunks` gives of training text.
        number (`int`): codes at most.

    Returns:
        `tuple[AutoEncoderTokenizer, dict]`: the tokenizer, its codes in the order of their use; and `candidates`, `owned` and
        `kept`, how many there were.
    """
    owned = AutoEncoderTokenizer.from_autoencoder(model, candidates).strings()
    kept = pruned(owned, counted, number, model.config.max_chunk_length)
    tokenizer = AutoEncoderTokenizer.from_autoencoder(model, kept)
    return tokenizer, {"candidates": len(candidates), "owned": len(owned), "kept": len(tokenizer.kept)}


def export_again(model, tokenizer):
    """The tokenizer of a language model whose autoencoder was trained on with it: the same strings, in the same order, by the
    codes that they have now; a string that its code no longer spells is a token no more.

    Args:
        model ([`FsqAutoencoderForCausalLM`]): loses the rows of those tokens, and takes on the tokenizer.
        tokenizer ([`AutoEncoderTokenizer`]): with which it was trained.

    Returns:
        [`AutoEncoderTokenizer`].
    """
    strings, settings = tokenizer.strings(), {name: getattr(tokenizer, name) for name in SETTINGS}
    again = AutoEncoderTokenizer.from_autoencoder(model.model, strings, **settings)
    owned = set(again.strings())
    rows = [*range(tokenizer.first_code), *(tokenizer.first_code + i for i, s in enumerate(strings) if s in owned)]
    # What a user added stands above the codes.
    added = [tokenizer.added_tokens_decoder[i] for i in range(tokenizer.vocab_size, len(tokenizer))]
    again.add_tokens(added)
    rows += range(tokenizer.vocab_size, len(tokenizer))
    model.keep_tokens(rows)
    model.adopt(again)
    return again
