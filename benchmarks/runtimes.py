"""Claim: onnxruntime, behind the engine or with all passes in one file, gives torch's answers, and convolutions sooner.

Each network is published for both, and exported with its 32 passes. One intra-op thread, CPU time, all in turn in one
process, medians; masks are kept from the run before, as in service. Differences are the largest of mean, variance and
entropies, in probability and nats; the file is asked at every optimisation level of onnxruntime, and by onnx's own
reference where that takes seconds. Cells of more than some seconds are left out.

Run: python benchmarks/runtimes.py [--json FILE] [--nets mlp,cnn]
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import torch
import typer
from machine import report
from nets import NETS, built
from onnx.reference import ReferenceEvaluator
from timing import interleaved
from torch import Tensor

from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.estimate.estimate import Estimate
from mcdrop_models.bundle.repository import BundleFiles, Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.loading.tunings import TuningCache
from mcdrop_models.onnx.runtime.options import Backends
from mcdrop_models.publishing.export import export_onnx
from mcdrop_models.publishing.torch import publish

_PLAN = PassOptions(32, 0)
_ROWS = (1, 32, 256)
_MEASURES = ("mean", "variance", "predictive_entropy", "expected_entropy", "mutual_information")
_LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
_REFERENCE = ("mlp",)  # of the others, it takes minutes
_MOST_S = 8.0  # of one network at one number of rows


def main(
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    nets: Annotated[str, typer.Option(help="Some of them, with commas between.")] = ",".join(NETS),
    rounds: Annotated[int, typer.Option(min=1)] = 15,
) -> None:
    torch.set_num_threads(1)
    costs: list[dict[str, object]] = []
    parity: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in nets.split(","):
            bench(Path(folder), name, rounds, costs, parity)
    report("CPU ms of 32 passes, 1 thread", costs, json)
    report("largest difference from torch's engine", parity, json and json.with_stem(f"{json.stem}_parity"))


def bench(
    folder: Path, name: str, rounds: int, costs: list[dict[str, object]], parity: list[dict[str, object]]
) -> None:
    x = torch.randn(max(_ROWS), *NETS[name].shape, generator=torch.Generator().manual_seed(1))
    published = publish(built(name), x[:8], name=name, task="classification", root=folder, backend="auto")
    repository, tunings = Repository(folder), TuningCache(folder / "tunings")
    torchs, onnxs = (
        Predictor.load(repository, name, 1, tunings=tunings, backends=Backends(by)) for by in ("torch", "onnx")
    )
    file = export_onnx(torchs, _PLAN, {}, repository.read(name, 1)).SerializeToString(deterministic=True)
    sessions = {level: session(file, level) for level in _LEVELS}
    thinned = thinned_session(torchs, repository.read(name, 1))
    few = x[:8]
    wanted = torchs.predict(few, _PLAN)
    row: dict[str, object] = {"net": name, "backend": difference(wanted, asked(onnxs.predict(few, _PLAN)))}
    row |= {level: difference(wanted, answer(one, few)) for level, one in sessions.items()}
    small = torchs.predict(few[:1], _PLAN)
    row["reference"] = difference(small, by_reference(file, few[:1])) if name in _REFERENCE else "–"
    parity.append(row)
    halves = sum(part.stat().st_size for part in published.path.glob("*.onnx"))
    weights = (published.path / "weights.safetensors").stat().st_size
    row_s = 0.0
    for count in _ROWS:
        if row_s * count > _MOST_S:
            continue
        rows = x[:count]
        methods: dict[str, Callable[[], object]] = {
            "torch": lambda rows=rows: torchs.predict(rows, _PLAN).mutual_information,
            "onnx": lambda rows=rows: onnxs.predict(rows, _PLAN).mutual_information,
            "file": lambda rows=rows: answer(sessions["ENABLE_ALL"], rows),
        }
        if thinned is not None:
            methods["thinned"] = lambda rows=rows: answer(thinned, rows)
        once = sum(interleaved(methods, 1).values())
        row_s = once / count
        seconds = interleaved(methods, max(1, min(rounds, int(_MOST_S / once))))
        case: dict[str, object] = {"net": name, "rows": count, "thinned": "–"}
        case |= {by: 1e3 * s for by, s in seconds.items()}
        case |= {"torch/onnx": seconds["torch"] / seconds["onnx"], "torch/file": seconds["torch"] / seconds["file"]}
        costs.append({**case, "weights MB": weights / 1e6, "halves MB": halves / 1e6, "file MB": len(file) / 1e6})


def thinned_session(predictor: Predictor, files: BundleFiles) -> onnxruntime.InferenceSession | None:
    """The file that leaves dropped units out, where there is something to leave out."""
    try:
        return session(export_onnx(predictor, _PLAN, {}, files, thin=True).SerializeToString(), "ENABLE_ALL")
    except InvalidInput:
        return None


def session(content: bytes, level: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def answer(one: onnxruntime.InferenceSession, rows: Tensor) -> Mapping[str, Tensor]:
    found = one.run(_MEASURES, {one.get_inputs()[0].name: rows.numpy()})
    return {name: torch.from_numpy(np.asarray(value)) for name, value in zip(_MEASURES, found, strict=True)}


def by_reference(content: bytes, rows: Tensor) -> Mapping[str, Tensor]:
    model = onnx.load_from_string(content)
    found = ReferenceEvaluator(model).run(list(_MEASURES), {model.graph.input[0].name: rows.numpy()})
    return {name: torch.from_numpy(np.asarray(value)) for name, value in zip(_MEASURES, found, strict=True)}


def asked(estimate: Estimate) -> Mapping[str, Tensor]:
    return {name: estimate.measure(name) for name in _MEASURES}


def difference(wanted: Estimate, found: Mapping[str, Tensor]) -> float:
    return max(float((wanted.measure(name) - found[name]).abs().max()) for name in _MEASURES)


if __name__ == "__main__":
    typer.run(main)
