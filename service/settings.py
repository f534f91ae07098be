"""The only reader of the environment: MCDROP_* variables, which flags of `mcdrop serve` override."""

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class CommonSettings(BaseSettings):
    """What every command reads."""

    model_config = SettingsConfigDict(env_prefix="MCDROP_", frozen=True, extra="forbid")

    bundles: Path = Field(default=Path("bundles"), description="Folder of published bundles.")
    api_key: SecretStr | None = Field(default=None, description="Key that callers send; unset: no key is asked for.")
    cache: Path = Field(default=Path("~/.cache/mcdrop"), description="Folder of measured choices.")
    tune: bool = Field(default=True, description="Measure each bundle's fastest way to run when it is first loaded.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="Where to compute: auto (a GPU if any), cpu, cuda or cuda:N.",
    )
    threads: int = Field(
        default=1, ge=1, description="Threads one operator may use; more help only on a quiet machine."
    )

    @property
    def tunings(self) -> Path | None:
        """Where measured choices are kept; None where nothing is measured."""
        return self.cache.expanduser() / "tunings" if self.tune else None

    @field_validator("api_key")
    @classmethod
    def _no_empty_key(cls, key: SecretStr | None) -> SecretStr | None:
        return key if key is not None and key.get_secret_value() else None


class Settings(CommonSettings):
    """How a server runs. Frozen once read."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; beyond loopback a key is required.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")
    allow_anonymous: bool = Field(default=False, description="Listen beyond loopback without a key.")
    max_body_bytes: int = Field(default=32 * 2**20, ge=1, description="Largest request body, in bytes.")
    max_passes: int = Field(default=1000, ge=1, description="Most passes one request may ask for.")
    max_samples: int = Field(default=2**22, ge=1, description="Most numbers kept for samples or quantiles: T·B·C.")
    max_length: int = Field(default=4096, ge=1, description="Largest size of a free dimension, such as a length.")

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not is_loopback(self.host) and self.api_key is None and not self.allow_anonymous:
            raise ValueError(
                f"listening on {self.host} lets others in: set MCDROP_API_KEY to a secret that callers must send, or "
                "MCDROP_ALLOW_ANONYMOUS=1 to serve anyone."
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
