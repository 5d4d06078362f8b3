"""Closed-loop control of the noise rate: a PID controller and the callbacks that set the rate of each step."""

from dataclasses import asdict, dataclass

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..data.noise import check_rate


@dataclass
class PIDController:
    """Discrete PID controller: raises its output while the measurement lies below the set-point. No clock, no randomness.

    `output = start + proportional * error + integral - derivative * change`, clipped to the bounds, where `error` is the
    set-point less the filtered measurement. The derivative acts on the measurement, so that a moved set-point makes no
    kick. Anti-windup: the integral grows no further than to where the output meets its bound.

    Source: Åström and Hägglund, "PID Controllers", sections 3.2 to 3.5; Encodzall, whose controller could only raise the
    noise and integrated twice.

    Args:
        setpoint (`float`): the measurement to hold.
        minimum, maximum (`float`, default to 0 and 1): bounds of the output.
        start (`float`, defaults to 0.1): output without error.
        proportional (`float`, defaults to 0.1): output for each unit of error.
        integral (`float`, defaults to 0.02): output for each unit of error and step.
        derivative (`float`, defaults to 0.05): output for each unit of change in a step, against it.
        smoothing (`float`, defaults to 0.9): what the filtered measurement keeps of itself at each step, from 0 to below 1.

    Raises:
        ValueError: where bounds are reversed, the start lies outside, or smoothing is no such share.
    """

    setpoint: float
    minimum: float = 0.0
    maximum: float = 1.0
    start: float = 0.1
    proportional: float = 0.1
    integral: float = 0.02
    derivative: float = 0.05
    smoothing: float = 0.9

    def __post_init__(self):
        if not self.minimum <= self.start <= self.maximum:
            raise ValueError(
                f"start {self.start} lies outside the bounds {self.minimum} to {self.maximum}, which must be in that order"
            )
        for name in ("setpoint", "proportional", "integral", "derivative"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} {getattr(self, name)} is negative: accepted are 0 and above")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing {self.smoothing} must be at least 0 and below 1")
        self.filtered = None
        self.integral_term = 0.0
        self.proportional_term = 0.0
        self.derivative_term = 0.0
        self.error = 0.0
        self.output = self.start

    def observe(self, measurement):
        """Filter a measurement without acting on it, and return the filter's change."""
        previous = self.filtered
        self.filtered = (
            measurement if previous is None else self.smoothing * previous + (1 - self.smoothing) * measurement
        )
        self.error = self.setpoint - self.filtered
        return 0.0 if previous is None else self.filtered - previous

    def update(self, measurement):
        """Take one measurement and return the new output."""
        change = self.observe(measurement)
        self.proportional_term = self.proportional * self.error
        self.derivative_term = -self.derivative * change
        rest = self.start + self.proportional_term + self.derivative_term
        before, after = self.integral_term, self.integral_term + self.integral * self.error
        # Anti-windup: grow no further than to where the output meets its bound.
        if after > before and rest + after > self.maximum:
            after = max(before, self.maximum - rest)
        elif after < before and rest + after < self.minimum:
            after = min(before, self.minimum - rest)
        self.integral_term = after
        self.output = min(max(rest + self.integral_term, self.minimum), self.maximum)
        return self.output

    def state(self):
        """What `load_state` needs to go on exactly here, as plain numbers."""
        names = ("filtered", "integral_term", "proportional_term", "derivative_term", "error", "output")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state):
        """Go on where `state` was taken."""
        for name, value in state.items():
            setattr(self, name, value)


