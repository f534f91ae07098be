"""`mcdrop rank` of pools that are read in parts: the same choice as of one that is held, also after a kill."""

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dropout_core.acquire.choose import choose, drive
from dropout_core.acquire.need import EMBEDDINGS, SAMPLES
from dropout_core.acquire.options import RankOptions
from dropout_core.engine.embedding import embeddings
from dropout_core.engine.options import PassOptions
from mcdrop.pool.backends import BundleAnswerer
from tests.service.cli.test_console import cells
from tests.service.conftest import assert_refused
from tests.support import service_nets as nets

N, AT_ONCE = 300, 70  # chunks of 60
X = nets.images(N, seed=11)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("pool.npy", X.numpy())
    np.save("few.npy", X[:7].numpy())
    return tmp_path


@pytest.fixture
def rank(mcdrop, here, bundles):
    """Ranks pool.npy and returns the rows of what it wrote."""

    def run(*args, out="ranked.json", pool="pool.npy", at_once=AT_ONCE):
        where = () if "--url" in args else ("--bundles", bundles)
        ended = mcdrop("rank", "digits", pool, "--out", out, "--rows-at-once", at_once, *where, *args)
        assert ended == (0, "", ""), ended
        return json.loads((here / out).read_text())

    return run


def held(predictor, **said):
    """The choice from all rows at once."""
    rows = {"pool": X, "labelled": X[:7], "targets": X[:7]}
    choice = choose(RankOptions(predictor.manifest.output, N, seed=7, **said))

    def answer(need):
        x = rows[need.of] if need.rows is None else rows[need.of][need.rows]
        options = replace(predictor.manifest.pass_options, passes=need.passes or 20, seed=7)
        estimate = predictor.predict(x, options, keep_draws=True)
        arrays = {name: estimate.measure(name) for name in need.measures}
        arrays[SAMPLES] = estimate.samples.movedim(0, 1)
        arrays[EMBEDDINGS] = embeddings(predictor.program.graph, predictor.program.weights, {"x": x})
        return need.kept(arrays)

    return drive(choice, answer)


