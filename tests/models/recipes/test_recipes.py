import math

import pytest
import torch
from torch import nn

from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from mcdrop_models.recipes import RECIPES, diabetes, digits, load_recipe
from mcdrop_models.recipes.training import Trained, fit


def silent(*_):
    pass


def linear():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.1))


@pytest.fixture
def line():
    """200 points of y = 3 a − 2 b + 1."""
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    return x, x @ torch.tensor([[3.0], [-2.0]]) + 1


def fitted(line, seed=0, epochs=3, on_epoch=silent, **options):
    model = linear()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fit(model, *line, nn.MSELoss(), epochs, weight_decay=0.0, on_epoch=on_epoch, **options)
    return model


def test_training_lowers_the_loss_of_every_epoch_and_reports_each(line):
    heard = []
    fitted(line, epochs=5, on_epoch=lambda *facts: heard.append(facts))

    losses = [loss for *_, loss in heard]
    assert [facts[:2] for facts in heard] == [(epoch, 5) for epoch in range(1, 6)]
    assert losses[-1] < losses[0]
    assert all(math.isfinite(loss) for loss in losses)


def test_the_loss_that_is_reported_is_the_mean_over_rows(line):
    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return 0 * x[:, :1] + 0 * self.unused

    heard = []
    fit(Still(), *line, nn.MSELoss(), 1, weight_decay=0.0, on_epoch=lambda *facts: heard.append(facts))

    # 200 rows in batches of 64, 64, 64 and 8, summed in float32
    assert heard[0][2] == pytest.approx(line[1].square().mean().item(), rel=1e-5)


def test_training_ends_in_eval_mode(line):
    assert not any(module.training for module in fitted(line).modules())


def test_training_is_decided_by_the_seed(line):
    first, again, other = (fitted(line, seed)[0].weight for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_learning_rate_falls_as_half_a_cosine_by_epochs(line):
    model, rates = linear(), []

    class Spy(torch.optim.AdamW):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Spy)
        fit(model, *line, nn.MSELoss(), 10, weight_decay=0.0, on_epoch=silent)

    per_epoch = rates[::4]
    assert rates[0] == 2e-3
    assert len(rates) == 40
    assert per_epoch == pytest.approx([2e-3 * (1 + math.cos(math.pi * n / 10)) / 2 for n in range(10)])


def test_every_recipe_can_be_loaded():
    assert RECIPES == ("digits", "diabetes")
    assert [load_recipe(name) for name in RECIPES] == [digits.train, diabetes.train]


@pytest.fixture(params=RECIPES)
def trained(request, monkeypatch):
    """A recipe's result after one epoch."""
    monkeypatch.setattr(f"mcdrop_models.recipes.{request.param}._EPOCHS", 1)
    return load_recipe(request.param)(silent)


def test_a_recipe_makes_all_that_publishing_needs(trained, tmp_path):
    assert isinstance(trained, Trained)
    published = publish(
        trained.model,
        trained.example,
        name="example",
        task=trained.task,
        output=trained.output,
        labels=trained.labels,
        output_scaling=trained.output_scaling,
        metrics=trained.metrics,
        root=tmp_path,
    )

    predictor = Predictor.load(Repository(tmp_path), "example", 1)
    assert predictor.manifest == published.manifest
    assert predictor.manifest.metrics == trained.metrics
    assert torch.equal(*predictor.probe.values(), trained.example)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_reproducible_and_leaves_the_callers_randomness_alone(name, monkeypatch):
    monkeypatch.setattr(f"mcdrop_models.recipes.{name}._EPOCHS", 1)
    torch.manual_seed(5)
    first = load_recipe(name)(silent)
    after = torch.rand(1)
    torch.manual_seed(5)
    untouched = torch.rand(1)
    second = load_recipe(name)(silent)

    assert torch.equal(after, untouched)
    assert first.metrics == second.metrics
    for one, other in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_digits_are_all_held_out_once_and_in_their_own_unit():
    x, y, x_test, y_test = digits._data()
    images, classes = digits.test_images()

    assert (x.shape, x_test.shape) == ((1437, 8, 8), (360, 8, 8))
    assert torch.equal(images, x_test)
    assert torch.equal(classes, y_test)
    assert (x_test.min(), x_test.max(), x_test.dtype) == (0, 16, torch.float32)
    every = torch.cat([x, x_test]).flatten(1)
    # the set has 1797 images, no two of them alike
    assert len(every.unique(dim=0)) == 1797
    share = torch.bincount(y_test) / len(y_test) - torch.bincount(torch.cat([y, y_test])) / 1797
    assert share.abs().max() <= 1 / 360  # stratified: off by less than one image


def test_a_digits_recipe_after_one_epoch_is_better_than_chance(monkeypatch):
    monkeypatch.setattr(digits, "_EPOCHS", 1)
    trained = digits.train(silent)

    assert (trained.task, trained.output, trained.output_scaling) == ("classification", "logits", None)
    assert trained.labels == tuple("0123456789")
    assert trained.example.shape == (8, 8, 8)
    # guessing among ten classes is right 0.1 of the time, with a standard error of 0.016 over 360 images
    assert trained.metrics["accuracy"] > 0.1 + 5 * (0.1 * 0.9 / 360) ** 0.5
    assert trained.metrics["nll"] < math.log(10)


def test_the_patients_are_all_held_out_once_and_in_their_own_units():
    x, y, x_test, y_test = diabetes._data()

    assert (x.shape, x_test.shape) == ((353, 10), (89, 10))
    assert (y.shape, y_test.shape) == ((353,), (89,))
    every = torch.cat([y, y_test])
    assert (every.min(), every.max()) == (25, 346)
    assert x[:, 0].min() >= 18  # years, not standard deviations
    assert len(torch.cat([x, x_test]).unique(dim=0)) == 442


def test_the_diabetes_recipe_is_as_good_as_a_linear_fit_and_knows_how_wrong_it_is():
    trained = diabetes.train(silent)

    x, y, x_test, y_test = (part.double() for part in diabetes._data())
    x, x_test = (torch.cat([part, torch.ones(len(part), 1)], 1) for part in (x, x_test))
    linear_fit = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    linear_error = (x_test @ linear_fit - y_test).square().mean().sqrt().item()
    assert (trained.task, trained.output, trained.labels) == ("regression", "mean_and_log_variance", None)
    # the standard error of a root mean square of 89 normal residuals
    assert trained.metrics["rmse"] < linear_error * (1 + (2 * 89) ** -0.5)
    # 95 percent of 89 patients, within five standard errors
    assert abs(trained.metrics["coverage_of_95_percent"] - 0.95) < 5 * (0.95 * 0.05 / 89) ** 0.5
    ((scale,), (shift,)) = trained.output_scaling
    assert (scale, shift) == pytest.approx((y.std().item(), y.mean().item()), rel=1e-5)  # of float32 sums
