"""The table of docs/reference/settings.md; `python -m tests.support.settings_table` writes it anew."""

import re
from pathlib import Path

from mcdrop.cli.flags import default_of
from mcdrop.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
_SHOWN = re.compile(r"^\| variable \|.*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


def table() -> str:
    """What there is to set: one row for each."""
    rows = [
        f"| `MCDROP_{name.upper()}` | {default_of(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | |", "|---|---|---|", *rows]).replace("|  |", "| |")


def shown() -> str:
    """The table as it stands on the page."""
    return _SHOWN.search(PAGE.read_text(encoding="utf-8"))[0].rstrip("\n")


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text(encoding="utf-8").replace(shown(), table()), encoding="utf-8")
