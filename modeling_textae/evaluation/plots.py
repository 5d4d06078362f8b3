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