CHOICES = {
    "top_k": ([], {}),
    "margin": (["--score", "margin"], {"score": "margin"}),
    "random": (["--score", "random"], {"score": "random"}),
    "power": (["--selector", "power", "--beta", 2], {"selector": "power", "beta": 2.0}),
    "batchbald": (["--selector", "batchbald", "--candidates", 90], {"selector": "batchbald", "candidates": 90}),
    "epig": (["--score", "epig", "--targets", "few.npy"], {"score": "epig", "num_targets": 7}),
    "k_centre": (["--selector", "k_centre", "--labelled", "few.npy"], {"selector": "k_centre", "num_labelled": 7}),
    "badge": (["--selector", "badge", "--candidates", 100], {"selector": "badge", "candidates": 100}),
    "quotas": (
        ["--groups", "predicted_class", "--quotas", 2], {"groups": "predicted_class", "quotas": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("args", "said"), CHOICES.values(), ids=CHOICES.keys())
def test_a_pool_in_parts_is_ranked_as_one_that_is_held(rank, digits, args, said):
    found, wanted = rank("-k", 6, *args), held(digits, k=6, **said)
    rows = found["rows"]
    assert [row["index"] for row in rows] == wanted.indices.tolist()
    assert [row["pick"] for row in rows] == list(range(1, len(rows) + 1))
    if wanted.scores is not None:
        assert np.allclose([row["score"] for row in rows], wanted.scores, rtol=0, atol=1e-6)
    for name, values in wanted.parts.items():
        assert np.allclose([row[name] for row in rows], values, rtol=0, atol=1e-6), name
    run = {"model": "digits", "version": 2, "digest": digits.manifest.digest, "passes": 20, "seed": 7}
    assert found.items() >= {**run, "considered": wanted.considered, "score": wanted.score}.items()


def test_independent_masks_are_those_of_the_rows_places_in_the_pool(rank, digits):
    scheme = replace(digits.manifest.pass_options, masks="independent")
    scores = digits.predict(X, replace(scheme, passes=20, seed=7)).mutual_information
    rows = rank("-k", 300, "--masks", "independent")["rows"]
    assert np.allclose([row["score"] for row in rows], scores[[row["index"] for row in rows]], rtol=0, atol=1e-6)
    assert not np.allclose(scores, digits.predict(X, PassOptions(20, 7, sampling="iid")).mutual_information, atol=1e-3)


@pytest.mark.parametrize("args", [CHOICES[name][0] for name in ("margin", "batchbald", "epig", "quotas")], ids=str)
@pytest.mark.parametrize("at_once", [AT_ONCE, 1000], ids=["in parts", "in one request"])
def test_a_server_ranks_as_a_bundle(rank, url, args, at_once):
    here, there = rank("-k", 6, *args), rank("-k", 6, *args, "--url", url, at_once=at_once)
    assert [row["index"] for row in there["rows"]] == [row["index"] for row in here["rows"]]
    for mine, theirs in zip(here.pop("rows"), there.pop("rows"), strict=True):
        assert mine == pytest.approx(theirs, rel=0, abs=1e-6)
    assert there == here


def test_a_server_is_sent_a_large_pool_in_parts_without_embeddings(mcdrop, here, url):
    ended = mcdrop("rank", "digits", "pool.npy", "--selector", "k_centre", "--rows-at-once", 70, "--url", url)
    assert_refused(ended, "raise --rows-at-once")
    code, out, _ = mcdrop("rank", "digits", "pool.npy", "--selector", "k_centre", "-k", 2, "--url", url)
    assert (code, cells(out)[0]) == (0, ["place", "row"])


KILLED = """
import os, signal, sys
from mcdrop.cli import main as cli
from mcdrop.pool.checkpoint import Checkpoint
whole, count = Checkpoint.add, 0
stop = int(sys.argv.pop(1))

def add(self, need, arrays):
    global count
    count += 1
    if count > stop:
        self._file.write(b"mcdrop1\\n half a record")
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, need, arrays)

Checkpoint.add = add
cli.main()
"""
BATCHBALD = ["-k", 6, "--selector", "batchbald", "--candidates", 90]


def killed_after(chunks, bundles, *args):
    command = [sys.executable, "-c", KILLED, chunks, "rank", "digits", "pool.npy", "--bundles", bundles, *args]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.fixture
def run_rows(monkeypatch):
    """How many rows the model ran."""
    counts, whole = [], BundleAnswerer.arrays

    def arrays(self, need, inputs, rows):
        counts.append(len(rows))
        return whole(self, need, inputs, rows)

    monkeypatch.setattr(BundleAnswerer, "arrays", arrays)
    return counts


def test_after_kill_9_it_goes_on_and_loses_one_chunk(rank, bundles, run_rows, here):
    """Killed while the second of two pieces of candidates is kept: five chunks of the pool and one of those are."""
    undisturbed = rank(*BATCHBALD, out="other.json")
    assert run_rows == [60] * 5 + [45] * 2
    run_rows.clear()
    killed_after(6, bundles, *BATCHBALD, "--out", "ranked.json", "--rows-at-once", AT_ONCE)
    assert not (here / "ranked.json").exists()
    assert rank(*BATCHBALD, "--resume") == undisturbed
    assert run_rows == [45]
    assert sorted(path.name for path in here.iterdir()) == ["few.npy", "other.json", "pool.npy", "ranked.json"]


def stopped(monkeypatch, chunks):
    """Somebody presses ctrl-C in the chunk after so many."""
    whole, count = BundleAnswerer.arrays, iter(range(chunks))

    def arrays(self, need, inputs, rows):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return whole(self, need, inputs, rows)

    monkeypatch.setattr(BundleAnswerer, "arrays", arrays)


def test_ctrl_c_says_how_to_go_on_and_another_question_is_refused(mcdrop, rank, bundles, monkeypatch):
    undisturbed = rank(out="other.json")
    command = ["rank", "digits", "pool.npy", "--out", "ranked.json", "--rows-at-once", AT_ONCE, "--bundles", bundles]
    with monkeypatch.context() as patch:
        stopped(patch, 3)
        code, _, err = mcdrop(*command)
    assert code != 0
    assert "the same command with --resume goes on" in err
    assert_refused(mcdrop(*command), "go on with --resume, or remove it")
    for other, said in (
        (["--passes", 3], "the passes changed"),
        (["-k", 3], "score, selector or their parameters changed"),
        (["--version", 1], "the bundle changed"),
        (["--rows-at-once", 50], "the number of rows at once changed"),
    ):
        assert_refused(mcdrop(*command, "--resume", *other), said)
    assert rank("--resume") == undisturbed
    np.save("pool.npy", X.numpy() + 1)
    with monkeypatch.context() as patch:
        stopped(patch, 1)
        mcdrop(*command)
    np.save("pool.npy", X.numpy())
    assert_refused(mcdrop(*command, "--resume"), "the rows of pool changed")


def test_files_hold_the_same_picks(rank, mcdrop, here, bundles):
    rows = rank("-k", 4)["rows"]
    for suffix in ("csv", "jsonl", "parquet", "npz"):
        out = f"ranked.{suffix}"
        assert (
            mcdrop("rank", "digits", "pool.npy", "-k", 4, "--out", out, "--bundles", bundles, "--rows-at-once", 70)[0]
            == 0
        )
    assert [json.loads(line) for line in (here / "ranked.jsonl").read_text().splitlines()] == rows
    table = pq.read_table("ranked.parquet")
    assert table.to_pylist() == rows
    assert json.loads(table.schema.metadata[b"mcdrop"])["seed"] == 7
    with (here / "ranked.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items()} for row in found] == rows
    with np.load("ranked.npz") as arrays:
        assert arrays["indices"].tolist() == [row["index"] for row in rows]
        assert arrays["margin"].tolist() == [row["margin"] for row in rows]
        assert (arrays["model"].item(), arrays["score"].item()) == ("digits", "mutual_information")


def test_ids_go_through_and_name_what_is_excluded(rank, mcdrop, here, bundles):
    with (here / "pool.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *range(64), "price"])
        writer.writerows([f"n{number}", *row, 1 + number % 3] for number, row in enumerate(X.flatten(1).tolist()))
    table = ["--id-column", "name", "--cost-column", "price"]
    first = rank("-k", 2, *table, pool="pool.csv")["rows"]
    assert [row["id"] for row in first] == [f"n{row['index']}" for row in first]
    (here / "out.txt").write_text(f"{first[0]['id']}\n\n")
    then = rank("-k", 1, *table, "--exclude", "out.txt", pool="pool.csv")["rows"]
    assert then[0]["index"] == first[1]["index"]
    (here / "costs.txt").write_text("\n".join(str(1 + number % 3) for number in range(N)))
    (here / "numbers.txt").write_text(str(first[0]["index"]))
    same = rank("-k", 1, "--costs", "costs.txt", "--exclude", "numbers.txt")["rows"]
    assert same[0].items() <= then[0].items()
    _, out, _ = mcdrop("rank", "digits", "pool.csv", *table, "-k", 2, "--bundles", bundles)
    assert [row[2] for row in cells(out)] == ["id", *(row["id"] for row in first)]


def test_groups_come_from_a_file(rank, here):
    (here / "groups.txt").write_text("\n".join("ab"[number % 2] for number in range(N)))
    rows = rank("-k", 6, "--groups", "groups.txt", "--quotas", 2)["rows"]
    assert sorted(row["index"] % 2 for row in rows) == [0, 0, 1, 1]


def test_where_an_answer_is_not_finite_the_row_of_the_pool_is_named(mcdrop, here, nan_bundles):
    values = torch.rand(40, 2)
    values[33, 0] = -1
    np.save("bad.npy", values.numpy())
    command = ["rank", "rooted", "bad.npy", "--rows-at-once", 10, "--bundles", nan_bundles]
    assert_refused(mcdrop(*command), "rooted answers row 33 with NaN or infinity")


REFUSED = {
    "resume of nothing": (["--resume"], "name the same file again"),
    "no checkpoint": (["--resume", "--out", "a.csv"], "there is no a.csv.partial to resume"),
    "another suffix": (["--out", "a.txt"], "ends in .txt; .parquet, .csv, .json, .jsonl, .npz are written"),
    "no folder": (["--out", "no/a.csv"], "there is no folder no"),
    "no rows at once": (["--rows-at-once", 0], "0 rows at once"),
    "a row that is not there": (["--exclude", "rows.txt"], "names the row '300', which pool.npy has not"),
    "too few costs": (["--costs", "rows.txt"], "has 1 costs; one for each of the 300 rows"),
    "a cost that is none": (["--costs", "words.txt"], "the cost of row 0 is 'a'"),
    "a selector that is none": (["--selector", "best"], "there is no selector 'best'"),
    "a parameter of another": (["--beta", 2], "beta belongs to power"),
    "masks that are none": (["--masks", "both"], "masks is 'both'"),
    "a reduction that is none": (["--reduction", "sum"], "sum"),
}


@pytest.mark.parametrize(("args", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_means_nothing_is_refused_before_a_row_is_run(mcdrop, here, bundles, run_rows, args, said):
    (here / "rows.txt").write_text("300")
    (here / "words.txt").write_text("a\n" * N)
    assert_refused(mcdrop("rank", "digits", "pool.npy", *args, "--bundles", bundles), said)
    assert not run_rows
    assert not list(here.glob("*.partial"))
