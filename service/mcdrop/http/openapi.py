"""Schemas as the OpenAPI document wants them."""

from typing import Any

BYTES = {"type": "string", "format": "binary"}
TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "How long the caller waits; the server's own longest at most.",
    "schema": {"type": "integer", "minimum": 1},
    "example": 10000,
}
COMPRESSED = "Content-Encoding may be gzip or deflate."


def inline_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of pydantic's without $defs, which stand elsewhere in an OpenAPI document. None refers to itself."""
    definitions = schema.get("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(definitions[part["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in part.items() if key != "$defs"}

    whole: dict[str, Any] = resolved(schema)
    return whole
