"""The command as a newcomer types it: train, predict, rank, models; on a bundle and on a server."""

import json
import re

import numpy as np
import pytest

from mcdrop.client import Client
from mcdrop_models.recipes import digits
from tests.support.processes import mcdrop, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained bundle, the rows of some digits and those of some noise."""
    folder = tmp_path_factory.mktemp("newcomer")
    images, _ = digits.test_images()
    np.save(folder / "rows.npy", images[:40].numpy())
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    return mcdrop("train", "digits", "--bundles", "bundles", cwd=folder)


@pytest.fixture(scope="module")
def server(folder, trained):
    with serving(folder / "bundles") as process:
        yield process.wait_ready()


def printed(ended):
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return ended.stdout


def test_training_prints_the_accuracy_it_reached(trained):
    out = printed(trained)

    assert re.search(r"training digits .* 40/40 loss \d\.\d{4}", out)
    accuracy = re.search(r"^published bundles/digits/1: accuracy (\S+), nll (\S+)$", out, re.MULTILINE)
    assert float(accuracy[1]) >= 0.97


def test_a_bundle_and_a_server_predict_the_same(folder, server):
    args = ("predict", "digits", "rows.npy", "--json", "--passes", 16, "--seed", 5)
    ours = json.loads(printed(mcdrop(*args, cwd=folder)))
    theirs = json.loads(printed(mcdrop(*args, "--url", server.url, cwd=folder)))

    outputs, others = ours.pop("outputs"), theirs.pop("outputs")
    assert ours == theirs
    assert list(outputs) == list(others)
    for name, values in outputs.items():
        # rows in batches of another size may be summed otherwise: 1e-5 of the output's scale is promised
        assert np.abs(np.subtract(values, others[name])).max() <= 1e-5 * np.abs(values).max(), name


def test_predictions_are_right_as_often_as_was_said_and_can_be_saved(folder, trained):
    printed(mcdrop("predict", "digits", "rows.npy", "--out", "answer.npz", cwd=folder))

    _, classes = digits.test_images()
    with np.load(folder / "answer.npz", allow_pickle=False) as answer:
        right = answer["mean"].argmax(1) == classes[:40].numpy()
    # at an accuracy of 0.97 one of 40 is wrong; five standard errors are five more
    assert (~right).sum() <= 40 * 0.03 + 5 * (40 * 0.03 * 0.97) ** 0.5


def test_a_bundle_and_a_server_rank_the_same(folder, server):
    args = ("rank", "digits", "rows.npy", "-k", 5)
    ours = printed(mcdrop(*args, cwd=folder))

    assert [line.split("│")[1].strip() for line in ours.splitlines() if line.startswith("│")] == list("12345")
    assert printed(mcdrop(*args, "--url", server.url, cwd=folder)) == ours


def test_a_bundle_and_a_server_list_the_same(folder, server):
    ours, theirs = (printed(mcdrop("models", *where, cwd=folder)) for where in ((), ("--url", server.url)))

    listed = re.compile(r"│ (\S+) +│ (\d+) ")
    assert listed.findall(ours) == listed.findall(theirs) == [("digits", "1")]


def test_noise_and_a_digit_turned_upside_down_are_more_uncertain(server):
    images, _ = digits.test_images()
    noise = np.random.default_rng(0).integers(0, 17, (len(images), 8, 8))
    with Client(server.url) as client:
        upright, turned, unknown = (
            client.predict("digits", x, outputs=["mutual_information"]).outputs["mutual_information"]
            for x in (images.numpy(), images.numpy()[:, ::-1, ::-1], noise)
        )

    for other in (turned, unknown):
        # the difference of two means, in their standard errors
        error = (other.var() / len(other) + upright.var() / len(upright)) ** 0.5
        assert other.mean() - upright.mean() > 5 * error


def test_a_mistake_is_one_line_and_exit_code_1(folder):
    (folder / "small_net.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))\n"
    )

    shape = ("--example-shape", "5", "--name", "net", "--task", "classification")
    ended = mcdrop("publish", "small_net:make", *shape, "--bundles", "none", cwd=folder)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"error: [^\n]*must have same reduction dim[^\n]*\n", ended.stderr), ended.stderr
