"""ONNX models with noise, built by hand and exported by torch, and a slow reference for what they compute."""

import io
import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch import nn

from dropout_core.engine.masks import Masks
from dropout_core.engine.options import PassOptions
from mcdrop_models.onnx.graph.halves import noise_name


def built(text, weights=None, *, opset=18, ir=8):
    """The bytes of a model in onnx's text form, with weights drawn for the shapes given."""
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]>\n{text}')
    generator = np.random.default_rng(5)
    for name, shape in (weights or {}).items():
        drawn = shape if isinstance(shape, np.ndarray) else generator.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(drawn, name))
    return model.SerializeToString()


def exported(net, rows, *, dynamo):
    """What torch writes of a network in training mode."""
    content = io.BytesIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if dynamo:
                shapes = ({0: torch.export.Dim("batch")},)
                program = torch.onnx.export(net.train(), (rows,), dynamo=True, dynamic_shapes=shapes, verbose=False)
                return program.model_proto.SerializeToString()
            torch.onnx.export(
                net, (rows,), content, dynamo=False, training=torch.onnx.TrainingMode.TRAINING,
                do_constant_folding=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}, opset_version=17,
            )  # fmt: skip
            return content.getvalue()
    finally:
        logging.disable(logging.NOTSET)


class Attention(nn.Module):
    """Normalisation, attention whose heads are made by reshaping, a residual: three sites."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.three = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 12)
        self.drop, self.out, self.head = nn.Dropout(0.3), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        rows, length, _ = x.shape
        y = self.drop(self.norm(self.embed(x)))
        q, k, v = self.three(y).reshape(rows, length, 3, 2, 2).permute(2, 0, 3, 1, 4)
        weights = self.drop((q @ k.transpose(-1, -2)).softmax(-1))
        y = y + self.drop(self.out((weights @ v).transpose(1, 2).reshape(rows, length, 4)))
        return self.head(y.mean(1))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
        nn.Linear(8, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3),
    )  # fmt: skip


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ran(model, feeds):
    """A model's outputs by name, for feeds that may hold more than it takes."""
    run = session(model)
    given = {one.name: np.ascontiguousarray(feeds[one.name]) for one in run.get_inputs()}
    return dict(zip([one.name for one in run.get_outputs()], run.run(None, given), strict=True))


def likes(network, rows):
    """Tensors of the shapes of the sites' inputs, from what the suffix declares of its noise."""
    sizes = {}
    for spec in network.graph.inputs:
        sizes |= {size: rows[spec.name].shape[axis] for axis, size in enumerate(spec.shape, 1) if isinstance(size, str)}
    declared = {one.name: one.type.tensor_type for one in network.halves.suffix.graph.input}
    count = len(next(iter(rows.values())))
    found = {}
    for site in network.graph.sites:
        kind = declared[noise_name(site)]
        shape = [dim.dim_value or (None if dim.dim_param in {"passes", "masks"} else eval(dim.dim_param, {}, sizes))
                 for dim in kind.shape.dim]  # fmt: skip
        if site.rows is not None:
            axis = site.rows.axis
            assert shape[axis + 1 : axis + 3] == [None, None]
            shape[axis : axis + 4] = [shape[axis] * count * shape[axis + 3]]
        found[site.name] = torch.empty(shape, dtype=torch.float64 if kind.elem_type == TensorProto.DOUBLE else None)
    return found


def draws(network, rows, seed, passes, masks, sampling="iid"):
    """The noise of some passes, by input of the suffix."""
    count = len(next(iter(rows.values())))
    source = Masks(PassOptions(1, seed, sampling=sampling, masks=masks), range(passes))
    found = likes(network, rows)
    return {noise_name(site): source.draws(site, found[site.name], 0, passes, torch.arange(count)).numpy()
            for site in network.graph.sites}  # fmt: skip


def sampled(network, rows, noise, passes):
    """The passes' outputs [T, B, *P, C] by the two halves."""
    values = dict(rows)
    if network.halves.prefix is not None:
        values |= ran(network.halves.prefix, rows)
    outputs = ran(network.halves.suffix, {**values, **noise})["output"]
    return outputs.reshape(passes, -1, *outputs.shape[1:])


def replayed(content, network, rows, noise, passes, result=None):
    """The same passes by the original graph, one at a time, with its random operators made deterministic ones."""
    model = onnx.ModelProto.FromString(content)
    count = len(next(iter(rows.values())))
    edited = _edited(model, {site.module: site for site in network.graph.sites}, result)
    outputs = []
    for number in range(passes):
        own = {}
        for site in network.graph.sites:
            drawn = noise[noise_name(site)]
            if site.rows is not None:
                axis = site.rows.axis
                drawn = drawn.take(number, axis + 1)  # [*pre, before, m, after, *post]
                shape = list(drawn.shape)
                shape[axis + 1] = count
                drawn = np.broadcast_to(drawn, shape)
                drawn = drawn.reshape(*shape[:axis], -1, *shape[axis + 3 :])
            own[f"draws.{site.index}"] = drawn
        outputs.append(next(iter(ran(edited, {**rows, **own}).values())))
    return np.stack(outputs)


def _edited(model, sites, result):
    """Random nodes computed from inputs `draws.<i>`; batch norm by its running statistics."""
    graph, nodes = model.graph, []
    for node in graph.node:
        site = sites.get(node.name or next(iter(node.output), ""))
        if node.op_type == "BatchNormalization":
            del node.output[1:]
            for attribute in node.attribute:
                if attribute.name == "training_mode":
                    attribute.i = 0
        if site is None:
            nodes.append(node)
            continue
        given = f"draws.{site.index}"
        kind = {"bernoulli": TensorProto.INT64}.get(site.kind, TensorProto.FLOAT)
        graph.input.append(helper.make_tensor_value_info(given, kind, None))
        nodes += _node(node, given, {one.name: helper.get_attribute_value(one) for one in node.attribute})
    del graph.node[:]
    graph.node.extend(nodes)
    if result is not None:
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
    return model


def _node(node, given, said):
    """u·(high − low) + low, z·scale + mean, x·mask, and 1 where u ≥ 1 − p, u the words over 2^32."""
    result, made = node.output[0], []

    def new(operator, *inputs, **attributes):
        made.append(helper.make_node(operator, inputs, [f"{result}.{len(made)}"], **attributes))
        return made[-1].output[0]

    def number(value, kind=TensorProto.FLOAT):
        return new("Constant", value=helper.make_tensor("", kind, [], [value]))

    if node.op_type == "Dropout":
        last = new("Mul", node.input[0], given)
    elif node.op_type == "Bernoulli":
        fine = new("Cast", given, to=TensorProto.DOUBLE)
        uniform = new("Div", fine, number(2.0**32, TensorProto.DOUBLE))
        other = new("Sub", number(1.0, TensorProto.DOUBLE), new("Cast", node.input[0], to=TensorProto.DOUBLE))
        last = new("Cast", new("Not", new("Less", uniform, other)), to=said.get("dtype", TensorProto.FLOAT))
    elif "Uniform" in node.op_type:
        low, high = said.get("low", 0.0), said.get("high", 1.0)
        last = new("Add", new("Mul", given, number(high - low)), number(low))
    else:
        last = new("Add", new("Mul", given, number(said.get("scale", 1.0))), number(said.get("mean", 0.0)))
    made.append(helper.make_node("Identity", [last], [result]))
    return made
