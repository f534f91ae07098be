"""The settings, and the only reader of the environment.

A flag wins over an MCDROP_* variable, the variable over the settings file, and the file over the default. Each setting
is defined here once; the flags of `mcdrop serve`, its help and the table of the documentation are derived from it.
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
    """A setting is wrong, or the file or device that it names cannot be used."""


def _origins(given: object) -> object:
    """Split one text, or several, at commas."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        return given
    return tuple(origin for text in texts for origin in text.replace(",", " ").split())


class CommonSettings(BaseSettings):
    """The settings that every command reads."""

    model_config = SettingsConfigDict(env_prefix="MCDROP_", env_ignore_empty=True, frozen=True, extra="forbid")

    config: Path | None = Field(default=None, description="Settings file, TOML.")
    bundles: Path = Field(default=Path("bundles"), description="Folder of published bundles.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="Device that computes: auto (a GPU if there is one), cpu, cuda or cuda:N.",
    )
    threads: int = Field(
        default=1, ge=1, description="Threads per operator; more than 1 helps only on an idle machine."
    )
    backend: Literal["bundle", "torch", "onnx", "auto"] = Field(
        default="bundle",
        description="Library that computes: bundle (as the bundle says), torch, onnx or auto (the faster).",
    )
    onnx_max_bytes: int | None = Field(
        default=None,
        ge=2**20,
        description="Memory limit of onnxruntime in bytes, for all models; half is for weights. None by default.",
    )
    cache: Path = Field(default=Path("~/.cache/mcdrop"), description="Folder in which measured choices are cached.")
    tune: bool = Field(default=True, description="Measure the fastest way to run each bundle when it is first loaded.")
    api_key: SecretStr | None = Field(
        default=None, description="API key with every permission; commands send it to a server."
    )
    keys: Path | None = Field(default=None, description="File of hashed keys, written by `mcdrop key`.")

    @property
    def tunings(self) -> Path | None:
        """Folder of measured choices; None if nothing is measured."""
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
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of settings, the strongest first."""
        return init_settings, env_settings, _File(settings_cls)


class Settings(CommonSettings):
    """The settings of a server."""

    host: str = Field(
        default="127.0.0.1", description="Address to listen on. Any but a loopback address requires a key."
    )
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")
    allow_anonymous: bool = Field(
        default=False, description="Let callers without a key predict, also beyond loopback. Loading needs a key."
    )
    open_health: bool = Field(default=True, description="Serve the health endpoints without a key.")
    open_metrics: bool = Field(default=False, description="Serve /metrics without a key.")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = Field(
        default=(), description="Origins whose pages may call the server (CORS), separated by commas; * allows all."
    )
    tls_certificate: Path | None = Field(default=None, description="Certificate chain, PEM. Enables HTTPS.")
    tls_key: Path | None = Field(default=None, description="Private key of the certificate, PEM, without a passphrase.")
    max_body_bytes: int = Field(default=32 * 2**20, ge=1, description="Maximum size of a request body, in bytes.")
    max_passes: int = Field(default=1000, ge=1, description="Maximum number of passes of a request.")
    max_samples: int = Field(
        default=2**22, ge=1, description="Maximum number of values kept for samples or quantiles: T·B·C."
    )
    max_length: int = Field(default=4096, ge=1, description="Maximum size of a free dimension, such as a length.")
    max_timeout_ms: int = Field(
        default=60_000, ge=1, description="Maximum time of a request in ms, which is also the default."
    )
    max_queue: int = Field(default=1024, ge=1, description="Maximum number of queued requests.")
    max_pending_ms: int = Field(
        default=30_000, ge=1, description="Maximum computing time of all queued requests, in ms."
    )
    batch_ms: int = Field(default=100, ge=1, description="Target computing time of a batch, in ms.")
    max_loaded_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Maximum memory of loaded bundles, in bytes. Beyond it the least recently used one is unloaded.",
    )
    watch: bool = Field(default=True, description="Load new versions while running.")
    drain_ms: int = Field(default=5000, ge=0, description="Time in ms for running requests to finish after SIGTERM.")
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="Log format: text, json, or auto (text on a terminal, JSON elsewhere)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Minimum log level.")
    traces: bool = Field(default=False, description="Send OpenTelemetry traces, configured by the OTEL_* variables.")

    @field_validator("cors_origins")
    @classmethod
    def _no_path(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, _, rest = origin.partition("://")
            if origin != "*" and (not scheme or not rest or "/" in rest or "*" in rest):
                raise ValueError(f"{origin!r} is not an origin; write https://example.org, or * for all origins.")
        return origins

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not (is_loopback(self.host) or self.asks_for_keys or self.allow_anonymous):
            raise ValueError(
                f"listening on {self.host} lets others in: set MCDROP_API_KEY to a secret that callers must send, or "
                "MCDROP_KEYS to a file written by 'mcdrop key new', or MCDROP_ALLOW_ANONYMOUS=1 to serve anyone."
            )
        return self

    @model_validator(mode="after")
    def _certified(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, missing = sorted(("tls_certificate", "tls_key"), key=lambda name: getattr(self, name) is None)
            raise ValueError(f"{given} is set and {missing} is not; HTTPS needs both, HTTP neither.")
        return self

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers must send a key."""
        return self.api_key is not None or self.keys is not None

    @property
    def scheme(self) -> str:
        """Scheme of the server's URL."""
        return "http" if self.tls_certificate is None else "https"


class _File(PydanticBaseSettingsSource):
    """The settings file that a flag or the environment names. Each command reads its own settings from it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - theirs
        """Return one setting of the file. The base class requires it, but pydantic reads all settings at once.

        Args:
            field: The field.
            field_name: Its name.

        Returns:
            The value, the name, and whether the value is complex.
        """
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        given = _table(Path(path))
        unknown = sorted(given.keys() - (Settings.model_fields.keys() - {"config"}))
        if unknown:
            raise InvalidConfig(
                f"{path} has unknown settings: {', '.join(unknown)}. mcdrop serve --help lists the settings."
            )
        return {name: value for name, value in given.items() if name in self.settings_cls.model_fields}


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{path} cannot be read as TOML: {error}.") from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    Args:
        host: Address, or a host name.

    Returns:
        Whether it is a loopback address.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
