from dataclasses import replace

import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import CoupledRows, InvalidInput, NotTheModel, NoVariance
from dropout_core.estimate.estimate import fold_passes
from dropout_core.graph.program import Operation, Ref
from dropout_core.verify import PROBE_PASSES, PROBE_SEED, agree, is_the_model, known_answer, verify
from tests.support import refused
from tests.support.captured import captured, made
from tests.support.nets import AlwaysOn, OwnLaw, StochasticDepth, TwoSites
from tests.support.twins import TWINS

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
aten = torch.ops.aten


def verified(model, example=X, output="mean"):
    program = capture(model, example)
    return verify(program, Engine(program), example, output)


@pytest.mark.parametrize("kind", TWINS, ids=lambda kind: kind.__name__)
def test_a_captured_network_is_the_model_and_its_rows_are_its_own(kind):
    """Without noise a twin's masks are all ones; the eval mode of AlwaysOn and StochasticDepth still drops."""
    one = captured(kind)
    is_the_model(one.program, one.net, one.rows(4))
    verify(one.program, one.engine, one.rows(4), "mean")


@pytest.mark.parametrize("kind", [AlwaysOn, StochasticDepth, OwnLaw], ids=lambda kind: kind.__name__)
def test_dropout_that_eval_mode_leaves_on_hides_no_other_difference(kind):
    one = captured(kind)
    weights = {name: weight + (0.01 if "head.bias" in name else 0) for name, weight in one.program.weights.items()}
    with pytest.raises(NotTheModel, match=r"answers otherwise than model\.eval\(\)\(x\)"):
        is_the_model(replace(one.program, weights=weights), one.net, one.rows(4))


def test_a_network_that_trains_otherwise_beside_its_dropout_is_refused():
    model = made(refused.AddsAConstantInTraining)
    with pytest.raises(NotTheModel, match="acts differently in training mode beside its dropout"):
        is_the_model(capture(model, X), model, X)


def test_checking_leaves_the_model_as_it_was():
    model = made(refused.DropsOnAMarkedLine).train()
    program = capture(model, X)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    is_the_model(program, model, X)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_program_of_another_shape_is_not_the_model():
    narrow, wide = (nn.Sequential(nn.Dropout(), nn.Linear(4, n)) for n in (1, 2))
    with pytest.raises(NotTheModel):
        is_the_model(capture(narrow, X), wide, X)


def test_a_program_whose_answer_mixes_rows_is_refused():
    """Also one that was never captured here: a bundle's, say."""
    one = captured(TwoSites)
    graph = one.program.graph
    mean = Operation("mean", aten.mean.dim, (Ref(graph.output), (0,), True), {})
    centred = Operation("centred", aten.sub.Tensor, (Ref(graph.output), Ref("mean")), {})
    program = replace(one.program, graph=replace(graph, nodes=(*graph.nodes, mean, centred), output="centred"))
    with pytest.raises(CoupledRows, match=r"changing row 0 of the probe changes the answers of rows \[1, 2\]"):
        verify(program, Engine(program), one.rows(4), "mean")


def test_an_answer_that_depends_on_the_number_of_rows_is_refused():
    with pytest.raises(CoupledRows, match="another one in a batch of 1 than in a batch of 3"):
        verified(made(refused.ScalesByTheNumberOfRows))


def test_passes_that_agree_are_refused():
    with pytest.raises(NoVariance, match="64 passes over the probe agree to the last digit"):
        verified(made(refused.MultipliesItsNoiseBy0))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("width", [33, 513])
def test_passes_that_agree_up_to_rounding_are_refused(width, rows):
    """A matrix product may round equal rows in other ways at the edge of its blocks."""
    model = made(lambda: nn.Sequential(nn.Linear(4, width), nn.ReLU(), refused.AddsNoiseTimes0(), nn.Linear(width, 3)))
    with pytest.raises(NoVariance):
        verified(model, X[:rows])


