"""Pictures of runs."""

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt


def plot_training(log_history, path, setpoint=None):
    """Draw the loss and the noise rate of a run over its steps.

    Args:
        log_history (`list[dict]`): of `trainer.state`.
        path: where to write the PNG.
        setpoint (`float`, *optional*): of the controlled loss, drawn as a line.
    """
    logs = [log for log in log_history if "loss" in log]
    steps = [log["step"] for log in logs]
    parts = sorted({name for log in logs for name in log if name.endswith("_loss")})
    rates = [(log["step"], log["noise_rate"]) for log in logs if "noise_rate" in log]
    figure, axes = plt.subplots(2 if rates else 1, 1, sharex=True, squeeze=False, figsize=(8, 6 if rates else 3.5))
    top = axes[0, 0]
    for name in ["loss", *parts]:
        values = [log.get(name) for log in logs]
        top.plot(steps, values, label=name.replace("_", " "), linewidth=1.6 if name == "loss" else 0.9)
    if setpoint is not None:
        top.axhline(setpoint, color="black", linestyle="--", linewidth=0.8, label="set-point")
    top.set_yscale("log")
    top.set_ylabel("training loss (nats a label)")
    top.legend(fontsize=8)
    if rates:
        axes[1, 0].plot(*zip(*rates), color="tab:red")
        axes[1, 0].set_ylabel("noise rate")
    axes[-1, 0].set_xlabel("step")
    for axis in axes[:, 0]:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_packing(symbols, segments, mask, path):
    """Draw the rows into which encoder 1 packs words, and the attention mask of the first.

    Args:
        symbols (`list[list[str]]`): what stands in each place of each row.
        segments (`torch.LongTensor` of shape `(rows, row_length)`): the word of each place, -1 for none.
        mask (`torch.BoolTensor` of shape `(row_length, row_length)`): of the first row.
        path: where to write the PNG.
    """
    figure, (rows, square) = plt.subplots(2, 1, figsize=(9, 9), height_ratios=[len(segments), 20])
    colours = matplotlib.colormaps["tab20"]
    shown = [[colours(s % 20)[:3] if s >= 0 else (1, 1, 1) for s in row] for row in segments.tolist()]
    rows.imshow(shown, aspect="auto")
    for y, row in enumerate(symbols):
        for x, symbol in enumerate(row):
            rows.text(x, y, symbol, ha="center", va="center", fontsize=7, family="monospace")
    rows.set_title("rows of whole words; each colour a word")
    rows.set_yticks(range(len(symbols)), [f"row {i}" for i in range(len(symbols))])
    rows.set_xticks([])
    square.imshow(mask, cmap="Greys", vmin=0, vmax=1.6)
    square.set_title("who attends to whom in row 0")
    square.set_xticks(range(len(symbols[0])), symbols[0], fontsize=6, family="monospace")
    square.set_yticks(range(len(symbols[0])), symbols[0], fontsize=6, family="monospace")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def latent_figure(latents, ratio):
    """Latents as an image: a column for each vector, a row for each of its numbers.

    Args:
        latents (`np.ndarray` of shape `(latent_length, latent_dim)`), ratio (`int`): tokens of a vector.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure, axis = plt.subplots(figsize=(10, 3), layout="constrained")
    top = max(float(abs(latents).max(initial=0)), 1e-6)
    image = axis.imshow(latents.T, aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel(f"latent ({ratio} tokens each)")
    axis.set_ylabel("channel")
    figure.colorbar(image)
    return figure
