"""Laws of the layout that import-linter does not check."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_PACKAGES = {
    "dropout_core": _ROOT / "dropout_core",
    "mcdrop_models": _ROOT / "models" / "mcdrop_models",
    "mcdrop": _ROOT / "service" / "mcdrop",
}
# An optional extra, imported when a curve is drawn.
_OPTIONAL_IMPORTS = {("dropout_core/training/schedules.py", "matplotlib")}
_GLOSSARY = _ROOT / "docs" / "glossary.md"
_MOST_MODULES_OF_A_ROOT = 8
_MOST_MODULES_OF_A_FOLDER = 14
_LARGER_FOLDERS = {"layers": 21, "cli": 16}  # one file for each family of layers, and for each command


def _modules(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.py") if path.stem != "__init__"]


def _imported_packages(path: Path) -> Iterator[str]:
    """Yield the top-level package of every import of a file, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def _public_names(path: Path) -> Iterator[str]:
    """Yield the public functions and classes of a module."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def _names_that_occur_twice() -> set[str]:
    """Return the public names and module names of which the packages have more than one."""
    places = defaultdict(set)
    for root in _PACKAGES.values():
        for path in root.rglob("*.py"):
            if path.stem != "__init__":
                places[path.stem].add(("module", path))
            for name in _public_names(path):
                places[name].add(("name", path))
    kinds = {name: [kind for kind, _ in found] for name, found in places.items()}
    return {name for name, found in kinds.items() if found.count("name") > 1 or found.count("module") > 1}


def _documented_exceptions() -> set[str]:
    """Return the names in the first column of the glossary's table of names that occur twice."""
    _, _, section = _GLOSSARY.read_text().partition("\n## Names that occur twice\n")
    section = section.partition("\n## ")[0]
    return {name for row in re.findall(r"^\|([^|]*)\|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def test_the_core_imports_only_torch_and_the_standard_library():
    allowed = {"dropout_core", "torch", *sys.stdlib_module_names}
    paths = list(_PACKAGES["dropout_core"].rglob("*.py"))

    foreign = {
        (path.relative_to(_ROOT).as_posix(), name)
        for path in paths
        for name in _imported_packages(path)
        if name not in allowed
    }

    assert len(paths) > 100
    assert foreign == _OPTIONAL_IMPORTS


@pytest.mark.parametrize("package", _PACKAGES)
def test_a_package_root_holds_few_modules(package):
    assert len(_modules(_PACKAGES[package])) <= _MOST_MODULES_OF_A_ROOT


@pytest.mark.parametrize("package", _PACKAGES)
def test_a_folder_holds_few_modules(package):
    folders = [folder for folder in _PACKAGES[package].rglob("*") if folder.is_dir()]

    crowded = {
        str(folder)
        for folder in folders
        if len(_modules(folder)) > _LARGER_FOLDERS.get(folder.name, _MOST_MODULES_OF_A_FOLDER)
    }

    assert crowded == set()


def test_public_names_occur_once():
    exceptions = _documented_exceptions()

    assert exceptions
    assert _names_that_occur_twice() - exceptions == set()
