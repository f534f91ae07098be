import random
import re
import threading

import numpy as np
import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture, clone, preserved_randomness, stochastic
from dropout_core.engine.engine import Engine
from dropout_core.errors import (
    CaptureError,
    CoupledRows,
    DataDependent,
    HostRandomness,
    InvalidInput,
    NoSite,
    UnknownRandomness,
)
from dropout_core.graph.noise_kinds import NOISE_KINDS
from dropout_core.graph.program import Input
from dropout_core.verify import is_the_model, verify
from tests.support import refused
from tests.support.captured import captured, made
from tests.support.nets import Functional, Rich, TwoSites
from tests.support.refused import line_of
from tests.support.twins import TWINS

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


REFUSED = {
    refused.HasNoDropout: (NoSite, "nn.Dropout(0.2)"),
    refused.DropsAtRate0: (NoSite, "with a rate above 0"),
    refused.DropsBesideItsOutput: (NoSite, "no random operator reaches the output"),
    refused.DrawsWholeNumbers: (UnknownRandomness, "whole numbers have no mean among them"),
    refused.Shuffles: (UnknownRandomness, "aten.randperm.default"),
    refused.DrawsPoissonNoise: (UnknownRandomness, "aten.poisson.default"),
    refused.PacksItsSequences: (CaptureError, "Packed sequences cannot be captured: give padded ones"),
    refused.ScalesByRandom: (HostRandomness, "outside torch's graph"),
    refused.ScalesByNumpy: (HostRandomness, "every pass would use the same"),
    refused.ScalesByAnUnseededNumpyGenerator: (HostRandomness, "a capture would freeze them"),
    refused.HoldsRandomConstants: (HostRandomness, "method='loop'"),
    refused.DecidesByRandom: (HostRandomness, "Draw them with a torch dropout inside the forward"),
    refused.DecidesByRandomButRarely: (HostRandomness, "outside torch's graph"),
    refused.DecidesByNumpyButRarely: (HostRandomness, "outside torch's graph"),
    refused.DecidesOnADraw: (DataDependent, "torch.where(condition, a, b)"),
    refused.DecidesOnAValue: (DataDependent, "F.dropout(torch.ones(x.shape[0], 1), p, training=True)"),
    refused.SelectsByValue: (DataDependent, "aten.index.Tensor"),
    refused.FixesTheNumberOfRows: (CaptureError, "write x.shape[0] or -1 where it has a number"),
    refused.AsksForTheLength: (CaptureError, "or len(x)"),
    refused.SubtractsTheMeanRow: (CoupledRows, "changing one row changes another's values"),
    refused.NormsByTheBatch: (CoupledRows, "batch norm needs running statistics"),
    refused.ReturnsTwoValues: (InvalidInput, "returns 2 tensors, '0', '1', and none of them was named"),
    refused.ChangesItsInput: (CaptureError, "changes its input in place; let it work on a copy"),
    refused.BranchesInsideTheGraph: (CaptureError, "write it with tensor operations such as torch.where"),
    refused.DropsInsideABranch: (UnknownRandomness, "aten.native_dropout.default"),
    refused.DropsInsideABranchOfABranch: (UnknownRandomness, "it stands inside cond"),
    refused.ScalesByAFractionOfRows: (CaptureError, "number of rows"),
}


def in_words(kind):
    return "a network that" + re.sub("([A-Z0-9])", r" \1", kind.__name__).lower()


@pytest.mark.parametrize(
    ("kind", "error", "says"), [(kind, *refusal) for kind, refusal in REFUSED.items()], ids=map(in_words, REFUSED)
)
def test_is_refused(kind, error, says):
    """By an error of its own class that says what to do, and names the line where the source marks one."""
    with pytest.raises(error) as refusal:
        capture(kind(), X)
    assert type(refusal.value) is error
    assert says in str(refusal.value)
    assert line_of(kind) in str(refusal.value)


