import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dropout_core.graph.program import GETITEM, Device, Graph, Input, Operation, Program, Ref, RowAxis, Site, references
from dropout_core.graph.sizes import Size
from dropout_core.graph.split import reachable_nodes, split
from dropout_core.graph.stage import Stage

aten = torch.ops.aten
X = Input("x", (3,), torch.float32)
CPU = torch.device("cpu")


def op(name, target, *args, **kwargs):
    return Operation(name, target, args, kwargs)


def site(name, source, index=0):
    return Site(name, index, "dropout", Ref(source), 0.5, RowAxis(0))


def graph(*nodes, output, weights=("w",)):
    return Graph((X,), weights, nodes, output)


def names(nodes):
    return [node.name for node in nodes]


def keep_all(_, value):
    return value


EXPRESSIONS = st.recursive(
    st.integers(1, 9) | st.just("rows"),
    lambda inner: st.tuples(st.sampled_from(["add", "mul", "floordiv", "mod"]), inner, inner),
    max_leaves=6,
)
PYTHON = {"add": operator.add, "mul": operator.mul, "floordiv": operator.floordiv, "mod": operator.mod}


def by_python(expression, rows):
    if isinstance(expression, tuple):
        return PYTHON[expression[0]](*(by_python(side, rows) for side in expression[1:]))
    return rows if expression == "rows" else expression


@given(EXPRESSIONS, st.integers(1, 50))
def test_a_size_is_its_expression_in_python(expression, rows):
    try:
        wanted = by_python(expression, rows)
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            Size(expression)({"rows": rows})
    else:
        assert Size(expression)({"rows": rows}) == wanted


def test_only_what_noise_reaches_is_in_the_suffix():
    """Across a residual and a parallel branch: h is prefix, read by both."""
    parts = split(
        graph(
            op("h", aten.mul.Tensor, Ref("x"), Ref("w")),
            op("quiet", aten.tanh.default, Ref("h")),
            site("s", "h"),
            op("loud", aten.tanh.default, Ref("s")),
            op("sum", aten.add.Tensor, Ref("h"), Ref("loud")),
            op("out", aten.cat.default, (Ref("sum"), Ref("quiet")), 1),
            output="out",
        )
    )
    assert names(parts.prefix) == ["h", "quiet"]
    assert names(parts.suffix) == ["s", "loud", "sum", "out"]
    assert parts.crossing == ("h", "quiet")


def test_the_suffix_reads_weights_and_inputs_directly():
    parts = split(graph(site("s", "w"), op("out", aten.mul.Tensor, Ref("x"), Ref("s")), output="out"))
    assert (names(parts.prefix), names(parts.suffix)) == ([], ["s", "out"])
    assert parts.crossing == ("w", "x")


def test_what_depends_on_the_number_of_rows_alone_is_made_where_it_is_used():
    """The suffix has t · B rows: a state made for the prefix's rows would not fit."""
    parts = split(
        graph(
            op("state", aten.zeros.default, (Size("rows"), 3)),
            op("wide", aten.tanh.default, Ref("state")),
            op("h", aten.add.Tensor, Ref("x"), Ref("wide")),
            site("s", "h"),
            op("out", aten.add.Tensor, Ref("s"), Ref("wide")),
            output="out",
        )
    )
    assert names(parts.prefix) == ["state", "wide", "h"]
    assert names(parts.suffix) == ["state", "wide", "s", "out"]
    assert parts.crossing == ("h",)


def test_noise_that_does_not_reach_the_output_leaves_no_suffix():
    parts = split(graph(site("s", "x"), op("out", aten.tanh.default, Ref("x")), output="out"))
    assert parts.suffix == ()


def test_dead_nodes_are_not_live():
    nodes = (op("dead", aten.tanh.default, Ref("x")), op("out", aten.tanh.default, Ref("x")))
    assert names(reachable_nodes(nodes, "out")) == ["out"]


def test_references_are_found_at_any_depth():
    node = op("n", aten.cat.default, ((Ref("a"), (Ref("b"),)), 1), out=Ref("c"), like={"deep": Ref("d")})
    assert references(node) == ["a", "b", "c", "d"]
    assert references(site("s", "x")) == ["x"]


def test_a_stage_runs_sizes_lists_tuples_and_devices():
    stage = Stage(
        [
            op("zeros", aten.zeros.default, (Size(("mul", 2, "rows")), 3), device=Device()),
            op("halves", aten.split.Tensor, Ref("zeros"), Size("rows")),
            op("second", GETITEM, Ref("halves"), 1),
            op("out", aten.cat.default, (Ref("x"), Ref("second")), 1),
        ],
        keep=["out"],
    )
    values = stage.run({"x": torch.ones(4, 2)}, {"rows": 4}, CPU, keep_all)
    assert values["out"].shape == (4, 5)


def test_a_stage_frees_every_value_after_its_last_reader():
    """Two values of the chain live at once, and the kept ones at the end."""
    nodes = [op(f"n{i}", aten.tanh.default, Ref(f"n{i - 1}" if i else "x")) for i in range(5)]
    values, alive = {"x": torch.ones(1), "w": torch.ones(1)}, []
    stage = Stage(nodes, keep=["n1"])
    left = stage.run(values, {"rows": 1}, CPU, keep_all, lambda name, _: alive.append(sorted(values)))
    assert alive == [
        ["n0", "w", "x"],
        ["n0", "n1", "w"],
        ["n1", "n2", "w"],
        ["n1", "n2", "n3", "w"],
        ["n1", "n3", "n4", "w"],
    ]
    assert set(left) == {"n1", "w"}


def test_a_stage_hands_its_noise_each_site_and_its_input():
    seen = []

    def noise(where, value):
        seen.append((where.name, value.tolist()))
        return value * 3

    stage = Stage([site("s", "x"), site("t", "s", 1)], keep=["t"])
    assert stage.run({"x": torch.ones(2)}, {"rows": 2}, CPU, noise)["t"].tolist() == [9, 9]
    assert seen == [("s", [1, 1]), ("t", [3, 3])]


def test_graphs_compare_by_structure_and_not_by_the_lines_they_came_from():
    def one(where, rate=0.5):
        return graph(Site("s", 0, "dropout", Ref("x"), rate, RowAxis(0), where=where), output="s")

    assert one("net.py:3") == one("other.py:9")
    assert one("net.py:3") != one("net.py:3", rate=0.4)
    assert Device() == Device()
    assert Device() != CPU


def test_a_program_lies_where_its_weights_lie():
    assert Program(graph(output="x"), {"w": torch.ones(1)}).device == CPU
    assert Program(graph(output="x"), {}).device == CPU
