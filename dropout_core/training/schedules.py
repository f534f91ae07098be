"""Schedules: drop probabilities that follow a curve."""

import math
import operator
import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import checked_rate
from dropout_core.layers.selection import Layers, named_layers, rates_of
from dropout_core.training.curves import Adaptive, AdaptiveState, Curve, checked_count

_POINTS = 1000


class RateSchedule:
    """Sets the drop probabilities of layers along a curve, by the rule of `dropout_core.training`. It starts at step 0.

    It drives each drop probability once:

    * `p` of this library's layers and of torch's nn.Dropout and its relatives;
    * `p_input`, `p_recurrent` and `p_output` of the variational recurrent layers;
    * `dropout` of nn.MultiheadAttention, and of nn.LSTM, nn.GRU and nn.RNN with several layers;

    and those of layers that inherit from these. Learned rates are not driven. Call `step()` after each batch or epoch,
    with the losses if the curve is `Adaptive`. After load_state_dict, training continues with the rates it would have
    had, whatever rates the layers have then.

    Args:
        layers: A network, a layer, or a list of either.
        curve: The curve.
        p: The number that the factor multiplies, instead of each layer's own rate; with p = 1 the curve gives the rates
            themselves. It also drives rates of 0, which otherwise stay 0.
        only: Maps (name, layer) to whether this rate is driven. A name joins layer and attribute, such as
            "blocks.1.drop.p"; in a list of networks the position comes first, "0.blocks.1.drop.p".

    Raises:
        InvalidInput: There is nothing to drive, or the curve would carry a rate out of 0 … 1.
    """

    def __init__(
        self,
        layers: Layers,
        curve: Curve | Adaptive,
        p: float | None = None,
        only: Callable[[str, nn.Module], bool] | None = None,
    ) -> None:
        found = {
            f"{path}.{attribute}".removeprefix("."): (layer, attribute)
            for path, layer in named_layers(layers)
            for attribute in rates_of(layer)
        }
        found = {name: place for name, place in found.items() if only is None or only(name, place[0])}
        if not found:
            raise InvalidInput("there is no drop probability to drive; a layer that has one, and is chosen, is wanted.")
        own = {name: getattr(*place) if p is None else checked_rate(p) for name, place in found.items()}
        if not any(own.values()):
            raise InvalidInput("every drop probability is 0, and so is any multiple; p above 0 is wanted.")
        self._curve, self._layers, self._own, self._step = curve, found, own, 0
        self._check_reach(own)
        self._state = curve.first() if isinstance(curve, Adaptive) else None
        self._changes = [] if self._state is None else [(0, self._state.factor)]
        self._set()

    @property
    def rates(self) -> dict[str, float]:
        """The current drop probabilities, by name."""
        factor = self.factor
        return {name: own * factor for name, own in self._own.items()}

    @property
    def factor(self) -> float:
        """The current factor."""
        return self.factor_at(self._step)

    def factor_at(self, step: int) -> float:
        """Return the factor of a step.

        Args:
            step: The step.

        Returns:
            The factor.

        Raises:
            InvalidInput: `Adaptive` has not reached the step yet.
        """
        if isinstance(self._curve, Curve):
            return self._curve(step)
        if checked_count(step, "step", 0) > self._step:
            raise InvalidInput(f"step is {step}; the losses decide its factor, and {self._step} is the last one known.")
        return self._changes[bisect_right(self._changes, step, key=operator.itemgetter(0)) - 1][1]

    def step(self, train_loss: float | Tensor | None = None, validation_loss: float | Tensor | None = None) -> None:
        """Advance by one step and set its rates.

        Args:
            train_loss: Training loss, for `Adaptive` only: a number or a tensor with one element.
            validation_loss: Validation loss, likewise.

        Raises:
            InvalidInput: Losses are missing, not needed, or not finite.
        """
        losses = [loss.detach().item() if isinstance(loss, Tensor) else loss for loss in (train_loss, validation_loss)]
        if isinstance(self._curve, Adaptive) and self._state is not None:
            train, validation = (_checked_loss(loss) for loss in losses)
            self._state = self._curve.after(self._state, train, validation)
            if self._state.factor != self._changes[-1][1]:
                self._changes.append((self._step + 1, self._state.factor))
        elif losses != [None, None]:
            raise InvalidInput(f"{self._curve} takes no losses; step() is wanted.")
        self._step += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """Return the state: numbers, strings, lists and dictionaries."""
        adaptive = None if self._state is None else asdict(self._state)
        return {"step": self._step, "own": dict(self._own), "adaptive": adaptive, "changes": list(self._changes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the step of a state and set its rates. The curve is not part of the state.

        Args:
            state: A result of `state_dict`.

        Raises:
            InvalidInput: The state belongs to other layers, or to another kind of curve.
        """
        if state["own"].keys() != self._layers.keys():
            names = [", ".join(keys) for keys in (state["own"], self._layers)]
            raise InvalidInput(f"the state is of the drop probabilities {names[0]}; one of {names[1]} is wanted.")
        if (state["adaptive"] is None) != (self._state is None):
            kinds = ("with", "without") if self._state is None else ("without", "with")
            raise InvalidInput(f"the state is {kinds[0]} the memory of an Adaptive; one {kinds[1]} it is wanted.")
        self._check_reach(state["own"])
        self._step, self._own = checked_count(state["step"], "step", 0), dict(state["own"])
        self._state = None if state["adaptive"] is None else AdaptiveState(**state["adaptive"])
        self._changes = [(step, factor) for step, factor in state["changes"]]
        self._set()

    def plot(self, to: Any, steps: int | None = None) -> None:
        """Draw the rates over steps, one line per p.

        Args:
            to: Path of a picture, whose suffix gives the format, or axes of matplotlib to draw on.
            steps: Number of steps from step 0; up to the current one by default.

        Raises:
            ModuleNotFoundError: matplotlib, which a path needs, is not installed.
            InvalidInput: `Adaptive` has not reached the steps yet.
        """
        last = self._step if steps is None else checked_count(steps, "steps", 0)
        if not isinstance(to, str | os.PathLike):
            self._draw(to, last)
            return
        try:
            # Not pyplot, which would choose a display.
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("a plot needs matplotlib: pip install 'mcdrop[plot]'") from error
        figure = Figure(layout="constrained")
        self._draw(figure.subplots(), last)
        figure.savefig(to)

    def _draw(self, axes: Any, last: int) -> None:
        shown = sorted({last * point // _POINTS for point in range(_POINTS + 1)})
        factors = [self.factor_at(step) for step in shown]
        for own in sorted(set(self._own.values())):
            names = [name for name, value in self._own.items() if value == own]
            label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
            rates = [own * factor for factor in factors]
            axes.plot(shown, rates, drawstyle="steps-post", label=label)
        axes.set_xlabel("step")
        axes.set_ylabel("drop probability")
        axes.legend()

    def _check_reach(self, own: dict[str, float]) -> None:
        """Refuse a curve that would carry one of these rates further than its layer allows."""
        for name, (layer, attribute) in self._layers.items():
            now = getattr(layer, attribute)
            try:
                _set(layer, attribute, own[name] * self._curve.greatest)
            except InvalidInput as error:
                raise InvalidInput(f"{self._curve} carries {name}, which is {own[name]}, too far: {error}") from error
            setattr(layer, attribute, now)

    def _set(self) -> None:
        for name, rate in self.rates.items():
            _set(*self._layers[name], rate)


def _set(layer: nn.Module, attribute: str, rate: float) -> None:
    # torch's own layers take any number.
    setattr(layer, attribute, checked_rate(rate, attribute))


def _checked_loss(loss: float | None) -> float:
    if loss is None or not math.isfinite(loss):
        raise InvalidInput(f"a loss is {loss}; train_loss and validation_loss, both finite, are wanted.")
    return loss
