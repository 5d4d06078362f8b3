"""The viewer of a token autoencoder's errors: original beside reconstruction, and the latents as an image.

    python -m modeling_textae.evaluation.viewer --checkpoint model_cards/cta-nano --errors runs/eval/tokens.jsonl

Needs the extra `viewer` (gradio). The page listens on loopback alone and asks no other host for anything; a checkpoint that is
no folder comes from the Hub.
"""

import sys
from dataclasses import dataclass, field
from functools import lru_cache

try:
    import gradio
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('the viewer needs gradio: pip install ".[viewer]"') from error
import torch
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers import AutoConfig, AutoModel, AutoTokenizer, HfArgumentParser

from ..models.autoencoder import GRID_BITS
from ..models.configuration_cta import CtaConfig
from .plots import latent_figure
from .tokens import compared_tokens, read_errors

UNROUNDED = "float32"
HOST = "127.0.0.1"
# No font and no statistics from elsewhere.
THEME = gradio.themes.Base(font=["sans-serif"], font_mono=["monospace"])


@dataclass
class ViewerArguments:
    """What to look at."""

    checkpoint: list[str] = field(metadata={"help": "Token autoencoders to pick from: folders or Hub names."})
    errors: str = field(metadata={"help": "The .jsonl file that `run_eval.py tokens` wrote."})
    port: int = field(default=7860, metadata={"help": "On 127.0.0.1; 0 takes a free one."})


@lru_cache(maxsize=2)
def load(checkpoint):
    """A checkpoint's model and tokenizer, the last two kept in memory."""
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32, use_safetensors=True).eval()
    return model, AutoTokenizer.from_pretrained(checkpoint)


@torch.no_grad()
def inspect(checkpoint, text, stored, ids=None):
    """Encode a text, round its latents and decode them.

    Args:
        checkpoint (`str`): folder or Hub name of a [`CtaModel`].
        text (`str`).
        stored (`str`): `float32`, or a number of bits.
        ids (`list[int]`, *optional*): the text's tokens, which a stretch from the middle of a document does not have otherwise;
            passed over where they do not spell the text to this checkpoint's tokenizer.

    Returns:
        `tuple`: the original and the reconstruction as of [`compared_tokens`], their picture, and a line that counts.
    """
    model, tokenizer = load(checkpoint)
    if ids is None or max(ids, default=0) >= len(tokenizer) or tokenizer.decode(ids) != text:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise gradio.Error("An empty text has no latents.")
    latents = model.encode(torch.tensor([ids]))
    bits = 32 if stored == UNROUNDED else int(stored)
    if stored != UNROUNDED:
        latents = model.round_latents(latents, bits)
    decoded = model.decode_tokens(latents, torch.tensor([len(ids)]))[0, : len(ids)].tolist()
    wrong = sum(a != b for a, b in zip(ids, decoded, strict=True))
    cost = int(model.latent_bits(latents, torch.ones(latents.shape[:2]), bits)) / max(len(text.encode("utf-8")), 1)
    size = f"{latents.shape[1]} latents of {latents.shape[2]} numbers"
    line = f"{wrong} of {len(ids)} tokens wrong; {size}, {cost:.2f} bits a byte."
    return *compared_tokens(tokenizer, ids, decoded), latent_figure(latents[0].numpy(), model.config.ratio), line


def build_viewer(checkpoints, errors):
    """The viewer's page.

    Args:
        checkpoints (`list[str]`): folders or Hub names to pick from.
        errors (`list[dict]`): as of [`read_errors`].

    Returns:
        `gradio.Blocks`: to `launch`, on loopback.
    """
    names = [f"{i}: sample {e['sample']}, {len(e['wrong'])} wrong" for i, e in enumerate(errors)]
    colours = {"lost": "#2a9d4a", "wrong": "#d62839"}
    with gradio.Blocks(
        title="textae: token autoencoder errors", analytics_enabled=False, delete_cache=(60, 60)
    ) as page:
        with gradio.Row():
            checkpoint = gradio.Dropdown(checkpoints, value=checkpoints[0], label="checkpoint")
            case = gradio.Dropdown(names, value=names[0], type="index", label="error case", elem_id="case")
            stored = gradio.Dropdown(
                [UNROUNDED, "16", *map(str, reversed(GRID_BITS))],
                value=str(errors[0]["bits"]),
                label="bits a number is stored in",
            )
        own = gradio.Textbox(
            label="or a text of your own, then Enter; empty for the case above", max_lines=1, elem_id="own"
        )
        line = gradio.Markdown(elem_id="line")
        with gradio.Row():
            original = gradio.HighlightedText(label="original", color_map=colours, elem_id="original")
            written = gradio.HighlightedText(label="reconstruction", color_map=colours, elem_id="reconstruction")
        latents = gradio.Plot(label="latents", elem_id="latents")

        def show(checkpoint, case, stored, own):
            text, ids = (own, None) if own else (errors[case]["text"], errors[case]["ids"])
            try:
                return inspect(checkpoint, text, stored, ids)
            except ValueError as error:  # the page shows no other's message
                raise gradio.Error(str(error)) from error

        fields = [checkpoint, case, stored, own]
        gradio.on(
            [page.load, checkpoint.change, case.change, stored.change, own.submit],
            show,
            fields,
            [original, written, latents, line],
            trigger_mode="always_last",
        )
    return page


def serve(page, port):
    """Serve a page on loopback.

    Args:
        page (`gradio.Blocks`), port (`int`): 0 takes a free one.

    Returns:
        `str`: the page's address; `page.block_thread()` waits for an interrupt, `page.close()` ends it.

    Raises:
        OSError: where the port is taken.
    """
    return page.launch(
        server_name=HOST,
        server_port=port or None,
        share=False,
        theme=THEME,
        quiet=True,
        ssr_mode=False,
        prevent_thread_lock=True,
        footer_links=[],
        # Another site's script may send what it likes to loopback: it gets neither an answer under its own name nor files kept.
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])]},
        max_file_size=1,
    )[1]


def main(arguments=None):
    """Serve the viewer until interrupted; exit 2 for bad input."""
    try:
        (fields,) = HfArgumentParser(ViewerArguments, description=__doc__).parse_args_into_dataclasses(arguments)
        errors = read_errors(fields.errors)
        for name in fields.checkpoint:
            kind = AutoConfig.from_pretrained(name).model_type
            if kind != CtaConfig.model_type:
                raise ValueError(f"{name!r} is no token autoencoder but {kind}")
        page = build_viewer(fields.checkpoint, errors)
        print(f"{serve(page, fields.port)} (Ctrl-C ends)")
    except (ValueError, OSError) as error:
        print(f"viewer: {error}", file=sys.stderr)
        return 2
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
