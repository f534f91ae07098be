"""Valid bundles, published once; tests work on copies."""

from pathlib import Path

import pytest
import torch

from mcdrop_models.bundle.repository import Repository
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support.program_nets import ConvNet, Mlp, Recurrent, rows_for, seeded
from tests.support.tamper import Bundle


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """The root of a repository with one MLP classifier, net/1. Do not change it."""
    root = tmp_path_factory.mktemp("published")
    net = seeded(Mlp)
    publish(net, rows_for(net, (4,), 8), name="net", task="classification", root=root)
    return root


@pytest.fixture(scope="session")
def honest(published, tmp_path_factory) -> Bundle:
    """The MLP as a Bundle, after everything that a load or a refusal imports was imported."""
    bundle = Bundle.of(published / "net" / "1")
    Predictor.load(Repository(published), "net", 1)
    spoilt = bundle.copy()
    spoilt.tensors["probe/mean"] = torch.zeros(8, 3, dtype=torch.float64)
    root = tmp_path_factory.mktemp("spoilt")
    spoilt.write(root)
    with pytest.raises(InvalidBundle):
        Predictor.load(Repository(root), "net", 1)
    return bundle


@pytest.fixture
def bundle(honest) -> Bundle:
    """A copy of the MLP to tamper with."""
    return honest.copy()


def _taken_apart(make, shape, root) -> Bundle:
    net = seeded(make)
    return Bundle.of(publish(net, rows_for(net, shape, 8), name="net", task="classification", root=root).path)


@pytest.fixture(scope="session")
def convolutional(tmp_path_factory) -> Bundle:
    """A CNN with batch norm as a Bundle. Do not change it."""
    return _taken_apart(ConvNet, (1, 6, 6), tmp_path_factory.mktemp("convolutional"))


@pytest.fixture(scope="session")
def recurrent(tmp_path_factory) -> Bundle:
    """An LSTM as a Bundle. Do not change it."""
    return _taken_apart(Recurrent, (5, 4), tmp_path_factory.mktemp("recurrent"))
