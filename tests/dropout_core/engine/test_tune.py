import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine import tune as tune_module
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.engine.tune import Timed, cold_rows, tune, warm_rows
from dropout_core.engine.tuning import NEVER
from tests.support.captured import captured, made
from tests.support.nets import NoisyWeights

ALWAYS_FASTER = [Timed(1, 2.0, 1.0), Timed(4, 5.0, 3.0), Timed(16, 20.0, 12.0)]
FROM_FOUR_ON = [Timed(1, 1.0, 2.0), Timed(4, 3.0, 3.0), Timed(16, 12.0, 4.0)]
BACK_AND_FORTH = [Timed(1, 2.0, 1.0), Timed(4, 3.0, 4.0), Timed(16, 12.0, 4.0)]
NEVER_FASTER = [Timed(1, 1.0, 2.0), Timed(4, 3.0, 4.0)]


@pytest.mark.parametrize(
    ("timed", "rows"), [(ALWAYS_FASTER, 1), (FROM_FOUR_ON, 4), (BACK_AND_FORTH, 16), (NEVER_FASTER, NEVER)]
)
def test_passes_are_thinned_from_where_that_was_never_slower(timed, rows):
    assert warm_rows(timed) == rows


@pytest.mark.parametrize(
    ("timed", "making_s", "rows"),
    [
        (ALWAYS_FASTER, 0.0, 1),
        (ALWAYS_FASTER, 10.0, 20),  # 8 s gained by 16 rows
        (FROM_FOUR_ON, 1.0, 4),
        (FROM_FOUR_ON, -1.0, 4),  # a making that took no time that shows
        (NEVER_FASTER, 0.0, NEVER),
    ],
)
def test_new_weights_are_thinned_from_where_that_pays_for_itself(timed, making_s, rows):
    assert cold_rows(timed, making_s) == rows


def test_a_network_is_measured_where_it_has_a_choice(monkeypatch):
    """Wide layers: by counted seconds in place of real ones, so that the machine decides nothing."""
    net = made(
        lambda: nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 2))
    )
    program = capture(net.eval(), torch.randn(4, 4))
    runs = []

    def best(run, rounds):
        run()
        (engine, _, rows, _) = run.args if hasattr(run, "args") else (None, None, {"": [0]}, 0)
        runs.append(engine)
        num_rows = len(next(iter(rows.values())))
        thin = engine is None or engine.tuning.thin_rows == 1
        return 100.0 if engine is None else (5.0 + 0.5 * num_rows if thin else float(num_rows))

    monkeypatch.setattr(tune_module, "_best", best)
    monkeypatch.setattr(tune_module, "_LONGEST_S", 1e9)
    found = tune(program, torch.randn(3, 4))
    assert (found.thin_rows, found.thin_rows_cold) == (16, round((100 - 5.5) / ((256 - 133) / 256)))


def test_a_network_without_a_choice_is_left_as_it_is():
    one = captured(NoisyWeights)
    found = tune(one.program, one.rows(1))
    assert (found.thin_rows, found.thin_rows_cold) == (NEVER, NEVER)


def test_what_is_chosen_changes_no_answer():
    net = made(lambda: nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 2))).eval()
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    program = capture(net, x[:4])

    def outputs(engine):
        parts = {}
        for chunk in engine.run(program.weights, x, PassOptions(32, 0)):
            parts.setdefault(chunk.index, []).append(chunk.outputs)
        return torch.cat([torch.cat(chunks) for chunks in parts.values()], dim=1)

    wanted, found = outputs(Engine(program)), outputs(Engine(program, tune(program, x[:2])))
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
