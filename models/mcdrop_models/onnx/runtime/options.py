"""Who is to compute, and how onnxruntime may: what an operator says."""

from dataclasses import dataclass, field

from mcdrop_models.bundle.manifest import BackendChoice


@dataclass(frozen=True)
class Runtime:
    """How onnxruntime computes.

    threads: of one operator. max_bytes: of all values of all models of the process together; None: any number. device:
    a CUDA device takes onnxruntime-gpu; without it the processor computes, and a warning says so.
    """

    threads: int = 1
    max_bytes: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Backends:
    """What an operator wants. wanted: None for what each bundle says."""

    wanted: BackendChoice | None = None
    runtime: Runtime = field(default_factory=Runtime)
