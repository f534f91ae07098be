"""Keeps the measured choices of engines by (bundle, machine, torch), so that a machine measures each bundle once."""

import hashlib
import logging
import math
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError

from dropout_core.engine.engine import Engine
from dropout_core.engine.network import Network
from dropout_core.engine.tune import seconds, tune
from dropout_core.engine.tuning import Tuning
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Program
from mcdrop_models.bundle.atomic import replace_file

_log = logging.getLogger(__name__)
Backend = Literal["torch", "onnx"]
T = TypeVar("T")
_TUNING: TypeAdapter[Tuning] = TypeAdapter(Tuning)
_BACKEND: TypeAdapter[Backend] = TypeAdapter(Backend)
# Backends are compared at one row, a single request, and at 32, a batch of several.
_ROWS = (1, 32)


class TuningCache:
    """A folder of measured choices. Losing it costs a measurement of seconds for each bundle.

    Args:
        folder: The folder; it is made when something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, digest: str, program: Program, example: NamedTensors, network: Network | None = None) -> Tuning:
        """Return the tuning of a bundle: as measured before, or measured now and kept.

        Args:
            digest: The digest of the bundle.
            program: Its program.
            example: Rows to measure with, by input.
            network: The implementation that computes it, where that is not torch.

        Returns:
            The tuning.
        """
        if network is None:
            return self._known(f"{digest} {machine_name(program.device)}", _TUNING, lambda: tune(program, example))
        by = f"{digest} {machine_name(program.device)}, {network.computer}"
        return self._known(by, _TUNING, lambda: tune(program, example, network))

    def fastest(
        self, digest: str, program: Program, example: NamedTensors, engines: Mapping[Backend, Engine]
    ) -> Backend:
        """Return the backend that computes a bundle fastest: as measured before, or measured now and kept.

        Args:
            digest: The digest of the bundle.
            program: Its program.
            example: Rows to measure with, by input.
            engines: An engine of each backend. Their times at one row and at 32 are multiplied and compared.

        Returns:
            The fastest backend.
        """

        def measure() -> Backend:
            each = {
                name: math.prod(seconds(engine, program, example, count) for count in _ROWS)
                for name, engine in engines.items()
            }
            return min(each, key=each.__getitem__)

        return self._known(f"{digest} {machine_name(program.device)}, who computes", _BACKEND, measure)

    def _known(self, key: str, kind: TypeAdapter[T], measure: Callable[[], T]) -> T:
        file = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        try:
            return kind.validate_json(file.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            _log.warning("the measured choices in %s cannot be read and are measured again: %s", file, error)
        result = measure()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(file, kind.dump_json(result))
        except OSError as error:
            _log.warning("the measured choices cannot be kept in %s: %s", self._folder, error.strerror)
        return result


def tuning_cache_at(folder: Path | None) -> TuningCache | None:
    """Return the cache in a folder.

    Args:
        folder: The folder; None to measure nothing.

    Returns:
        The cache, or None where there is no folder.
    """
    return None if folder is None else TuningCache(folder)


def machine_name(device: torch.device) -> str:
    """Return what a measurement depends on: the processor and its cores, the device, torch, and its threads.

    Args:
        device: The device that computes.

    Returns:
        A description of the machine.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return f"{name}, {threads}, {platform.machine()}, torch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
