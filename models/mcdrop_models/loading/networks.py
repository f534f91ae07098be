"""Chooses the backend that computes a bundle: torch, onnxruntime, or the faster of the two on this machine."""

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
    """Return the implementations of a network that may compute a bundle, by backend.

    Args:
        files: The content of the bundle.
        program: Its program.
        backends: The backends that the operator allows. "auto" allows whatever the bundle has; "torch" and "onnx" need
            a bundle that has it.

    Returns:
        At least one implementation.

    Raises:
        InvalidBundle: The bundle has no network for an allowed backend.
    """
    if program.graph.is_outline and files.suffix is None:
        raise InvalidBundle(f"program.json of {files.manifest.name} is an outline, but no suffix.onnx computes it.")
    choice = backends.wanted or files.manifest.backend
    found: dict[Backend, Network] = {}
    if choice != "onnx" and not program.graph.is_outline:
        found["torch"] = TorchNetwork(program)
    if choice != "torch" and files.suffix is not None:
        # A server that needs torch alone should not load onnxruntime: 60 MB, half a second.
        from mcdrop_models.onnx.runtime.network import onnx_network

        found["onnx"] = onnx_network(files.prefix, files.suffix, program, backends.runtime)
    if not found:
        has = "torch" if files.suffix is None else "onnx"
        raise InvalidBundle(
            f"{files.manifest.name} can be computed by {has} only, but the backend is {choice}. Choose {has} or auto, "
            "or publish the model with backend='auto'."
        )
    return found


def choose_network(
    files: BundleFiles,
    program: Program,
    probe: NamedTensors,
    networks: Mapping[Backend, Network],
    tunings: TuningCache | None,
) -> Network:
    """Return the network to serve with: the fastest one, or that of torch where nothing is measured.

    Args:
        files: The content of the bundle.
        program: Its program.
        probe: Rows to measure with, by input.
        networks: The implementations, by backend.
        tunings: Measures them and keeps the result; None to measure nothing.

    Returns:
        One of the implementations.
    """
    if len(networks) == 1:
        return next(iter(networks.values()))
    if tunings is None:
        return networks["torch"]
    engines = {name: Engine(program, network=network) for name, network in networks.items()}
    return networks[tunings.fastest(files.manifest.digest, program, probe, engines)]
