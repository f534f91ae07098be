"""One thread, so that sums are taken in one order; hypothesis without deadlines and without surprises."""

import os

import pytest
import torch
from hypothesis import settings

from mcdrop_models.recipes import RECIPES
from tests.support.processes import mcdrop, serving

torch.set_num_threads(1)
os.environ.pop("COLUMNS", None)  # rich reads it for good where it is set, as it is beside other test processes
os.environ["MCDROP_TUNE"] = "false"  # nothing is measured, or kept outside of a test's own folder, unless it says so
settings.register_profile("mcdrop", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("mcdrop")


@pytest.fixture(scope="session")
def example_bundles(tmp_path_factory):
    """A folder with the two example models, trained and published as a newcomer's `make serve` does."""
    folder = tmp_path_factory.mktemp("examples") / "bundles"
    for name in RECIPES:
        trained = mcdrop("train", name, "--bundles", folder)
        assert trained.returncode == 0, trained.stderr
    return folder


@pytest.fixture(scope="session")
def examples_server(example_bundles):
    """The folder of the two example models, and the address of a server of them."""
    with serving(example_bundles) as server:
        yield example_bundles, server.wait_ready().url
