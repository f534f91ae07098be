"""Every code block of the README and of docs/ runs, or is listed here with the reason why it cannot."""

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import astuple
from pathlib import Path

import pytest

from dropout_core.layers.variants import VARIANTS
from mcdrop.settings import Settings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (README, *sorted((ROOT / "docs").rglob("*.md")))}
ADDRESS = "127.0.0.1:8000"

# A phrase that the blocks of a page print, so that a page whose blocks stop early fails.
PRINTS = {
    "README.md": "label next",
    "docs/tutorials/first-server.md": '"defer":[true]',
    "docs/tutorials/your-network.md": "published mine/1",
    "docs/tutorials/what-to-label.md": "label these rows",
    "docs/how-to/inputs.md": "length",
    "docs/how-to/train.md": "dropout_before",
    "docs/how-to/serve.md": "alice",
    "docs/how-to/rank-pools.md": "",
    "docs/how-to/onnx.md": "(5, 10)",
    "docs/how-to/open-inference.md": "quantiles (2, 2, 10)",
    "docs/reference/http.md": "all parts: (200, 10)",
    "docs/explanation/passes.md": "rows took ",
}
# Blocks marked as text are not run: they start servers or containers, install packages or show output.
NOT_RUN = (
    "make serve",
    "make install",
    "docker build",
    "mcdrop serve",
    "mcdrop simulate",
    "mcdrop publish net.onnx",
    "mcdrop add-dropout net.onnx",
    "pip install",
    "OTEL_EXPORTER",
    "for name in litserve",
    ".venv/bin/pip install",
    "python benchmarks/",
    "mcdrop_ready == 0",
    "histogram_quantile",
    "bytes ─decode→",
)


def blocks(path: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each code block of a page."""
    return re.findall(r"^```([\w-]*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def is_run(language: str) -> bool:
    return language in {"python", "bash"}


RUN = [name for name, path in PAGES.items() if any(is_run(language) for language, _ in blocks(path))]


@pytest.fixture(scope="module")
def shell(examples_server, tmp_path_factory):
    """Run a script in a folder with the example bundles, against a server of them."""
    bundles, url = examples_server
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "200", "PYTHONWARNINGS": "error"}

    def run(language: str, text: str, folder: Path) -> str:
        command = {"python": [sys.executable, "-"], "bash": ["bash", "-e"]}[language]
        finished = subprocess.run(
            command,
            check=False,
            input=text.replace(ADDRESS, url.removeprefix("http://")),
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            timeout=120,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def folder() -> Path:
        made = tmp_path_factory.mktemp("reader")
        (made / "bundles").mkdir()
        for bundle in bundles.iterdir():
            (made / "bundles" / bundle.name).symlink_to(bundle)
        return made

    return run, folder


def scripts(path: Path) -> list[tuple[str, str]]:
    """Return the blocks to run: neighbours in one language are one script, as a reader would type them."""
    joined: list[tuple[str, str]] = []
    for language, text in blocks(path):
        if not is_run(language):
            continue
        if joined and joined[-1][0] == language and language == "python":
            joined[-1] = (language, joined[-1][1] + text)
        else:
            joined.append((language, text))
    return joined


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run_in_order(shell, page):
    run, folder = shell
    place = folder()
    printed = "".join(run(language, text, place) for language, text in scripts(PAGES[page]))
    assert PRINTS[page] in printed


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_block_is_run_parsed_or_listed_as_not_run(page):
    for language, text in blocks(PAGES[page]):
        if language == "json":
            json.loads(text)
        elif language == "toml":
            Settings(**tomllib.loads(text))
        elif not is_run(language):
            assert language == "text", f"a block of {page} has no language: {text[:60]}"
            assert any(listed in text for listed in NOT_RUN), f"a block of {page} is not run: {text[:60]}"


def test_a_digit_upside_down_is_more_uncertain(shell):
    run, folder = shell
    curls = [text for _, text in blocks(PAGES["docs/tutorials/first-server.md"]) if text.startswith("curl")]
    upright, turned = (json.loads(run("bash", text, folder()))["outputs"] for text in curls[:2])
    for measure in ("predictive_entropy", "mutual_information"):
        assert turned[measure][0] > 10 * upright[measure][0]


def test_the_table_of_layers_is_that_of_the_library():
    text = README.read_text()
    for names, *cells in map(astuple, VARIANTS):
        layers = ", ".join(f"`{name}`" for name in names.split(", "))
        assert f"\n| {' | '.join([layers, *cells])} |\n" in text
    assert len(re.findall(r"^\| `[A-Z]\w+`", text, re.MULTILINE)) == len(VARIANTS)


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) < 200


def test_every_link_between_pages_leads_somewhere():
    for page, path in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+\.(?:md|png))(?:#[\w-]+)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{page} links to {target}"
