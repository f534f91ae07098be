"""What a figure was measured on, and how figures are printed and kept."""

import json
import os
import platform
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table


def description() -> dict[str, str | int]:
    """The machine and the versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def report(title: str, rows: list[dict[str, object]], file: Path | None) -> None:
    """Print a table, and keep it as JSON beside the machine's description when a file is named."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    if file is not None:
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        file.write_text(json.dumps({"command": command, "machine": description(), "rows": rows}, indent=1) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()
