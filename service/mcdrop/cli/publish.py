"""The command that publishes a network: code imported on the publisher's machine, or an ONNX file."""

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import safetensors
import safetensors.torch
import torch
import typer
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from mcdrop.cli import console
from mcdrop.cli.options import Bundles, bundles_folder
from mcdrop_models.bundle.spec import BundleSpec
from mcdrop_models.bundle.write import PublishedBundle
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.publishing.torch import publish_network

_EXAMPLE_ROWS = 4


def _add_spec_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes **fields one flag for each field of a BundleSpec that a text or a number can say."""
    hints = get_type_hints(BundleSpec)
    flags = [flag for field in fields(BundleSpec) if (flag := _flag(field, hints[field.name])) is not None]
    own = [one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD]
    command.__signature__ = inspect.Signature([*own[:1], *flags, *own[1:]])  # type: ignore[attr-defined]
    return command


def _flag(field: Field[Any], hint: Any) -> inspect.Parameter | None:
    kinds = {get_origin(kind) or kind for kind in (hint, *get_args(hint))}
    kind: Any = str if kinds & {str, Literal, Sequence} else int if int in kinds else None
    if kind is None or Mapping in kinds or tuple in kinds:
        return None
    required = field.default is MISSING
    text = field.metadata["description"]
    text += " Separate them with commas." if Sequence in kinds else ""
    text += "" if required or field.default is None else f" The default is {field.default}."
    annotation: Any = Annotated[kind if required else kind | None, typer.Option(help=text)]
    default = inspect.Parameter.empty if required else None
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@_add_spec_flags
def publish(
    network: Annotated[
        str,
        typer.Argument(
            help="package.module:factory, a function without arguments that returns the network; or an ONNX file."
        ),
    ],
    *,
    example_shape: Annotated[
        str | None, typer.Option(help="Shape of one row, such as 1,28,28. An ONNX file may declare it.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The trained weights, .safetensors.")] = None,
    bundles: Bundles = None,
    **fields: Any,
) -> None:
    """Publish your own network, from code or an ONNX file. It is checked here, and served without your code.

    Example: `mcdrop publish net:make --weights net.safetensors --example-shape 28,28 --name net --task classification`

    Example: `mcdrop publish net.onnx --name net --task classification`
    """
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # what torch.export logs at length it also raises
    given = {name: value for name, value in fields.items() if value is not None}
    if "labels" in given:
        given["labels"] = [label.strip() for label in given["labels"].split(",")]
    example = None if example_shape is None else _example(example_shape)
    publish_from = _publish_file if network.endswith(".onnx") else _publish_factory
    console.published(publish_from(network, weights, example, given, bundles_folder(bundles)))


def _publish_factory(
    path: str, weights: Path | None, example: Tensor | None, given: dict[str, Any], root: Path
) -> PublishedBundle:
    if example is None:
        raise InvalidInput("a factory does not declare the shape of its rows; give --example-shape, such as 1,28,28.")
    if given.get("result", "").isdecimal():
        given = {**given, "result": int(given["result"])}
    return publish_network(load_network(path, weights), example, BundleSpec(**given), root)


def _publish_file(
    path: str, weights: Path | None, example: Tensor | None, given: dict[str, Any], root: Path
) -> PublishedBundle:
    if weights is not None or given.get("backend", "onnx") != "onnx":
        raise InvalidInput(
            f"{path} holds its weights and is computed by onnxruntime; leave out --weights and --backend."
        )
    if "class_axis" in given:
        raise InvalidInput(f"the classes of {path} must be its last axis; leave out --class-axis.")
    from mcdrop_models.publishing.onnx import publish_onnx_network

    spec = BundleSpec(**{**given, "backend": "onnx"})
    return publish_onnx_network(read_onnx(Path(path)), example, spec, root)


def load_network(path: str, weights: Path | None) -> nn.Module:
    """Return the network that a factory makes, with its weights loaded.

    Args:
        path: package.module:factory; modules of the current folder are found as well.
        weights: A .safetensors file with the state dict of the network, or None for the weights that the factory made.

    Returns:
        The network.

    Raises:
        InvalidInput: There is no such factory, it does not make a network, or the weights do not fit.
    """
    network = _factory(path)()
    if not isinstance(network, nn.Module):
        raise InvalidInput(f"{path} returns a {type(network).__name__}, but it must return a torch.nn.Module.")
    if weights is not None:
        _load_weights(network, weights)
    return network


def _factory(path: str) -> Callable[[], Any]:
    module_name, _, attribute = path.partition(":")
    if not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise InvalidInput(f"{path!r} does not name a factory; write package.module:factory.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidInput(
            f"{path} cannot be imported: {error}. Modules are looked for in the current folder and among the "
            "installed packages."
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise InvalidInput(
            f"{module_name}, which is {getattr(module, '__file__', None) or 'part of Python'}, has no {attribute!r}. "
            "Name a function of it; if you mean another file, rename that file, since Python has a module of its name."
        )
    if not callable(factory):
        raise InvalidInput(f"{path} is a {type(factory).__name__}; name a function that returns the network.")
    return factory  # type: ignore[no-any-return]


def _load_weights(network: nn.Module, weights: Path) -> None:
    try:
        network.load_state_dict(safetensors.torch.load_file(weights))
    except safetensors.SafetensorError as error:
        raise InvalidInput(
            f"{weights} is not a safetensors file: {error}. A file of torch.save can run code when it is read; convert "
            f"it where you trust it: safetensors.torch.save_file(network.state_dict(), 'net.safetensors')."
        ) from error
    except (OSError, RuntimeError) as error:
        raise InvalidInput(f"{weights} does not fit the network: {error}.") from error


def _example(shape: str) -> Tensor:
    """Return standard normal rows of a shape such as "1,28,28"."""
    sizes = shape.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise InvalidInput(f"the example shape is {shape!r}; write the sizes of one row, such as 1,28,28.")
    return torch.randn(_EXAMPLE_ROWS, *map(int, sizes), generator=torch.Generator().manual_seed(0))


def read_onnx(path: Path) -> bytes:
    """Return the content of an ONNX file.

    Args:
        path: The file. Its size is checked before it is read.

    Returns:
        Its content.

    Raises:
        InvalidBundle: The file is too large.
    """
    from mcdrop_models.onnx.graph.checks import MAX_BYTES

    size = path.stat().st_size
    if size >= MAX_BYTES:
        raise InvalidBundle(f"{path} has {size} bytes; fewer than {MAX_BYTES} are allowed.")
    return path.read_bytes()
