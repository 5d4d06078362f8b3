"""The tokenizers that the FSQ autoencoder's is measured beside: BPE, whole words, and bytes."""

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from modeling_textae import ByteTokenizer
from modeling_textae.data.chunk_lists import count_chunks
from modeling_textae.models.bpe_tokenizer import BpeTokenizer
from modeling_textae.models.byte_tokenizer import NUM_BYTES
from modeling_textae.models.chunks import chunks_of
from modeling_textae.training.codes import commonest_chunks

BOS, PAD, SPECIAL = NUM_BYTES, NUM_BYTES + 1, 5  # as many special tokens as the others have


class Reader:
    """What a language model needs of a tokenizer.

    Args:
        encode (callable): from texts to lists of ids, without special tokens.
        decode (callable): from ids to text.
        size (`int`): ids, special ones included.
        bos, pad (`int`): ids.
        fingerprint (`str`, *optional*): of an AutoEncoderTokenizer.
    """

    def __init__(self, encode, decode, size, bos, pad, fingerprint=None):
        self.encode, self.decode, self.size = encode, decode, size
        self.bos_token_id, self.pad_token_id, self.fingerprint = bos, pad, fingerprint

    def __call__(self, texts, **kwargs):
        return {"input_ids": self.encode(texts)}

    def __len__(self):
        return self.size


def of_transformers(tokenizer):
    """A reader of one of this package's tokenizers."""
    return Reader(
        lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"],
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        len(tokenizer),
        tokenizer.bos_token_id,
        tokenizer.pad_token_id,
        getattr(tokenizer, "fingerprint", None),
    )


def bpe(texts, size):
    """Byte-level BPE of so many ids, `<bos>` among them."""
    tokenizer = BpeTokenizer.train(texts, size - 1)
    tokenizer.add_special_tokens({"bos_token": "[BOS]"})
    return of_transformers(tokenizer)


def words(texts, size):
    """The commonest chunks as whole words, and bytes for what is none of them: nothing is unknown, and every text comes back."""
    first = NUM_BYTES + SPECIAL
    kept = commonest_chunks(count_chunks(texts), size - first)
    id_of = {chunk.decode(): (i,) for i, chunk in enumerate(kept, start=first)}
    table = [bytes([i]) for i in range(NUM_BYTES)] + [b""] * SPECIAL + kept

    def encode(texts):
        return [[i for c in chunks_of(text) for i in id_of.get(c) or c.encode()] for text in texts]

    def decode(ids):
        return b"".join(table[i] for i in ids).decode("utf-8", "replace")

    return Reader(encode, decode, len(table), BOS, PAD)


def raw_bytes():
    """Bytes."""
    return of_transformers(ByteTokenizer())


def word_level(texts, size):
    """The word-level model of the `tokenizers` library on GPT-2's pieces, with an unknown token: for speed alone."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