def test_batch_norm_without_running_statistics_is_refused():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Dropout(), nn.Linear(6, 2))
    with pytest.raises(CoupledRows, match="batch norm needs running statistics"):
        capture(net, X)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_every_dropout_of_torchs_transformer_layer_is_a_site(norm_first, batch_first):
    class Encoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.1, norm_first=norm_first, batch_first=batch_first)

        def forward(self, x):
            return self.layer(x).mean(1) if batch_first else self.layer(x.transpose(0, 1)).mean(0)

    net, x = Encoded(), X.reshape(2, 2, 4)
    program = capture(net, x)
    assert [(site.module, site.rate) for site in program.graph.sites] == [
        ("layer.self_attn", 0.1), ("layer.dropout1", 0.1), ("layer.dropout", 0.1), ("layer.dropout2", 0.1)
    ]  # fmt: skip
    is_the_model(program, net, x)
    verify(program, Engine(program), x, "mean")


def test_torchs_decoder_layer_is_captured_with_both_its_attentions():
    class Decoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerDecoderLayer(4, 2, 8, 0.1, batch_first=True)

        def forward(self, x):
            return self.layer(x, x.flip(1)).mean(1)

    net, x = Decoded(), X.reshape(2, 2, 4)
    program = capture(net, x)
    assert len(program.graph.sites) == 6
    is_the_model(program, net, x)
    verify(program, Engine(program), x, "mean")


def test_a_model_that_cannot_be_copied_is_refused():
    net = nn.Sequential(nn.Dropout(), nn.Linear(4, 2))
    net.lock = threading.Lock()
    with pytest.raises(CaptureError, match=r"cannot be copied: .*Hold no locks"):
        capture(net, X)


def test_buffers_that_change_even_in_eval_mode_are_refused():
    with pytest.raises(CaptureError, match=r"changes the buffers 0\.calls even in eval mode"):
        capture(nn.Sequential(refused.CountsItsCalls(), nn.Dropout(), nn.Linear(4, 2)), X)


def test_a_module_that_changes_its_buffers_and_drops_is_refused():
    """Eval mode would stop both; its noise would be missing in silence."""
    net = nn.Sequential(refused.CountsAndDrops(nn.Linear(4, 4)), nn.Dropout(0.1), nn.Linear(4, 2))
    with pytest.raises(CaptureError, match=r"drops as well \(one of: 0\).*Put the dropout in a module of its own"):
        capture(net, X)


def test_a_dropout_inside_a_module_that_changes_its_buffers_is_a_site():
    net = nn.Sequential(refused.CountsItsTraining(nn.Dropout(0.5)), nn.Dropout(0.1), nn.Linear(4, 2))
    assert [site.rate for site in capture(net, X).graph.sites] == [0.5, 0.1]


def test_a_dropout_held_by_a_batch_norm_is_a_site():
    class Held(nn.BatchNorm1d):
        def __init__(self):
            super().__init__(4)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(super().forward(x))

    net = nn.Sequential(Held(), nn.Linear(4, 2))
    assert [site.rate for site in capture(net, X).graph.sites] == [0.5]


@pytest.mark.parametrize("example", [[[1.0]], torch.tensor(1.0), torch.zeros(0, 4)], ids=["list", "scalar", "empty"])
def test_an_example_without_rows_is_refused(example):
    with pytest.raises(InvalidInput, match=r"the (input|example)"):
        capture(refused.HasNoDropout(), example)


@pytest.mark.parametrize("kind", TWINS, ids=lambda kind: kind.__name__)
def test_every_dropout_is_a_site_with_its_rate(kind):
    program = captured(kind).program
    rates = [rate if NOISE_KINDS[kind.kind].rated else 0 for _, rate in kind.sites]
    assert [site.rate for site in program.graph.sites] == rates
    assert [site.index for site in program.graph.sites] == list(range(len(kind.sites)))
    assert {site.kind for site in program.graph.sites} == {kind.kind}
    assert program.graph.inputs == (Input(program.graph.inputs[0].name, kind.row, kind.dtype),)
    assert set(program.graph.weights) == set(program.weights)


