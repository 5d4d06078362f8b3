"""Heat maps of a model's attention: each head, each layer, what flows through all of them, and the sinusoidal positions."""

import numpy as np
import seaborn
import torch
from matplotlib import pyplot as plt

from ..models.autoencoder import in_use
from ..models.modeling_mlm_encoder import sinusoids


def attention_weights(model, tokenizer, text):
    """The attention of a trained model on a text, by the eager implementation, which alone returns weights.

    Args:
        model: any model of transformers whose output has `attentions` of each layer over the tokens of its input.
        tokenizer: its tokenizer.
        text (`str`).

    Returns:
        `tuple[list[str], np.ndarray]`: the tokens as they are read, and weights of shape `(layers, heads, queries, keys)`,
        whose rows sum to one.

    Raises:
        ValueError: for a text without tokens, or a model that returns no attention over them.
    """
    inputs = tokenizer(text, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    if not ids:
        raise ValueError("an empty text has no tokens to attend to")
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with in_use(model):
            attentions = model(**inputs.to(model.device), output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    if not attentions or attentions[0].shape[-2:] != (len(ids), len(ids)):
        raise ValueError(f"{type(model).__name__} returns no attention of tokens to tokens")
    weights = torch.cat(attentions).float().cpu().numpy()
    return [token_label(tokenizer, i) for i in ids], weights


def token_label(tokenizer, index):
    """A token as a plot shows it: its text without the space before it, white space and broken characters made visible."""
    text = tokenizer.decode([index])
    if "\ufffd" in text:
        return tokenizer.convert_ids_to_tokens(index)
    shown = text.strip() or repr(text)[1:-1].replace(" ", "␣")
    return shown.replace("$", r"\$")  # else matplotlib reads formulas


def attention_rollout(weights):
    """How much of each input each layer's places hold, if attention alone moved what they hold.

    Source: Abnar and Zuidema 2020, "Quantifying attention flow in transformers", section 3: the product of the layers' mean
    attention, each mixed half and half with the identity for the residual connection.

    Args:
        weights (`np.ndarray` of shape `(layers, heads, length, length)`): rows sum to one.

    Returns:
        `np.ndarray` of shape `(layers, length, length)`: up to and with each layer; rows sum to one.
    """
    flow, flows = np.eye(weights.shape[-1]), []
    for layer in weights.mean(1):
        flow = (0.5 * layer + 0.5 * np.eye(len(layer))) @ flow
        flows.append(flow)
    return np.stack(flows)


def plot_map(axis, weights, tokens, title, maximum=1.0, names_queries=True, names_keys=True):
    """Draw one heat map: a row for each query, a column for each key.

    Args:
        axis (`matplotlib.axes.Axes`).
        weights (`np.ndarray` of shape `(queries, keys)`).
        tokens (`list[str]`).
        title (`str`).
        maximum (`float`, defaults to 1): the weight with the darkest colour.
        names_queries, names_keys (`bool`, default to `True`): whether to write the tokens beside rows and below columns.
    """
    seaborn.heatmap(
        weights,
        ax=axis,
        vmin=0,
        vmax=maximum,
        square=True,
        cmap="rocket_r",
        cbar=False,
        xticklabels=tokens if names_keys else False,
        yticklabels=tokens if names_queries else False,
        linewidths=0.3 if len(tokens) <= 40 else 0,
        linecolor="white",
    )
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=label_size(tokens), length=0)
    if names_keys:
        plt.setp(axis.get_xticklabels(), rotation=90)
    if names_queries:
        plt.setp(axis.get_yticklabels(), rotation=0)


def label_size(tokens):
    """Size of token names, in points, that leaves them apart in a map 2.2 inches wide."""
    return float(np.clip(120 / len(tokens), 3.5, 8))


def plot_grid(figure, maps, titles, tokens, columns, maximum=1.0):
    """Draw heat maps in rows, tokens named at the left and at the foot of the grid.

    Args:
        figure (`matplotlib.figure.Figure` or `SubFigure`).
        maps (`np.ndarray` of shape `(number, queries, keys)`).
        titles (`list[str]`).
        tokens (`list[str]`).
        columns (`int`).
        maximum (`float`, defaults to 1): as of [`plot_map`].
    """
    rows = -(-len(maps) // columns)
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, axis in enumerate(axes.flat):
        if place >= len(maps):
            axis.axis("off")
            continue
        lowest = place + columns >= len(maps)
        plot_map(axis, maps[place], tokens, titles[place], maximum, place % columns == 0, lowest)
    figure.supylabel("query: the token that asks", fontsize=9)
    figure.supxlabel("key: the token that answers", fontsize=9)
    figure.colorbar(axes[0, 0].collections[0], ax=axes, shrink=0.5, pad=0.01, label="weight")


def plot_heads(weights, tokens, figure=None):
    """Draw every head of every layer: layers from top to bottom, heads from left to right.

    Args:
        weights (`np.ndarray` of shape `(layers, heads, length, length)`), tokens (`list[str]`): of [`attention_weights`].
        figure (*optional*): to draw into; by default a new one.

    Returns:
        `matplotlib.figure.Figure`, or the given one.
    """
    layers, heads = weights.shape[:2]
    figure = figure or plt.figure(figsize=grid_size(layers, heads), layout="constrained")
    titles = [f"layer {i + 1}, head {j + 1}" for i in range(layers) for j in range(heads)]
    plot_grid(figure, weights.reshape(-1, *weights.shape[2:]), titles, tokens, heads)
    return figure


def plot_layers(weights, tokens, figure=None):
    """Draw the mean over the heads of each layer and, below it, the rollout up to that layer.

    Arguments and returns as of [`plot_heads`].
    """
    layers = len(weights)
    figure = figure or plt.figure(figsize=grid_size(2, layers), layout="constrained")
    maps = np.concatenate((weights.mean(1), attention_rollout(weights)))
    titles = [f"layer {i + 1}, mean of heads" for i in range(layers)]
    titles += [f"rollout to layer {i + 1}" for i in range(layers)]
    plot_grid(figure, maps, titles, tokens, layers, maximum=float(maps.max()))
    return figure


def plot_positions(length, hidden_size, theta=10000.0, figure=None):
    """Draw the table of sinusoidal positions.

    Args:
        length, hidden_size (`int`), theta (`float`, defaults to 10000): of the table.
        figure (*optional*): to draw into; by default a new one.

    Returns:
        `matplotlib.figure.Figure`, or the given one.
    """
    figure = figure or plt.figure(figsize=(9, 3), layout="constrained")
    axis = figure.subplots()
    table = sinusoids(torch.arange(length), hidden_size, theta).numpy()
    step = max(hidden_size // 16, 1)
    seaborn.heatmap(
        table, ax=axis, vmin=-1, vmax=1, cmap="vlag", xticklabels=step, yticklabels=max(length // 8, 1),
        cbar_kws={"label": "value", "shrink": 0.8},
    )  # fmt: skip
    axis.set(xlabel="channel (even: sine, odd: cosine)", ylabel="position")
    axis.set_title("sinusoidal positions", fontsize=9)
    axis.tick_params(labelsize=7)
    return figure


def grid_size(rows, columns):
    """Inches of a grid of maps with room for the tokens' names."""
    return 2.2 * columns + 2, 2.3 * rows + 1.3


def plot_attention(weights, tokens, path, sinusoidal=None):
    """Draw heads, layers, rollout and positions into one picture.

    Args:
        weights, tokens: of [`attention_weights`].
        path: where to write the PNG.
        sinusoidal (`tuple[int, float]`, *optional*): width and base of the model's sinusoids; none are drawn by default.
    """
    layers, heads = weights.shape[:2]
    width = max(grid_size(1, heads)[0], grid_size(1, layers)[0])
    heights = [grid_size(layers, heads)[1], grid_size(2, layers)[1], *([3.2] if sinusoidal else [])]
    figure = plt.figure(figsize=(width, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    plot_heads(weights, tokens, parts[0])
    plot_layers(weights, tokens, parts[1])
    if sinusoidal:
        plot_positions(max(len(tokens), 32), *sinusoidal, figure=parts[2])
    figure.savefig(path, dpi=80)
    plt.close(figure)