class NoiseRateCallback(TrainerCallback):
    """Base of the callbacks that set the noise rate after each step, on the collator's [`NoiseRate`].

    The collator is found through the training data loader, so the callback works under any Trainer whose collator has a
    `noise_rate`. The batches of step `k` use the rate that held after step `k - delay`; the delay follows from how many
    batches the data loader prepares ahead.
    """

    def __init__(self):
        self.noise_rate = None
        self.recent = {}

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Find the collator's noise rate, fix its delay, and put back the rates that a checkpoint held."""
        self.noise_rate = getattr(getattr(train_dataloader, "collate_fn", None), "noise_rate", None)
        if self.noise_rate is None:
            raise ValueError(
                f"{type(self).__name__} needs a collator with a noise_rate, as EncodzallMaskingCollator has; "
                "with transformers' own Trainer set remove_unused_columns=False, which would hide it"
            )
        # Workers prepare prefetch_factor batches each, and accelerate looks one batch ahead of the step.
        ahead = args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2) + 1
        self.noise_rate.delay = -(-ahead // args.gradient_accumulation_steps)
        self.recent = {int(steps_done): rate for steps_done, rate in self.recent.items()}  # JSON made them strings
        for steps_done, rate in self.recent.items():
            self.noise_rate.set(steps_done, rate)
        if not self.recent:
            self.set_rate(state.global_step, self.initial_rate())

    def initial_rate(self):
        """The rate before the first step."""
        raise TypeError(f"{type(self).__name__} names no initial rate")

    def set_rate(self, steps_done, rate):
        """Set the rate that holds after a number of steps, and remember as many as a resumed run will ask for."""
        self.noise_rate.set(steps_done, rate)
        self.recent[steps_done] = rate
        while len(self.recent) > self.noise_rate.delay + 1:
            self.recent.pop(min(self.recent))

    def logs(self):
        """Numbers to log beside the loss."""
        return {"noise_rate": self.recent[max(self.recent)]} if self.recent else {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add the numbers to a log that holds a training loss."""
        if logs is not None and "loss" in logs:
            logs.update(self.logs())
            if state.log_history and state.log_history[-1].get("step") == state.global_step:
                state.log_history[-1].update(self.logs())


class PIDNoiseCallback(NoiseRateCallback, ExportableState):
    """Hold the training loss at a set-point by moving the noise rate.

    Under [`TextAETrainer`] each step's own loss is the measurement. Under transformers' Trainer, which shows callbacks no
    step's loss, the mean loss that each log brings is taken once a log: the control then acts every `logging_steps`
    steps, that much later, and with gains that count logs instead of steps.

    Args:
        setpoint (`float`): the training loss to hold, in nats a label.
        warmup_steps (`int`, defaults to 0): steps during which the rate stays at `start` and the loss is only filtered.
        minimum, maximum, start, proportional, integral, derivative, smoothing: as of [`PIDController`]; the bounds are
            probabilities.
        controlled_loss (`str`, defaults to `"loss"`): what is held: the loss, or a part of it that the model's output names.

    Raises:
        ValueError: where a bound is no probability, or as of [`PIDController`]; and in training, where there is no such part.
    """

    def __init__(
        self,
        setpoint,
        warmup_steps=0,
        minimum=0.0,
        maximum=1.0,
        start=0.1,
        proportional=0.1,
        integral=0.02,
        derivative=0.05,
        smoothing=0.9,
        controlled_loss="loss",
    ):
        super().__init__()
        self.controller = PIDController(
            setpoint, check_rate(minimum), check_rate(maximum), start, proportional, integral, derivative, smoothing
        )
        self.warmup_steps, self.controlled_loss = warmup_steps, controlled_loss
        self.sees_steps = False

    def initial_rate(self):
        return self.controller.output

    def measure(self, losses, state):
        """Take one measurement out of the losses and set the rate that follows."""
        if self.controlled_loss not in losses:
            named = ", ".join(name for name in losses if name.endswith("loss"))
            raise ValueError(f"there is no {self.controlled_loss!r} to control by, only {named}")
        loss = losses[self.controlled_loss]
        if state.global_step <= self.warmup_steps:
            self.controller.observe(loss)
        else:
            self.controller.update(loss)
        self.set_rate(state.global_step, self.controller.output)

    def on_step_end(self, args, state, control, **kwargs):
        """Control by the step's loss, where the trainer shows it."""
        losses = getattr(state, "step_losses", None)
        if losses is not None:
            self.sees_steps = True
            self.measure(losses, state)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Control by the logged loss, where no step's loss was shown; then log the controller's numbers."""
        if logs is not None and "loss" in logs and not self.sees_steps:
            self.measure(logs, state)
        super().on_log(args, state, control, logs=logs, **kwargs)

    def logs(self):
        controller = self.controller
        return super().logs() | {
            "noise_error": controller.error,
            "noise_proportional": controller.proportional_term,
            "noise_integral": controller.integral_term,
            "noise_derivative": controller.derivative_term,
        }

    @property
    def saved_state(self):
        """The controller's state and the recent rates, as JSON can hold them."""
        return {"controller": self.controller.state(), "recent": dict(self.recent)}

    @saved_state.setter
    def saved_state(self, saved):
        self.controller.load_state(saved["controller"])
        self.recent = dict(saved["recent"])

    def state(self):
        """Arguments and state, as transformers' checkpoints keep them."""
        return {
            "args": asdict(self.controller)
            | {"warmup_steps": self.warmup_steps, "controlled_loss": self.controlled_loss},
            "attributes": {"saved_state": self.saved_state},
        }


class LinearNoiseCallback(NoiseRateCallback, ExportableState):
    """Move the noise rate in a straight line over the run: the schedule that control is compared with.

    Args:
        start, end (`float`): rates before the first and after the last step.

    Raises:
        ValueError: where a rate is no probability.
    """

    def __init__(self, start, end):
        super().__init__()
        self.start, self.end = check_rate(start), check_rate(end)

    def initial_rate(self):
        return self.start

    def on_step_end(self, args, state, control, **kwargs):
        """Set the rate that follows the step."""
        share = min(state.global_step / max(state.max_steps, 1), 1.0)
        self.set_rate(state.global_step, self.start + share * (self.end - self.start))

    def state(self):
        """Arguments and recent rates, as transformers' checkpoints keep them."""
        return {"args": {"start": self.start, "end": self.end}, "attributes": {"recent": dict(self.recent)}}
