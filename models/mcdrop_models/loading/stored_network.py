"""The network of a bundle as it is stored, checked against the bundle's manifest and against its known answer."""

from dataclasses import dataclass

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from dropout_core.engine.engine import Engine
from dropout_core.engine.network import Network
from dropout_core.graph.inputs import NamedTensors, num_rows
from dropout_core.graph.program import Input, Program
from dropout_core.verify import agree, verify
from mcdrop_models.bundle.contents import PROBE_MEAN, PROBE_VARIANCE, probe_names, program_facts
from mcdrop_models.bundle.manifest import Manifest
from mcdrop_models.bundle.program_json import program_from_json
from mcdrop_models.bundle.repository import BundleFiles
from mcdrop_models.errors import InvalidBundle

# Kernels of another machine round differently; other weights, noise or scaling are far outside this.
_KNOWN_ANSWER_TOLERANCE = 1e-4


@dataclass(frozen=True)
class StoredNetwork:
    """What a bundle stores of its network.

    Attributes:
        program: The network.
        probe: The rows that it was published with, by input, [b, *F] each.
        mean: The mean of 64 passes over the probe, [b, *P, C], in the network's unit.
        variance: Their variance, [b, *P, C].
    """

    program: Program
    probe: NamedTensors
    mean: Tensor
    variance: Tensor


def read_network(files: BundleFiles, version: int, device: torch.device) -> StoredNetwork:
    """Read the network of a bundle onto a device.

    Args:
        files: The content of the bundle.
        version: The version of the bundle, for messages.
        device: Where its tensors go.

    Returns:
        The network, its probe and the known answer to it.

    Raises:
        InvalidBundle: The program or the tensors are not well formed, or the manifest describes another network.
    """
    manifest = files.manifest
    weights_file = f"weights.safetensors of {manifest.name}/{version}"
    try:
        stored = {name: tensor.to(device) for name, tensor in safetensors.torch.load(files.weights).items()}
    except SafetensorError as error:
        raise InvalidBundle(f"{weights_file} is not a safetensors file: {error}") from error
    probe_at = probe_names([spec.name for spec in manifest.inputs])
    missing = {*probe_at.values(), PROBE_MEAN, PROBE_VARIANCE} - set(stored)
    if missing:
        raise InvalidBundle(f"{weights_file} lacks {', '.join(sorted(missing))}.")
    program = program_from_json(files.program, stored)
    probe = {name: stored[place] for name, place in probe_at.items()}
    _check_facts(manifest, program)
    _check_probe(program, probe)
    return StoredNetwork(program, probe, stored[PROBE_MEAN], stored[PROBE_VARIANCE])


def check_answer(manifest: Manifest, stored: StoredNetwork, network: Network) -> None:
    """Check that a network is alive, keeps its rows apart, and gives the answer that was published.

    Args:
        manifest: The manifest of the bundle.
        stored: The stored network.
        network: The backend's implementation of it.

    Raises:
        InvalidBundle: The network answers the stored probe differently than when it was published.
        VerificationError: The network mixes its rows, or its passes all agree.
    """
    engine = Engine(stored.program, network=network)
    known = verify(stored.program, engine, stored.probe, manifest.output).statistics["value"]
    outputs = known.mean.shape[-1]
    if (len(known.mean), outputs) != (num_rows(stored.probe), manifest.num_outputs):
        raise InvalidBundle(f"the network has {outputs} outputs, but the manifest says {manifest.num_outputs}.")
    for name, value, published in (
        (PROBE_MEAN, known.mean, stored.mean),
        (PROBE_VARIANCE, known.variance, stored.variance),
    ):
        if value.shape != published.shape or not agree(value, published, _KNOWN_ANSWER_TOLERANCE):
            raise InvalidBundle(f"the answer to the stored probe is not the one published ({name}).")


def _check_facts(manifest: Manifest, program: Program) -> None:
    try:
        facts = program_facts(program)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise InvalidBundle(f"no manifest can describe the program: {reason}.") from error
    for name, value in facts.items():
        if getattr(manifest, name) != value:
            raise InvalidBundle(
                f"the {name} of the program are not those of the manifest: {_shown(value)}, but the manifest says "
                f"{_shown(getattr(manifest, name))}."
            )


def _shown(value: object) -> str:
    if isinstance(value, tuple | dict) and len(value) > 8:
        return f"{len(value)} of them"
    return str(value)


def _check_probe(program: Program, probe: NamedTensors) -> None:
    inputs = program.graph.inputs
    rows = {len(probe[spec.name]) if _fits(spec, probe[spec.name]) else 0 for spec in inputs}
    if len(rows) != 1 or rows == {0}:
        takes = ", ".join(f"{spec.name} of shape {list(spec.shape)} and {spec.dtype}" for spec in inputs)
        raise InvalidBundle(f"the stored probe does not fit the network, which takes {takes}.")


def _fits(spec: Input, probe: Tensor) -> bool:
    """Whether a probe holds rows of an input. The sizes of free dimensions are checked when it runs."""
    sizes = zip(probe.shape[1:], spec.shape, strict=False)
    of_shape = probe.dim() == len(spec.shape) + 1 and all(isinstance(b, str) or a == b for a, b in sizes)
    return of_shape and probe.dtype == spec.dtype
