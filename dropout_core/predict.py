"""The library in one line: `estimate = predict(model, x)`."""

import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropout_core.capture.arguments import Inputs, bind, call
from dropout_core.capture.capture import capture, clone, preserved_randomness, stochastic, weights_of
from dropout_core.capture.dynamic import Dynamic, free_axes
from dropout_core.capture.live import Live, look
from dropout_core.capture.outputs import Result, classes_last, is_tensor, pick
from dropout_core.engine.embedding import embeddings
from dropout_core.engine.engine import Chunk, Engine
from dropout_core.engine.plan import plan_of
from dropout_core.engine.scheme import Sampling, Sharing, scheme_of
from dropout_core.errors import InvalidInput
from dropout_core.estimate.estimate import Estimate, estimate_of, estimated
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Program
from dropout_core.measures.measures import OutputKind, output_kind
from dropout_core.measures.precision import Tolerance
from dropout_core.verify import is_the_model, verify

Method = Literal["captured", "loop"]
_EXAMPLE_ROWS = 4
_MAX_CAPTURES = 8


@dataclass(frozen=True)
class _Asked:
    """Inputs by name, and how a network takes and answers them."""

    inputs: NamedTensors
    output: str
    dynamic: Dynamic | None
    result: Result
    class_axis: int | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What of it decides a capture: all but the values, the number of rows and the sizes that are free."""
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


def predict(  # noqa: PLR0913 - what a prediction is of
    model: nn.Module,
    x: Inputs,
    *,
    passes: int | None = None,
    seed: int = 0,
    output: OutputKind = "logits",
    result: Result = None,
    class_axis: int | None = None,
    dynamic: Dynamic | None = None,
    method: Method = "captured",
    sampling: Sampling | None = None,
    masks: Sharing | None = None,
    branches: int | None = None,
    tolerance: float | Tolerance | None = None,
    min_passes: int | None = None,
    keep_draws: bool = False,
) -> Estimate:
    """Predictive mean, variance and entropies of a live network, by T passes with its dropout on.

    model: takes and returns tensors, rows first; it and its modes are left as they are. x: [B, *F], a tuple of the
    first arguments of forward, or a mapping by their names. output: what the network's numbers are (see
    dropout_core.measures.measures). result: the name or the place of the output that matters, where forward returns
    several.
    class_axis: of that output, the axis of its classes or targets; the last, [B, L, C], where nothing is said, and to
    be said where several axes are positions, as 1 in [B, C, H, W]. An answer has it last. keep_draws: hold all numbers
    of all passes, for `samples` and `quantiles`.

    The first call captures and verifies the network; later calls reuse that for as long as its structure stays, with
    its weights as they are at the call. Inputs of another shape are captured anew, and the captures of a few shapes
    kept. dynamic: the axes in which inputs may differ without that, such as {"ids": {1: "length"}} (see capture).

    passes: T; 32 where nothing is said. tolerance: stop a row as soon as the Monte Carlo standard error of its every
    mean is at most this, or of the measures named, as in {"mutual_information": 0.01}; then passes is the most it may
    take (1024 where nothing is said) and min_passes the fewest (32). sampling, masks, branches: how passes draw their
    noise, see dropout_core.engine.scheme; balanced and shared where nothing is said.

    method: "captured" runs one sampled network for each pass, shared by all rows, so that (model, seed, row) decides
    an answer. "loop" calls the model itself T times in torch's own randomness, each row with noise of its own: slower,
    but right for networks that cannot be captured. `estimate.method` says which it was.

    Raises CaptureError or VerificationError when the network cannot be captured, InvalidInput for wrong arguments.
    """
    output_kind(output)
    if method not in ("captured", "loop"):
        raise InvalidInput(f"the method is {method!r}; choose 'captured' or 'loop'.")
    asked = _Asked(bind(model, x), output, dynamic, result, class_axis)
    plan = plan_of(passes, seed, scheme_of(sampling, masks, branches), tolerance, min_passes)
    if method == "loop":
        _refuse_for_loop({"sampling": sampling, "masks": masks, "branches": branches, "tolerance": tolerance})
        chunks = _loop(model, asked, plan.passes, seed)
        return estimate_of(chunks, output, plan.passes, seed, method, keep_draws)
    live = look(model)
    captured = _capture_once(model, live, asked)
    weights = weights_of(live, captured.program.graph.weights, captured.program.weights)
    return estimated(captured.engine, weights, asked.inputs, plan, output, keep_draws)


def embed(
    model: nn.Module,
    x: Inputs,
    *,
    output: OutputKind = "logits",
    result: Result = None,
    class_axis: int | None = None,
    dynamic: Dynamic | None = None,
) -> Tensor:
    """Where a live network puts each row before its last linear layer, the noise off: float32 [B, D].

    The arguments are those of `predict`, which shares the capture. Raises what it raises, and InvalidInput for a
    network whose output is not all made of one such vector a row.
    """
    asked = _Asked(bind(model, x), output, dynamic, result, class_axis)
    live = look(model)
    program = _capture_once(model, live, asked).program
    return embeddings(program.graph, weights_of(live, program.graph.weights, program.weights), asked.inputs)


def _refuse_for_loop(given: Mapping[str, object]) -> None:
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise InvalidInput(f"method='loop' draws as torch does and takes no {', '.join(named)}; leave them out.")


def _loop(model: nn.Module, asked: _Asked, passes: int, seed: int) -> Iterator[Chunk]:
    copied = stochastic(clone(model))
    with preserved_randomness(seed), torch.no_grad():
        outputs = [pick(call(copied, asked.inputs), asked.result, is_tensor) for _ in range(passes)]
    yield Chunk(0, torch.stack([classes_last(output, asked.class_axis) for output in outputs]))


def _capture_once(model: nn.Module, live: Live, asked: _Asked) -> _Captured:
    key = asked.key
    with _captured_lock:
        known = _captured.get(model, {}).get(key)
        if known is not None and known.structure == live.structure:
            return known
    example = {name: _example(value) for name, value in asked.inputs.items()}
    program = capture(model, example, dynamic=asked.dynamic, result=asked.result, class_axis=asked.class_axis)
    engine = Engine(program)
    is_the_model(program, model, example, asked.result, asked.class_axis)
    verify(program, engine, example, asked.output)
    captured = _Captured(live.structure, program, engine)
    with _captured_lock:
        kept = _captured.setdefault(model, {})
        kept.pop(key, None)
        while len(kept) >= _MAX_CAPTURES:
            del kept[next(iter(kept))]
        kept[key] = captured
    return captured


def _example(value: Tensor) -> Tensor:
    """Some rows to capture with: the first, or zeros where there are none."""
    rows = value[:_EXAMPLE_ROWS] if len(value) else value.new_zeros((2, *value.shape[1:]))
    return torch.nan_to_num(rows) if rows.is_floating_point() else rows
