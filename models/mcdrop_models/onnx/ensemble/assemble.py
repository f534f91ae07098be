"""A network and T sampled masks as one ONNX model: rows in, predictive moments and entropies out.

It has no random operator and no custom one, so that every runtime gives the same answer, whatever it optimises. Rows
go in blocks: for each, the prefix once and the suffix for all passes, so that memory depends on the block and not on
the number of rows. Where the passes of a single row are too much, they go in blocks as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import ModelProto, OperatorSetIdProto, TensorProto, ValueInfoProto, helper
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.graph.program import ROWS, Graph, Input
from dropout_core.measures.measures import OutputKind
from mcdrop_models.bundle.manifest import OutputScaling
from mcdrop_models.onnx.ensemble.blocks import Blocked, Blocks
from mcdrop_models.onnx.ensemble.masks import stored
from mcdrop_models.onnx.ensemble.measures import Answer, Arithmetic, measures_of, rescaled
from mcdrop_models.onnx.ensemble.thinning import Thin
from mcdrop_models.onnx.graph.halves import IR_VERSION, OPSET, Halves, noise_name

# The largest value of a block of rows times passes.
_BLOCK_BYTES = 2**22
_LARGEST_FILE = 2**31 - 1  # of protobuf


def blocks_of(
    prefix_bytes: int, suffix_bytes: int, passes: int, *, one_pass_at_a_time: bool, block_bytes: int = _BLOCK_BYTES
) -> Blocks:
    """The blocks whose largest value fills some bytes, or is of one row and one pass.

    prefix_bytes: what a row adds to the value of the prefix to which it adds most; suffix_bytes: the same in one pass.
    """
    room = max(1, block_bytes // suffix_bytes)
    most = 1 if one_pass_at_a_time else min(room, passes)
    at_once = max(size for size in range(1, most + 1) if passes % size == 0)
    return Blocks(max(1, min(room // at_once, block_bytes // prefix_bytes)), at_once)


def refuse_sizes(graph: Graph, sizes: Mapping[str, int]) -> None:
    """Raise InvalidInput unless there is a size that may be for each free dimension, and no other."""
    wanted = {free.name for free in graph.free}
    if set(sizes) != wanted:
        example = ", ".join(f"{free.name}={max(free.least, min(64, free.most or 64))}" for free in graph.free) or "none"
        raise InvalidInput(
            f"sizes came for {', '.join(sorted(sizes)) or 'nothing'}; the free dimensions of this model are "
            f"{', '.join(sorted(wanted)) or 'none'}. The masks in a file are for one size of each: give {example}."
        )
    for free in graph.free:
        if not free.allows(sizes[free.name]):
            raise InvalidInput(f"the {free.name} is {sizes[free.name]}; {free} is allowed.")


@dataclass(frozen=True)
class Wanted:
    """What a file answers: from which output kind, in which unit, and what it tells of itself.

    scaling: into the caller's unit; None for the network's own. facts: kept as the model's metadata.
    """

    output: OutputKind
    scaling: OutputScaling | None
    facts: Mapping[str, str]


def ensemble(
    halves: Halves,
    graph: Graph,
    noise: Mapping[int, Tensor],
    wanted: Wanted,
    sizes: Mapping[str, int],
    blocks: Blocks,
    thin: Thin | None = None,
) -> ModelProto:
    """One model from the network's inputs, of any number of rows, to its measures by name.

    noise: the draws of all passes by site, see `noise_of`. sizes: of the free dimensions. thin: in place of the suffix.
    It computes in float32, or in float64 where the network does. Raises InvalidInput where it cannot be.
    """
    refuse_sizes(graph, sizes)
    opsets = _opsets(halves)
    inputs = [_input(spec, sizes) for spec in graph.inputs]
    answer = _answer(halves.suffix, wanted.output, graph.positions_at(sizes))
    blocked = Blocked(inputs, {noise_name(site): stored(site, noise[site.index]) for site in graph.sites}, blocks)
    if thin is None:
        moments = blocked.moments(halves, sizes, answer)
    else:
        moments = blocked.moments(replace(halves, suffix=thin.suffix), sizes, answer, thin.once)
    on = Arithmetic(blocked.rows, answer.dtype)
    if wanted.scaling is not None:
        moments = rescaled(moments, wanted.scaling, on)
    names = blocked.finish(measures_of(answer, moments, on), answer)
    outputs = [_output(name, answer) for name in names]
    return _model(blocked, inputs, outputs, wanted.facts, opsets)


def _opsets(halves: Halves) -> list[OperatorSetIdProto]:
    """The operator sets of the halves: one version of each. What is written around them is the same in all newer."""
    models = [half for half in (halves.prefix, halves.suffix) if half is not None]
    versions = {(one.domain, one.version) for half in models for one in half.opset_import}
    standard = [version for domain, version in versions if not domain]
    if len(standard) != 1 or standard[0] < OPSET or len(dict(versions)) < len(versions):
        raise InvalidInput(
            f"the halves of the network are of the operator sets {sorted(versions)}; one of {OPSET} or newer is wanted."
        )
    return [helper.make_opsetid(domain, version) for domain, version in sorted(versions)]


def _input(spec: Input, sizes: Mapping[str, int]) -> ValueInfoProto:
    shape: list[int | str] = [ROWS, *(sizes[size] if isinstance(size, str) else size for size in spec.shape)]
    dtype = np.dtype(str(spec.dtype).removeprefix("torch."))
    return helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(dtype), shape)


def _output(name: str, answer: Answer) -> ValueInfoProto:
    shape: list[int | str] = [ROWS, *answer.shape(name)]
    return helper.make_tensor_value_info(name, answer.element, shape)


def _answer(suffix: ModelProto, output: OutputKind, positions: tuple[int, ...]) -> Answer:
    found = suffix.graph.output[0].type.tensor_type
    columns = found.shape.dim[-1].dim_value if found.shape.dim else 0
    if not columns:
        raise InvalidInput("the suffix does not say how many columns it answers; its last axis needs a size.")
    return Answer(output, positions, columns, np.float64 if found.elem_type == TensorProto.DOUBLE else np.float32)


def _model(
    blocked: Blocked,
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    facts: Mapping[str, str],
    opsets: list[OperatorSetIdProto],
) -> ModelProto:
    taken = {value.name for value in inputs} & {value.name for value in outputs}
    if taken:
        raise InvalidInput(f"the input {taken.pop()} has the name of a measure; give the network's input another.")
    graph = helper.make_graph(blocked.main.nodes, "mcdrop", inputs, outputs, blocked.constants)
    version = max(IR_VERSION, helper.find_min_ir_version_for(opsets, ignore_unknown=True))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=version)
    model.producer_name = "mcdrop"
    helper.set_model_props(model, dict(facts))
    if model.ByteSize() > _LARGEST_FILE:
        raise InvalidInput(
            f"the file would have {model.ByteSize()} bytes, and no ONNX file has more than {_LARGEST_FILE}; ask for "
            "fewer passes."
        )
    onnx.checker.check_model(model, full_check=True)
    return model
