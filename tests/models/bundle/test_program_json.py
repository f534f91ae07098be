"""program.json holds a whole Program: writing and reading it gives an equal one with the same answers."""

import json
import math

import pytest
import torch

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.graph.program import Device, Graph, Input, Operation, Ref, RowAxis, Site
from dropout_core.graph.sizes import Size
from mcdrop_models.bundle.argument_json import decode_argument, encode_argument
from mcdrop_models.bundle.program_json import graph_to_json, program_from_json
from mcdrop_models.errors import InvalidBundle
from tests.support.program_nets import CASES, Mlp, rows_for, seeded

_aten = torch.ops.aten


@pytest.fixture(scope="module", params=list(CASES.values()), ids=list(CASES))
def captured(request):
    case = request.param
    net = seeded(case.make)
    rows = rows_for(net, case.shape, 7)
    return case, capture(net, rows[:4]), rows


def test_round_trip_gives_an_equal_graph_and_equal_bytes(captured):
    case, program, _ = captured
    content = graph_to_json(program.graph)
    assert case.holds in content.decode()  # the case tests what its name says
    again = program_from_json(content, program.weights)
    assert again.graph == program.graph
    assert graph_to_json(again.graph) == content
    assert list(again.weights) == list(program.graph.weights)


def test_round_trip_gives_identical_outputs(captured):
    _, program, rows = captured
    again = program_from_json(graph_to_json(program.graph), program.weights)
    first, second = (
        torch.cat([chunk.outputs for chunk in Engine(p).run(p.weights, rows, PassOptions(5, 3, sampling="iid"))])
        for p in (program, again)
    )
    assert first.shape[:2] == (5, 7)
    assert not torch.equal(first[0], first[1])  # the passes differ, so that the comparison can fail
    assert torch.equal(first, second)


def test_json_is_strict_and_has_no_lines_of_the_source(captured):
    _, program, _ = captured
    content = graph_to_json(program.graph).decode()
    lines = {node.where for node in program.graph.nodes if node.where}
    assert not any(line in content or line.rpartition(":")[0] in content for line in lines)

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(content, parse_constant=refuse)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (Ref("relu"), '{"ref": "relu"}'),
        (Size(("floordiv", ("add", "rows", 3), 2)), '{"size": ["floordiv", ["add", "rows", 3], 2]}'),
        (Device(), '{"device": true}'),
        (torch.bfloat16, '{"dtype": "bfloat16"}'),
        (torch.channels_last, '{"memory_format": "channels_last"}'),
        (torch.strided, '{"layout": "strided"}'),
        (math.inf, '{"float": "inf"}'),
        (-math.inf, '{"float": "-inf"}'),
        (True, "true"),
        (1, "1"),
        (1.0, "1.0"),
        (None, "null"),
        ("tanh", '"tanh"'),
        ((1, (Ref("x"), None), ()), '[1, [{"ref": "x"}, null], []]'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_argument_has_one_form_and_keeps_its_type(argument, text):
    assert json.dumps(encode_argument(argument)) == text
    back = decode_argument(json.loads(text))
    assert back == argument
    assert type(back) is type(argument)


def test_nan_is_an_argument_too():
    assert encode_argument(math.nan) == {"float": "nan"}
    assert math.isnan(decode_argument({"float": "nan"}))


@pytest.mark.parametrize(
    "argument", [1j, {1}, torch.sparse_coo, torch.complex64, slice(0, 1), b"x", torch.channels_last_3d]
)
def test_an_argument_that_json_cannot_represent_is_named(argument):
    with pytest.raises(InvalidBundle) as caught:
        encode_argument(argument)
    assert str(argument) in str(caught.value)


@pytest.mark.parametrize(
    "item",
    [
        {"pickle": "gASV"},
        {"ref": 1},
        {"ref": ["x"]},
        {},
        {"ref": "x", "dtype": "float32"},
        {"dtype": "complex64"},
        {"dtype": ["float32"]},
        {"float": "1e999"},
        {"memory_format": "channels_last_3d"},
        {"layout": "sparse_coo"},
        {"size": "columns"},
        {"size": ["pow", "rows", 2]},
        {"size": ["add", "rows"]},
        {"size": 1.5},
        {"size": True},
        {"size": ["add", "rows", None]},
    ],
    ids=json.dumps,
)
def test_a_malformed_argument_is_refused(item):
    node = {"name": "a", "target": "aten.relu.default", "args": [{"ref": "x"}], "kwargs": {}}
    document = {**_document(), "nodes": [node]}
    program_from_json(json.dumps(document).encode(), {})  # valid but for the argument
    node["args"] = [item]
    with pytest.raises(InvalidBundle, match=r"program\.json"):
        program_from_json(json.dumps(document).encode(), {})


def test_arguments_nest_as_deep_as_a_network_needs_and_no_deeper():
    def nested(levels):
        item = 0
        for _ in range(levels):
            item = [item]
        return item

    assert encode_argument(decode_argument(nested(30))) == nested(30)
    with pytest.raises(InvalidBundle, match="deeper than"):
        decode_argument(nested(34))


def test_a_site_index_is_its_place_among_the_sites():
    """The index decides the noise, so it is never read from the file."""
    net = torch.nn.Sequential(Mlp(), torch.nn.Dropout(0.1), torch.nn.Linear(3, 2), torch.nn.Dropout(0.2)).eval()
    program = capture(net, rows_for(net, (4,), 4))
    document = json.loads(graph_to_json(program.graph))
    assert all("index" not in node for node in document["nodes"])
    again = program_from_json(graph_to_json(program.graph), program.weights).graph
    assert [(site.index, site.rate) for site in again.sites] == [(0, 0.5), (1, 0.1), (2, 0.2)]


def test_rows_of_sites_and_boundary_are_kept():
    """The axis and both folds have different values."""
    rows = RowAxis(2, before=3, after=5)
    site = Site("drop", 0, "feature_dropout", Ref("wide"), 0.25, rows, "trunk.2")
    wide = Operation("wide", _aten.relu.default, (Ref("x"),), {})
    graph = Graph((Input("x", (4,), torch.float32),), (), (wide, site), "drop", {"wide": rows})
    again = program_from_json(graph_to_json(graph), {}).graph
    assert again == graph
    assert again.sites[0].rows == rows
    assert again.sites[0].module == "trunk.2"


def test_a_weight_that_the_file_lacks_is_named():
    program = capture(seeded(Mlp), torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    weights = {name: value for name, value in program.weights.items() if name != "weights/3.bias"}
    with pytest.raises(InvalidBundle, match=r"lacks weights/3\.bias"):
        program_from_json(graph_to_json(program.graph), weights)


def _document():
    return {
        "schema": 1,
        "inputs": [{"name": "x", "shape": [4], "dtype": "float32"}],
        "weights": [],
        "nodes": [],
        "output": "x",
        "boundary": {},
    }
