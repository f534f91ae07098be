"""A captured network is the model, its rows are its own, and it is alive; at publish and again at load."""

import torch
from torch import Tensor, nn

from dropout_core.capture.arguments import Inputs, call
from dropout_core.capture.capture import clone
from dropout_core.capture.dynamic import shorter
from dropout_core.capture.expectation import AtExpectation
from dropout_core.capture.outputs import Result, classes_last, is_tensor, pick
from dropout_core.capture.probe import NUM_ROWS, perturbed, probe_rows, two_rows
from dropout_core.engine.engine import Engine
from dropout_core.engine.masks import quiet
from dropout_core.engine.options import PassOptions
from dropout_core.errors import CaptureError, CoupledRows, InvalidInput, NotTheModel, NoVariance
from dropout_core.estimate.estimate import Estimate, fold_passes
from dropout_core.graph.inputs import NamedTensors, inputs_by_name, select_rows, sizes_of
from dropout_core.graph.program import Program
from dropout_core.graph.stage import Stage
from dropout_core.measures.measures import output_kind

PROBE_PASSES = 64
PROBE_SEED = 0
_PASSES = 4


def verify(program: Program, engine: Engine, example: Inputs, output: str) -> Estimate:
    """Check a Program on a probe made of an example, and return the probe's estimate: its known answer.

    Raises CoupledRows when a row's answer depends on the others or on their number, NoVariance when all passes of
    every row agree, InvalidInput when the outputs are not of the named kind.
    """
    example = inputs_by_name(program.graph, example)
    probe = probe_rows(two_rows(example))
    outputs = _outputs(program, engine, probe)
    _refuse_wrong_positions(program, probe, outputs)
    _refuse_wrong_kind(outputs, output)
    _refuse_coupled(program, engine, probe, outputs)
    for sizes, cut in shorter(program.graph, probe):
        found = _outputs(program, engine, cut)
        _refuse_wrong_positions(program, cut, found)
        if min(sizes.values()) > 1:  # rows often begin alike
            _refuse_coupled(program, engine, cut, found)
    return known_answer(program, engine, example, output)


def known_answer(program: Program, engine: Engine, example: NamedTensors, output: str) -> Estimate:
    """The estimate of 64 passes over the example. Raises NoVariance when every row's passes agree."""
    chunks = list(engine.run(program.weights, example, PassOptions(PROBE_PASSES, PROBE_SEED, "iid")))
    estimate = fold_passes(chunks, output, PROBE_PASSES, PROBE_SEED, "captured")
    first = {chunk.index: chunk.outputs[:1] for chunk in reversed(chunks)}
    # Not by their variance, nor to the bit: kernels round equal passes in other ways at other places of a batch.
    if all(agree(chunk.outputs, first[chunk.index], 0.0) for chunk in chunks):
        raise NoVariance(
            f"{PROBE_PASSES} passes over the probe agree to the last digit: the dropout of this network does not reach "
            "its answer. Train it with dropout on a path that matters."
        )
    return estimate


def is_the_model(
    program: Program, model: nn.Module, example: Inputs, result: Result = None, class_axis: int | None = None
) -> None:
    """Check that with noise off a Program equals model.eval()(x), at other sizes of its free dimensions as well.

    result, class_axis: as in capture. The model is left as it was. Raises NotTheModel, or CaptureError when the model
    itself has no answer at a size that is said to be allowed.
    """
    probe, still = probe_rows(two_rows(inputs_by_name(program.graph, example))), clone(model).eval()
    if not _agrees(program, still, probe, result, class_axis):
        raise NotTheModel(
            "with its noise off the captured network answers otherwise than model.eval()(x). A layer acts differently "
            "in training mode beside its dropout, or its eval mode is not its expectation."
        )
    for sizes, cut in shorter(program.graph, probe):
        at = " and ".join(f"a {name} of {size}" for name, size in sizes.items())
        advice = "Say the smallest size allowed with torch.export.Dim(name, min=…) in dynamic."
        try:
            agrees = _agrees(program, still, cut, result, class_axis)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CaptureError(f"the model has no answer at {at}: {reason}. {advice}") from error
        if not agrees:
            raise NotTheModel(
                f"at {at} the captured network answers otherwise than the model: it does something else for small "
                f"sizes. {advice}"
            )


def _agrees(program: Program, still: nn.Module, probe: NamedTensors, result: Result, class_axis: int | None) -> bool:
    """Whether a Program with its noise off equals a network in eval mode."""
    with torch.no_grad(), AtExpectation():
        wanted = classes_last(pick(call(still, probe), result, is_tensor), class_axis)
    with torch.inference_mode():
        stage = Stage(program.graph.nodes, keep=[program.graph.output])
        values, device = {**program.weights, **probe}, next(iter(probe.values())).device
        got = stage.run(values, sizes_of(program.graph, probe), device, quiet)[program.graph.output]
    return got.shape == wanted.shape and agree(got, wanted)


def agree(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two answers agree to a tolerance of their scale, or to eight roundings of a type coarser than float32."""
    rounding = 8 * torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
    a, b = a.double(), b.double()
    scale = float(torch.where(b.isfinite(), b, 0).abs().max()) if b.numel() else 0.0
    return bool(torch.isclose(a, b, rtol=0.0, atol=max(tolerance, rounding) * scale, equal_nan=True).all())


def _outputs(program: Program, engine: Engine, probe: NamedTensors) -> Tensor:
    return torch.cat(
        [chunk.outputs for chunk in engine.run(program.weights, probe, PassOptions(_PASSES, PROBE_SEED, "iid"))]
    )


def _refuse_coupled(program: Program, engine: Engine, probe: NamedTensors, outputs: Tensor) -> None:
    for row in range(NUM_ROWS):
        others = [other for other in range(NUM_ROWS) if other != row]
        changed = _outputs(program, engine, perturbed(probe, row))
        if not agree(changed[:, others], outputs[:, others]):
            raise CoupledRows(
                f"changing row {row} of the probe changes the answers of rows {others}; rows must be independent."
            )
    for count in (1, 2):
        if not agree(_outputs(program, engine, select_rows(probe, slice(count))), outputs[:, :count]):
            raise CoupledRows(
                f"the answer of row 0 is another one in a batch of {count} than in a batch of {NUM_ROWS}."
            )


def _refuse_wrong_positions(program: Program, probe: NamedTensors, outputs: Tensor) -> None:
    wanted = program.graph.positions_at(sizes_of(program.graph, probe))
    if outputs.shape[2:-1] != wanted:
        raise InvalidInput(f"the network answers positions {list(outputs.shape[2:-1])}; it says {list(wanted)}.")


def _refuse_wrong_kind(outputs: Tensor, output: str) -> None:
    output_kind(output)
    if output not in ("probabilities", "multilabel_probabilities"):
        return
    # half precision rounds the sum of some hundred probabilities by as much; logits are off by far more
    summed_to_one = output == "probabilities"
    summed = summed_to_one and outputs.dim() >= 3 and outputs.shape[-1] > 1
    total = outputs.double().sum(-1) if summed else torch.ones(())
    if outputs.min() < 0 or outputs.max() > 1 + 1e-6 or (total - 1).abs().max() > 1e-3:
        instead, turned = ("logits", "softmax") if summed_to_one else ("multilabel_logits", "the logistic function")
        elsewhere = " Or say class_axis if their classes lie on another axis." if outputs.dim() > 3 else ""
        raise InvalidInput(
            f"the outputs run from {outputs.min():.3g} to {outputs.max():.3g} and are no probabilities; say "
            f"output={instead!r} if {turned} turns them into some.{elsewhere}"
        )
