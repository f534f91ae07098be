"""Answers at positions, as of pixels or tokens: [B, *P, C], each position measured as a row of its own would be."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.chunks import Footprint, chunks_of
from dropout_core.engine.engine import Chunk, Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.estimate import fold as folded
from dropout_core.estimate.estimate import Estimate
from dropout_core.estimate.fold import Fold
from dropout_core.graph.sizes import Size
from dropout_core.measures.measures import OUTPUT_KINDS, output_kind
from dropout_core.measures.precision import PRECISION
from dropout_core.predict import predict
from dropout_core.verify import verify
from tests.support import references
from tests.support.captured import made

PASSES, ROWS, SHAPE = 70, 3, (2, 3)
OUTPUTS = torch.rand(PASSES, ROWS, *SHAPE, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SCHEMES = [PassOptions(sampling="iid"), PassOptions(sampling="balanced"), PassOptions(sampling="balanced", branches=2)]


class Tokens(nn.Module):
    """Of each token two features → three classes; every token has masks of its own."""

    def __init__(self):
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.drop(torch.tanh(self.body(x))))


class Features(nn.Module):
    """The same with features that are dropped at all tokens at once, [B, L, 2]: a token does not feel its place."""

    def __init__(self):
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(2, 6), nn.Dropout1d(0.5), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.drop(torch.tanh(self.body(x)).mT).mT)


class Images(nn.Sequential):
    """[B, 1, H, W] → the logits of three classes of each pixel, [B, 3, H, W]."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 1))


