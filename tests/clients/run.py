"""Clients that need environments of their own, each asking a server, or an exported file: make test-clients."""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.export import export_onnx
from mcdrop_models.publishing.torch import publish
from tests.support import service_nets as nets
from tests.support.processes import serving

_NAMES = ("mean", "mutual_information", "passes_used")
_PASSES, _SEED = 40, 5
_HERE = Path(__file__).parent


def main(environments: Path) -> int:
    """How many checks failed. environments: a folder for each client, with its own python or packages of node."""
    torch.set_num_threads(1)
    passed = failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _publish(folder / "bundles")
        _write_wanted(folder)
        _write_exported(folder)
        with serving(folder / "bundles") as server:
            server.wait_ready()
            for environment in sorted(environments.iterdir()):
                lines = _ask(environment, server.url, folder)
                passed += sum(line.startswith("passed ") for line in lines)
                failed += sum(line.startswith("failed ") for line in lines)
    print(f"{passed} passed, {failed} failed")  # noqa: T201
    return failed


def _publish(root: Path) -> None:
    network = nets.seeded(nets.Classifier, 2)
    publish(network, nets.images(4), name="digits", task="classification", root=root, passes=_PASSES, seed=_SEED)
    publish(
        nets.seeded(nets.Regressor, 2),
        torch.randn(4, 4, generator=torch.Generator().manual_seed(0)),
        name="readings",
        task="regression",
        output="mean_and_log_variance",
        root=root,
        output_scaling=((2.0, 0.5), (-1.0, 3.0)),
    )


def _write_wanted(folder: Path) -> None:
    """Rows, and the engine's answer to them."""
    predictor, rows = Predictor.load(Repository(folder / "bundles"), "digits", 1), nets.images(5, seed=11)
    estimate = predictor.predict(rows, replace(predictor.manifest.pass_options, passes=_PASSES, seed=_SEED))
    wanted = {name: estimate.measure(name).numpy() for name in _NAMES}
    np.savez(folder / "wanted.npz", rows=rows.numpy(), **wanted)


def _write_exported(folder: Path) -> None:
    """Models as ONNX files, rows for each, and the engine's answers: enough rows to go in several blocks."""
    rows = {
        "digits": nets.images(1000, seed=11),
        "readings": torch.randn(1000, 4, generator=torch.Generator().manual_seed(1)),
    }
    files = []
    for name, x in rows.items():
        predictor = Predictor.load(Repository(folder / "bundles"), name, 1)
        plan = replace(predictor.manifest.pass_options, passes=_PASSES, seed=_SEED)
        model, estimate = export_onnx(predictor, plan, {}), predictor.predict(x, plan)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        measures = {output.name: estimate.measure(output.name) for output in model.graph.output}
        files.append(
            {
                "name": name,
                "input": model.graph.input[0].name,
                "shape": list(x.shape),
                "rows": x.flatten().tolist(),
                "wanted": {
                    measure: {"shape": list(values.shape), "values": values.flatten().tolist()}
                    for measure, values in measures.items()
                },
            }
        )
    (folder / "exported.json").write_text(json.dumps(files))


def _ask(environment: Path, url: str, folder: Path) -> list[str]:
    """The lines that a client's script prints. One that ends without having told why has failed as well."""
    python, script = environment / "bin" / "python", _HERE / f"{environment.name}_asks.py"
    command = [python, script, url] if python.exists() else ["node", _HERE / environment.name / "asks.mjs", environment]
    ended = subprocess.run([*command, folder], capture_output=True, text=True, check=False)
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("passed ", "failed "))]
    if ended.returncode and not any(line.startswith("failed ") for line in lines):
        lines.append(f"failed to run: {ended.stderr[-2000:]}")
    for line in lines:
        print(f"{environment.name}: {line}", flush=True)  # noqa: T201
    return lines


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) > 0)
