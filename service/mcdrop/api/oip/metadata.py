"""Metadata of the server and of models, as the Open Inference Protocol describes them."""

from functools import cache
from importlib.metadata import version

import torch

from dropout_core.engine.engine import Chunk
from dropout_core.estimate.estimate import fold_passes
from dropout_core.measures.measures import OutputKind
from mcdrop.api.oip.datatypes import OF_NUMPY
from mcdrop.api.oip.responses import ConfigTensor, ModelConfig, ModelMetadata, ServerMetadata, Tensor
from mcdrop.inference.query import model_measures
from mcdrop_models.loading.predictor import Predictor

PLATFORM = "mcdrop"
PASSES_USED = "passes_used"
_EXTENSIONS = ["binary_tensor_data", "model_repository", "model_configuration", "statistics", "parameters"]
_ANY = -1


def server_metadata() -> ServerMetadata:
    """Return the metadata of the server."""
    return ServerMetadata(name=PLATFORM, version=version("mcdrop"), extensions=_EXTENSIONS)


def output_names(predictor: Predictor) -> tuple[str, ...]:
    """Return the outputs that a model always has: its measures and the passes that each row took.

    Args:
        predictor: The model.

    Returns:
        The outputs that a model always has: its measures and the passes that each row took.
    """
    return (*model_measures(predictor), PASSES_USED)


def model_metadata(predictor: Predictor, versions: list[int]) -> ModelMetadata:
    """Return the names, datatypes and shapes of the inputs and outputs of a model, rows first.

    Args:
        predictor: The model.
        versions: Its versions, the newest first.

    Returns:
        The names, datatypes and shapes of the inputs and outputs of a model, rows first.
    """
    inputs, outputs = _tensors(predictor)
    return ModelMetadata(
        name=predictor.manifest.name,
        versions=[str(number) for number in versions],
        platform=PLATFORM,
        inputs=inputs,
        outputs=outputs,
    )


def model_config(predictor: Predictor) -> ModelConfig:
    """Return the metadata as a Triton configuration without a batch dimension: the rows are the first dimension.

    Args:
        predictor: The model.

    Returns:
        The metadata as a Triton configuration without a batch dimension: the rows are the first dimension.
    """
    inputs, outputs = _tensors(predictor)
    return ModelConfig(
        name=predictor.manifest.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=0,
        input=[_in_config(tensor) for tensor in inputs],
        output=[_in_config(tensor) for tensor in outputs],
    )


def _tensors(predictor: Predictor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the inputs and the outputs of a model."""
    manifest = predictor.manifest
    inputs = [
        Tensor(name=spec.name, datatype=OF_NUMPY[spec.dtype], shape=[_ANY, *map(_size, spec.shape)])
        for spec in manifest.inputs
    ]
    one, by_column = [_ANY, *map(_size, manifest.positions or ())], _by_column(manifest.output)
    outputs = [
        Tensor(name=name, datatype="FP64", shape=[*one, manifest.num_outputs] if name in by_column else one)
        for name in model_measures(predictor)
    ]
    return inputs, [*outputs, Tensor(name=PASSES_USED, datatype="INT64", shape=[_ANY])]


@cache
def _by_column(output: OutputKind) -> frozenset[str]:
    """Return the measures that have one number for each output of the network."""
    estimate = fold_passes([Chunk(0, torch.zeros(2, 1, 2))], output, 2, 0, "two passes of a row")
    return frozenset(name for name in estimate.measures if estimate.measure(name).dim() > 1)


def _size(size: int | str) -> int:
    return size if isinstance(size, int) else _ANY


def _in_config(tensor: Tensor) -> ConfigTensor:
    return ConfigTensor(name=tensor.name, data_type=f"TYPE_{tensor.datatype}", dims=tensor.shape)
