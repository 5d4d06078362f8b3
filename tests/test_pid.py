import numpy as np
import pytest

from modeling_textae.training.pid import PIDController, PIDNoiseCallback


class Plant:
    """A loss that rises with the noise rate, lags, drifts and is measured with noise."""

    def __init__(self, gain=1.2, base=0.1, lag=0.0, noise=0.0, seed=0):
        self.gain, self.base, self.lag, self.noise = gain, base, lag, noise
        self.random = np.random.default_rng(seed)
        self.value = base

    def __call__(self, rate):
        self.value = self.lag * self.value + (1 - self.lag) * (self.base + self.gain * rate)
        return self.value * (1 + self.noise * self.random.standard_normal())


def drive(controller, plant, steps):
    losses, rates = [], []
    for _ in range(steps):
        losses.append(plant(controller.output))
        rates.append(controller.update(losses[-1]))
    return np.array(losses), np.array(rates)


@pytest.mark.parametrize("base", [0.02, 0.25])
def test_settles_from_both_sides(base):
    losses, rates = drive(PIDController(0.35, start=0.15), Plant(base=base), 600)
    assert abs(losses[-100:].mean() / 0.35 - 1) < 0.02
    assert abs(rates[-1] - (0.35 - base) / 1.2) < 0.01


@pytest.mark.parametrize("step", [+0.1, -0.1])
def test_recovers_from_a_step_up_and_down(step):
    controller, plant = PIDController(0.35), Plant(lag=0.5)
    drive(controller, plant, 600)
    plant.base += step
    losses, rates = drive(controller, plant, 400)
    assert abs(losses[0] - 0.35) > 0.03  # the step was felt
    assert np.sign(rates[-1] - rates[0]) == -np.sign(step)  # the rate went the other way
    assert abs(losses[-100:].mean() / 0.35 - 1) < 0.02


@pytest.mark.parametrize("lag", [0.0, 0.9])
def test_steady_state_error_is_small_under_measurement_noise(lag):
    losses, rates = drive(PIDController(0.35), Plant(lag=lag, noise=0.15), 3000)
    means = losses[1500:].reshape(-1, 100).mean(1)
    assert abs(means.mean() / 0.35 - 1) < 0.02
    assert (abs(means / 0.35 - 1) < 0.05).all()
    assert ((rates[1500:] > 0) & (rates[1500:] < 1)).all()


def test_follows_a_drift():
    controller, plant = PIDController(0.35), Plant()
    drive(controller, plant, 600)
    errors = []
    for _ in range(2000):
        plant.base -= 0.1 / 2000
        loss = plant(controller.output)
        controller.update(loss)
        errors.append(loss - 0.35)
    assert abs(np.mean(errors)) < 0.02 * 0.35


@pytest.mark.parametrize(("base", "bound"), [(2.0, 0.0), (-2.0, 0.5)])
def test_does_not_wind_up_at_a_bound(base, bound):
    controller, plant = PIDController(0.35, maximum=0.5), Plant(base=base)
    _, rates = drive(controller, plant, 2000)
    assert rates[-1] == bound
    plant.base = 0.1
    losses, rates = drive(controller, plant, 400)
    assert (rates >= 0).all()
    assert (rates <= 0.5).all()
    assert abs(losses[-50:].mean() / 0.35 - 1) < 0.02


def test_the_derivative_acts_on_the_measurement_only():
    controller = PIDController(0.3, derivative=10.0, proportional=0.0, integral=0.0, smoothing=0.0, start=0.5)
    controller.update(0.3)
    controller.setpoint = 0.9
    assert controller.update(0.3) == 0.5  # no kick from a moved set-point
    assert controller.update(0.32) == pytest.approx(0.3)  # against a rising loss


def test_equals_the_textbook_sum_while_unbounded():
    controller = PIDController(0.3, minimum=0, maximum=1, start=0.4, smoothing=0.5)
    losses = np.random.default_rng(0).uniform(0.2, 0.4, 50)
    filtered, total = losses[0], 0.0
    for i, loss in enumerate(losses):
        previous, filtered = filtered, (loss if i == 0 else 0.5 * filtered + 0.5 * loss)
        total += 0.3 - filtered
        expected = 0.4 + 0.1 * (0.3 - filtered) + 0.02 * total - 0.05 * (filtered - previous)
        assert controller.update(loss) == pytest.approx(expected)


def test_state_goes_on_exactly():
    first, plant = PIDController(0.3), Plant(noise=0.1)
    drive(first, plant, 100)
    second = PIDController(0.3)
    second.load_state(first.state())
    assert [first.update(x) for x in (0.2, 0.5, 0.3)] == [second.update(x) for x in (0.2, 0.5, 0.3)]


def test_callback_state_is_json_and_comes_back():
    import json

    callback = PIDNoiseCallback(0.3, warmup_steps=7, maximum=0.8)
    callback.controller.update(0.2)
    saved = json.loads(json.dumps(callback.state()))
    again = PIDNoiseCallback.from_state(saved)
    assert again.controller.state() == callback.controller.state()
    assert (again.warmup_steps, again.controller.maximum) == (7, 0.8)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"start 0.5 lies outside the bounds 0.6 to 0.8"):
        PIDController(0.3, minimum=0.6, maximum=0.8, start=0.5)
    with pytest.raises(ValueError, match="smoothing 1"):
        PIDController(0.3, smoothing=1.0)
    with pytest.raises(ValueError, match="accepted are 0 to 1"):
        PIDNoiseCallback(0.3, maximum=1.5)
