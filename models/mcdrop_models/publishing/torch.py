"""Publishes a network of torch: capture, verify, write."""

from pathlib import Path
from typing import Any, Unpack

from torch import nn

from dropout_core.capture.arguments import Inputs, bind
from dropout_core.capture.capture import capture
from dropout_core.capture.probe import two_rows
from dropout_core.engine.engine import Engine
from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import select_rows
from dropout_core.verify import is_the_model, verify
from mcdrop_models.bundle.spec import BundleFields, BundleSpec
from mcdrop_models.bundle.write import PROBE_ROWS, PublishedBundle, VerifiedNetwork, write_bundle


def publish(
    model: nn.Module, example_inputs: Inputs, *, root: Path | str = "bundles", **fields: Unpack[BundleFields]
) -> PublishedBundle:
    """Publish a network as the next version of a name. The model is left as it was.

    Args:
        model: The trained network.
        example_inputs: Rows that the network takes: a tensor [b, *F], a tuple of the first arguments of forward, or a
            mapping by their names. Real rows are best. The first 8 are stored as the bundle's probe: every load must
            reproduce their answer, and the first one is shown to users.
        root: The folder of bundles.
        **fields: The fields of a `mcdrop_models.bundle.spec.BundleSpec`. `name` and `task` are required.

    Returns:
        The bundle on disk.

    Raises:
        CaptureError: torch.export cannot capture the network, or it has no dropout.
        VerificationError: The captured network is not the model, mixes its rows, or has passes that all agree.
        InvalidInput: The example or a field has a value that it may not have.
        InvalidBundle: The network uses an operator that bundles may not use.
        NotExportable: The backend is "onnx" or "auto", and ONNX lacks an operator of the network.
    """
    return publish_network(model, example_inputs, BundleSpec(**fields), root)


def publish_network(model: nn.Module, example_inputs: Inputs, spec: BundleSpec, root: Path | str) -> PublishedBundle:
    """Publish a network as a spec describes it; see `publish`.

    Args:
        model: The trained network.
        example_inputs: Rows that the network takes.
        spec: The description of the bundle.
        root: The folder of bundles.

    Returns:
        The bundle on disk.
    """
    _check_module(model)
    example = select_rows(two_rows(bind(model, example_inputs)), slice(PROBE_ROWS))
    program = capture(model, example, dynamic=spec.dynamic, result=spec.result, class_axis=spec.class_axis)
    engine = Engine(program)
    is_the_model(program, model, example, spec.result, spec.class_axis)
    answer = verify(program, engine, example, spec.output_kind)
    if spec.backend == "torch":
        return write_bundle(root, spec, VerifiedNetwork(program, example, answer))
    from mcdrop_models.publishing.onnx import with_onnx_halves  # most publishers need neither onnx nor onnxruntime

    return write_bundle(root, spec, with_onnx_halves(program, example, answer))


def _check_module(model: Any) -> None:
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise InvalidInput(f"{model.__name__} is a class; publish a trained instance of it.")
    if not isinstance(model, nn.Module):
        raise InvalidInput(
            f"the model is a {type(model).__name__}, but only a torch.nn.Module can be published. Wrap a function in "
            "a module whose forward calls it; load a file of weights into the module that they belong to."
        )
