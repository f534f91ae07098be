import itertools
import math

import pytest
import torch

from dropout_core.acquire.batch_epig import batch_epig
from dropout_core.acquire.constraints import Constraints
from dropout_core.acquire.epig import epig
from dropout_core.acquire.joint import batchbald
from dropout_core.errors import InvalidInput


def pool(passes, rows, classes, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(passes, rows, classes, generator=generator, dtype=torch.float64)
    return torch.softmax(logits, -1)


def information(probs, rows, targets):
    """Mean over targets of I(labels of rows; label of the target), by every configuration, as a divergence."""
    passes, classes = len(probs), range(probs.shape[-1])
    table, others = probs.tolist(), targets.tolist()
    likelihood = [
        [math.prod(one[row][label] for row, label in zip(rows, labels, strict=True)) for one in table]
        for labels in itertools.product(classes, repeat=len(rows))
    ]
    total = 0.0
    for target in range(targets.shape[1]):
        for label in range(targets.shape[2]):
            column = [other[target][label] for other in others]
            for given in likelihood:
                joint = sum(p * q for p, q in zip(given, column, strict=True)) / passes
                apart = sum(given) / passes * sum(column) / passes
                total += joint * math.log(joint / apart) if joint else 0.0
    return total / targets.shape[1]


def greedy(probs, targets, k, costs=None):
    picks, scores = [], [0.0]
    for _ in range(k):
        left = [row for row in range(probs.shape[1]) if row not in picks]
        found = [information(probs, [*picks, row], targets) for row in left]
        worth = [(score - scores[-1]) / (costs[row] if costs else 1) for score, row in zip(found, left, strict=True)]
        best = max(range(len(left)), key=worth.__getitem__)
        picks.append(left[best])
        scores.append(found[best])
    return picks, scores[1:]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("passes", "classes", "target_classes"), [(2, 3, 3), (5, 2, 4)])
def test_picks_and_scores_are_those_of_enumeration(passes, classes, target_classes, seed):
    probs, targets = pool(passes, 5, classes, seed), pool(passes, 3, target_classes, seed + 50)

    choice = batch_epig(probs, targets, 3, seed=seed)

    picks, scores = greedy(probs, targets, 3)
    assert choice.indices.tolist() == picks
    assert choice.scores.tolist() == pytest.approx(scores, abs=1e-12)
    told = sum(information(targets, [row], targets[:, [row]]) for row in range(3)) / 3
    assert told > 0
    most = (torch.special.entr(targets.mean(0)).sum(-1) - torch.special.entr(targets).sum(-1).mean(0)).mean().item()
    assert choice.shares.tolist() == pytest.approx([score / most for score in scores], abs=1e-12)


def test_the_first_pick_is_that_of_epig():
    probs, targets = pool(9, 40, 4), pool(9, 7, 4, seed=1)
    alone = epig(probs, targets)

    choice = batch_epig(probs, targets, 1)

    assert choice.indices.tolist() == [int(alone.argmax())]
    assert choice.scores.item() == pytest.approx(alone.max().item(), abs=1e-13)


def test_targets_that_name_their_pass_make_it_batchbald():
    # each pass is sure of a class of its own at the target: to know the target is to know the pass
    probs, targets = pool(6, 20, 3), torch.eye(6, dtype=torch.float64)[:, None]

    ours, bald = batch_epig(probs, targets, 4), batchbald(probs, 4)

    assert torch.equal(ours.indices, bald.indices)
    assert torch.allclose(ours.scores, bald.scores, rtol=0, atol=1e-12)
    assert torch.allclose(ours.shares, bald.shares, rtol=0, atol=1e-12)


def test_a_row_that_tells_of_the_passes_but_not_of_the_targets_is_left_out():
    # the passes are all pairs of a state of the junk and a state of the target
    junk = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat_interleave(2, dim=0)
    kin = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(2, 1)
    probs = torch.stack([junk, kin], dim=1)

    choice = batch_epig(probs, kin[:, None], 2)

    assert batchbald(probs, 1).indices.tolist() == [0]
    assert choice.indices.tolist() == [1, 0]
    # row and target agree with a probability of 0.9² + 0.1²
    told = math.log(2) + 0.82 * math.log(0.82) + 0.18 * math.log(0.18)
    assert choice.scores.tolist() == pytest.approx([told, told], abs=1e-7)  # the probabilities are float32


