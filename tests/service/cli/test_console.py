import json
import re
import shlex
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from mcdrop.cli import console
from mcdrop.client import Prediction, RankedRows
from mcdrop.inference.catalogue import LoadedModel
from mcdrop.inference.cost import RowCost
from mcdrop.settings import Settings
from mcdrop_models.bundle.write import PublishedBundle
from tests.support.asgi import good


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")


@dataclass
class Loaded:
    """A catalogue of some predictors."""

    predictors: list

    def loaded(self):
        return [LoadedModel(predictor, RowCost(0.0, 0.0)) for predictor in self.predictors]


def cells(text):
    """The rows of a table, without its frame."""
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines() if line[0] in "│┃"]


def classification(num_rows, labels=("cat", "[dog]")):
    mean = np.tile([[0.25, 0.75]], (num_rows, 1))
    outputs = {"mean": mean, "entropy": np.arange(num_rows) / 8}
    return Prediction("pets", 3, 32, 0, outputs, labels, None, "balanced", "shared", 1, 1)


def test_an_error_is_one_line_on_standard_error(capsys):
    console.fail("row 3 of [red]x[/red] [/y]\n\thas  shape [8, 8]; " + "word " * 100)

    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: row 3 of [red]x[/red] [/y] has shape [8, 8]; " + " ".join(["word"] * 100) + "\n"


def test_what_was_published_is_said_with_its_metrics(capsys, digits, tmp_path):
    path = tmp_path / "[b]" / "digits"
    console.published(PublishedBundle(path, 2, digits.manifest))
    console.published(PublishedBundle(path, 2, digits.manifest.model_copy(update={"metrics": {}})))

    assert capsys.readouterr().out == f"published {path}: accuracy 0.5\npublished {path}\n"


def test_models_are_a_table_with_the_reason_of_a_refusal(capsys):
    console.print_models([{"name": "a", "version": 2, "state": "refused", "reason": "[/b] was :cat: changed"}])

    assert cells(capsys.readouterr().out) == [
        ["name", "version", "state", "reason"],
        ["a", "2", "refused", "[/b] was :cat: changed"],
    ]


def test_without_models_it_is_said_how_to_make_one(capsys):
    console.print_models([])

    assert capsys.readouterr().out == "no bundles. Make one with: mcdrop train digits\n"


def test_a_classification_is_its_likeliest_label_and_one_number_for_each_measure(capsys):
    console.prediction_table(classification(2))

    assert cells(capsys.readouterr().out) == [
        ["row", "answer", "probability", "entropy"],
        ["0", "[dog]", "0.750", "0.0000"],
        ["1", "[dog]", "0.750", "0.1250"],
    ]


def test_without_labels_every_column_is_shown(capsys):
    console.prediction_table(classification(1, labels=None))

    assert cells(capsys.readouterr().out) == [["row", "mean", "entropy"], ["0", "0.25 0.75", "0.0000"]]


def test_a_long_answer_is_cut_and_says_where_the_rest_is(capsys):
    console.prediction_table(classification(23))

    out = capsys.readouterr().out
    assert len(cells(out)) == 21
    assert out.endswith("… and 3 more rows: --out FILE.npz or --json has them all.\n")


@pytest.mark.parametrize("labels", [("cat", "dog"), None], ids=["with labels", "without labels"])
def test_an_answer_of_no_rows_is_an_empty_table(capsys, labels):
    console.prediction_table(classification(0, labels))

    assert len(cells(capsys.readouterr().out)) == 1


def test_json_is_one_line_with_every_number(capsys):
    answer = classification(30)
    console.prediction_json(answer)

    (line,) = capsys.readouterr().out.splitlines()
    document = json.loads(line)
    assert np.array_equal(document["outputs"].pop("mean"), answer.outputs["mean"])
    assert document["outputs"].pop("entropy") == (np.arange(30) / 8).tolist()
    assert document == {
        "model": "pets",
        "version": 3,
        "passes": 32,
        "seed": 0,
        "labels": ["cat", "[dog]"],
        "outputs": {},
    }


def test_json_without_labels_has_no_field_of_them(capsys):
    console.prediction_json(classification(1, labels=None))

    assert "labels" not in json.loads(capsys.readouterr().out)


def test_a_ranking_is_a_table_in_its_order(capsys):
    console.ranking(RankedRows("a", 1, "margin", np.array([4, 0]), np.array([0.25, 0.5]), None))

    assert cells(capsys.readouterr().out) == [
        ["place", "row", "margin"],
        ["1", "4", "0.2500"],
        ["2", "0", "0.5000"],
    ]


def test_epochs_are_counted_with_their_loss(capsys):
    with console.epochs("training x") as on_epoch:
        for epoch in range(1, 4):
            on_epoch(epoch, 3, 1 / epoch)

    out = capsys.readouterr().out
    assert "training x" in out
    assert "3/3 loss 0.3333" in out


def test_a_ready_server_says_what_it_serves_where_and_how_to_ask(capsys, server, digits, heights):
    console.announce(Settings(port=8123), Loaded([heights, digits]))

    first, second, curl = capsys.readouterr().out.splitlines()
    address = "http://127.0.0.1:8123"
    assert first == f"mcdrop serves heights/1, digits/2 on {address} (try {address}/docs)"
    assert second == "Ask it:"
    program, *options, body = shlex.split(curl)
    target = f"{address}/v1/models/digits/predict"
    assert (program, options) == ("curl", ["-s", target, "-H", "Content-Type: application/json", "-d"])
    assert good(server.post("/v1/models/digits/predict", body.encode()))["version"] == 2


@pytest.mark.parametrize("given", ["api_key", "keys"])
def test_a_line_to_paste_has_the_variable_of_the_key_and_not_the_key(capsys, digits, given):
    console.announce(Settings(**{given: "hunter2"}), Loaded([digits]))

    out = capsys.readouterr().out
    assert '-H "Authorization: Bearer $MCDROP_API_KEY"' in out
    assert "hunter2" not in out


def test_an_address_of_version_6_is_in_brackets(capsys, digits):
    console.announce(Settings(host="::1"), Loaded([digits]))

    assert capsys.readouterr().out.count("http://[::1]:8000/") == 2


@pytest.mark.parametrize(("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")], ids=["IPv4", "IPv6"])
def test_a_server_of_every_address_is_asked_at_this_machine_s(capsys, digits, host, asked):
    console.announce(Settings(host=host, allow_anonymous=True), Loaded([digits]))

    assert capsys.readouterr().out.count(f"http://{asked}:8000/") == 2


def test_without_models_no_line_to_paste_is_printed(capsys):
    console.announce(Settings(), Loaded([]))

    url = "http://127.0.0.1:8000"
    assert capsys.readouterr().out == f"mcdrop serves no model yet on {url} (try {url}/docs)\n"


def test_a_row_too_long_to_paste_is_not_printed(capsys, digits, heights):
    large = replace(digits, probe={"x": torch.zeros(1, 257)})

    console.announce(Settings(), Loaded([large, heights]))

    curl = capsys.readouterr().out.splitlines()[2]
    assert "/v1/models/heights/predict" in curl
