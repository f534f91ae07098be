"""Who computes a bundle: torch, onnxruntime, or who of the two is faster on this machine."""

from collections.abc import Mapping

from dropout_core.mc.engine import Engine
from dropout_core.mc.inputs import Named
from dropout_core.mc.network import Network
from dropout_core.mc.program import Program
from dropout_core.mc.staged import StagedNetwork
from models.errors import InvalidBundle
from models.repository import Files
from models.runtime import Backends
from models.tunings import Computer, Tunings


def networks_of(files: Files, program: Program, backends: Backends) -> dict[Computer, Network]:
    """The networks to choose from for a bundle. Raises InvalidBundle where it has not what is wanted.

    A server may want "auto" of bundles that have one only; "torch" or "onnx" of a bundle without it is an error.
    """
    if program.graph.is_outline and files.suffix is None:
        raise InvalidBundle(f"program.json of {files.manifest.name} is an outline, and no suffix.onnx computes it.")
    wanted = backends.wanted or files.manifest.backend
    found: dict[Computer, Network] = {}
    if wanted != "onnx" and not program.graph.is_outline:
        found["torch"] = StagedNetwork(program)
    if wanted != "torch" and files.suffix is not None:
        # a server of torch alone shall not carry onnxruntime: 60 MB, half a second
        from models.onnx_network import onnx_network  # noqa: PLC0415

        found["onnx"] = onnx_network(files.prefix, files.suffix, program, backends.runtime)
    if not found:
        has = "torch" if files.suffix is None else "onnx"
        raise InvalidBundle(
            f"{files.manifest.name} can be computed by {has} only, and {wanted} is wanted; let the backend be "
            f"{has} or auto, or publish the model for both."
        )
    return found


def fastest(
    files: Files, program: Program, probe: Named, networks: Mapping[Computer, Network], tunings: Tunings | None
) -> Network:
    """The network to serve with: of several, the faster one; torch, where nothing is measured."""
    if len(networks) == 1:
        return next(iter(networks.values()))
    if tunings is None:
        return networks["torch"]
    engines = {name: Engine(program, network=network) for name, network in networks.items()}
    return networks[tunings.fastest(files.manifest.digest, program, probe, engines)]
