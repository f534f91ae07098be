import pytest
import torch

from dropout_core.capture.rows import assign_rows
from dropout_core.errors import CoupledRows
from dropout_core.graph.program import Graph, Input, Operation, Program, Ref, RowAxis, Site
from dropout_core.graph.sizes import Size
from tests.support import nets
from tests.support.captured import captured

aten = torch.ops.aten
R = Size("rows")
EXAMPLE = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))

EXPECTED = {
    nets.TwoSites: RowAxis(0),
    nets.Residual: RowAxis(0),
    nets.FoldedTime: RowAxis(0, after=2),
    nets.SequenceFirst: RowAxis(1),
    nets.StackedViews: RowAxis(0, before=2),
    nets.NoisyWeights: None,
    nets.Channels2d: RowAxis(0),
    nets.StochasticDepth: RowAxis(0),
    nets.Recurrent: RowAxis(0),
}


@pytest.mark.parametrize(("kind", "rows"), EXPECTED.items(), ids=[kind.__name__ for kind in EXPECTED])
def test_the_rows_of_each_site_are_found(kind, rows):
    sites = captured(kind).program.graph.sites
    assert [site.rows for site in sites] == [rows] * len(sites)


def test_the_rows_of_all_that_crosses_to_the_suffix_are_found():
    assert set(captured(nets.Residual).program.graph.boundary.values()) == {RowAxis(0)}
    assert set(captured(nets.SequenceFirst).program.graph.boundary.values()) == {RowAxis(1)}
    assert captured(nets.NoisyWeights).program.graph.boundary == {"x": RowAxis(0)}


def op(name, target, *args, where=""):
    return Operation(name, target, args, {}, where)


def site(source, where=""):
    return Site("s", 0, "dropout", Ref(source), 0.5, where=where)


