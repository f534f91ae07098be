"""The only reader of the environment. A flag wins over an MCDROP_* variable, that over the file, that over the default.

Each setting stands here once: the flags of `mcdrop serve`, its help and the table of the documentation follow.
"""

import ipaddress
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from dropout_core.errors import McdropError

if TYPE_CHECKING:
    from mcdrop_models.onnx.runtime.options import Backends


class InvalidConfig(McdropError):
    """A setting is wrong, or what it names cannot be used."""


def _origins(given: object) -> object:
    """One text or several, each with commas between origins."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        return given
    return tuple(origin for text in texts for origin in text.replace(",", " ").split())


class CommonSettings(BaseSettings):
    """What every command reads."""

    model_config = SettingsConfigDict(env_prefix="MCDROP_", env_ignore_empty=True, frozen=True, extra="forbid")

    config: Path | None = Field(default=None, description="File of settings, TOML.")
    bundles: Path = Field(default=Path("bundles"), description="Folder of published bundles.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="Where to compute: auto (a GPU if any), cpu, cuda or cuda:N.",
    )
    threads: int = Field(
        default=1, ge=1, description="Threads one operator may use; more help only on a quiet machine."
    )
    backend: Literal["bundle", "torch", "onnx", "auto"] = Field(
        default="bundle",
        description="Who computes: bundle (what each says), torch, onnx, or auto (who is faster here, once measured).",
    )
    onnx_max_bytes: int | None = Field(
        default=None,
        ge=2**20,
        description="Bytes onnxruntime may use, all models together, half of them for weights; any otherwise.",
    )
    cache: Path = Field(default=Path("~/.cache/mcdrop"), description="Folder of measured choices.")
    tune: bool = Field(default=True, description="Measure each bundle's fastest way to run when it is first loaded.")
    api_key: SecretStr | None = Field(default=None, description="A key that may do everything; sent by clients too.")
    keys: Path | None = Field(default=None, description="File of hashed keys, which `mcdrop key` writes.")

    @property
    def tunings(self) -> Path | None:
        """Where measured choices are kept; None where nothing is measured."""
        return self.cache.expanduser() / "tunings" if self.tune else None

    def backends(self, device: str) -> "Backends":
        """Return which backends may compute.

        Args:
            device: The device that was chosen.

        Returns:
            The backends.
        """
        from mcdrop_models.onnx.runtime.options import Backends, Runtime

        wanted = None if self.backend == "bundle" else self.backend
        return Backends(wanted, Runtime(self.threads, self.onnx_max_bytes, device))

    @field_validator("api_key")
    @classmethod
    def _no_empty_key(cls, key: SecretStr | None) -> SecretStr | None:
        return key if key is not None and key.get_secret_value() else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there is no such file
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - nor such a folder
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is read, the strongest first."""
        return init_settings, env_settings, _File(settings_cls)


class Settings(CommonSettings):
    """How a server runs. Frozen once read."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; beyond loopback a key is required.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")
    allow_anonymous: bool = Field(
        default=False, description="Let callers without a key predict, beyond loopback too; to load takes a key."
    )
    open_health: bool = Field(default=True, description="Answer about health without a key.")
    open_metrics: bool = Field(default=False, description="Answer /metrics without a key.")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = Field(
        default=(), description="Origins whose pages may ask, with commas between; * is all."
    )
    tls_certificate: Path | None = Field(default=None, description="Certificate chain, PEM; serves HTTPS.")
    tls_key: Path | None = Field(default=None, description="Private key of the certificate, PEM, without a passphrase.")
    max_body_bytes: int = Field(default=32 * 2**20, ge=1, description="Largest request body, in bytes.")
    max_passes: int = Field(default=1000, ge=1, description="Most passes one request may ask for.")
    max_samples: int = Field(default=2**22, ge=1, description="Most numbers kept for samples or quantiles: T·B·C.")
    max_length: int = Field(default=4096, ge=1, description="Largest size of a free dimension, such as a length.")
    max_timeout_ms: int = Field(default=60_000, ge=1, description="Longest a request may take, and the usual one.")
    max_queue: int = Field(default=1024, ge=1, description="Most requests that may wait.")
    max_pending_ms: int = Field(default=30_000, ge=1, description="Most computing that may wait.")
    batch_ms: int = Field(default=100, ge=1, description="Longest one batch should compute.")
    max_loaded_bytes: int | None = Field(
        default=None, ge=1, description="Most memory of loaded bundles; beyond it the longest unused is unloaded."
    )
    watch: bool = Field(default=True, description="Look for new versions while running.")
    drain_ms: int = Field(default=5000, ge=0, description="How long what runs may take to finish after SIGTERM.")
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="auto is text on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least told.")
    traces: bool = Field(default=False, description="Send OpenTelemetry traces, as the OTEL_* variables say.")

    @field_validator("cors_origins")
    @classmethod
    def _no_path(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, _, rest = origin.partition("://")
            if origin != "*" and (not scheme or not rest or "/" in rest or "*" in rest):
                raise ValueError(f"{origin!r} is no origin; one is 'https://example.org', or '*' for all of them.")
        return origins

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not (is_loopback(self.host) or self.asks_for_keys or self.allow_anonymous):
            raise ValueError(
                f"listening on {self.host} lets others in: set MCDROP_API_KEY to a secret that callers must send, or "
                "MCDROP_KEYS to a file that 'mcdrop key new' has written, or MCDROP_ALLOW_ANONYMOUS=1 to serve anyone."
            )
        return self

    @model_validator(mode="after")
    def _certified(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, missing = sorted(("tls_certificate", "tls_key"), key=lambda name: getattr(self, name) is None)
            raise ValueError(f"{given} is set and {missing} is not; HTTPS takes both, HTTP none.")
        return self

    @property
    def asks_for_keys(self) -> bool:
        """Whether there are keys to send."""
        return self.api_key is not None or self.keys is not None

    @property
    def scheme(self) -> str:
        """Of its addresses."""
        return "http" if self.tls_certificate is None else "https"


class _File(PydanticBaseSettingsSource):
    """The file that a flag or the environment names. Every command takes its own settings of it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - theirs
        """One setting of the file. The base class asks for this; pydantic asks for all at once."""
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        given = _table(Path(path))
        unknown = sorted(given.keys() - (Settings.model_fields.keys() - {"config"}))
        if unknown:
            raise InvalidConfig(
                f"{path} sets what there is not: {', '.join(unknown)}. mcdrop serve --help lists the settings."
            )
        return {name: value for name, value in given.items() if name in self.settings_cls.model_fields}


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{path} cannot be read as TOML: {error}.") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
