"""What the README shows works as it stands there."""

import json
import os
import re
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from dropout_core.layers.variants import VARIANTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ADDRESS = "127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def shell(examples_server, tmp_path_factory):
    """Runs a block of the README where the example bundles are, against a server of them."""
    bundles, url = examples_server
    folder = tmp_path_factory.mktemp("reader")
    (folder / "bundles").symlink_to(bundles)
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "200"}

    def run(command: list[str], text: str) -> str:
        script = text.replace(ADDRESS, url.removeprefix("http://"))
        finished = subprocess.run(
            command, check=False, input=script, capture_output=True, text=True, cwd=folder, env=environment, timeout=120
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run


@pytest.mark.parametrize("block", blocks("python"), ids=["library", "client"])
def test_python_blocks_run(shell, block):
    shell([sys.executable, "-W", "error", "-"], block)


@pytest.mark.parametrize(
    ("page", "prints"),
    [
        ("training", "dropout_before"),
        ("inputs", "least=1, most=512"),
        ("engine", "rows took "),
        ("open-inference", "quantiles (2, 2, 10)"),
        ("http", "asked at once: (200, 10)"),
    ],
)
def test_the_blocks_of_a_page_run(shell, page, prints):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    script = "".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert prints in shell([sys.executable, "-W", "error", "-"], script)


def test_the_shell_blocks_of_http_ask_with_files_and_print_lines(shell):
    text = (ROOT / "docs" / "http.md").read_text()
    script = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    *_, chosen, first, second, third = shell(["bash", "-e"], script).splitlines()
    assert sorted(json.loads(chosen)["indices"]) == [1, 2]
    assert [json.loads(line)["row"] for line in (first, second, third)] == [0, 1, 2]


def test_the_library_example_is_under_twenty_lines():
    assert len(blocks("python")[0].splitlines()) < 20


def test_curl_blocks_show_that_a_digit_upside_down_is_more_uncertain(shell):
    answers = [json.loads(shell(["bash", "-e"], block)) for block in blocks("bash") if block.startswith("curl")]
    assert len(answers) == 2
    upright, turned = (answer["outputs"] for answer in answers)
    for measure in ("least_confidence", "predictive_entropy", "mutual_information"):
        assert turned[measure][0] > 10 * upright[measure][0]


def test_the_table_holds_the_answers_to_the_curl_blocks(shell):
    """Training rounds otherwise on other machines, so the figures are compared in size only: within a factor of 5."""
    answers = [json.loads(shell(["bash", "-e"], block)) for block in blocks("bash") if block.startswith("curl")]
    for name, answer in zip(("upright", "upside down"), answers, strict=True):
        row = re.search(rf"^\| {name} \|(.*)\|$", README, re.MULTILINE)
        shown = [float(cell) for cell in row[1].split("|")]
        for figure, values in zip(shown, answer["outputs"].values(), strict=True):
            assert figure / 5 <= values[0] <= figure * 5


def test_shell_block_runs(shell):
    (block,) = [block for block in blocks("bash") if not block.startswith("curl")]
    printed = shell(["bash", "-e"], block)
    assert "digits" in printed
    assert "mutual_information" in printed


def test_the_table_of_layers_is_that_of_the_library():
    table = [astuple(variant) for variant in VARIANTS]
    for names, *cells in table:
        layers = ", ".join(f"`{name}`" for name in names.split(", "))
        assert f"\n| {' | '.join([layers, *cells])} |\n" in README
    assert len(re.findall(r"^\| `[A-Z]\w+`", README, re.MULTILINE)) == len(table)


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200