def test_two_labels_can_tell_what_neither_tells_alone():
    # the target is the exclusive or of the two
    states = torch.tensor([[a, b, a ^ b] for a in (0, 1) for b in (0, 1)])
    probs = torch.nn.functional.one_hot(states, 2).double()

    choice = batch_epig(probs[:, :2], probs[:, 2:], 2)

    assert choice.scores.tolist() == pytest.approx([0.0, math.log(2)], abs=1e-12)
    assert choice.shares.tolist() == pytest.approx([0.0, 1.0], abs=1e-12)
    assert choice.saturated


def test_drawn_configurations_are_not_biased():
    # nine pairs of labels do not fit in eight configurations
    probs, targets = pool(4, 3, 3, spread=1.5), pool(4, 2, 3, seed=9)
    found = torch.stack([batch_epig(probs, targets, 3, seed=seed, num_samples=8).scores[-1] for seed in range(200)])

    error = found.std().item() / math.sqrt(len(found))
    assert 0 < error < 0.02
    assert found.mean().item() == pytest.approx(information(probs, range(3), targets), abs=5 * error)


def test_costs_quotas_and_excluded_rows():
    probs, targets = pool(5, 6, 3, seed=3), pool(5, 3, 3, seed=4)
    costs = [1.0, 5.0, 2.0, 0.5, 3.0, 1.0]

    per_cost = batch_epig(probs, targets, 3, limits=Constraints(costs=torch.tensor(costs)))
    assert per_cost.indices.tolist() == greedy(probs, targets, 3, costs)[0]

    first = int(batch_epig(probs, targets, 1).indices)
    rest = [row for row in range(6) if row != first]
    without = batch_epig(probs, targets, 2, limits=Constraints(exclude=[first]))
    assert without.indices.tolist() == [rest[row] for row in batch_epig(probs[:, rest], targets, 2).indices]
    quota = batch_epig(probs, targets, 6, limits=Constraints(groups=[0, 0, 0, 1, 1, 1], quotas=1))
    assert sorted(row // 3 for row in quota.indices.tolist()) == [0, 1]
    assert int(quota.indices[0]) == first


def test_the_byte_budget_changes_nothing():
    probs, targets = pool(6, 12, 3), pool(6, 200, 2, seed=1)

    one, many = (batch_epig(probs, targets, 3, max_bytes=size) for size in (1, 2**24))

    assert torch.equal(one.indices, many.indices)
    torch.testing.assert_close(one.scores, many.scores, rtol=0, atol=1e-12)


def test_one_pass_no_rows_and_certain_targets():
    lone = batch_epig(pool(1, 3, 2), pool(1, 2, 2), 2)
    assert lone.scores.tolist() == pytest.approx([0, 0], abs=1e-14)
    assert lone.indices.tolist() == [0, 1]
    assert batch_epig(pool(3, 0, 2), pool(3, 2, 2), 2).indices.tolist() == []
    agreed = batch_epig(pool(3, 4, 2), torch.ones(3, 2, 1), 2)
    assert agreed.scores.tolist() == pytest.approx([0, 0], abs=1e-14)
    assert agreed.saturated


def test_what_is_refused():
    with pytest.raises(InvalidInput, match="from the passes of probs"):
        batch_epig(pool(3, 4, 2), pool(4, 4, 2), 1)
    with pytest.raises(InvalidInput, match="k is 0"):
        batch_epig(pool(3, 4, 2), pool(3, 4, 2), 0)
    with pytest.raises(InvalidInput, match="not among the 4 rows"):
        batch_epig(pool(3, 4, 2), pool(3, 4, 2), 1, limits=Constraints(exclude=[4]))
