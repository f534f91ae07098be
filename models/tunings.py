"""Measured choices of engines, kept by (bundle, machine, torch): a machine measures each bundle once."""

import hashlib
import json
import logging
import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from dropout_core.mc.program import Program
from dropout_core.mc.tune import tune
from dropout_core.mc.tuning import Tuning

_log = logging.getLogger(__name__)
_TUNING = TypeAdapter(Tuning)


class Tunings:
    """A folder of measured choices. Losing it costs a measurement, seconds for each bundle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, digest: str, program: Program, example: dict[str, Tensor]) -> Tuning:
        """The choices for a bundle: as measured before, or measured now and kept.

        digest: of what decides the bundle's answers. example: some rows of its inputs.
        """
        file = self._folder / f"{hashlib.sha256(f'{digest} {machine(program.device)}'.encode()).hexdigest()[:32]}.json"
        try:
            return _TUNING.validate_json(file.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            _log.warning("the measured choices in %s cannot be read and are measured again: %s", file, error)
        tuning = tune(program, example)
        try:
            self._keep(file, tuning)
        except OSError as error:
            _log.warning("the measured choices cannot be kept in %s: %s", self._folder, error.strerror)
        return tuning

    def _keep(self, file: Path, tuning: Tuning) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".part", delete=False) as part:
            json.dump(asdict(tuning), part)
        Path(part.name).replace(file)


def tunings_at(folder: Path | None) -> Tunings | None:
    """The choices kept in a folder; None where nothing is to be measured."""
    return None if folder is None else Tunings(folder)


def machine(device: torch.device) -> str:
    """What a measurement depends on: the processor and its cores, the device, torch, and the threads it may use."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return f"{name}, {threads}, {platform.machine()}, torch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
