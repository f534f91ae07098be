import re
import sys

import pytest
from matplotlib.figure import Figure
from torch import nn

from dropout_core import layers
from dropout_core.errors import InvalidInput
from dropout_core.training import Adaptive, Constant, Curriculum, Decay, Early, LinearRamp, RateSchedule, StepTable


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


CURVES = [Constant(0.7), LinearRamp(6), Decay(0.8), Curriculum(8), Early(5), StepTable({0: 0.2, 4: 1.0})]


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: type(curve).__name__)
def test_a_plot_draws_what_the_curve_says(curve):
    net = nn.Sequential(layers.Dropout(0.2), nn.Dropout(0.5), nn.Sequential(layers.Dropout(0.2)), nn.Dropout(0.1))
    axes = Figure().subplots()
    RateSchedule(net, curve).plot(axes, steps=12)
    assert lines(axes) == {
        label: [[step, p * curve(step)] for step in range(13)]
        for label, p in (("3.p", 0.1), ("0.p and 1 more", 0.2), ("1.p", 0.5))
    }
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "drop probability")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines(axes))


def test_a_long_plot_has_few_points_and_the_last_one():
    axes = Figure().subplots()
    RateSchedule(nn.Dropout(0.5), LinearRamp(10**6)).plot(axes, steps=10**6)
    (points,) = lines(axes).values()
    assert len(points) == 1001
    assert points[1] == [1000, 0.5 * LinearRamp(10**6)(1000)]
    assert points[-1] == [10**6, 0.5]


def test_a_plot_goes_up_to_now_and_an_adaptive_one_no_further():
    schedule = RateSchedule(nn.Dropout(0.5), Adaptive(size=0.5, patience=1))
    schedule.step(1.0, 1.0)
    schedule.step(0.5, 1.0)
    schedule.step(0.5, 1.0)
    axes = Figure().subplots()
    schedule.plot(axes)
    assert lines(axes) == {"p": [[0, 0.5], [1, 0.5], [2, 0.75], [3, 0.75]]}
    with pytest.raises(InvalidInput, match="step is 4; the losses decide its factor, and 3 is the last one known"):
        schedule.plot(axes, steps=4)


def test_a_plot_is_written_to_a_file(tmp_path):
    schedule = RateSchedule(nn.Dropout(), Curriculum(30))
    schedule.plot(tmp_path / "rates.png", steps=30)
    schedule.plot(str(tmp_path / "rates.svg"), steps=30)
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "rates.svg").read_text()


def test_without_matplotlib_a_plot_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'mcdrop[plot]'")):
        RateSchedule(nn.Dropout(), Constant()).plot(tmp_path / "rates.png")
