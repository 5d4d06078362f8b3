"""How well a run's noise control held its loss."""

import numpy as np

WINDOW = 100  # steps


def control_figures(log_history, setpoint, minimum=0.0, maximum=1.0):
    """Figures of the last half of a controlled run.

    Args:
        log_history (`list[dict]`): of `trainer.state`; each log's loss is the mean of the steps since the last.
        setpoint (`float`): the loss to hold, in nats.
        minimum, maximum (`float`): bounds of the noise rate.

    Returns:
        `dict`: the set-point, the mean loss, the largest deviation of a 100-step mean from the set-point as a share of it,
        the number of such means, and the share of logs whose rate is strictly inside the bounds, in the last half and in all.

    Raises:
        ValueError: where the log holds no controlled run, or too few steps for one mean.
    """
    logs = [log for log in log_history if "loss" in log and "noise_rate" in log]
    if setpoint is None or len(logs) < 2:
        raise ValueError("the log holds no controlled run: noise rates or the set-point are missing")
    last = logs[-1]["step"]
    every = logs[1]["step"] - logs[0]["step"]
    late = [log for log in logs if log["step"] > last / 2]
    group = max(WINDOW // every, 1)
    losses = np.array([log["loss"] for log in late])
    means = losses[len(losses) % group :].reshape(-1, group).mean(1)
    if not len(means):
        raise ValueError(f"{last} steps are too few for a {WINDOW}-step mean in the last half")

    def inside(some):
        return float(np.mean([minimum < log["noise_rate"] < maximum for log in some]))

    return {
        "setpoint": setpoint,
        "mean_loss": float(losses.mean()),
        "largest_deviation_of_a_100-step_mean": float(np.abs(means / setpoint - 1).max()),
        "100-step_means": len(means),
        "share_of_rates_inside_bounds": inside(late),
        "share_of_rates_inside_bounds_whole_run": inside(logs),
        "first_and_last_rate": f"{late[0]['noise_rate']:.3f}, {late[-1]['noise_rate']:.3f}",
    }
