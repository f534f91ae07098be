"""Estimates of a live network: `estimate = predict(model, x)`."""

import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from dropout_core.capture.arguments import Inputs, bind
from dropout_core.capture.arguments import call as call_model
from dropout_core.capture.capture import capture, clone, preserved_randomness, stochastic, weights_of
from dropout_core.capture.dynamic import Dynamic, free_axes
from dropout_core.capture.live import Live, look
from dropout_core.capture.outputs import Result, classes_last, is_tensor, pick
from dropout_core.engine.embedding import embeddings
from dropout_core.engine.engine import Chunk, Engine
from dropout_core.engine.options import PassOptions, PassOverrides
from dropout_core.errors import InvalidInput
from dropout_core.estimate.estimate import Estimate, fold_passes, run_passes
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Program
from dropout_core.measures.measures import OutputKind, output_kind
from dropout_core.verify import is_the_model, verify

Method = Literal["captured", "loop"]
_EXAMPLE_ROWS = 4
_MAX_CAPTURES = 8


@dataclass(frozen=True)
class _Call:
    """The inputs of a call by name, and how the network takes and returns them."""

    inputs: NamedTensors
    output: str
    dynamic: Dynamic | None
    result: Result
    class_axis: int | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the capture: everything but values, the number of rows and free sizes."""
        axes = free_axes(self.dynamic, self.inputs)
        shapes = [
            (name, value.dtype, *(axes.get(name, {}).get(axis, value.shape[axis]) for axis in range(1, value.dim())))
            for name, value in self.inputs.items()
        ]
        return self.output, self.result, self.class_axis, *shapes


@dataclass(frozen=True)
class _Captured:
    structure: tuple[Any, ...]
    program: Program
    engine: Engine


_captured: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], _Captured]] = weakref.WeakKeyDictionary()
_captured_lock = threading.Lock()


def predict(
    model: nn.Module,
    x: Inputs,
    *,
    output: OutputKind = "logits",
    result: Result = None,
    class_axis: int | None = None,
    dynamic: Dynamic | None = None,
    method: Method = "captured",
    keep_draws: bool = False,
    **options: Unpack[PassOverrides],
) -> Estimate:
    """Estimate the predictive mean, variance and entropies of a network by T passes with its dropout on.

    The first call captures and verifies the network. Later calls reuse the capture for as long as the structure of the
    network stays the same, and use the weights as they are at the call. Inputs of another shape are captured once more;
    the captures of a few shapes are kept. The network, its modes and its buffers are never changed.

    Args:
        model: A network that takes and returns tensors whose first axis is the row.
        x: Its input [B, *F], a tuple of the first arguments of `forward`, or a mapping by their names.
        output: What the network's numbers are, a key of `OUTPUT_KINDS`: "logits", "probabilities",
            "multilabel_logits", "multilabel_probabilities", "mean" or "mean_and_log_variance".
        result: Which output of `forward` counts if there are several: its name, its position, or a path of both.
        class_axis: The axis of that output which holds the classes or targets. By default the last one, as in
            [B, L, C]. It is required if several axes are positions, for example 1 for [B, C, H, W]. An estimate always
            has the classes last.
        dynamic: Axes whose size may differ between calls without a new capture, such as {"ids": {1: "length"}}.
        method: "captured" runs one sampled network per pass, shared by all rows, so that model, seed and row decide an
            answer. "loop" calls the model T times with torch's own random numbers, each row with its own noise. It is
            slower and works for networks that cannot be captured.
        keep_draws: Whether to hold the outputs of all passes, which `samples` and `quantiles` need.
        **options: Fields of `PassOptions`: passes (32 by default), seed, sampling, masks, branches, tolerance,
            min_passes. The method "loop" takes passes and seed only.

    Returns:
        The estimate of all rows.

    Raises:
        CaptureError: The network cannot be captured.
        VerificationError: The capture differs from the network, rows depend on each other, or passes agree.
        InvalidInput: An argument is wrong.
    """
    output_kind(output)
    if method not in ("captured", "loop"):
        raise InvalidInput(f"the method is {method!r}; choose 'captured' or 'loop'.")
    call = _Call(bind(model, x), output, dynamic, result, class_axis)
    passes = PassOptions().overridden(**options)
    if method == "loop":
        _refuse_for_loop(options)
        chunks = _loop(model, call, passes)
        return fold_passes(chunks, output, passes.passes, passes.seed, method, keep_draws)
    live = look(model)
    captured = _capture_once(model, live, call)
    weights = weights_of(live, captured.program.graph.weights, captured.program.weights)
    return run_passes(captured.engine, weights, call.inputs, passes, output, keep_draws)


def embed(
    model: nn.Module,
    x: Inputs,
    *,
    output: OutputKind = "logits",
    result: Result = None,
    class_axis: int | None = None,
    dynamic: Dynamic | None = None,
) -> Tensor:
    """Return the input of a network's last linear layer for each row, with the noise off.

    Args:
        model: The network, as in `predict`, which shares the capture.
        x: Its inputs, as in `predict`.
        output: What the network's numbers are, as in `predict`.
        result: Which output of `forward` counts, as in `predict`.
        class_axis: The axis of the classes, as in `predict`.
        dynamic: Axes of free size, as in `predict`.

    Returns:
        float32 [B, D].

    Raises:
        CaptureError: The network cannot be captured.
        VerificationError: The capture differs from the network.
        InvalidInput: The output is not computed from one such vector per row, or an argument is wrong.
    """
    call = _Call(bind(model, x), output, dynamic, result, class_axis)
    live = look(model)
    program = _capture_once(model, live, call).program
    return embeddings(program.graph, weights_of(live, program.graph.weights, program.weights), call.inputs)


def _refuse_for_loop(options: PassOverrides) -> None:
    names = [name for name, value in options.items() if value is not None and name not in ("passes", "seed")]
    if names:
        raise InvalidInput(f"method='loop' draws as torch does and takes no {', '.join(names)}; leave them out.")


def _loop(model: nn.Module, call: _Call, options: PassOptions) -> Iterator[Chunk]:
    copied = stochastic(clone(model))
    with preserved_randomness(options.seed), torch.no_grad():
        outputs = [pick(call_model(copied, call.inputs), call.result, is_tensor) for _ in range(options.passes)]
    yield Chunk(0, torch.stack([classes_last(output, call.class_axis) for output in outputs]))


def _capture_once(model: nn.Module, live: Live, call: _Call) -> _Captured:
    key = call.key
    with _captured_lock:
        known = _captured.get(model, {}).get(key)
        if known is not None and known.structure == live.structure:
            return known
    example = {name: _example(value) for name, value in call.inputs.items()}
    program = capture(model, example, dynamic=call.dynamic, result=call.result, class_axis=call.class_axis)
    engine = Engine(program)
    is_the_model(program, model, example, call.result, call.class_axis)
    verify(program, engine, example, call.output)
    captured = _Captured(live.structure, program, engine)
    with _captured_lock:
        kept = _captured.setdefault(model, {})
        kept.pop(key, None)
        while len(kept) >= _MAX_CAPTURES:
            del kept[next(iter(kept))]
        kept[key] = captured
    return captured


def _example(value: Tensor) -> Tensor:
    """Return the first rows, to capture with, or zeros if there are none."""
    rows = value[:_EXAMPLE_ROWS] if len(value) else value.new_zeros((2, *value.shape[1:]))
    return torch.nan_to_num(rows) if rows.is_floating_point() else rows
