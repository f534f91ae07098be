import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mcdrop.cli import main as cli
from mcdrop.server.app import create_app
from mcdrop.settings import Settings
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support import service_nets as nets
from tests.support.asgi import Served, listening
from tests.support.gated_server import CHEAP, Place

LABELS = ("nought", "one", "two")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
SCALING = ((10.0, 2.0), (100.0, -5.0))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MCDROP_")]:
            patch.delenv(name)
        patch.setenv("MCDROP_DEVICE", "cpu")  # answers are compared with the CPU's to the last digit
        patch.setenv("MCDROP_TUNE", "false")  # nothing is measured, or kept outside of a test's own folder
        yield


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> Path:
    """digits 1 and 2, heights 1. Read only: what a test changes it copies first."""
    root = tmp_path_factory.mktemp("bundles")
    for seed in (1, 2):
        publish(
            nets.seeded(nets.Classifier, seed),
            nets.images(4),
            name="digits",
            task="classification",
            labels=LABELS,
            root=root,
            passes=20,
            seed=7,
            metrics={"accuracy": 0.5},
        )
    publish(
        nets.seeded(nets.Regressor, 3),
        nets.features(4),
        name="heights",
        task="regression",
        output="mean_and_log_variance",
        output_scaling=SCALING,
        root=root,
    )
    return root


@pytest.fixture(scope="session")
def nan_bundles(tmp_path_factory) -> Path:
    """rooted 1, which answers NaN where a feature is negative."""
    root = tmp_path_factory.mktemp("nan_bundles")
    publish(nets.seeded(nets.Rooted, 4), torch.rand(4, 2), name="rooted", task="classification", root=root)
    return root


@pytest.fixture(scope="session")
def digits(bundles) -> Predictor:
    """The newest version of digits."""
    return Predictor.load(Repository(bundles), "digits", 2)


@pytest.fixture(scope="session")
def heights(bundles) -> Predictor:
    return Predictor.load(Repository(bundles), "heights", 1)


@pytest.fixture(scope="session")
def server(bundles) -> Iterator[Served]:
    """A server of the bundles with the usual settings, ready."""
    with Served(Settings(bundles=bundles)) as served:
        yield served.loaded()


@pytest.fixture(scope="session")
def url(bundles, server) -> Iterator[str]:
    """The address of a server of the bundles."""
    app = create_app(Settings(bundles=bundles))
    app.state.mcdrop.catalogue = server.state.catalogue
    with listening(app) as address:
        yield address


@pytest.fixture
def quiet_again() -> Iterator[None]:
    """Logging as it was before the test, which configures it as the command does."""
    loggers = [logging.getLogger(name) for name in (None, "mcdrop", "uvicorn")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    logging.captureWarnings(capture=False)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


@pytest.fixture
def mcdrop(monkeypatch, capsys, quiet_again):
    """Runs the command in this process. Returns its exit code and what it printed on both streams."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["mcdrop", *map(str, args)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return (code, *(ANSI.sub("", text) for text in capsys.readouterr()))

    monkeypatch.setenv("COLUMNS", "250")
    return run


def assert_refused(ended, said, code=1):
    assert ended[0] == code
    assert ended[1] == ""
    assert re.fullmatch(rf"error: [^\n]*{said}[^\n]*\n", ended[2]), ended[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with some rows in it."""
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", nets.images(5, seed=4).numpy())
    return tmp_path


@pytest.fixture
def place(bundles, digits):
    """Makes places, which are closed in the end."""
    made = []

    def make(cost=CHEAP, **settings):
        one = Place(digits, cost, bundles=bundles, **settings)
        made.append(one)
        one.served.__enter__()
        one.served.loaded()
        return one

    yield make
    for one in made:
        one.gate.open.set()
        one.served.__exit__()
