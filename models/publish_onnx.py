"""A bundle that onnxruntime computes: of an ONNX file, whose random operators become sites, or beside torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dropout_core.mc.engine import Engine
from dropout_core.mc.estimate import Estimate
from dropout_core.mc.inputs import Named, rows_of
from dropout_core.mc.measures import OutputKind, Task
from dropout_core.mc.plan import DEFAULT_PASSES
from dropout_core.mc.probe import two_rows
from dropout_core.mc.program import Program
from dropout_core.mc.scheme import DEFAULT, Scheme
from dropout_core.mc.verify import agree, verify
from models.bundle import PROBE_ROWS, Published, Told, output_of, write
from models.errors import NotExportable
from models.onnx.format import Halves
from models.onnx.halves import halves_of
from models.onnx.importing import imported
from models.onnx_network import onnx_network
from models.repository import checked_name
from models.runtime import Runtime


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
) -> Published:
    """Publish an ONNX model as the next version of a name. onnxruntime computes it, and no operator of it is torch's.

    model: the content of the file, opset 12 or newer, with Dropout, Bernoulli, RandomUniformLike or RandomNormalLike
    nodes, whoever exported it. example_inputs: as in models.publish; where there are none, standard normal rows of the
    shapes that the model declares. result: the name of the output that is served, where the model has several. The rest
    is as in models.publish.

    Raises InvalidBundle with what stands in the way, VerificationError, or InvalidInput.
    """
    checked_name(name)
    chosen = output_of(task, output)
    found = imported(model, example_inputs, result)
    example = rows_of(two_rows(found.example), slice(PROBE_ROWS))
    program, halves = Program(found.graph, {}), _serialized(found.halves)
    engine = Engine(program, network=onnx_network(*halves, program, Runtime()))
    answer = verify(program, engine, example, chosen)
    told = Told(name, task, chosen, labels, result, output_scaling, passes, seed, scheme, metrics or {}, "onnx")
    return write(root, told, program, example, answer, halves)


def halves_like(program: Program, example: Named, answer: Estimate) -> tuple[bytes | None, bytes]:
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
