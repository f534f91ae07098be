import importlib

import pytest
import torch
from torch import nn

from dropout_core.acquire import badge, batch_epig, batchbald, epig, k_centre, mutual_information, power, rank, top_k
from dropout_core.errors import InvalidInput
from dropout_core.predict import embed, predict


def net(outputs=3, width=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.5), nn.Linear(width, outputs)).double()


MODEL = net()
# the package exports the function of the same name
RANK_MODULE = importlib.import_module("dropout_core.acquire.rank")


def rows(count, seed=0):
    return 2 * torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def samples(x, **given):
    return predict(MODEL, x, passes=8, keep_draws=True, **given).samples


def ranked(x=None, **given):
    return rank(MODEL, rows(40) if x is None else x, k=5, passes=8, **given)


def test_a_live_model_is_ranked_by_the_samples_of_predict():
    probs = samples(rows(40), seed=3)

    top, drawn = ranked(seed=3), ranked(seed=3, selector="power", beta=0.5)

    assert torch.equal(top.indices, top_k(mutual_information(probs), 5, 3))
    assert torch.equal(drawn.indices, power(mutual_information(probs), 5, 3, 0.5))
    assert torch.allclose(top.scores, mutual_information(probs)[top.indices], rtol=0, atol=1e-13)


def test_joint_selectors_see_passes_that_rows_and_targets_share():
    probs, targets = samples(rows(40)), samples(rows(6, seed=1))

    bald, aware = ranked(selector="batchbald"), ranked(selector="batchbald", targets=rows(6, seed=1), candidates=40)
    alone = ranked(score="epig", targets=rows(6, seed=1))

    assert torch.allclose(bald.scores, batchbald(probs, 5).scores, rtol=0, atol=1e-12)
    assert torch.equal(bald.indices, batchbald(probs, 5).indices)
    assert torch.equal(aware.indices, batch_epig(probs, targets, 5).indices)
    assert torch.equal(alone.indices, top_k(epig(probs, targets), 5, 0))


def test_a_row_and_its_copies_share_their_passes():
    # with masks of their own the labels of two copies would tell twice as much as one's, and copies would be picked
    sharp = net()
    sharp[3].weight.data *= 6
    best = rows(40)[rank(sharp, rows(40), k=1, passes=8).indices]
    copied = torch.cat([best.expand(40, 4), rows(40)])

    by_score, jointly = (rank(sharp, copied, k=3, passes=8, selector=name) for name in ("top_k", "batchbald"))

    assert torch.allclose(copied[by_score.indices], best.expand(3, 4))
    assert torch.unique(copied[jointly.indices], dim=0).shape[0] == 3
    pair = predict(sharp, best.expand(2, 4), passes=8, keep_draws=True).samples
    assert torch.allclose(pair[:, 0], pair[:, 1], rtol=0, atol=1e-14)


def test_diverse_selectors_use_what_the_last_layer_sees_with_the_noise_off():
    x = rows(40)
    hidden = torch.tanh(MODEL[0](x)).detach().float()
    assert torch.allclose(embed(MODEL, x), hidden, rtol=0, atol=1e-7)

    assert torch.equal(ranked(selector="k_centre").indices, k_centre(hidden, None, 5, 0))
    far = ranked(selector="k_centre", labelled=x[:3])
    assert torch.equal(far.indices, k_centre(hidden, hidden[:3], 5, 0))
    assert torch.equal(ranked(selector="badge").indices, badge(samples(x).mean(0), hidden, 5, 0))


@pytest.mark.parametrize(
    "asked",
    [{}, {"selector": "batchbald"}, {"score": "epig", "targets": rows(5, seed=1)}, {"selector": "badge"}],
    ids=str,
)
def test_chunks_of_the_pool_change_nothing(asked, monkeypatch):
    whole = ranked(**asked)

    monkeypatch.setattr(RANK_MODULE, "MOMENT_ROWS", 7)
    monkeypatch.setattr(RANK_MODULE, "SAMPLE_ROWS", 3)

    parts = ranked(**asked)
    assert torch.equal(whole.indices, parts.indices)
    assert whole.scores is None or torch.allclose(whole.scores, parts.scores, rtol=0, atol=1e-12)


def test_inputs_are_what_predict_takes():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, left, right):
            return self.net(left + right)

    model, left, right = Two(), rows(12), rows(12, seed=1)
    by_place = rank(model, (left, right), k=3, passes=4)
    by_name = rank(model, {"right": right, "left": left}, k=3, passes=4, exclude=[int(by_place.indices[0])])

    assert by_place.indices.tolist() == rank(model.net, left + right, k=3, passes=4).indices.tolist()
    assert by_name.indices[:2].tolist() == by_place.indices[1:].tolist()


def test_chance_never_runs_the_network():
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("the network ran")

    assert len(rank(Never(), rows(9), k=4, score="random").indices) == 4


def test_a_regression_with_its_variance_and_a_model_without_a_last_layer():
    gaussian = net(outputs=2)
    estimate = predict(gaussian, rows(40), passes=8, output="mean_and_log_variance")

    ranking = rank(
        gaussian, rows(40), k=5, passes=8, output="mean_and_log_variance", score="gaussian_mutual_information"
    )

    scores = estimate.gaussian_mutual_information[:, 0]
    assert torch.equal(ranking.indices, top_k(scores, 5, 0))
    with pytest.raises(InvalidInput, match="no linear layer"):
        rank(nn.Sequential(nn.Tanh(), nn.Dropout(0.5)), rows(9), k=2, passes=8, selector="k_centre")
