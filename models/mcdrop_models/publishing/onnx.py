"""A bundle that onnxruntime computes: of an ONNX file, whose random operators become sites, or beside torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dropout_core.capture.probe import two_rows
from dropout_core.engine.engine import Engine
from dropout_core.engine.plan import DEFAULT_PASSES
from dropout_core.engine.scheme import DEFAULT, Scheme
from dropout_core.estimate.estimate import Estimate
from dropout_core.graph.inputs import NamedTensors, select_rows
from dropout_core.graph.program import Program
from dropout_core.measures.measures import OutputKind, Task
from dropout_core.verify import agree, verify
from mcdrop_models.bundle.repository import validate_name
from mcdrop_models.bundle.write import PROBE_ROWS, BundleSpec, PublishedBundle, output_of, write_bundle
from mcdrop_models.errors import NotExportable
from mcdrop_models.onnx.from_onnx.read import imported
from mcdrop_models.onnx.graph.halves import Halves
from mcdrop_models.onnx.runtime.network import onnx_network
from mcdrop_models.onnx.runtime.options import Runtime
from mcdrop_models.onnx.to_onnx.halves import halves_of


def publish_onnx(  # noqa: PLR0913 - what a bundle says of itself
    model: bytes,
    example_inputs: Tensor | Mapping[str, Tensor] | None = None,
    *,
    name: str,
    task: Task,
    output: OutputKind | None = None,
    labels: Sequence[str] | None = None,
    result: str | None = None,
    root: Path | str = "bundles",
    output_scaling: tuple[Sequence[float], Sequence[float]] | None = None,
    passes: int = DEFAULT_PASSES,
    seed: int = 0,
    scheme: Scheme = DEFAULT,
    metrics: Mapping[str, float] | None = None,
) -> PublishedBundle:
    """Publish an ONNX model as the next version of a name. onnxruntime computes it, and no operator of it is torch's.

    model: the content of the file, opset 12 or newer, with Dropout, Bernoulli, RandomUniformLike or RandomNormalLike
    nodes, whoever exported it. example_inputs: as in mcdrop_models.publishing.torch; where there are none, standard
    normal rows of the
    shapes that the model declares. result: the name of the output that is served, where the model has several. The rest
    is as in mcdrop_models.publishing.torch.

    Raises InvalidBundle with what stands in the way, VerificationError, or InvalidInput.
    """
    validate_name(name)
    chosen = output_of(task, output)
    found = imported(model, example_inputs, result)
    example = select_rows(two_rows(found.example), slice(PROBE_ROWS))
    program, halves = Program(found.graph, {}), _serialized(found.halves)
    engine = Engine(program, network=onnx_network(*halves, program, Runtime()))
    answer = verify(program, engine, example, chosen)
    told = BundleSpec(name, task, chosen, labels, result, output_scaling, passes, seed, scheme, metrics or {}, "onnx")
    return write_bundle(root, told, program, example, answer, halves)


def verified_halves(program: Program, example: NamedTensors, answer: Estimate) -> tuple[bytes | None, bytes]:
    """The halves of a Program as files, once onnxruntime answers an example as torch does.

    answer: of torch, to 64 passes over the example. Raises NotExportable.
    """
    halves = _serialized(halves_of(program, example))
    engine = Engine(program, network=onnx_network(*halves, program, Runtime()))
    found = verify(program, engine, example, answer.output)
    if not agree(found.mean, answer.mean):
        raise NotExportable(
            f"onnxruntime answers otherwise than torch, by up to {(found.mean - answer.mean).abs().max():.3g}; publish "
            "with backend='torch', and report this network as a fault of mcdrop."
        )
    return halves


def _serialized(halves: Halves) -> tuple[bytes | None, bytes]:
    """Halves as the files of a bundle."""
    prefix = None if halves.prefix is None else halves.prefix.SerializeToString(deterministic=True)
    return prefix, halves.suffix.SerializeToString(deterministic=True)
