"""A captured network as two ONNX models: with the draws of a seed they answer what the engine answers for it."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.masks import Masks, quiet
from dropout_core.engine.options import PassOptions
from dropout_core.graph.inputs import inputs_by_name, num_rows, sizes_of
from dropout_core.graph.noise_kinds import NOISE_KINDS
from dropout_core.graph.program import Program
from dropout_core.graph.stage import Stage
from mcdrop_models.errors import NotExportable
from mcdrop_models.onnx.graph.halves import Halves, noise_name, size_name
from mcdrop_models.onnx.to_onnx.halves import halves_of
from tests.support import inputs
from tests.support.captured import made
from tests.support.onnx_nets import NETS, Net, Tied, Told, drawn

SCHEMES = {
    "shared": PassOptions(sampling="iid"),
    "independent": PassOptions(masks="independent", sampling="iid"),
    "balanced": PassOptions(sampling="balanced"),
    "balanced and independent": PassOptions(sampling="balanced", masks="independent"),
}


def captured(net: Net) -> Program:
    return capture(made(net.build), net.rows(4), **net.options)


@cache
def exported(name: str) -> tuple[Program, Halves]:
    net = NETS[name]
    program = captured(net)
    return program, halves_of(program, inputs_by_name(program.graph, net.rows(3)))


class Sessions:
    """The halves under onnxruntime as it is, and a Program to ask for draws."""

    def __init__(self, program: Program, halves: Halves) -> None:
        self.program = program
        self.prefix, self.suffix = (half and self._session(half) for half in (halves.prefix, halves.suffix))

    @staticmethod
    def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def outputs(self, rows: Any, passes: int, seed: int, scheme: PassOptions) -> Tensor:
        """[T, B, *P, C]"""
        rows = inputs_by_name(self.program.graph, rows)
        known = {name: value.numpy() for name, value in rows.items()}
        if self.prefix is not None:
            known |= dict(zip(names(self.prefix.get_outputs()), self.prefix.run(None, known), strict=True))
        sizes, likes = sizes_of(self.program.graph, rows), self._likes(rows)
        known |= {size_name(name): np.zeros(size, np.uint8) for name, size in sizes.items()}
        masks = Masks(replace(scheme, passes=1, seed=seed), range(passes))
        at_once = 1 if any(site.rows is None for site in self.program.graph.sites) else passes
        found = []
        for start in range(0, passes, at_once):
            places = torch.arange(num_rows(rows))
            for site in self.program.graph.sites:
                draws = masks.draws(site, likes[site.index], start, start + at_once, places)
                known[noise_name(site)] = draws.numpy()
            answer = self.suffix.run(["output"], {name: known[name] for name in names(self.suffix.get_inputs())})[0]
            found.append(torch.from_numpy(answer).unflatten(0, (at_once, num_rows(rows))))
        return torch.cat(found)

    def _likes(self, rows):
        likes, graph = {}, self.program.graph

        def noise(site, value):
            likes[site.index] = value
            return quiet(site, value)

        given, device = {**self.program.weights, **rows}, torch.device("cpu")
        Stage(graph.nodes, keep=[graph.output]).run(given, sizes_of(graph, rows), device, noise)
        return likes


def names(values):
    return [value.name for value in values]


def agree(sessions: Sessions, rows: Any, passes: int, seed: int, scheme: PassOptions) -> bool:
    program = sessions.program
    chunks = Engine(program).run(program.weights, rows, replace(scheme, passes=passes, seed=seed))
    wanted = torch.cat([chunk.outputs for chunk in chunks])
    found = sessions.outputs(rows, passes, seed, scheme)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return bool((found - wanted).abs().max() <= 1e-5 * wanted.abs().max())


@pytest.mark.parametrize("name", NETS)
def test_the_draws_of_a_seed_give_the_engine_s_answers(name):
    net = NETS[name]
    sessions = Sessions(*exported(name))
    assert agree(sessions, net.rows(1), 1, 0, SCHEMES["shared"])
    for seed, scheme in enumerate(SCHEMES.values(), start=1):
        assert agree(sessions, net.rows(2 + seed), 16 + seed, seed, scheme)


@pytest.mark.parametrize("kind", inputs.FREE)
def test_other_lengths_than_the_example_s(kind):
    name = next(name for name, net in NETS.items() if net.build is kind)
    sessions = Sessions(*exported(name))
    for length in (1, 2, 7):
        for scheme in (SCHEMES["shared"], SCHEMES["independent"]):
            assert agree(sessions, kind.inputs(3, length), 5, length, scheme)


def test_the_kinds_are_all_there():
    assert {site.kind for site in exported("every kind")[0].graph.sites} == set(NOISE_KINDS)


def shapes(values):
    return {
        value.name: [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim] for value in values
    }


def test_what_goes_in_and_what_comes_out():
    """Rows before noise, folded and free; noise on an axis further in, and one for each row or for all."""
    _, views = exported("views below one another")
    _, told = exported("a length that must be told")
    _, steps = exported("steps before rows")
    assert shapes(views.prefix.graph.input) == {"x": ["rows", 2]}
    (crossing, _), *_ = crossed = list(shapes(views.prefix.graph.output).items())
    assert all(shape == ["2 * rows", 3] for _, shape in crossed)
    assert shapes(views.suffix.graph.input) == {**dict(crossed), "noise.0": [2, "passes", "masks", 1, 3]}
    assert crossing in names(views.suffix.graph.input)
    assert shapes(views.suffix.graph.output) == {"output": ["passes * rows", 2]}
    assert shapes(told.prefix.graph.input) == {"x": ["rows", "length", 4]}
    assert shapes(told.suffix.graph.input) == {
        **shapes(told.prefix.graph.output), "noise.0": [1, "passes", "masks", 1, 4], "size.length": ["length"],
    }  # fmt: skip
    assert shapes(told.suffix.graph.output) == {"output": ["passes * rows", "length", 3]}
    assert shapes(steps.suffix.graph.input)["noise.0"] == [2, 1, "passes", "masks", 1, 3]


def test_an_input_that_is_dropped_itself_needs_no_prefix_and_a_weight_is_stored_once():
    _, halves = exported("an input that is dropped itself")
    assert halves.prefix is None
    assert shapes(halves.suffix.graph.input) == {"x": ["rows", 24], "noise.0": [1, "passes", "masks", 1, 24]}
    large = [tensor for tensor in halves.suffix.graph.initializer if np.prod(tensor.dims) >= 24 * 24]
    assert [list(tensor.dims) for tensor in large] == [[24, 24]]


def test_what_sites_alone_read_is_not_stored_for_each_pass():
    """Not for its shape either: one Expand is there, that of the network."""
    _, halves = exported("as many as there are rows")
    assert [node.op_type for node in halves.suffix.graph.node].count("Expand") == 1


@pytest.mark.parametrize("name", ["passes", "masks"])
def test_a_free_dimension_may_not_have_the_name_of_one_of_ours(name):
    program = captured(Net(Told, lambda count: drawn(count, 5, 4), {"dynamic": {"x": {1: name}}}))
    with pytest.raises(NotExportable, match=f"named {name}"):
        halves_of(program, {"x": drawn(2, 5, 4)})


def test_noise_on_weights_runs_one_pass_at_a_time():
    _, halves = exported("noise on weights")
    assert shapes(halves.suffix.graph.input)["noise.0"] == [3, 2]
    assert shapes(halves.suffix.graph.output) == {"output": ["rows", 2]}


def nodes_of(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def test_a_file_is_plain_and_says_nothing_of_where_it_was_made():
    _, halves = exported("LSTM")
    for model in (halves.prefix, halves.suffix):
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == 8
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
        assert not model.functions
        assert all(node.domain == "" and not node.doc_string and not node.name for node in nodes_of(model.graph))
        assert b".py" not in model.SerializeToString()
        assert not any(tensor.external_data for tensor in model.graph.initializer)
    kinds = [{node.op_type for node in nodes_of(half.graph)} for half in (halves.prefix, halves.suffix)]
    assert "LSTM" in kinds[0]
    assert "Scan" in kinds[1]


def test_the_same_network_makes_the_same_bytes_without_a_word(capfd):
    """Whatever its example's rows."""
    name = "steps folded into rows"
    program, first = exported(name)
    second = halves_of(program, {"x": NETS[name].rows(2)})
    assert first == second
    assert [half.SerializeToString() for half in (first.prefix, first.suffix)] == [
        half.SerializeToString() for half in (second.prefix, second.suffix)
    ]
    assert capfd.readouterr() == ("", "")


class Bessel(Tied):
    def forward(self, x):
        return self.inner(torch.special.bessel_j0(F.dropout(x, 0.5)))


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(24, 3, proj_size=2, batch_first=True)

    def forward(self, x):
        return F.dropout(self.layer(x.unsqueeze(1))[0][:, 0], 0.5)


@pytest.mark.parametrize(("kind", "operator"), [(Bessel, "bessel_j0"), (Projected, "aten.lstm.input")])
def test_what_onnx_has_no_counterpart_of_is_refused_with_its_line(kind, operator):
    program = captured(Net(kind, lambda count: drawn(count, 24)))
    with pytest.raises(NotExportable, match=rf"{operator}.* .*test_halves.py:\d+"):
        halves_of(program, {"x": drawn(2, 24)})
