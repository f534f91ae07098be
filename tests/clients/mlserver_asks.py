"""`mlserver infer`, a batch scorer: each line of a file is a request, and lines may be sent together."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from checks import Served, check, run

served = Served()
MLSERVER = Path(sys.executable).with_name("mlserver")
_DTYPES = {"FP64": np.float64, "INT64": np.int64}


def infer(*flags):
    """The outputs of all rows by name, each sent on a line of its own."""
    questions, answers = served.folder / "questions.jsonl", served.folder / "answers.jsonl"
    lines = [
        {
            "id": str(index),
            "inputs": [{"name": "x", "shape": [1, *row.shape], "datatype": "FP32", "data": row.ravel().tolist()}],
            "outputs": [{"name": name} for name in served.wanted],
        }
        for index, row in enumerate(served.rows)
    ]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    where = ["-u", served.url.removeprefix("http://"), "-i", str(questions), "-o", str(answers)]
    ended = subprocess.run(
        [MLSERVER, "infer", "-m", "digits", *where, *flags], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-500:]
    found = sorted(map(json.loads, answers.read_text().splitlines()), key=lambda line: int(line["id"]))
    assert [line["id"] for line in found] == [line["id"] for line in lines], found[:1]
    return {
        name: np.concatenate([_output(line, name) for line in found])
        for name in (output["name"] for output in found[0]["outputs"])
    }


def _output(line, name):
    output = next(output for output in line["outputs"] if output["name"] == name)
    values = np.array(output["data"], _DTYPES[output["datatype"]]).reshape(output["shape"])
    return values.reshape(len(values), *served.wanted[name].shape[1:])  # it makes columns of vectors


@check
def json_row_by_row():
    served.assert_wanted(infer())


@check
def json_two_rows_at_once():
    served.assert_wanted(infer("-s", "2"))


@check
def bytes_row_by_row():
    served.assert_wanted(infer("-b"))


@check
def bytes_two_rows_at_once():
    served.assert_wanted(infer("-b", "-s", "2"))


run()
