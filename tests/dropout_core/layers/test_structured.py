import pytest
import torch

from dropout_core.errors import InvalidInput
from dropout_core.layers import GroupDropout


def test_groups_live_or_die_together_and_apart_from_each_other():
    torch.manual_seed(0)
    y = GroupDropout([1, 0, 1, 2], 0.5)(torch.ones(4000, 4))
    assert torch.equal(y[:, 0], y[:, 2])
    fates = {tuple(row) for row in (y[:, [0, 1, 3]] > 0).tolist()}
    assert len(fates) == 8


@pytest.mark.parametrize("groups", [[], [1, 2], [0, 2], [-1, 0], [0, 1, 3]])
def test_groups_that_are_not_numbered_from_zero_are_refused(groups):
    with pytest.raises(InvalidInput, match="give each unit one of 0"):
        GroupDropout(groups, 0.5)


def test_a_layer_shows_its_options():
    assert repr(GroupDropout([0, 0, 1], 0.25)) == "GroupDropout(p=0.25, num_groups=2)"
