"""The command that gives an ONNX file a dropout."""

from pathlib import Path
from typing import Annotated

import typer

from dropout_core.errors import InvalidInput
from mcdrop.cli.publish import read_onnx


def add_dropout(
    file: Annotated[Path, typer.Argument(help="The ONNX file.")],
    before: Annotated[str, typer.Option(help="A node, by its name or that of its first result; head: the last layer.")],
    p: Annotated[float, typer.Option(help="The probability that a number is dropped.")],
    out: Annotated[Path, typer.Option(help="Where to write the new file.")],
) -> None:
    """Give a network that was trained without dropout one before a node of it, so that it can be published.

    Its passes then say how far an answer hangs on single features of that node's input. That is no posterior of a
    training: the network never learnt to do without them. Choose --p by the likelihood of held-out data.

    Example: `mcdrop add-dropout net.onnx --before head --p 0.2 --out net-mc.onnx`
    """
    from mcdrop_models.onnx.from_onnx.add_dropout import add_dropout as inserted

    if out.exists():
        raise InvalidInput(f"{out} is there already; name another file.")
    out.write_bytes(inserted(read_onnx(file), before, p))
    typer.echo(f"wrote {out}: publish it with `mcdrop publish {out} --name … --task …`")
