"""What a row does to the values of a network that only onnxruntime knows: their shapes, and the memory they take."""

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor

from dropout_core.engine.chunks import Footprint, FootprintProbe
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Graph
from mcdrop_models.onnx.graph.halves import OUTPUT, Halves, noise_name
from mcdrop_models.onnx.runtime.options import Runtime
from mcdrop_models.onnx.runtime.session import Session


class Seeing:
    """Runs a row alone and twice, with nothing fused away, and looks at every value. Its models are made when asked."""

    def __init__(self, graph: Graph, halves: Halves, runtime: Runtime) -> None:
        self._graph, self._halves, self._runtime = graph, halves, runtime

    def __call__(
        self,
        _weights: Mapping[str, Tensor],
        row: NamedTensors,
        sizes: Mapping[str, int],  # noqa: ARG002 - those of the row
    ) -> FootprintProbe:
        """What `plan` of a network wants to know of a row."""
        prefix, suffix = Footprint(), Footprint()
        still = {name: _still(value) for name, value in _inputs(self._halves.suffix).items() if name in self._noises}
        values: dict[str, Tensor] = {}
        for count in (2, 1):
            values = {name: torch.cat([value] * count) for name, value in row.items()}
            if self._halves.prefix is not None:
                values |= self._run(self._halves.prefix, values, prefix)
            if count == 2:
                suffix.given = {name: values[name].nbytes for name in self._graph.boundary}
            values |= self._run(self._halves.suffix, {**values, **still}, suffix)
        weights = {one.name: one for one in self._halves.suffix.graph.initializer}
        for site in self._graph.sites:
            name = site.input.name  # a weight, where noise is on weights
            drawn = values[name] if name in values else torch.from_numpy(numpy_helper.to_array(weights[name]).copy())
            suffix.noise(site, drawn)
        crossing = [values[name].nbytes for name, where in self._graph.boundary.items() if where is not None]
        return FootprintProbe(prefix, suffix, values[OUTPUT], sum(crossing))

    @property
    def _noises(self) -> set[str]:
        return {noise_name(site) for site in self._graph.sites}

    def _run(self, model: ModelProto, values: Mapping[str, Tensor], observed: Footprint) -> dict[str, Tensor]:
        found = Session(_open(model).SerializeToString(), self._runtime, "the model", observing=True).run(values)
        for name, value in found.items():
            observed(name, value)
        return found


def _open(model: ModelProto) -> ModelProto:
    """The model with every value of it an output."""
    opened, known = ModelProto(), {output.name for output in model.graph.output}
    opened.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name and name not in known]
    opened.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return opened


def _inputs(model: ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    return {one.name: one.type.tensor_type for one in model.graph.input}


def _still(declared: onnx.TypeProto.Tensor) -> Tensor:
    """A draw for one pass: what is not fixed has one element, and is spread."""
    shape = [max(1, dim.dim_value) for dim in declared.shape.dim]
    return torch.from_numpy(np.ones(shape, helper.tensor_dtype_to_np_dtype(declared.elem_type)))