def state(model):
    """All of a model that a caller can see."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return (
        [(name, id(module), module.training) for name, module in model.named_modules()],
        {name: (id(t), t.requires_grad, t.grad, t._version, t.tolist()) for name, t in tensors.items()},
    )


@pytest.mark.parametrize("training", [True, False], ids=["in training", "in eval"])
def test_the_model_is_left_as_it_was(training):
    model = made(Rich).train(training)
    model.third.train(not training)
    before = state(model)
    capture(model, X)
    assert state(model) == before


def test_a_refused_model_is_left_as_it_was():
    model = refused.NormsByTheBatch().eval()
    before = state(model)
    with pytest.raises(CoupledRows):
        capture(model, X)
    assert state(model) == before


def test_a_clone_shares_parameters_and_has_buffers_and_modes_of_its_own():
    model = made(Rich).eval()
    copied = clone(model).train()
    assert all(a is b for a, b in zip(model.parameters(), copied.parameters(), strict=True))
    assert copied.third.weight is copied.second.weight
    for mine, theirs in zip(model.buffers(), copied.buffers(), strict=True):
        assert mine.data_ptr() != theirs.data_ptr()
        assert torch.equal(mine, theirs)
    assert not any(module.training for module in model.modules())


def test_a_stochastic_model_trains_all_but_its_norms_with_statistics():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4), nn.Sequential(nn.BatchNorm2d(2), nn.Linear(4, 2))).eval()
    quiet = {name for name, module in stochastic(model).named_modules() if not module.training}
    assert quiet == {"1", "2.0"}


def test_a_program_shares_the_model_s_weights():
    model = made(Rich).eval()
    program = capture(model, X)
    stored = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    for name, weight in program.weights.items():
        assert name.startswith("constants/") or weight.data_ptr() in stored, name
        assert not weight.requires_grad
    assert sum(name.startswith("constants/") for name in program.weights) == 1


def randomness():
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002


@pytest.mark.parametrize(
    "kind", [refused.ScalesByRandom, refused.ScalesByNumpy, refused.DrawsWholeNumbers], ids=in_words
)
def test_a_refused_capture_leaves_all_randomness_as_it_was(kind):
    model, before = kind(), randomness()
    with pytest.raises(CaptureError):
        capture(model, X)
    assert randomness() == before


def test_a_capture_leaves_all_randomness_as_it_was():
    model, before = made(Rich), randomness()
    capture(model, X)
    assert randomness() == before


def test_preserved_randomness_is_seeded_inside_and_restored_after():
    def draw():
        return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: NPY002

    before, inside = randomness(), []
    for _ in range(2):
        with preserved_randomness(3):
            inside.append(draw())
    assert inside[0] == inside[1]
    assert randomness() == before


def test_captures_are_equal_whatever_the_randomness_around_them():
    one = captured(TwoSites)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert capture(one.net, one.rows(4)).graph == one.program.graph


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_any_number_of_example_rows_gives_the_same_graph(rows):
    one = captured(TwoSites)
    assert capture(one.net, one.rows(rows)).graph == one.program.graph


def test_an_example_with_a_gradient_can_be_captured():
    one = captured(TwoSites)
    assert capture(one.net, one.rows(4).requires_grad_()).graph == one.program.graph


def test_a_site_knows_the_line_it_came_from():
    (site,) = capture(refused.DropsOnAMarkedLine(), X).graph.sites
    assert site.where == line_of(refused.DropsOnAMarkedLine)


def test_a_site_knows_the_module_that_drops():
    assert [site.module for site in captured(TwoSites).program.graph.sites] == ["drop", "second"]
    assert [site.module for site in captured(Functional).program.graph.sites] == [""]
    nested = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Dropout(0.5)), nn.Linear(4, 2))
    assert [site.module for site in capture(nested, X).graph.sites] == ["1.1"]
