"""What the OpenAPI document says is tried on a server."""

import copy
import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from mcdrop.server.app import create_app
from mcdrop.settings import Settings
from tests.support.asgi import listening

HERE = Path(__file__).parent
OPERATORS = "/v2/repository/models/"
KEY = "a-key-of-a-test"
ROW = [[0, 0, 5, 13, 9, 1, 0, 0]] * 8
TENSOR = {"name": "x", "shape": [1, 8, 8], "datatype": "FP32", "data": ROW[0] * 8}
MEASURES = ["mean", "variance", "std", "predictive_entropy", "mutual_information"]
# What there is, in the place of all that there may be: most of what is tried would be an unknown model otherwise.
FIELDS = {
    "/v1/": {
        "inputs": {"enum": [[ROW], ROW, [], [ROW[0]]]},
        "outputs": {"type": ["array", "null"], "items": {"enum": MEASURES}},
        "score": {"enum": [*MEASURES[3:], "random", None]},
        "ids": {"type": ["array", "null"], "items": {"type": "string"}, "minItems": 1, "maxItems": 1},
    },
    "/v2/": {
        "inputs": {"enum": [[TENSOR], [TENSOR, TENSOR], [{**TENSOR, "datatype": "BF16"}]]},
        "outputs": {"type": ["array", "null"], "items": {"enum": [{"name": name} for name in MEASURES]}},
    },
}
# Parameters that are no fields of a body.
BESIDE = {"name", "X-Request-Timeout-Ms", "X-Request-Id"}


class Ends:
    """Counts what became of requests."""

    def __init__(self):
        self.counted = Counter()

    def call_finished(self, event):
        self.counted[event.verb, event.outcome] += 1

    def batch_finished(self, event):
        pass


@pytest.fixture(scope="module")
def serve(bundles):
    """Starts servers of the bundles. Returns the address of one and its app."""
    with ExitStack() as stack:

        def start(**settings):
            app = create_app(Settings(bundles=bundles, watch=False, max_passes=64, **settings))
            address = stack.enter_context(listening(app))
            while not app.state.mcdrop.started:
                time.sleep(0.005)
            return address, app

        yield start


@pytest.fixture(scope="module")
def served(serve):
    return serve()


def narrowed(document):
    """A document with the models, the measures and the rows there are.

    A field may stand in the body or in the address, and not in both: where a version is named it is the address.
    """
    found = copy.deepcopy(document)
    for path, operations in found["paths"].items():
        names = ["heights", "nobody"] if path.startswith(OPERATORS) else ["digits"]
        kept = {"name": {"enum": names}, "version": {"type": "integer", "minimum": 1, "maximum": 3}}
        (operation,) = operations.values()
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        fields = {name: one for name, one in FIELDS.get(path[:4], {}).items() if name in body.get("properties", {})}
        if fields:
            body["properties"] |= fields
        if fields and "{version}" not in path:
            operation["parameters"] = [one for one in operation["parameters"] if one["name"] in BESIDE]
        elif fields and path.startswith("/v1/"):
            body["properties"] = {"inputs": fields["inputs"]}
        for parameter in operation["parameters"]:
            given = kept.get(parameter["name"]) or fields.get(parameter["name"])
            if given is not None:
                parameter["schema"] = given
    return found


def tried(address, document, folder, *flags):
    """What schemathesis says of a server and its document; it must be good."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(document))
    config, hooks = HERE / "schemathesis.toml", HERE.parents[1] / "support" / "schemathesis_bodies.py"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", file, "--url", address, *flags]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": str(hooks), "NO_COLOR": "1"}
    done = subprocess.run(command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout


def test_a_server_does_as_its_document_says(served, tmp_path):
    address, app = served
    ends = Ends()
    app.state.mcdrop.observers.append(ends)

    said = tried(address, narrowed(app.openapi()), tmp_path, f"--exclude-path-regex=^{OPERATORS}")

    assert "Tested: 26\n" in said
    for verb in ("predict", "rank", "infer"):
        assert min(ends.counted[verb, "success"], ends.counted[verb, "invalid"]) >= 20


def test_loading_and_unloading_are_as_the_document_says(served, tmp_path):
    address, app = served

    said = tried(address, narrowed(app.openapi()), tmp_path, f"--include-path-regex=^{OPERATORS}")

    assert "Tested: 2\n" in said


def test_a_server_with_keys_does_as_its_document_says(serve, tmp_path):
    address, app = serve(api_key=KEY)

    said = tried(address, narrowed(app.openapi()), tmp_path, "--phases=examples", f"--header=X-API-Key: {KEY}")

    assert "Tested: 28\n" in said