class Last(nn.Module):
    """Images that answer with their classes last."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def forward(self, x):
        return self.images(x).movedim(1, -1)


TOKENS, FEATURES, IMAGES = made(Tokens).eval(), made(Features).eval(), made(Images).eval()
LAST = Last(IMAGES).eval()
X = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(1))
PIXELS = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(1))


def folded_passes(outputs, output, scheme, rows=ROWS):
    """Folded 1 and 20 passes at a time, in turns."""
    fold = Fold(output_kind(output), options=scheme, keep_draws=True)
    for passes in outputs.split([1, 20, 1, 20, 1, 20, 1, 6] if len(outputs) == PASSES else len(outputs)):
        for index, part in enumerate(passes.split(rows, dim=1)):
            fold.add(Chunk(index, part))
    return Estimate(output, len(outputs), 0, "captured", fold.statistics(), fold.draws())


def every(estimate, position):
    """All that an estimate says, in a row for each position, and what its rows took."""
    names = [name for name in (*estimate.measures, *PRECISION) if name != "passes_used"]
    informed = "mutual_information" in estimate.measures
    found = {name: estimate.measure(name) for name in names if informed or not name.startswith("mutual")}
    found |= {"samples": estimate.samples.movedim(0, -1), "quantiles": estimate.quantiles([0.1, 0.5]).movedim(0, -1)}
    return {name: values.flatten(0, len(SHAPE)) if position else values for name, values in found.items()}


@pytest.mark.parametrize(("numbers", "rows"), [(1, 2), (72, ROWS)])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("output", OUTPUT_KINDS)
def test_a_position_is_measured_as_a_row_of_its_own(output, scheme, numbers, rows, monkeypatch):
    """However few positions are folded at a time, and however many passes come with them: 72 numbers are one pass."""
    outputs = OUTPUTS / OUTPUTS.sum(-1, keepdim=True) if output == "probabilities" else OUTPUTS
    alone = every(folded_passes(outputs.flatten(1, -2), output, scheme, rows=ROWS * math.prod(SHAPE)), position=False)
    monkeypatch.setitem(folded._PIECE_NUMBERS, "cpu", numbers)
    found = folded_passes(outputs, output, scheme, rows)
    assert found.mean.shape[:-1] == (ROWS, *SHAPE)
    assert found.passes_used.tolist() == [PASSES] * ROWS
    for name, values in every(found, position=True).items():
        torch.testing.assert_close(values, alone[name], rtol=1e-9, atol=1e-12, msg=name)


def test_measures_at_positions_are_the_reference():
    found = folded_passes(OUTPUTS[:20], "logits", PassOptions(sampling="iid"))
    passes = [[references.softmax(row) for row in one] for one in OUTPUTS[:20].flatten(1, -2).tolist()]
    wanted = references.classification(passes)
    for name in found.measures:
        values = torch.tensor(wanted[name], dtype=torch.float64).unflatten(0, (ROWS, *SHAPE))
        torch.testing.assert_close(found.measure(name), values, rtol=0, atol=1e-12)


def test_one_logit_at_a_position_is_the_second_of_two_classes():
    found = folded_passes(OUTPUTS[..., :1], "logits", PassOptions(sampling="iid"))
    assert found.mean.shape == (ROWS, *SHAPE, 2)
    torch.testing.assert_close(found.mean[..., 1:], OUTPUTS[..., :1].sigmoid().mean(0), rtol=0, atol=1e-12)


def test_rescaling_is_by_target_at_every_position():
    scale, shift = torch.tensor([2.0, 3.0, 4.0, 5.0]), torch.tensor([0.0, 1.0, -1.0, 2.0])
    plain = folded_passes(OUTPUTS, "mean", PassOptions(sampling="balanced"))
    found = plain.rescaled(scale, shift)
    torch.testing.assert_close(found.mean, plain.mean * scale + shift, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.standard_error, plain.standard_error * scale, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.samples, plain.samples * scale + shift, rtol=0, atol=1e-12)


@pytest.mark.parametrize("numbers", [1, 2**20])
@pytest.mark.parametrize("tolerance", [{"mean": 0.01}, {"mutual_information": 0.02}], ids=lambda said: next(iter(said)))
def test_a_row_stops_when_its_last_position_is_precise(tolerance, numbers, monkeypatch):
    """Tokens that meet the same masks as rows of their own: a row takes as many passes as the slowest of its tokens.

    Each stands twice in its row, since torch takes features of a single token for something else.
    """
    monkeypatch.setitem(folded._PIECE_NUMBERS, "cpu", numbers)
    x = X * torch.tensor([0.1, 0.4, 1.0, 3.0]).view(4, 1, 1)
    found = predict(FEATURES, x, tolerance=tolerance, passes=400)
    tokens = predict(FEATURES, x.reshape(20, 1, 2).repeat(1, 2, 1), tolerance=tolerance, passes=400)
    slowest = tokens.passes_used.view(4, 5).amax(1)
    assert len(set(slowest.tolist())) > 1
    assert (tokens.passes_used.view(4, 5).amin(1) < slowest).any()
    assert torch.equal(found.passes_used, slowest)
    fixed = predict(FEATURES, x[:1], passes=int(slowest[0]))
    torch.testing.assert_close(found.mean[:1], fixed.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.mutual_information[:1], fixed.mutual_information, rtol=0, atol=1e-6)


def test_passes_over_tokens_have_the_law_of_all_masks():
    passes, weights = 4096, dict(TOKENS.named_parameters())
    with torch.no_grad():
        hidden = torch.tanh(TOKENS.body(X))
        masks = torch.tensor(list(itertools.product([0.0, 2.0], repeat=3)))
        probs = torch.softmax((hidden * masks.view(8, 1, 1, 3)) @ weights["head.weight"].T + weights["head.bias"], -1)
    mean, variance = probs.double().mean(0), probs.double().var(0, correction=0)
    found = predict(TOKENS, X, passes=passes, sampling="iid")
    assert ((found.mean - mean).abs() <= 5 * (variance / passes).sqrt()).all()
    fourth = (probs.double() - mean).pow(4).mean(0)
    assert ((found.variance - variance).abs() <= 5 * ((fourth - variance**2) / passes).sqrt() + variance / passes).all()


def test_classes_that_are_not_last_are_put_last():
    found = predict(IMAGES, PIXELS, class_axis=1, keep_draws=True)
    wanted = predict(LAST, PIXELS, class_axis=-1, keep_draws=True)
    assert found.mean.shape == (3, 4, 5, 3)
    assert torch.equal(found.samples, wanted.samples)
    assert torch.equal(found.mutual_information, wanted.mutual_information)


def test_a_loop_puts_classes_last_as_well():
    samples = predict(IMAGES, PIXELS, class_axis=1, method="loop", passes=2, keep_draws=True).samples
    assert samples.shape == (2, 3, 4, 5, 3)
    torch.testing.assert_close(samples.sum(-1), torch.ones(2, 3, 4, 5).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("class_axis", "reason"),
    [
        (None, "answers with 4 axes, and their order says nothing"),
        (0, "class_axis is 0; the network answers with 4 axes, rows first: 1 … 3 are allowed"),
        (4, "class_axis is 4"),
        (-4, "class_axis is -4"),
    ],
)
def test_an_axis_that_is_unsaid_or_that_there_is_not_is_refused(class_axis, reason):
    with pytest.raises(InvalidInput, match=reason):
        predict(IMAGES, PIXELS, class_axis=class_axis, method="loop")


def test_a_capture_refuses_images_whose_axis_is_unsaid():
    with pytest.raises(InvalidInput, match="say where its classes or targets are: class_axis=1"):
        predict(IMAGES, PIXELS)


def test_one_number_a_row_has_no_axis_of_classes():
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1), nn.Flatten(0)).eval()
    assert predict(net, X[:, 0], method="loop").mean.shape == (4, 2)
    with pytest.raises(InvalidInput, match="leave it out"):
        predict(net, X[:, 0], class_axis=-1, method="loop")


def test_one_axis_of_positions_has_its_classes_last_unless_said():
    assert predict(TOKENS, X).mean.shape == (4, 5, 3)
    assert predict(TOKENS, X, class_axis=1, passes=2).mean.shape == (4, 3, 5)


def test_probabilities_over_another_axis_are_refused():
    net = nn.Sequential(IMAGES, nn.Softmax(1)).eval()
    assert predict(net, PIXELS, output="probabilities", class_axis=1).mean.shape == (3, 4, 5, 3)
    with pytest.raises(InvalidInput, match="Or say class_axis"):
        predict(net, PIXELS, output="probabilities", class_axis=-1)


def test_the_sizes_of_positions_follow_a_free_length():
    net = made(lambda: nn.Sequential(nn.Conv1d(2, 4, 4, stride=2), nn.Dropout(0.5), nn.Conv1d(4, 3, 1))).eval()
    length = torch.export.Dim("length", min=6)
    graph = capture(net, X.mT[:, :, :2].repeat(1, 1, 5), class_axis=1, dynamic={"input": {2: length}}).graph
    (size,) = graph.positions
    assert isinstance(size, Size)
    for length in (6, 9, 20):
        with torch.no_grad():
            assert graph.positions_at({"length": length}) == net(torch.zeros(1, 2, length)).shape[2:]


def test_positions_that_a_program_does_not_have_are_refused():
    program = capture(TOKENS, X)
    assert program.graph.positions == (5,)
    wrong = replace(program, graph=replace(program.graph, positions=(4,)))
    with pytest.raises(InvalidInput, match=r"answers positions \[5\]; it says \[4\]"):
        verify(wrong, Engine(wrong), X, "logits")


def test_a_size_is_written_as_people_write_it():
    assert str(Size("length")) == "length"
    assert str(Size(("add", -1, ("floordiv", "length", 2)))) == "-1 + (length // 2)"
    assert str(Size(("mod", ("mul", 3, "length"), 4))) == "(3 * length) % 4"


def test_rows_that_go_at_once_are_fewer_where_one_is_large():
    def rows_at_once(nbytes):
        observed = Footprint()
        for count in (2, 1):
            observed("h", torch.empty(count, nbytes, dtype=torch.uint8, device="meta"))
        chunks = chunks_of(observed, observed, (), 1, 1, torch.device("cpu"))
        return chunks.prefix_rows, chunks.suffix_rows

    mebi = 2**20
    assert [rows_at_once(size) for size in (1, 8 * mebi, 16 * mebi, 200 * mebi)] == [(8, 8), (8, 8), (4, 4), (1, 1)]
