"""The wire names of health."""

from pydantic import BaseModel


class Liveness(BaseModel):
    """Whether the process runs, and what computes in it."""

    live: bool


class Readiness(BaseModel):
    """At least one model can be asked. models: name/version of each that is in memory."""

    ready: bool
    models: list[str]


class Unreadiness(BaseModel):
    """No model can be asked now."""

    ready: bool
    reason: str
