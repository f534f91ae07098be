"""`import mcdrop`: what it offers, and what it does not load."""

import subprocess
import sys

import pytest

import mcdrop

PUBLIC = ["AsyncClient", "Client", "__version__", "embed", "layers", "load", "predict", "publish", "rank"]
HEAVY = {"torch", "fastapi", "starlette", "onnx", "onnxruntime", "uvicorn"}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a statement loads in a fresh interpreter."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_public_names_are_pinned():
    assert mcdrop.__all__ == PUBLIC
    assert dir(mcdrop) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists(name):
    assert getattr(mcdrop, name) is not None


def test_an_unknown_name_is_an_attribute_error_that_lists_the_names():
    with pytest.raises(AttributeError, match="has no attribute 'predicts'; its names are AsyncClient"):
        mcdrop.predicts  # noqa: B018 - the access itself is tested


def test_importing_mcdrop_loads_nothing_heavy():
    assert not loaded_by("import mcdrop; mcdrop.__version__") & HEAVY


def test_the_client_loads_neither_torch_nor_a_web_framework():
    assert not loaded_by("from mcdrop import AsyncClient, Client") & HEAVY
