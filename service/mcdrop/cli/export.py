"""The command that exports a model and its passes as one ONNX file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dropout_core.errors import InvalidInput
from mcdrop.cli.options import Bundles, Version, bundles_folder, predictor_of

_out = Console(markup=False, emoji=False)


def export(
    name: Annotated[str, typer.Argument(help="The model.")],
    onnx: Annotated[Path, typer.Option(help="The file to write, .onnx.")],
    passes: Annotated[
        int | None, typer.Option(help="Stochastic passes in the file. The default is the bundle's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the masks. The default is the bundle's.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="The size of a free dimension, such as length=64. Give it once for each.")
    ] = None,
    thinned: Annotated[
        bool,
        typer.Option(
            "--thinned",
            help="Leave out the units that are dropped: faster for many rows, slower for one. Once loaded, the model "
            "holds a part of the weights for each pass.",
        ),
    ] = False,
    version: Version = None,
    bundles: Bundles = None,
) -> None:
    """Export a model and its passes as one ONNX file that takes rows and returns mean, variance and entropies.

    The file draws no random numbers, so that every ONNX runtime gives the answers of this seed and number of passes.

    Example: `mcdrop export digits --onnx digits.onnx --passes 32`
    """
    from mcdrop_models.bundle.repository import Repository
    from mcdrop_models.publishing.export import export_onnx, thinned_bytes

    sizes = _sizes(size or [])
    predictor = predictor_of(name, version, bundles, "cpu")
    manifest = predictor.manifest
    options = manifest.pass_options.overridden(passes=passes, seed=seed)
    files = Repository(bundles_folder(bundles)).read(name, predictor.version)
    model = export_onnx(predictor, options, sizes, files, thin=thinned)
    content = model.SerializeToString(deterministic=True)
    onnx.write_bytes(content)
    taken = f"{len(content)} bytes"
    if thinned:
        taken += f", and {thinned_bytes(model)} more for thinned weights once it is loaded"
    _out.print(
        f"wrote {onnx}: {name}/{predictor.version}, {options.passes} passes of seed {options.seed}, {taken}",
        highlight=False,
        soft_wrap=True,
    )


def _sizes(given: list[str]) -> dict[str, int]:
    """Return the size of each free dimension by its name."""
    sizes: dict[str, int] = {}
    for one in given:
        name, _, number = one.partition("=")
        if not (number.isascii() and number.isdigit()) or name in sizes:
            raise InvalidInput(f"the size is {one!r}; give each free dimension once, as in --size length=64.")
        sizes[name] = int(number)
    return sizes
