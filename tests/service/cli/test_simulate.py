import json
import math

import numpy as np
import pytest

from mcdrop.cli import simulate as simulating
from mcdrop.cli.simulate import draw, table
from mcdrop_models.recipes.campaign import Point
from tests.models.recipes.test_campaign import clouds
from tests.service.cli.test_console import cells


def curve(*accuracies, distinct=None):
    """Points at 10, 20, 30, … labels."""
    labels = range(10, 10 * len(accuracies) + 1, 10)
    return [Point(at, distinct or at, reached) for at, reached in zip(labels, accuracies, strict=True)]


@pytest.fixture
def tiny(monkeypatch):
    """Three classes in a plane for the digits, so that a campaign takes no time."""
    monkeypatch.setattr(simulating, "load_labelled", lambda name: clouds(each=30))


SMALL = ("--seeds", 2, "--labels", 14, "--batch", 4, "--pool", 20, "--passes", 16, "--epochs", 2)


def test_the_command_prints_draws_and_writes_the_curves_of_the_strategies(mcdrop, tiny, tmp_path):
    png, figures = tmp_path / "curves.png", tmp_path / "curves.json"
    ways = ("--strategy", "random", "--strategy", "margin")
    code, out, err = mcdrop("simulate", "digits", *SMALL, *ways, "--plot", png, "--json", figures)

    assert (code, err) == (0, "")
    assert [row[0] for row in cells(out)][-2:] == ["random", "margin"]
    assert png.read_bytes().startswith(b"\x89PNG")
    written = json.loads(figures.read_bytes())
    assert written["name"] == "digits"
    asked = {"initial": 2, "batch": 4, "labels": 14, "pool": 20, "repeat": 1, "passes": 16, "epochs": 2}
    assert asked.items() <= written.items()
    assert list(written["strategies"]) == ["random", "margin"]
    for runs in written["strategies"].values():
        assert [run["seed"] for run in runs] == [0, 1]
        assert all([point["labels"] for point in run["points"]] == [6, 10, 14] for run in runs)
        assert all(0 <= point["accuracy"] <= 1 for run in runs for point in run["points"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("diabetes",), "there are no labelled rows of 'diabetes' to simulate with; there are of digits"),
        (("digits", "--strategy", "bald"), "there is no strategy 'bald'; there are random, predictive_entropy,"),
        (("digits", "--labels", 6), "6 labels are wanted and 6 there at the start"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_line(mcdrop, tiny, args, message):
    code, out, err = mcdrop("simulate", *args)
    assert (code, out) == (1, "")
    assert message in err


def test_drawing_without_matplotlib_is_refused_before_anything_is_trained(mcdrop, monkeypatch):
    monkeypatch.setattr(simulating, "find_spec", lambda name: None)
    code, _, err = mcdrop("simulate", "digits", "--plot", "curves.png")
    assert code == 1
    assert "pip install 'mcdrop[plot]'" in err


def test_the_table_has_the_median_the_least_and_the_most_labels_and_the_mean_at_the_end():
    curves = {
        "good": [curve(0.5, 0.8, 0.9), curve(0.8, 0.9, 0.94), curve(0.6, 0.7, 0.8)],
        "bad": [curve(0.1, 0.2, 0.3, distinct=7)] * 3,
    }
    shown = table(curves)
    columns = [list(column.cells) for column in shown.columns]
    assert columns[0] == ["good", "bad"]
    assert columns[1] == ["20 (10 … 30)", "– (– … –)"]
    assert columns[2] == ["30 (20 … –)", "– (– … –)"]
    # 88 with deviations of 2, 6 and −8: a standard deviation of √52, a standard error of √(52 / 3)
    assert columns[3] == [f"88.0 ± {math.sqrt(52 / 3):.1f}", "30.0 ± 0.0"]
    assert columns[4] == ["30", "7"]


def test_one_seed_has_no_standard_error():
    shown = table({"only": [curve(0.5, 0.8)]})
    assert list(shown.columns[3].cells) == ["80.0"]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.25, 0.5, 0.75, 1.0])
def test_quantiles_are_those_of_numpy(share):
    ascending = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert simulating._quantile(ascending, share) == pytest.approx(np.quantile(ascending, share))


def test_a_picture_is_drawn_of_a_single_seed_too(tmp_path):
    draw({"only": [curve(0.5, 0.8)]}, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000