def assigned(*nodes, example=EXAMPLE, weights=None, output="s", **shapes):
    """The graph of these nodes with its rows, x being [rows, 4]."""
    spec = Input("x", tuple(example.shape[1:]), example.dtype)
    graph = Graph((spec,), tuple(weights or {}), nodes, output)
    return assign_rows(Program(graph, weights or {}), {"x": (R, 4), "s": (R, 4), **shapes}, {"x": example})


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_every_way_to_fold_rows_is_told_from_the_others(before, after):
    copies = [op(f"c{i}", aten.mul.Scalar, Ref("x"), i + 1) for i in range(before)]
    fold = Size(("mul", before * after, "rows"))
    graph = assigned(
        *copies,
        op("all", aten.cat.default, tuple(Ref(copy.name) for copy in copies)),
        op("folded", aten.view.default, Ref("all"), (fold, 4 // after)),
        site("folded"),
        op("unfolded", aten.view.default, Ref("s"), (before, R, 4)),
        op("out", aten.sum.dim_IntList, Ref("unfolded"), (0,)),
        folded=(fold, 4 // after),
        out=(R, 4),
        output="out",
    )
    assert graph.sites[0].rows == RowAxis(0, before, after)
    assert graph.boundary == {"folded": RowAxis(0, before, after)}


def test_a_value_that_no_row_changes_still_has_its_rows():
    graph = assigned(op("ones", aten.ones.default, (R, 4)), site("ones"), ones=(R, 4))
    assert graph.sites[0].rows == RowAxis(0)


def test_a_weight_has_no_rows():
    graph = assigned(
        site("w"),
        op("out", aten.mul.Tensor, Ref("x"), Ref("s")),
        weights={"w": torch.ones(4)},
        w=(4,),
        out=(R, 4),
        output="out",
    )
    assert graph.sites[0].rows is None
    assert graph.boundary == {"x": RowAxis(0)}


def test_whole_numbers_are_told_apart_by_shuffling_them():
    graph = assigned(
        op("h", aten.embedding.default, Ref("w"), Ref("x")),
        site("h"),
        example=torch.arange(16).reshape(4, 4),
        weights={"w": torch.randn(16, 3, generator=torch.Generator().manual_seed(0))},
        h=(R, 4, 3),
        s=(R, 4, 3),
    )
    assert graph.sites[0].rows == RowAxis(0)


def test_a_row_of_nan_in_the_example_hides_no_rows():
    example = EXAMPLE.clone()
    example[1] = torch.nan
    assert assigned(site("x"), example=example).sites[0].rows == RowAxis(0)


CENTRED = (
    op("mean", aten.mean.dim, Ref("x"), (0,), True),
    op("h", aten.sub.Tensor, Ref("x"), Ref("mean"), where="net.py:3"),
)


def test_a_site_whose_rows_are_mixed_before_it_is_refused_with_its_line():
    with pytest.raises(CoupledRows, match=r"\[rows…, 4\] at net.py:9 mixes rows: changing one row changes"):
        assigned(*CENTRED, site("h", where="net.py:9"), h=(R, 4))


def test_an_output_that_mixes_rows_is_refused():
    mean = op("mean", aten.mean.dim, Ref("s"), (0,), True)
    out = op("out", aten.sub.Tensor, Ref("s"), Ref("mean"), where="net.py:3")
    with pytest.raises(CoupledRows, match=r"\[rows…, 4\] at net.py:3 mixes rows: changing one row changes"):
        assigned(site("x"), mean, out, out=(R, 4), output="out")


def test_a_boundary_that_mixes_rows_is_refused():
    out = op("out", aten.add.Tensor, Ref("s"), Ref("h"))
    with pytest.raises(CoupledRows, match=r"at net.py:3 mixes rows: changing one row changes another's"):
        assigned(*CENTRED, site("x"), out, h=(R, 4), out=(R, 4), output="out")


def test_rows_in_another_order_are_refused():
    flipped = op("h", aten.flip.default, Ref("x"), (0,))
    with pytest.raises(CoupledRows, match="changing one row changes another's values"):
        assigned(flipped, site("h"), h=(R, 4))


def test_a_value_shared_by_all_rows_is_refused():
    out = op("out", aten.sum.default, Ref("s"))
    with pytest.raises(CoupledRows, match=r"a value of shape \[\] mixes rows: all rows share one value"):
        assigned(site("x"), out, out=(), output="out")


def test_a_row_too_many_is_refused():
    first = op("first", aten.slice.Tensor, Ref("x"), 0, 0, 1)
    more = op("h", aten.cat.default, (Ref("x"), Ref("first")))
    with pytest.raises(CoupledRows, match="its size is not a multiple of the number of rows"):
        assigned(first, more, site("h"), h=(Size(("add", "rows", 1)), 4))


def test_rows_on_two_axes_are_refused():
    turned = op("t", aten.t.default, Ref("x"))
    with pytest.raises(CoupledRows, match="its size is not a multiple of the number of rows"):
        assigned(turned, op("h", aten.mm.default, Ref("x"), Ref("t")), site("h"), h=(R, R))


def test_folded_rows_that_no_row_changes_cannot_be_told_apart():
    """Two rows a row, all zeros: a mask for the first and the second, or for the one above and below?"""
    fold = Size(("mul", 2, "rows"))
    zeros, out = (
        op("zeros", aten.zeros.default, (fold, 4)),
        op("out", aten.slice.Tensor, Ref("s"), 0, 0, R),
    )
    with pytest.raises(CoupledRows, match="its rows cannot be told apart"):
        assigned(zeros, site("zeros"), out, zeros=(fold, 4), out=(R, 4), output="out")


@pytest.mark.parametrize(
    ("target", "args", "shape"),
    [(aten.t.default, (), (4, R)), (aten.view.default, ((-1, 2),), (Size(("mul", 2, "rows")), 2))],
    ids=["rows second", "rows folded"],
)
def test_an_output_without_its_rows_first_is_refused(target, args, shape):
    with pytest.raises(CoupledRows, match="return one row for each input row, rows first"):
        assigned(site("x"), op("out", target, Ref("s"), *args), out=shape, output="out")
