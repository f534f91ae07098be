"""Drop rates that are learned on the validation loss, and carried from task to task.

Each ConcreteDropout of a network has its rate as a logit φ. A training step at these rates moves the weights from w to
w − η·∂L_train(w, φ)/∂w. The rates follow the gradient of the validation loss there with respect to φ. A new task starts
where earlier ones ended.

References:
    Luketina et al. 2016, arXiv 1511.06727 (one step ahead, for the size of noise). Gal, Hron, Kendall 2017, arXiv
    1705.07832 (the relaxation that lets a gradient reach a rate).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dropout_core.errors import InvalidInput
from dropout_core.layers.concrete import ConcreteDropout

LossFunction = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]


def logits_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the logits of a network's learned rates.

    Args:
        model: The network.

    Returns:
        Parameters by name.

    Raises:
        InvalidInput: There are none.
    """
    found = {
        f"{path}.logit" if path else "logit": module.logit
        for path, module in model.named_modules()
        if isinstance(module, ConcreteDropout)
    }
    if not found:
        raise InvalidInput("the model has no ConcreteDropout, so no rate can be learned; put one where it drops.")
    return found


def hypergradients(
    model: nn.Module, loss: LossFunction, train: Batch, validation: Batch, lr: float
) -> tuple[dict[str, Tensor], float]:
    """Return ∂ L_val(w − lr · ∂L_train(w, φ)/∂w) / ∂φ for every learned rate, and L_val.

    The training loss has its noise on, drawn once; the validation loss has it off; running statistics are held.
    Weights, buffers and modes are not changed.

    Args:
        model: The network.
        loss: Maps (outputs, targets) to a scalar.
        train: Inputs and targets, rows first.
        validation: Inputs and targets, rows first.
        lr: Learning rate of the step ahead, which is plain gradient descent.

    Returns:
        Gradients by the name of the logit, and the validation loss.
    """
    logits = {name: logit.detach().requires_grad_() for name, logit in logits_of(model).items()}
    weights = {
        name: value.detach().requires_grad_()
        for name, value in model.named_parameters()
        if name not in logits and value.requires_grad
    }
    mode = {module: module.training for module in model.modules()}

    def run(training: bool, moved: Mapping[str, Tensor], batch: Batch) -> Tensor:
        model.train(training)
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        return loss(functional_call(model, {**buffers, **logits, **moved}, (batch[0],)), batch[1])

    try:
        with torch.enable_grad():
            at_w = run(True, weights, train)
            slopes = torch.autograd.grad(at_w, list(weights.values()), create_graph=True, materialize_grads=True)
            ahead = {name: weight - lr * slope for (name, weight), slope in zip(weights.items(), slopes, strict=True)}
            value = run(False, ahead, validation)
            gradients = torch.autograd.grad(value, list(logits.values()), materialize_grads=True)
    finally:
        for module, training in mode.items():
            module.training = training
    return dict(zip(logits, gradients, strict=True)), float(value.detach())


class RateLearner:
    """Moves the learned rates of a network by Adam on their hypergradients. You train the weights yourself.

    Call `step` beside each step of the weights' optimiser, which should not hold the logits:

        learner.step((x, y), (x_val, y_val))

    Args:
        model: The network.
        loss: Maps (outputs, targets) to a scalar.
        lr: Learning rate of the weights, for the step ahead.
        rate_lr: Learning rate of the logits.
    """

    def __init__(self, model: nn.Module, loss: LossFunction, lr: float, rate_lr: float = 0.05) -> None:
        self._model, self._loss, self._lr = model, loss, lr
        self._logits = logits_of(model)
        self._optimiser = torch.optim.Adam(self._logits.values(), rate_lr)

    def step(self, train: Batch, validation: Batch) -> float:
        """Move the rates once.

        Args:
            train: Inputs and targets, rows first.
            validation: Inputs and targets, rows first.

        Returns:
            The validation loss one step ahead.
        """
        gradients, value = hypergradients(self._model, self._loss, train, validation, self._lr)
        for name, logit in self._logits.items():
            logit.grad = gradients[name]
        self._optimiser.step()
        self._optimiser.zero_grad()
        return value


class SharedRates:
    """Starts the rates of a new task at the mean, in logits, of those at which earlier tasks ended.

    The networks of all tasks must have the same names of dropouts; otherwise InvalidInput is raised.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._tasks = 0

    def begin(self, model: nn.Module) -> None:
        """Set the rates of a network; before any task has ended they stay as they are.

        Args:
            model: The network of the new task.
        """
        logits = self._known(model)
        with torch.no_grad():
            for name, total in self._sums.items():
                logits[name].copy_(total / self._tasks)

    def end(self, model: nn.Module) -> None:
        """Remember the rates of a network whose task has ended.

        Args:
            model: The network.
        """
        for name, logit in self._known(model).items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(logit)) + logit.detach()
        self._tasks += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the remembered rates, for torch.save."""
        return {"tasks": self._tasks, "sums": dict(self._sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore remembered rates.

        Args:
            state: A result of `state_dict`.
        """
        self._tasks, self._sums = int(state["tasks"]), dict(state["sums"])

    def _known(self, model: nn.Module) -> dict[str, nn.Parameter]:
        logits = logits_of(model)
        if self._sums and set(self._sums) != set(logits):
            raise InvalidInput(f"the model has the rates {sorted(logits)}; earlier tasks had {sorted(self._sums)}.")
        return logits
