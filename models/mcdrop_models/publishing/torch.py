"""A trained network → a bundle: capture, verify, write."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from dropout_core.capture.arguments import Inputs, bind
from dropout_core.capture.capture import capture
from dropout_core.capture.dynamic import Dynamic
from dropout_core.capture.outputs import Result
from dropout_core.capture.probe import two_rows
from dropout_core.engine.engine import Engine
from dropout_core.engine.plan import DEFAULT_PASSES
from dropout_core.engine.scheme import DEFAULT, Scheme
from dropout_core.graph.inputs import select_rows
from dropout_core.measures.measures import OutputKind, Task
from dropout_core.verify import is_the_model, verify
from mcdrop_models.bundle.manifest import BackendChoice
from mcdrop_models.bundle.repository import validate_name
from mcdrop_models.bundle.write import PROBE_ROWS, BundleSpec, PublishedBundle, output_of, write_bundle


def publish(  # noqa: PLR0913 - what a bundle says of itself
    model: nn.Module,
    example_inputs: Inputs,
    *,
    name: str,
    task: Task,
    output: OutputKind | None = None,
    labels: Sequence[str] | None = None,
    result: Result = None,
    class_axis: int | None = None,
    dynamic: Dynamic | None = None,
    root: Path | str = "bundles",
    output_scaling: tuple[Sequence[float], Sequence[float]] | None = None,
    passes: int = DEFAULT_PASSES,
    seed: int = 0,
    scheme: Scheme = DEFAULT,
    metrics: Mapping[str, float] | None = None,
    backend: BackendChoice = "torch",
) -> PublishedBundle:
    """Publish a network as the next version of a name. The model is left as it was.

    example_inputs: [b, *F], a tuple of the first arguments of forward, or a mapping by their names; real rows where
    there are some: the first of them are stored as the bundle's probe, whose answer every load is checked against, and
    the first one is shown to users. output: what the network's numbers are; where it is not said, logits for
    classification, multilabel_logits for multilabel and mean for regression. labels: one for each class, or each label.
    result: the name or the place of the output that is served, where forward returns several. class_axis: of that
    output, the axis of its classes or targets (see dropout_core.predict); the bundle answers with it last. dynamic: the
    axes in which inputs may differ from the example, such as {"ids": {1: "length"}} (see dropout_core.capture.capture).
    output_scaling: scale and shift from the network's unit to the caller's, for regression. passes, seed,
    scheme: used where a request names none. metrics: facts to show beside the model. backend: who computes it in
    service. "onnx" and "auto", which is who is faster there, take the network along in ONNX as well.

    Raises CaptureError, VerificationError, InvalidInput, InvalidBundle for an operator bundles may not use, or
    NotExportable for one that ONNX has not.
    """
    validate_name(name)
    chosen = output_of(task, output)
    example = select_rows(two_rows(bind(model, example_inputs)), slice(PROBE_ROWS))
    program = capture(model, example, dynamic=dynamic, result=result, class_axis=class_axis)
    engine = Engine(program)
    is_the_model(program, model, example, result, class_axis)
    answer = verify(program, engine, example, chosen)
    told = BundleSpec(name, task, chosen, labels, result, output_scaling, passes, seed, scheme, metrics or {}, backend)
    if backend == "torch":
        return write_bundle(root, told, program, example, answer)
    # what most publishers never need: onnx and onnxruntime
    from mcdrop_models.publishing.onnx import verified_halves

    return write_bundle(root, told, program, example, answer, verified_halves(program, example, answer))