def test_a_spread_far_below_the_outputs_is_a_variance():
    """A thousandth around a thousand is not rounding."""
    model = made(lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 1)))
    with torch.no_grad():
        model[2].weight.mul_(0.01)
        model[2].bias.fill_(1000)
    assert (verified(model).std < 0.01).all()


def test_a_dropout_of_rate_1_alone_has_no_variance():
    with pytest.raises(NoVariance):
        verified(nn.Sequential(nn.Dropout(1.0), nn.Linear(4, 2)))


def test_one_row_with_variance_is_enough():
    """A row of zeros before the dropout has none."""
    model = nn.Sequential(nn.Dropout(), nn.Linear(4, 2))
    example = torch.stack([torch.zeros(4), torch.ones(4)])
    assert (verified(model, example).variance > 0).tolist() == [[False, False], [True, True]]


def ending_in(last, columns=3):
    return made(lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, columns), last))


@pytest.mark.parametrize("last", [nn.Softplus(), nn.Tanh(), nn.Sigmoid()], ids=["above 1", "below 0", "wrong sum"])
def test_other_numbers_are_no_probabilities(last):
    with pytest.raises(InvalidInput, match="are no probabilities; say output='logits'"):
        verified(ending_in(last), output="probabilities")


def test_a_softmax_gives_probabilities():
    assert verified(ending_in(nn.Softmax(-1)), output="probabilities").mean.shape == (4, 3)


def test_one_column_between_0_and_1_is_a_probability():
    assert verified(ending_in(nn.Sigmoid(), columns=1), output="probabilities").mean.shape == (4, 2)


def test_an_unknown_output_kind_is_refused():
    with pytest.raises(InvalidInput, match="choose one of logits"):
        verified(nn.Sequential(nn.Dropout(), nn.Linear(4, 2)), output="scores")


def test_the_known_answer_is_the_estimate_of_64_passes_over_the_example():
    one = captured(TwoSites)
    x = one.rows(5)
    answer = verify(one.program, one.engine, x, "logits")
    chunks = one.engine.run(one.program.weights, x, PassOptions(PROBE_PASSES, PROBE_SEED, sampling="iid"))
    wanted = fold_passes(chunks, "logits", PROBE_PASSES, PROBE_SEED, "captured")
    assert (answer.passes, answer.seed) == (64, 0)
    for found in (answer, known_answer(one.program, one.engine, x, "logits")):
        assert torch.equal(found.mean, wanted.mean)
        assert torch.equal(found.mutual_information, wanted.mutual_information)


NAN, INF = float("nan"), float("inf")
PAIRS = {
    "within 1e-5 of the largest": ([100, 0], [100, 0.0009], True),
    "beyond 1e-5 of the largest": ([100, 0], [100, 0.0011], False),
    "all zeros": ([0, 0], [0, 0], True),
    "anything against zeros": ([0, 1e-30], [0, 0], False),
    "nan in the same place": ([NAN, 1], [NAN, 1], True),
    "nan in one": ([NAN, 1], [2, 1], False),
    "infinity in the same place": ([INF, 1], [INF, 1], True),
    "a difference beside infinity": ([INF, 1], [INF, 1.1], False),
}


@pytest.mark.parametrize(("a", "b", "same"), PAIRS.values(), ids=PAIRS.keys())
def test_agreement_of(a, b, same):
    assert agree(torch.tensor(a).double(), torch.tensor(b).double()) is same


def test_agreement_of_a_coarse_type_is_to_eight_of_its_roundings():
    one, rounding = torch.ones(1, dtype=torch.bfloat16), torch.finfo(torch.bfloat16).eps
    assert agree(one + 7 * rounding, one)
    assert not agree(one + 9 * rounding, one)


def test_nothing_agrees_with_nothing():
    assert agree(torch.zeros(0, 2), torch.zeros(0, 2))
