import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn

from dropout_core.engine.options import PassOptions
from dropout_core.layers.variants import VARIANTS
from mcdrop.cli import main as cli
from mcdrop.inference.query import model_measures
from mcdrop.server.app import create_app
from mcdrop.settings import Settings
from mcdrop_models.publishing.torch import publish
from tests.service.cli.test_console import cells
from tests.service.conftest import LABELS, assert_refused
from tests.support import service_nets as nets
from tests.support.asgi import listening

X = nets.images(5, seed=4)
COMMANDS = [name for name in cli.COMMANDS if name != "key"]
# Commands whose options are derived from classes that need torch.
LOADS_TORCH = {"publish", "simulate"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_an_example_of_its_options(mcdrop, command):
    code, out, _ = mcdrop(command, "--help")

    words = " ".join(out.split())
    example = re.search(rf"Example: `(mcdrop {command}( \S+)*?)` (Arguments|Options)", words)
    assert code == 0
    assert example, words
    for option in re.findall(r"(?<!\S)--?[a-z-]+", example[1]):
        assert re.search(rf"(?<!\S){option}(?!\S)", words[example.end() :]), option


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_summary_of_a_command_begins_its_own_help(mcdrop, command):
    words = " ".join(mcdrop(command, "--help")[1].split())

    assert cli.COMMANDS[command][1] in words


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_80_columns_and_cuts_no_name(mcdrop, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    out = mcdrop(command, "--help")[1]

    assert max(map(len, out.splitlines())) <= 80
    assert not re.search(r"\w…|\w\.\.\.\n", out)


def test_the_help_of_serve_has_every_variable_whole(mcdrop, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    out = mcdrop("serve", "--help")[1]

    secrets = {"api_key"}
    for name in Settings.model_fields.keys() - secrets:
        assert re.search(rf"\bMCDROP_{name.upper()}\b", out), name


def test_without_arguments_the_commands_are_listed(mcdrop):
    code, out, err = mcdrop()

    assert code == 2
    assert all(re.search(rf"(?m)^  {command} ", out + err) for command in cli.COMMANDS)


def test_the_version_is_that_of_the_package(mcdrop):
    assert mcdrop("--version") == (0, f"mcdrop {version('mcdrop')}\n", "")


@pytest.mark.parametrize(
    "args",
    [[], ["--help"], ["--version"], ["nope"], *([name, "--help"] for name in cli.COMMANDS if name not in LOADS_TORCH)],
    ids=" ".join,
)
def test_help_and_mistakes_load_neither_torch_nor_fastapi(args):
    code = (
        f"import sys; sys.argv = ['mcdrop', *{args}]\n"
        "from mcdrop.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print('loaded:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "mcdrop.cli.main" in loaded
    assert not loaded & {"torch", "fastapi", "onnx", "onnxruntime"}


@pytest.mark.parametrize(
    ("args", "allowed"),
    [
        (["predict", "digits", "rows.npy", "--sampling", "sobol"], "'balanced', 'iid'"),
        (["predict", "digits", "rows.npy", "--masks", "own"], "'shared', 'independent'"),
        (["train", "cats"], "'digits', 'diabetes'"),
        (["key", "new", "alice", "--scope", "root"], "'predict', 'admin'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_choice_that_does_not_exist_is_refused_with_the_others(mcdrop, args, allowed):
    code, _, err = mcdrop(*args)

    assert code == 2
    assert allowed in " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [("mcdrop pre", {"predict"}), ("mcdrop predict --samp", {"--samples", "--sampling"}),
     ("mcdrop predict --masks ", {"shared", "independent"}), ("mcdrop train ", {"digits", "diabetes"})],
)  # fmt: skip
def test_shell_completion_offers_commands_options_and_choices(words, offered):
    shell = {"_MCDROP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", "from mcdrop.cli.main import app; app(prog_name='mcdrop')"],
        env={**os.environ, **shell},
        capture_output=True,
        text=True,
        check=False,
    )

    assert set(done.stdout.split()) == offered


def test_predict_prints_a_table_of_the_likeliest_labels(mcdrop, here, bundles, digits):
    code, out, _ = mcdrop("predict", "digits", "rows.npy", "--bundles", bundles)

    header, *rows = cells(out)
    estimate = digits.predict(X, PassOptions(20, 7))
    assert code == 0
    assert header[:4] == ["row", "answer", "probability", "predictive_entropy"]
    assert [row[1] for row in rows] == [LABELS[index] for index in estimate.mean.argmax(1)]
    assert [row[3] for row in rows] == [f"{value:.4f}" for value in estimate.predictive_entropy]


def test_predict_prints_json_with_every_measure(mcdrop, here, bundles, digits):
    code, out, _ = mcdrop("predict", "digits", "rows.npy", "--json", "--bundles", bundles)

    answer, estimate = json.loads(out), digits.predict(X, PassOptions(20, 7))
    assert code == 0
    assert (answer["model"], answer["version"], answer["passes"], answer["seed"]) == ("digits", 2, 20, 7)
    assert answer["labels"] == list(LABELS)
    assert tuple(answer["outputs"]) == model_measures(digits)
    for name, values in answer["outputs"].items():
        assert np.array_equal(values, estimate.measure(name).numpy()), name


def test_predict_writes_arrays_that_are_read_back(mcdrop, here, bundles, digits):
    ended = mcdrop("predict", "digits", "rows.npy", "--out", "answer.npz", "--bundles", bundles)

    estimate = digits.predict(X, PassOptions(20, 7))
    assert ended == (0, "", "")
    with np.load("answer.npz", allow_pickle=False) as answer:
        for name in model_measures(digits):
            assert np.array_equal(answer[name], estimate.measure(name).numpy()), name
        run = {name: answer[name].item() for name in set(answer) - {*model_measures(digits), "labels"}}
        assert tuple(answer["labels"]) == LABELS
    scheme = {"sampling": "balanced", "masks": "shared", "branches": 1, "noise": 1}
    assert run == {"model": "digits", "version": 2, "passes": 20, "seed": 7, **scheme}


def test_every_pass_option_and_measure_option_of_predict_is_used(mcdrop, here, bundles, url):
    args = ["--sampling", "iid", "--masks", "independent", "--branches", "2", "--passes", "8", "--seed", "3"]
    args += ["--outputs", "mean", "--quantiles", "0.1", "--quantiles", "0.9", "--samples"]
    args += ["--defer-above", "mutual_information=0.001"]
    for where in (["--bundles", bundles], ["--url", url]):
        code, _, err = mcdrop("predict", "digits", "rows.npy", *args, "--out", "answer.npz", *where)
        assert (code, err) == (0, "")
        with np.load("answer.npz", allow_pickle=False) as answer:
            assert (str(answer["sampling"]), str(answer["masks"]), int(answer["branches"])) == ("iid", "independent", 2)
            assert answer["quantile_levels"].tolist() == [0.1, 0.9]
            assert answer["samples"].shape[:2] == (5, 8)
            assert answer["defer"].dtype == bool
            assert "variance" not in answer


def test_a_threshold_that_is_not_a_number_is_refused(mcdrop, here, bundles):
    done = mcdrop("predict", "digits", "rows.npy", "--defer-above", "variance", "--bundles", bundles)

    assert_refused(done, "write a measure and a number, such as mutual_information=0.3")


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_predict_tells_how_to_convert_a_table(mcdrop, here, name):
    assert_refused(mcdrop("predict", "digits", name), "predict reads .npy and .npz files. .*np.save")


def test_predict_can_do_both(mcdrop, here, bundles):
    _, out, _ = mcdrop("predict", "digits", "rows.npy", "--out", "answer.npz", "--json", "--bundles", bundles)

    with np.load("answer.npz") as answer:
        assert np.array_equal(answer["mean"], json.loads(out)["outputs"]["mean"])


def test_passes_seed_and_version_are_used(mcdrop, here, bundles):
    _, out, _ = mcdrop(
        "predict", "digits", "rows.npy", "--json", "--passes", 3, "--seed", 4, "--version", 1, "--bundles", bundles
    )

    answer = json.loads(out)
    assert (answer["version"], answer["passes"], answer["seed"]) == (1, 3, 4)


@pytest.mark.parametrize(
    "args",
    [
        ["predict", "digits", "rows.npy", "--json"],
        ["predict", "digits", "rows.npy", "--passes", "3", "--seed", "4", "--version", "1"],
        ["rank", "digits", "rows.npy", "-k", "3", "--score", "margin"],
        ["rank", "digits", "rows.npy", "--score", "random", "--seed", "2"],
    ],
    ids=["predict as json", "predict as table", "rank by margin", "rank by chance"],
)
def test_a_bundle_and_a_server_say_the_same(mcdrop, here, bundles, url, args):
    ended = mcdrop(*args, "--bundles", bundles)

    assert ended[0] == 0
    assert mcdrop(*args, "--url", url) == ended


def test_the_folder_of_bundles_comes_from_the_environment_or_is_bundles_here(mcdrop, here, bundles, monkeypatch):
    assert_refused(mcdrop("predict", "digits", "rows.npy"), "there is no model 'digits'; there are none")

    shutil.copytree(bundles, "bundles")
    assert mcdrop("predict", "digits", "rows.npy")[0] == 0

    monkeypatch.setenv("MCDROP_BUNDLES", "elsewhere")
    assert_refused(mcdrop("predict", "digits", "rows.npy"), "there is no model 'digits'; there are none")


def test_rank_prints_the_best_rows_first(mcdrop, here, bundles, digits):
    code, out, _ = mcdrop("rank", "digits", "rows.npy", "-k", 3, "--bundles", bundles)

    scores = digits.predict(X, PassOptions(20, 7)).mutual_information.numpy()
    best = np.argsort(-scores)[:3]
    assert code == 0
    assert cells(out) == [
        ["place", "row", "mutual_information"],
        *([str(place), str(row), f"{scores[row]:.4f}"] for place, row in enumerate(best, start=1)),
    ]


def test_models_lists_what_is_there_and_why_one_is_refused(mcdrop, bundles, tmp_path):
    root = shutil.copytree(bundles, tmp_path / "bundles")
    (root / "digits" / "2" / "weights.safetensors").write_bytes(b"")

    code, out, _ = mcdrop("models", "--bundles", root)

    header, first, *rest = cells(out)
    assert (code, header) == (0, ["name", "version", "state", "reason"])
    assert first[:3] == ["digits", "2", "refused"]
    assert "weights.safetensors of digits/2 does not match its digest" in first[3]
    assert rest == [["digits", "1", "published", ""], ["heights", "1", "published", ""]]


def test_variants_lists_every_layer(mcdrop):
    code, out, _ = mcdrop("variants")
    assert code == 0
    assert {name for variant in VARIANTS for name in variant.names.split(", ")} <= set(re.findall(r"\w+", out))


def test_variants_fit_80_columns_with_whole_names(mcdrop, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    out = mcdrop("variants")[1]

    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for variant in VARIANTS:
        assert all(name in out for name in variant.names.split(", "))


def test_a_prediction_fits_80_columns_with_whole_names(mcdrop, here, bundles, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    out = mcdrop("predict", "digits", "rows.npy", "--bundles", bundles)[1]

    assert max(len(line) for line in out.splitlines() if line[0] in "│┃") <= 80
    assert "…" not in out
    assert "probability" in out
    assert re.search("not shown: .*margin.*--out FILE.npz or --json", " ".join(out.split()))


def test_lint_finds_nothing_in_a_network_that_follows_custom(mcdrop, bundles):
    assert mcdrop("lint", "digits", "--bundles", bundles) == (
        0,
        "no advice: the network drops where the literature does\n",
        "",
    )


def test_lint_says_what_is_against_a_network_and_exits_with_1(mcdrop, tmp_path):
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.8))
    publish(net, nets.features(3), name="dropped", task="regression", root=tmp_path)
    code, out, _ = mcdrop("lint", "dropped", "--bundles", tmp_path)
    assert code == 1
    assert {"after-the-last-layer", "unusual-rate"} <= set(re.findall(r"[\w-]+", out))


def test_models_of_a_server_are_those_of_its_folder(mcdrop, bundles, url):
    ours, theirs = (cells(mcdrop("models", *where)[1])[1:] for where in (("--bundles", bundles), ("--url", url)))

    assert (
        [row[:2] for row in ours] == [row[:2] for row in theirs] == [["digits", "2"], ["digits", "1"], ["heights", "1"]]
    )


def test_models_of_an_empty_folder_says_how_to_make_one(mcdrop, here):
    assert mcdrop("models") == (0, "no bundles. Make one with: mcdrop train digits\n", "")


def test_the_key_is_sent_to_a_server(mcdrop, bundles, server, monkeypatch):
    app = create_app(Settings(bundles=bundles, api_key="hunter2"))
    app.state.mcdrop.catalogue = server.state.catalogue
    with listening(app) as address:
        assert_refused(mcdrop("models", "--url", address), "send the server's key")
        monkeypatch.setenv("MCDROP_API_KEY", "hunter2")
        assert mcdrop("models", "--url", address)[0] == 0


@pytest.fixture
def files(here):
    """Files that hold no rows."""
    (here / "empty.npy").touch()
    (here / "text.npy").write_text("1,2,3")
    (here / "zip.npy").write_bytes(b"PK\x03\x04 no archive")
    np.save("objects.npy", np.array([None]), allow_pickle=True)
    np.save("words.npy", np.array([["a"]]))
    np.savez("several.npz", a=X, b=X)
    np.save("flat.npy", np.zeros((2, 64)))
    np.save("nan.npy", np.where(np.arange(512).reshape(8, 8, 8) == 100, np.nan, 1.0))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nothing.npy", "nothing.npy cannot be read as a .npy array: .*No such file"),
        ("empty.npy", "empty.npy cannot be read as a .npy array"),
        ("text.npy", "text.npy cannot be read as a .npy array"),
        ("zip.npy", "zip.npy cannot be read as a .npy array"),
        ("objects.npy", "objects.npy cannot be read as a .npy array"),
        ("several.npz", "(inputs is an object of|several.npz has the arrays) a, b; "),
        ("words.npy", r"the array holds <U1; x takes float32 of shape \[8, 8\] for each row"),
        ("flat.npy", r"row 0 has shape \[64\]; x takes float32 of shape \[8, 8\] for each row"),
        ("nan.npy", r"row 1, column \[4, 4\] is nan"),
    ],
    ids=lambda value: value if value.endswith(("npy", "npz")) else "",
)
@pytest.mark.parametrize("command", ["predict", "rank"])
def test_a_file_that_holds_no_rows_is_refused_in_one_line(mcdrop, files, bundles, command, file, said):
    assert_refused(mcdrop(command, "digits", file, "--bundles", bundles), said)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["predict", "nope", "rows.npy"], "there is no model 'nope'; there are digits, heights"),
        (["predict", "[/x]", "rows.npy"], r"'\[/x\]' is not a model name"),
        (["predict", "digits", "rows.npy", "--version", "9"], "digits has no version 9; it has 2, 1"),
        (["predict", "digits", "rows.npy", "--passes", "0"], "passes is 0"),
        (["predict", "digits", "rows.npy", "--seed", "-1"], "the seed is -1"),
        (["predict", "digits", "rows.npy", "--out", "no/such/folder.npz"], "No such file or directory"),
        (["rank", "digits", "rows.npy", "-k", "0"], "k is 0; ask for at least 1 row"),
        (["rank", "digits", "rows.npy", "--score", "std"], "there is no score 'std' for classification"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_refused_in_one_line(mcdrop, here, bundles, args, said):
    assert_refused(mcdrop(*args, "--bundles", bundles), said)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["predict", "nope", "rows.npy"], "there is no model 'nope'; there are digits, heights"),
        (["predict", "digits", "words.npy"], "the rows hold <U1"),
        (["predict", "digits", "nan.npy"], r"row 1, column \[4, 4\] is "),
        (["rank", "nope", "rows.npy"], "there is no model 'nope'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_that_a_server_finds_is_one_line_too(mcdrop, files, url, args, said):
    assert_refused(mcdrop(*args, "--url", url), said)


@pytest.mark.parametrize("command", [["models"], ["predict", "a", "rows.npy"], ["rank", "a", "rows.npy"]], ids=" ".join)
@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "127.0.0.1:1"])
def test_where_no_server_is_one_line_says_so(mcdrop, here, command, address):
    assert_refused(mcdrop(*command, "--url", address), "no answer from")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_command_uses_as_many_threads_as_were_set(mcdrop, here, monkeypatch, threads):
    before = torch.get_num_threads()
    monkeypatch.setenv("MCDROP_THREADS", str(threads))
    try:
        assert mcdrop("models")[0] == 0
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("command", [["models"], ["train", "digits"], ["rank", "digits", "rows.npy"]], ids=" ".join)
def test_a_wrong_setting_is_named_by_every_command(mcdrop, here, monkeypatch, command):
    monkeypatch.setenv("MCDROP_THREADS", "many")

    assert_refused(mcdrop(*command), "threads: .*integer", code=2)
