"""A network of the publisher's own code, imported on the publisher's machine. The server imports none."""

import importlib
import sys
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from dropout_core.errors import InvalidInput
from dropout_core.mc.measures import KINDS, OutputKind, Task
from models.publish import Published, publish

_EXAMPLE_ROWS = 4
_TASKS: dict[str, Task] = {kind.task: kind.task for kind in KINDS.values()}
_OUTPUTS: dict[str, OutputKind] = {output: output for output in KINDS}


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


def publish_factory(
    network: nn.Module,
    name: str,
    task: str,
    output: str | None,
    example_shape: str,
    labels: str | None,
    root: Path,
) -> Published:
    """Publish with an example of standard normal rows of a shape such as "1,28,28"."""
    if task not in _TASKS:
        raise InvalidInput(f"the task is {task!r}; choose {' or '.join(_TASKS)}.")
    if output is not None and output not in _OUTPUTS:
        raise InvalidInput(f"the output is {output!r}; choose one of {', '.join(_OUTPUTS)}.")
    sizes = example_shape.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise InvalidInput(f"the example shape is {example_shape!r}; write the sizes of one row, such as 1,28,28.")
    shape = [int(size) for size in sizes]
    return publish(
        network,
        torch.randn(_EXAMPLE_ROWS, *shape, generator=torch.Generator().manual_seed(0)),
        name=name,
        task=_TASKS[task],
        output=_OUTPUTS[output] if output else None,
        labels=[label.strip() for label in labels.split(",")] if labels else None,
        root=root,
    )
