"""Tokens a second of CTA, encoded and decoded, beside one teacher-forced pass of a T5 of equal size.

    python benchmarks/cta_t5.py [nano|small]

Both read and score the same tokens: CTA in two parallel halves, T5 as encoder and decoder. CTA's second row tells the tokens
(`decode_tokens`) instead of giving all scores, from which T5's would have yet to be told. T5's shape is that of T5-small (six
layers each, feed-forward four times the width, heads of 64 channels, vocabulary shared), its width such that the parameters are
as many. Taken in turn in one process.
"""

import sys
from pathlib import Path

import torch
from timing import interleaved_seconds
from transformers import T5Config, T5ForConditionalGeneration

from modeling_textae import CtaConfig, CtaModel
from modeling_textae.evaluation.report import show_table

BATCH, LENGTH = 32, 512


def t5(width, vocab_size):
    """A T5 of T5-small's shape and another width."""
    sizes = {"d_model": width, "d_ff": 4 * width, "num_heads": max(round(width / 64), 1), "d_kv": 64, "num_layers": 6}
    return T5ForConditionalGeneration(T5Config(vocab_size=vocab_size, decoder_start_token_id=0, **sizes))


def t5_of_size(parameters, vocab_size):
    """The T5 whose parameters are the nearest in number."""

    def distance(width):
        with torch.device("meta"):
            return abs(t5(width, vocab_size).num_parameters() - parameters)

    return t5(min(range(32, 512, 8), key=distance), vocab_size)


@torch.no_grad()
def main():
    """Time both, in float32 and bfloat16, and print the table."""
    size = sys.argv[1] if len(sys.argv) > 1 else "nano"
    if size not in ("nano", "small"):
        raise SystemExit(f"{size!r} is no size: accepted are nano and small")
    config = getattr(CtaConfig, size)()
    cta = CtaModel(config).eval()
    peer = t5_of_size(cta.num_parameters(), config.vocab_size).eval()
    ids = torch.randint(1, config.vocab_size, (BATCH, LENGTH))
    mask, lengths = torch.ones_like(ids), torch.full((BATCH,), LENGTH)
    rows = [
        {"model": f"CtaModel, {size}, {config.ratio}×, scores", "parameters, M": cta.num_parameters() / 1e6},
        {"model": "the same, tokens", "parameters, M": cta.num_parameters() / 1e6},
        {"model": f"T5, width {peer.config.d_model}, scores", "parameters, M": peer.num_parameters() / 1e6},
    ]
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        models = cta.to(dtype), peer.to(dtype)

        def scores(model=models[0]):
            model.decode(model.encode(ids, mask), lengths)

        def tokens(model=models[0]):
            model.decode_tokens(model.encode(ids, mask), lengths)

        def teacher_forced(model=models[1]):
            model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids, use_cache=False)

        seconds = interleaved_seconds({0: scores, 1: tokens, 2: teacher_forced}, rounds=9)
        for i, row in enumerate(rows):
            row[f"tokens/s, {name}"] = round(ids.numel() / seconds[i])
            row[f"beside T5, {name}"] = round(seconds[2] / seconds[i], 2)
    show_table(Path(f"runs/cta-t5/{size}"), "CTA beside T5", rows)


if __name__ == "__main__":
    main()
