"""Who computes a bundle: torch, onnxruntime, or who of the two is faster on this machine."""

from collections.abc import Mapping

from dropout_core.engine.engine import Engine
from dropout_core.engine.network import Network
from dropout_core.engine.torch_network import TorchNetwork
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Program
from mcdrop_models.bundle.repository import BundleFiles
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.loading.tunings import Backend, TuningCache
from mcdrop_models.onnx.runtime.options import Backends


def available_networks(files: BundleFiles, program: Program, backends: Backends) -> dict[Backend, Network]:
    """The networks to choose from for a bundle. Raises InvalidBundle where it has not what is wanted.

    A server may want "auto" of bundles that have one only; "torch" or "onnx" of a bundle without it is an error.
    """
    if program.graph.is_outline and files.suffix is None:
        raise InvalidBundle(f"program.json of {files.manifest.name} is an outline, and no suffix.onnx computes it.")
    wanted = backends.wanted or files.manifest.backend
    found: dict[Backend, Network] = {}
    if wanted != "onnx" and not program.graph.is_outline:
        found["torch"] = TorchNetwork(program)
    if wanted != "torch" and files.suffix is not None:
        # a server of torch alone shall not carry onnxruntime: 60 MB, half a second
        from mcdrop_models.onnx.runtime.network import onnx_network

        found["onnx"] = onnx_network(files.prefix, files.suffix, program, backends.runtime)
    if not found:
        has = "torch" if files.suffix is None else "onnx"
        raise InvalidBundle(
            f"{files.manifest.name} can be computed by {has} only, and {wanted} is wanted; let the backend be "
            f"{has} or auto, or publish the model for both."
        )
    return found


def choose_network(
    files: BundleFiles,
    program: Program,
    probe: NamedTensors,
    networks: Mapping[Backend, Network],
    tunings: TuningCache | None,
) -> Network:
    """The network to serve with: of several, the faster one; torch, where nothing is measured."""
    if len(networks) == 1:
        return next(iter(networks.values()))
    if tunings is None:
        return networks["torch"]
    engines = {name: Engine(program, network=network) for name, network in networks.items()}
    return networks[tunings.fastest(files.manifest.digest, program, probe, engines)]
