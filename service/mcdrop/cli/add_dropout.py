"""The command that inserts dropout into an ONNX file."""

from pathlib import Path
from typing import Annotated

import typer

from dropout_core.errors import InvalidInput


def add_dropout(
    file: Annotated[Path, typer.Argument(help="The ONNX file.")],
    before: Annotated[
        str,
        typer.Option(help="The node to insert it before: its name, its first output, or head, the last layer."),
    ],
    p: Annotated[float, typer.Option(help="The probability of dropping a value.")],
    out: Annotated[Path, typer.Option(help="Where to write the new file.")],
) -> None:
    """Insert dropout into a network that was trained without it, so that it can be published.

    The passes then show how much an answer depends on single features of the node's input. They are not samples of a
    posterior, because the network was not trained with dropout. Choose --p by the likelihood of held-out data.

    Example: `mcdrop add-dropout net.onnx --before head --p 0.2 --out net-mc.onnx`
    """
    from mcdrop.cli.publish import read_onnx
    from mcdrop_models.onnx.from_onnx.add_dropout import add_dropout as inserted

    if out.exists():
        raise InvalidInput(f"{out} exists already; name another file.")
    out.write_bytes(inserted(read_onnx(file), before, p))
    typer.echo(f"wrote {out}: publish it with `mcdrop publish {out} --name … --task …`")
