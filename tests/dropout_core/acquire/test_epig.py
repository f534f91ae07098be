import math

import pytest
import torch

from dropout_core.acquire.epig import epig
from dropout_core.errors import InvalidInput


def pool(passes, rows, classes, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(passes, rows, classes, generator=generator, dtype=torch.float64)
    return torch.softmax(logits, -1)


def information(first, second):
    """I(y; y*) of two rows [T][C], as a divergence, in plain Python."""
    passes = len(first)
    total = 0.0
    for c in range(len(first[0])):
        for d in range(len(second[0])):
            joint = sum(p[c] * q[d] for p, q in zip(first, second, strict=True)) / passes
            apart = sum(p[c] for p in first) / passes * sum(q[d] for q in second) / passes
            total += joint * math.log(joint / apart) if joint else 0.0
    return total


def enumerated(probs, targets):
    rows, others = probs.transpose(0, 1).tolist(), targets.transpose(0, 1).tolist()
    return [sum(information(row, other) for other in others) / len(others) for row in rows]


@pytest.mark.parametrize("passes", [2, 5, 9])
@pytest.mark.parametrize(("classes", "target_classes"), [(2, 2), (4, 4), (3, 5)])
def test_epig_is_the_mean_information_about_the_targets(passes, classes, target_classes):
    probs, targets = pool(passes, 6, classes), pool(passes, 4, target_classes, seed=1)
    assert epig(probs, targets).tolist() == pytest.approx(enumerated(probs, targets), abs=1e-13)


def test_epig_lies_between_zero_and_what_the_label_can_tell():
    probs, targets = pool(12, 50, 4, spread=4.0), pool(12, 20, 4, seed=1, spread=4.0)
    found = epig(probs, targets)
    mean = probs.mean(0)
    bald = torch.special.entr(mean).sum(-1) - torch.special.entr(probs).sum(-1).mean(0)
    assert (found >= 0).all()
    assert (found <= math.log(4)).all()
    # a label reaches the targets only through the passes
    assert (found <= bald + 1e-12).all()


def test_a_certain_row_that_names_its_target_tells_log_2():
    split = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert epig(split, split).tolist() == pytest.approx([math.log(2)], abs=1e-15)


def test_a_target_that_varies_apart_from_the_row_is_told_nothing():
    # the passes are all pairs of a state of the row and a state of the target
    row = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).repeat_interleave(2, dim=0)[:, None]
    target = torch.tensor([[0.7, 0.3], [0.4, 0.6]]).repeat(2, 1)[:, None]
    assert epig(row, target).tolist() == pytest.approx([0.0], abs=1e-15)
    assert epig(row, row)[0] > 0.1


def test_a_target_that_the_passes_agree_on_is_told_nothing_and_never_less():
    found = epig(pool(5, 300, 4), pool(1, 2, 4).expand(5, -1, -1))
    assert found.tolist() == pytest.approx([0.0] * 300, abs=1e-14)
    assert (found >= 0).all()


def test_one_pass_and_one_class_tell_nothing():
    assert epig(pool(1, 3, 4), pool(1, 2, 4)).tolist() == pytest.approx([0.0] * 3, abs=1e-14)
    assert epig(torch.ones(4, 3, 1), pool(4, 2, 3)).tolist() == pytest.approx([0.0] * 3, abs=1e-14)


def test_zeros_and_ones_are_probabilities():
    probs = torch.nn.functional.one_hot(torch.tensor([[0, 0, 2], [0, 1, 1], [0, 2, 0], [0, 0, 0]]), 3).double()
    assert epig(probs, probs).tolist() == pytest.approx(enumerated(probs, probs), abs=1e-14)


@pytest.mark.parametrize("max_bytes", [1, 1000, 5000])
def test_the_byte_budget_changes_nothing(max_bytes):
    probs, targets = pool(6, 40, 4), pool(6, 11, 3, seed=1)
    torch.testing.assert_close(epig(probs, targets, max_bytes=max_bytes), epig(probs, targets), rtol=0, atol=1e-12)


def test_an_empty_pool_has_no_scores():
    assert epig(pool(3, 0, 4), pool(3, 2, 4)).shape == (0,)


def test_targets_must_share_the_passes():
    with pytest.raises(InvalidInput, match="is wanted"):
        epig(pool(4, 3, 2), pool(5, 3, 2))
    with pytest.raises(InvalidInput, match="at least one target"):
        epig(pool(4, 3, 2), pool(4, 0, 2))


def test_what_is_not_probabilities_is_refused():
    with pytest.raises(InvalidInput, match="target_probs is not probabilities"):
        epig(pool(4, 3, 2), torch.full((4, 3, 2), 0.3))
    with pytest.raises(InvalidInput, match="probs is not probabilities"):
        epig(-pool(4, 3, 2), pool(4, 3, 2))
    with pytest.raises(InvalidInput, match="at least 1"):
        epig(pool(4, 3, 2), pool(4, 3, 2), max_bytes=0)
