import pytest
import torch

from dropout_core.errors import InvalidInput
from dropout_core.mc.probe import NUM_ROWS, perturbed, probe_rows, two_rows

FLOATS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
EXAMPLES = {
    **{f"{count} rows": FLOATS[:count] for count in (1, 2, 3, 4)},
    **{
        f"{count} rows of tokens": torch.tensor([[3, 2, 1, 4], [3, 4, 2, 0], [0, 0, 1, 1]])[:count]
        for count in (1, 2, 3)
    },
    "a flag": torch.tensor([[True, False]]),
}
each_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())


@each_example
def test_a_probe_begins_with_the_example_and_its_rows_stay_in_its_range(example):
    probe = probe_rows(two_rows(example))
    assert probe.shape == (NUM_ROWS, *example.shape[1:])
    assert probe.dtype == example.dtype
    assert torch.equal(probe[: min(len(example), NUM_ROWS)], example[:NUM_ROWS])
    assert (probe.double() >= example.double().min()).all()
    assert (probe.double() <= example.double().max()).all()


@each_example
@pytest.mark.parametrize("row", range(NUM_ROWS))
def test_perturbing_a_row_changes_it_and_no_other(example, row):
    probe = probe_rows(two_rows(example))
    changed = (perturbed(probe, row) != probe).flatten(1).any(1)
    assert changed.tolist() == [other == row for other in range(NUM_ROWS)]


def test_rows_that_are_all_alike_are_refused():
    with pytest.raises(InvalidInput, match="give rows that differ"):
        perturbed(torch.full((3, 4), 7), 0)
