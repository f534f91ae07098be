import pytest
import torch

from dropout_core.capture.probe import NUM_ROWS, perturbed, probe_rows, two_rows
from dropout_core.errors import InvalidInput

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
    probe = probe_rows(two_rows({"x": example}))["x"]
    assert probe.shape == (NUM_ROWS, *example.shape[1:])
    assert probe.dtype == example.dtype
    assert torch.equal(probe[: min(len(example), NUM_ROWS)], example[:NUM_ROWS])
    assert (probe.double() >= example.double().min()).all()
    assert (probe.double() <= example.double().max()).all()


@each_example
@pytest.mark.parametrize("row", range(NUM_ROWS))
def test_perturbing_a_row_changes_it_and_no_other(example, row):
    probe = probe_rows(two_rows({"x": example}))
    changed = (perturbed(probe, row)["x"] != probe["x"]).flatten(1).any(1)
    assert changed.tolist() == [other == row for other in range(NUM_ROWS)]


IDS = torch.tensor([[3, 2, 1, 4], [3, 4, 2, 0], [5, 5, 1, 1]])
MASKS = {
    "padding": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]),
    "truths": torch.tensor([[True, True, False, False], [True] * 4, [True, False, False, False]]),
    "floats": torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]),
    "infinities": torch.tensor([[0.0, -torch.inf, 0, 0], [0, 0, 0, -torch.inf], [0, 0, 0, 0]]),
}


@pytest.mark.parametrize(("kind", "mask"), MASKS.items(), ids=MASKS.keys())
def test_a_mask_beside_other_inputs_never_hides_all_of_a_row(kind, mask):
    """Whatever is drawn. Ones that are all of a row lose one of them, so that it is seen; the rest change places."""

    def shown(values):
        return values == (0 if kind == "infinities" else 1)

    for number in range(40):
        for row in range(NUM_ROWS):
            changed = perturbed({"ids": IDS, "mask": mask}, row, number)["mask"]
            others = [other for other in range(NUM_ROWS) if other != row]
            assert torch.equal(changed[others], mask[others])
            before, now = int(shown(mask[row]).sum()), int(shown(changed[row]).sum())
            assert now == (3 if before == 4 and kind != "infinities" else before)


def test_a_token_stays_in_its_vocabulary_and_a_length_among_those_seen():
    probe = {"ids": IDS, "lengths": torch.tensor([4, 2, 3])}
    for number in range(40):
        changed = perturbed(probe, 1, number)
        assert set(changed["ids"].flatten().tolist()) <= set(IDS.flatten().tolist())
        assert int(changed["lengths"][1]) in (4, 2, 3)


def test_rows_that_are_all_alike_are_refused():
    with pytest.raises(InvalidInput, match="give rows that differ"):
        perturbed({"x": torch.full((3, 4), 7)}, 0)
