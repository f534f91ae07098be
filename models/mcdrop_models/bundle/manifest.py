"""manifest.json: what a bundle is, how its answers read, and the digests of its files. Unknown fields are refused."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dropout_core.engine.options import BRANCHES, PassOptions, Sampling, Sharing
from dropout_core.measures.measures import OUTPUT_KINDS, OutputKind, Task
from dropout_core.noise.limits import MAX_SEED

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
AxisSize = Annotated[int, Field(ge=1, le=2**31 - 1)]
FreeName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
BackendChoice = Literal["torch", "onnx", "auto"]
Formula = Annotated[str, Field(pattern=r"^[A-Za-z0-9_ ()+*/%-]{1,256}$")]
# Fields of later versions. The digest leaves them out where they have these values, so that older bundles keep theirs.
_LATER = {
    "free": None,
    "result": None,
    "positions": None,
    "branches": 1,
    "backend": "torch",
    "onnx_prefix": None,
    "onnx_suffix": None,
}


PROGRAM_FILE, WEIGHTS_FILE, PREFIX_FILE, SUFFIX_FILE = (
    "program.json",
    "weights.safetensors",
    "prefix.onnx",
    "suffix.onnx",
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSpec(_Frozen):
    """An input of the network.

    Attributes:
        name: Its name.
        shape: The shape of one row; free dimensions by name.
        dtype: Its dtype.
    """

    name: str = Field(min_length=1, max_length=64)
    shape: tuple[AxisSize | FreeName, ...] = Field(max_length=6)
    dtype: Literal["float32", "float64", "int64", "int32", "bool"]


class FreeSpec(_Frozen):
    """The sizes that a free dimension may have: from `least` to `most`, or any above `least` where `most` is null."""

    least: AxisSize
    most: AxisSize | None


class OutputScaling(_Frozen):
    """The map from the network's unit to the caller's: scale · y + shift, one pair for each output."""

    scale: tuple[float, ...] = Field(min_length=1)
    shift: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _match(self) -> Self:
        if len(self.scale) != len(self.shift):
            raise ValueError(
                f"output scaling has {len(self.scale)} scales and {len(self.shift)} shifts; give the same number of "
                "each."
            )
        if any(scale <= 0 for scale in self.scale):
            raise ValueError("output scaling needs scales above 0.")
        return self


class SiteSpec(_Frozen):
    """A place in the network where noise enters.

    Attributes:
        name: Its name.
        module: The path of the module that drops.
        kind: How it draws its noise.
        rate: The probability of dropping; null for kinds without one.
    """

    name: str
    module: str
    kind: Literal[
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "feature_alpha_dropout",
        "unscaled",
        "bernoulli",
        "uniform",
        "exponential",
        "normal",
    ]
    rate: float | None = Field(gt=0, le=1)


class Manifest(_Frozen):
    """The content of manifest.json. `digest` covers every field but `metrics` and `provenance`.

    Attributes:
        schema_version: The version of this format.
        name: The name of the bundle.
        task: What the network is for.
        output: The meaning of the network's output.
        num_outputs: The number of classes or targets, C.
        labels: The names of the classes or labels.
        inputs: The inputs of the network.
        free: The free dimensions that the shapes of the inputs name; null where there are none.
        result: The output that is served, where the network returns several.
        positions: The sizes of the axes of an answer between its rows and its outputs, as formulas of the free
            dimensions; null where there are none.
        output_scaling: The map from the network's unit to the caller's, for regression.
        sites: The places where noise enters.
        noise: The version of the noise.
        sampling: How passes draw their noise, where a request does not say.
        masks: Whether the rows of a pass share their masks, where a request does not say.
        branches: Passes that share the noise of all sites but the last, where a request does not say.
        passes: The number of passes, where a request does not say.
        seed: The seed of the masks, where a request does not say.
        program: The digest of program.json.
        weights: The digest of weights.safetensors.
        backend: The library that computes; "auto" is the faster of the two on the machine that serves.
        onnx_prefix: The digest of prefix.onnx; null where there is no ONNX, or nothing is computed before the noise.
        onnx_suffix: The digest of suffix.onnx; null where there is no ONNX.
        digest: The digest of this manifest.
        metrics: Facts to show beside the model.
        provenance: When, and with which versions, the bundle was published.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str = Field(pattern=NAME_PATTERN)
    task: Task
    output: OutputKind
    num_outputs: AxisSize
    labels: tuple[str, ...] | None = None
    inputs: tuple[InputSpec, ...] = Field(min_length=1, max_length=16)
    free: dict[FreeName, FreeSpec] | None = Field(default=None, min_length=1)
    result: str | None = None
    positions: tuple[AxisSize | Formula, ...] | None = Field(default=None, min_length=1, max_length=6)
    output_scaling: OutputScaling | None = None
    sites: tuple[SiteSpec, ...] = Field(min_length=1)
    noise: Literal[1] = 1
    sampling: Sampling = "iid"
    masks: Sharing = "shared"
    branches: int = 1
    passes: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    program: Digest
    weights: Digest
    backend: BackendChoice = "torch"
    onnx_prefix: Digest | None = None
    onnx_suffix: Digest | None = None
    digest: Digest
    metrics: dict[str, float] = {}
    provenance: dict[str, str] = {}

    @property
    def files(self) -> dict[str, Digest]:
        """The files beside the manifest, with their digests."""
        every = {
            PROGRAM_FILE: self.program,
            WEIGHTS_FILE: self.weights,
            PREFIX_FILE: self.onnx_prefix,
            SUFFIX_FILE: self.onnx_suffix,
        }
        return {name: digest for name, digest in every.items() if digest is not None}

    @property
    def pass_options(self) -> PassOptions:
        """The options of passes for a request that overrides none."""
        return PassOptions(self.passes, self.seed, self.sampling, self.masks, self.branches)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.branches not in BRANCHES:
            raise ValueError(f"branches is {self.branches}; choose one of {', '.join(map(str, BRANCHES))}.")
        if OUTPUT_KINDS[self.output].task != self.task:
            raise ValueError(f"a {self.task} model cannot have the output {self.output}.")
        if len({spec.name for spec in self.inputs}) < len(self.inputs):
            raise ValueError("two inputs have the same name.")
        named = {size for spec in self.inputs for size in spec.shape if isinstance(size, str)}
        if named != set(self.free or {}):
            raise ValueError(
                f"the inputs name the free dimensions {sorted(named)}, but free has {sorted(self.free or {})}."
            )
        if self.labels is not None and len(self.labels) != self.num_outputs:
            raise ValueError(
                f"there are {len(self.labels)} labels and {self.num_outputs} outputs; give one label for each."
            )
        if self.output_scaling and (self.task != "regression" or len(self.output_scaling.scale) != self.num_outputs):
            raise ValueError("output scaling is for regression, and has one pair for each output.")
        if self.digest != manifest_digest(self.model_dump(by_alias=True, mode="json")):
            raise ValueError("the digest does not match the manifest; it was changed after publishing.")
        return self

    @model_validator(mode="after")
    def _computable(self) -> Self:
        if self.onnx_suffix is None and (self.onnx_prefix is not None or self.backend != "torch"):
            raise ValueError(f"the backend is {self.backend}, but the bundle has no {SUFFIX_FILE} to compute with.")
        return self


def seal_manifest(fields: dict[str, Any]) -> Manifest:
    """Return a manifest with its digest filled in.

    Args:
        fields: Every field but the digest.

    Returns:
        The manifest.

    Raises:
        pydantic.ValidationError: A field has a value that it may not have.
    """
    draft = Manifest.model_construct(**fields).model_dump(by_alias=True, mode="json", warnings=False)
    return Manifest.model_validate({**draft, "digest": manifest_digest(draft)})


def manifest_digest(fields: dict[str, Any]) -> str:
    """Return the digest of a manifest: the SHA-256 of what decides an answer, as canonical JSON.

    Args:
        fields: The manifest as JSON. Its digest, metrics and provenance are left out.

    Returns:
        The digest, "sha256:" and 64 hexadecimal digits.
    """
    decisive = {
        key: value
        for key, value in fields.items()
        if key not in ("digest", "metrics", "provenance") and not (key in _LATER and value == _LATER[key])
    }
    return sha256(json.dumps(decisive, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes as manifests write it.

    Args:
        content: The bytes.

    Returns:
        The digest, "sha256:" and 64 hexadecimal digits.
    """
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
