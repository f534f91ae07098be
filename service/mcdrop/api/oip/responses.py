"""The responses of the Open Inference Protocol, /v2."""

from typing import Literal

from pydantic import BaseModel


class Failure(BaseModel):
    """An error."""

    error: str


class ServerMetadata(BaseModel):
    """The metadata of the server."""

    name: str
    version: str
    extensions: list[str]


class LiveResponse(BaseModel):
    """Whether the process runs."""

    live: bool


class Ready(BaseModel):
    """At least one model can answer."""

    ready: bool


class ModelReady(BaseModel):
    """A model is in memory."""

    name: str
    ready: bool


class NotReady(BaseModel):
    """No model can answer now."""

    ready: bool
    error: str


class ModelNotReady(NotReady):
    """The model cannot answer now."""

    name: str


class ModelNames(BaseModel):
    """The names of the models."""

    models: list[str]


class Tensor(BaseModel):
    """The description of an input or an output; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class ConfigTensor(BaseModel):
    """An input or an output in a Triton configuration."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    """A Triton configuration. With max_batch_size 0, the rows are the first of dims."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]


class OutputTensor(BaseModel):
    """A measure of all rows. `data` is flat, rows first; it is absent if the tensor follows as bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float] | None = None


class InferResponse(BaseModel):
    """The measures. `parameters` are enough to repeat the request."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str | int | float]
    outputs: list[OutputTensor]


class IndexEntry(BaseModel):
    """The state of one version of a model."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


class Duration(BaseModel):
    """A count, and the time that all of them took together."""

    count: int
    ns: int


class InferStatistics(BaseModel):
    """The requests since the server started, and the time they spent in each phase."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(BaseModel):
    """The batches of up to batch_size rows, and of more than half of that."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class VersionStatistics(BaseModel):
    """The statistics of a version: last_inference in milliseconds since 1970, rows and batches (execution_count)."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]


class ModelStatistics(BaseModel):
    """The statistics of the versions in memory."""

    model_stats: list[VersionStatistics]
