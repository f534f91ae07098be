"""A captured network is the model, its rows are its own, and it is alive; at publish and again at load."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dropout_core.errors import CoupledRows, InvalidInput, NotTheModel, NoVariance
from dropout_core.mc.capture import clone
from dropout_core.mc.engine import Engine
from dropout_core.mc.estimate import Estimate, estimate_of
from dropout_core.mc.masks import quiet
from dropout_core.mc.measures import kind_of
from dropout_core.mc.probe import NUM_ROWS, perturbed, probe_rows, two_rows
from dropout_core.mc.program import Program, Stage

PROBE_PASSES = 64
PROBE_SEED = 0
_PASSES = 4


def verify(program: Program, engine: Engine, example: Tensor, output: str) -> Estimate:
    """Check a Program on a probe made of an example, and return the probe's estimate: its known answer.

    Raises CoupledRows when a row's answer depends on the others or on their number, NoVariance when all passes of
    every row agree, InvalidInput when the outputs are not of the named kind.
    """
    probe = probe_rows(two_rows(example))
    outputs = _outputs(program, engine, probe)
    _refuse_wrong_kind(outputs, output)
    for row in range(NUM_ROWS):
        others = [other for other in range(NUM_ROWS) if other != row]
        changed = _outputs(program, engine, perturbed(probe, row))
        if not agree(changed[:, others], outputs[:, others]):
            raise CoupledRows(
                f"changing row {row} of the probe changes the answers of rows {others}; rows must be independent."
            )
    for count in (1, 2):
        if not agree(_outputs(program, engine, probe[:count]), outputs[:, :count]):
            raise CoupledRows(
                f"the answer of row 0 is another one in a batch of {count} than in a batch of {NUM_ROWS}."
            )
    return known_answer(program, engine, example, output)


def known_answer(program: Program, engine: Engine, example: Tensor, output: str) -> Estimate:
    """The estimate of 64 passes over the example. Raises NoVariance when every row's passes agree."""
    chunks = list(engine.run(program.weights, example, PROBE_PASSES, PROBE_SEED))
    estimate = estimate_of(chunks, output, PROBE_PASSES, PROBE_SEED, "captured")
    first = {chunk.index: chunk.outputs[:1] for chunk in reversed(chunks)}
    # Not by their variance, nor to the bit: kernels round equal passes in other ways at other places of a batch.
    if all(agree(chunk.outputs, first[chunk.index], 0.0) for chunk in chunks):
        raise NoVariance(
            f"{PROBE_PASSES} passes over the probe agree to the last digit: the dropout of this network does not reach "
            "its answer. Train it with dropout on a path that matters."
        )
    return estimate


def is_the_model(program: Program, model: nn.Module, example: Tensor) -> None:
    """Check that with noise off a Program equals model.eval()(x). The model is left as it was. Raises NotTheModel."""
    probe = probe_rows(two_rows(example))
    with torch.no_grad(), _AtExpectation():
        wanted = clone(model).eval()(probe)
    (spec,) = program.graph.inputs
    with torch.inference_mode():
        stage = Stage(program.graph.nodes, keep=[program.graph.output])
        values = {**program.weights, spec.name: probe}
        got = stage.run(values, len(probe), probe.device, quiet)[program.graph.output]
    if got.shape != wanted.shape or not agree(got, wanted):
        raise NotTheModel(
            "with its noise off the captured network answers otherwise than model.eval()(x). A layer acts differently "
            "in training mode beside its dropout, or its eval mode is not its expectation."
        )


def agree(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two answers agree to a tolerance of their scale, or to eight roundings of a type coarser than float32."""
    rounding = 8 * torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
    a, b = a.double(), b.double()
    scale = float(torch.where(b.isfinite(), b, 0).abs().max()) if b.numel() else 0.0
    return bool(torch.isclose(a, b, rtol=0.0, atol=max(tolerance, rounding) * scale, equal_nan=True).all())


class _AtExpectation(TorchDispatchMode):
    """Noise that eval mode leaves on, such as F.dropout(x, 0.5), is at its mean."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no annotation here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bernoulli_.float:
            noise, keep = (*args, 0.5)[:2]  # an argument equal to its default is left out
            return noise.fill_(keep)  # divided by keep afterwards
        if func is torch.ops.aten.native_dropout.default:
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if func is torch.ops.aten.bernoulli.default:
            return args[0].clone()
        if func is torch.ops.aten.randn_like.default:
            return torch.zeros_like(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _outputs(program: Program, engine: Engine, probe: Tensor) -> Tensor:
    return torch.cat([chunk.outputs for chunk in engine.run(program.weights, probe, _PASSES, PROBE_SEED)])


def _refuse_wrong_kind(outputs: Tensor, output: str) -> None:
    kind_of(output)
    if output != "probabilities":
        return
    # half precision rounds the sum of some hundred probabilities by as much; logits are off by far more
    total = outputs.double().sum(-1) if outputs.dim() == 3 and outputs.shape[-1] > 1 else torch.ones(())
    if outputs.min() < 0 or outputs.max() > 1 + 1e-6 or (total - 1).abs().max() > 1e-3:
        raise InvalidInput(
            f"the outputs run from {outputs.min():.3g} to {outputs.max():.3g} and are no probabilities; say "
            "output='logits' if softmax turns them into some."
        )
