"""A network of the publisher's own: code imported on the publisher's machine, or an ONNX file. Servers import none."""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.measures.measures import OUTPUT_KINDS, OutputKind, Task
from mcdrop_models.bundle.manifest import BackendChoice
from mcdrop_models.bundle.write import PublishedBundle
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.publishing.torch import publish

T = TypeVar("T")
_EXAMPLE_ROWS = 4
_TASKS: dict[str, Task] = {kind.task: kind.task for kind in OUTPUT_KINDS.values()}
_OUTPUTS: dict[str, OutputKind] = {output: output for output in OUTPUT_KINDS}
_BACKENDS: dict[str, BackendChoice] = {backend: backend for backend in get_args(BackendChoice)}


def load_factory(path: str, weights: Path | None) -> nn.Module:
    """The network that package.module:factory makes, found from the current folder as well, with its weights loaded."""
    module_name, _, attribute = path.partition(":")
    if not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise InvalidInput(f"{path!r} names no factory; write package.module:factory.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"{path} cannot be imported: {error}.") from error
    if not callable(factory):
        raise InvalidInput(f"{path} is a {type(factory).__name__}; name a function that makes the network.")
    network = factory()
    if not isinstance(network, nn.Module):
        raise InvalidInput(f"{path} makes a {type(network).__name__}; it must return a torch.nn.Module.")
    if weights is not None:
        try:
            network.load_state_dict(safetensors.torch.load_file(weights))
        except (OSError, safetensors.SafetensorError, RuntimeError) as error:
            raise InvalidInput(f"{weights} does not fit the network: {error}.") from error
    return network


@dataclass(frozen=True)
class Said:
    """What the command line says of a network."""

    name: str
    task: str
    output: str | None
    labels: str | None
    example_shape: str | None
    result: str | None
    root: Path

    @property
    def given(self) -> dict[str, Any]:
        """As `publish` takes it. Raises InvalidInput for a word it does not know."""
        return {
            "name": self.name,
            "task": _known("task", self.task, _TASKS),
            "output": None if self.output is None else _known("output", self.output, _OUTPUTS),
            "labels": [label.strip() for label in self.labels.split(",")] if self.labels else None,
            "result": self.result,
            "root": self.root,
        }

    @property
    def example(self) -> Tensor | None:
        """Standard normal rows of a shape such as "1,28,28"; None where none was said."""
        if self.example_shape is None:
            return None
        sizes = self.example_shape.split(",")
        if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
            raise InvalidInput(
                f"the example shape is {self.example_shape!r}; write the sizes of one row, such as 1,28,28."
            )
        shape = [int(size) for size in sizes]
        return torch.randn(_EXAMPLE_ROWS, *shape, generator=torch.Generator().manual_seed(0))


def publish_factory(path: str, weights: Path | None, backend: str | None, said: Said) -> PublishedBundle:
    """Publish what package.module:factory makes."""
    example = said.example
    if example is None:
        raise InvalidInput("the network takes rows of a shape that it does not tell; give --example-shape.")
    chosen = _known("backend", backend or "torch", _BACKENDS)
    return publish(load_factory(path, weights), example, backend=chosen, **said.given)


def publish_file(path: Path, weights: Path | None, backend: str | None, said: Said) -> PublishedBundle:
    """Publish an ONNX file."""
    if weights is not None or backend not in (None, "onnx"):
        raise InvalidInput(
            f"{path} holds its weights and is computed by onnxruntime; leave out --weights and --backend."
        )
    from mcdrop_models.publishing.onnx import publish_onnx

    return publish_onnx(read_onnx(path), said.example, **said.given)


def read_onnx(path: Path) -> bytes:
    """The content of an ONNX file, bounded before it is read."""
    from mcdrop_models.onnx.graph.checks import MAX_BYTES

    size = path.stat().st_size
    if size >= MAX_BYTES:
        raise InvalidBundle(f"{path} has {size} bytes; fewer than {MAX_BYTES} are read.")
    return path.read_bytes()


def _known(what: str, word: str, words: Mapping[str, T]) -> T:
    if word not in words:
        raise InvalidInput(f"the {what} is {word!r}; choose one of {', '.join(words)}.")
    return words[word]
