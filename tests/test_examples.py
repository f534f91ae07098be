"""The examples run as they stand there, with little to do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import serving

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *args):
    """What an example prints."""
    command = [sys.executable, "-W", "error", EXAMPLES / name, *map(str, args)]
    finished = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"}
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize(
    ("name", "args", "ways"),
    [
        ("bandit.py", ("--seeds", 2, "--pulls", 2), ["greedy", "thompson", "upper_confidence_bound"]),
        ("selective.py", ("--seeds", 2), ["least_confidence", "mutual_information", "chance", "oracle"]),
        ("forces.py", ("--seeds", 2, "--rounds", 1), ["random", "variance, mean", "variance, max"]),
    ],
)
def test_an_example_is_short_and_prints_a_line_for_each_way_and_draws_them(tmp_path, name, args, ways):
    printed = run(name, *args, "--out", tmp_path / "drawn.png")
    for way in ways:
        assert re.search(rf"^{way}: .*\d", printed, re.MULTILINE), printed
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
    assert len((EXAMPLES / name).read_text().splitlines()) < 100


def test_active_learning_over_http_publishes_a_version_for_every_ten_labels(tmp_path):
    with serving(tmp_path) as server:
        server.line("mcdrop serves no model yet")
        printed = run("active_learning.py", "--url", server.url, "--bundles", tmp_path, "--rounds", 3)
    rounds = re.findall(r"^version (\d+): (\d+) labels, accuracy (0\.\d+)$", printed, re.MULTILINE)
    assert [(int(version), int(labels)) for version, labels, _ in rounds] == [(1, 20), (2, 30), (3, 40)]
    # chance is 0.1 of 497 images, with a standard error of 0.013
    assert all(float(accuracy) > 0.1 + 5 * 0.0135 for *_, accuracy in rounds)
    assert len((EXAMPLES / "active_learning.py").read_text().splitlines()) < 60
