"""A project that has packages named `models` and `service`, as many have, publishes its own network."""

import subprocess
import sys

import pytest

from mcdrop_models.bundle.repository import Repository
from tests.support.processes import environment, mcdrop

NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
"""
SCRIPT = """
import mcdrop, service, torch
from models.net import make

assert service.OURS
mcdrop.publish(make(), torch.randn(4, 4), name="net", task="classification", root="bundles")
predictor = mcdrop.load("net", root="bundles")
estimate = predictor.predict(torch.randn(3, 4))
assert estimate.mean.shape == (3, 2)
"""


@pytest.fixture
def project(tmp_path):
    for package in ("models", "service"):
        (tmp_path / package).mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "models" / "net.py").write_text(NET)
    (tmp_path / "service" / "__init__.py").write_text("OURS = True")
    return tmp_path


def test_a_project_with_its_own_models_and_service_publishes_in_python(project):
    (project / "publish.py").write_text(SCRIPT)

    done = subprocess.run(
        [sys.executable, "publish.py"], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert [entry.name for entry in Repository(project / "bundles").entries()] == ["net"]


def test_a_project_with_its_own_models_publishes_by_the_command(project):
    options = ("--name", "net", "--task", "classification", "--example-shape", "4", "--bundles", "bundles")

    done = mcdrop("publish", "models.net:make", *options, cwd=project)

    assert (done.returncode, done.stderr) == (0, ""), done
    assert [entry.name for entry in Repository(project / "bundles").entries()] == ["net"]
