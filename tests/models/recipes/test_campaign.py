import math

import pytest
import torch
from torch import nn

from dropout_core.acquire import rank
from dropout_core.errors import InvalidInput
from mcdrop_models.recipes import LABELLED, load_labelled, load_recipe
from mcdrop_models.recipes import campaign as simulation
from mcdrop_models.recipes.campaign import STRATEGIES, Campaign, Point, Strategy, labels_to, play
from mcdrop_models.recipes.training import Labelled

SMALL = Campaign(initial=1, batch=4, labels=10, pool=12, passes=16, epochs=2)


def network():
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def clouds(each=20, spread=0.3, weight_decay=0.0):
    """Three classes in a plane, around the corners of a triangle."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat(each)
    x = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])[y] + spread * torch.randn(len(y), 2, generator=generator)
    return Labelled(x, y, x[:30], y[:30], num_classes=3, network=network, weight_decay=weight_decay)


@pytest.fixture
def heard(monkeypatch):
    """What every training got and every choice was asked and answered, as `play` goes on."""
    trainings, choices = [], []

    def fit(model, x, y, *args, **said):
        trainings.append((x, y))
        return real_fit(model, x, y, *args, **said)

    def choose(model, pool, **said):
        found = rank(model, pool, **said)
        choices.append((pool, said, found.indices.tolist()))
        return found

    real_fit = simulation.fit
    monkeypatch.setattr(simulation, "fit", fit)
    monkeypatch.setattr(simulation, "rank", choose)
    return trainings, choices


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_buys_its_labels_batch_by_batch_and_none_twice(heard, name):
    curve = list(play(clouds(), STRATEGIES[name], SMALL, seed=0))

    _, choices = heard
    assert [point.labels for point in curve] == [3, 7, 10]
    assert [point.distinct for point in curve] == [3, 7, 10]
    assert [len(picked) for _, _, picked in choices] == [4, 3]
    bought = [row for _, _, picked in choices for row in picked]
    assert len(set(bought)) == 7


def test_a_training_gets_the_rows_with_their_own_classes_and_no_others(heard):
    data = clouds()
    list(play(data, STRATEGIES["random"], SMALL, seed=0))

    classes = {tuple(row.tolist()): int(of) for row, of in zip(data.x, data.y, strict=True)}
    trainings, choices = heard
    pool = choices[0][0]
    for number, (x, y) in enumerate(trainings):
        rows = {tuple(row.tolist()) for row in x}
        assert all(classes[tuple(row.tolist())] == int(of) for row, of in zip(x, y, strict=True))
        bought = {tuple(pool[index].tolist()) for _, _, picked in choices[:number] for index in picked}
        assert bought <= rows
        assert len(rows) == 3 + len(bought)
        assert len(x) == 64  # whole batches, whatever is labelled


def test_the_start_has_as_many_of_each_class_and_is_not_in_the_pool(heard):
    list(play(clouds(), STRATEGIES["random"], SMALL, seed=1))

    (x, y), *_ = heard[0]
    start = {tuple(row.tolist()): int(of) for row, of in zip(x, y, strict=True)}
    assert sorted(start.values()) == [0, 1, 2]
    pool = heard[1][0][0]
    assert len(pool) == 12
    assert not start.keys() & {tuple(row.tolist()) for row in pool}


def test_for_a_seed_all_strategies_begin_alike_and_seeds_differ(heard):
    begun = {}
    for name in ("random", "margin"):
        for seed in (0, 1):
            point = next(play(clouds(), STRATEGIES[name], SMALL, seed))
            begun[name, seed] = [*heard[0][-1], torch.tensor(point.accuracy)]

    for seed in (0, 1):
        assert all(map(torch.equal, begun["random", seed], begun["margin", seed]))
    assert not torch.equal(begun["random", 0][0], begun["random", 1][0])


def test_a_seed_repeats_a_curve_and_leaves_the_callers_randomness_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    once = list(play(clouds(), STRATEGIES["power"], SMALL, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert list(play(clouds(), STRATEGIES["power"], SMALL, seed=3)) == once


def test_every_round_trains_from_scratch_as_the_recipe_and_the_campaign_say(monkeypatch):
    data, begun = clouds(weight_decay=0.5), []

    def fit(model, x, y, loss, epochs, weight_decay, on_epoch):
        begun.append([p.clone() for p in model.parameters()])
        assert (epochs, weight_decay) == (SMALL.epochs, 0.5)

    monkeypatch.setattr(simulation, "fit", fit)
    list(play(data, STRATEGIES["random"], SMALL, seed=0))

    assert len(begun) == 3
    for parameters, bought in zip(begun, (0, 4, 7), strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(bought)
            assert all(map(torch.equal, parameters, network().parameters()))


def test_copies_in_the_pool_have_the_class_of_their_row_and_count_once(heard):
    data = clouds()
    campaign = Campaign(initial=1, batch=11, labels=14, pool=3, repeat=4, passes=16, epochs=2)
    curve = list(play(data, STRATEGIES["random"], campaign, seed=0))

    pool = heard[1][0][0]
    assert len(pool) == 12
    # a tenth of the data's deviation of noise, 24 numbers: within five standard errors of its own deviation
    noise = pool - pool.reshape(4, 3, 2).mean(0).repeat(4, 1)
    expected = 0.1 * float(data.x.std())
    assert float((noise.square().sum() / 18).sqrt()) == pytest.approx(expected, rel=5 / math.sqrt(2 * 18))
    assert curve[-1].labels == 14
    assert curve[-1].distinct == 6  # 11 of 12 copies of three rows: all three, and the three of the start
    _, y = heard[0][-1]
    assert len(y) == 64


def test_k_centre_is_told_what_is_labelled(heard):
    list(play(clouds(), Strategy(None, "k_centre"), SMALL, seed=0))
    _, choices = heard
    assert [len(said["labelled"]) for _, said, _ in choices] == [3, 7]


def test_the_accuracy_is_of_the_test_rows():
    data = clouds(each=40, spread=0.05)
    campaign = Campaign(initial=2, batch=6, labels=12, pool=30, passes=16, epochs=150)
    assert list(play(data, STRATEGIES["random"], campaign, seed=0))[-1].accuracy == 1.0
    wrong = Labelled(data.x, data.y, data.x_test, (data.y_test + 1) % 3, 3, network, 0.0)
    assert list(play(wrong, STRATEGIES["random"], campaign, seed=0))[-1].accuracy == 0.0


def test_labels_to_an_accuracy_are_the_first_that_reach_it():
    curve = [Point(20, 20, 0.5), Point(30, 30, 0.9), Point(40, 40, 0.8), Point(50, 50, 0.95)]
    assert labels_to(curve, 0.9) == 30
    assert labels_to(curve, 0.91) == 50
    assert labels_to(curve, 0.96) == math.inf


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": 3}, "3 labels are wanted and 3 there at the start"),
        ({"pool": 58}, "a pool of at most 57 is left"),
        ({"labels": 16}, "a pool of 12 rows has not 13 labels"),
    ],
)
def test_a_campaign_that_the_data_has_not_the_rows_for_is_refused(changed, message):
    campaign = Campaign(**{**vars(SMALL), **changed})
    with pytest.raises(InvalidInput, match=message):
        next(play(clouds(), STRATEGIES["random"], campaign, seed=0))


@pytest.mark.parametrize("name", vars(SMALL))
def test_a_campaign_of_nothing_is_refused(name):
    with pytest.raises(InvalidInput, match=f"{name} is 0; at least 1"):
        Campaign(**{**vars(SMALL), name: 0})


@pytest.mark.parametrize("name", LABELLED)
def test_a_recipe_hands_out_what_it_trains_on(name):
    data = load_labelled(name)
    assert len(data.x) == len(data.y) > len(data.x_test) == len(data.y_test)
    assert set(data.y.tolist()) == set(data.y_test.tolist()) == set(range(data.num_classes))
    assert data.network()(data.x[:2]).shape == (2, data.num_classes)
    assert load_recipe(name)
