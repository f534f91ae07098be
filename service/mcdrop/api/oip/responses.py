"""What the Open Inference Protocol answers, /v2."""

from typing import Literal

from pydantic import BaseModel


class Failure(BaseModel):
    """Every answer that is no success."""

    error: str


class ServerMetadata(BaseModel):
    """What a server is."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process runs."""

    live: bool


class Ready(BaseModel):
    """At least one model can be asked."""

    ready: bool


class ModelReady(BaseModel):
    """A model is in memory."""

    name: str
    ready: bool


class NotReady(BaseModel):
    """No model can be asked now."""

    ready: bool
    error: str


class ModelNotReady(NotReady):
    """A model cannot be asked now."""

    name: str


class ModelNames(BaseModel):
    """The models there are."""

    models: list[str]


class Tensor(BaseModel):
    """An input or an output; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What goes into a model and what comes out."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class ConfigTensor(BaseModel):
    """An input or an output, as Triton's configurations have it."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    """A model as Triton describes one. max_batch_size 0: the rows are the first of dims."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]


class OutputTensor(BaseModel):
    """A measure of all rows. data: flat, rows first; absent where it follows as bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float] | None = None


class InferResponse(BaseModel):
    """The measures. parameters: the run, enough to repeat it."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str | int | float]
    outputs: list[OutputTensor]


class IndexEntry(BaseModel):
    """One version of a model."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


class Duration(BaseModel):
    """So many, which took so long together."""

    count: int
    ns: int


class InferStatistics(BaseModel):
    """Requests since the start of the server, by what they spent their time with."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(BaseModel):
    """Batches of up to batch_size rows, and of more than half as many."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class VersionStatistics(BaseModel):
    """Of one version. last_inference: milliseconds since 1970. inference_count: rows; execution_count: batches."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]


class ModelStatistics(BaseModel):
    """Of the versions that are in memory."""

    model_stats: list[VersionStatistics]
