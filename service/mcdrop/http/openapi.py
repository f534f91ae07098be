"""Schemas that several operations of the OpenAPI document share."""

from typing import Any

BYTES = {"type": "string", "format": "binary"}
TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "How long the client waits, in milliseconds. The server's own limit still applies.",
    "schema": {"type": "integer", "minimum": 1},
    "example": 10000,
}
COMPRESSED = "Content-Encoding may be gzip or deflate."


def inline_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema with its $defs inlined, as an OpenAPI document keeps them elsewhere.

    Args:
        schema: A schema from pydantic, without recursive references.

    Returns:
        A JSON schema with its $defs inlined, as an OpenAPI document keeps them elsewhere.
    """
    definitions = schema.get("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolve(definitions[part["$ref"].rpartition("/")[2]])
        return {key: resolve(value) for key, value in part.items() if key != "$defs"}

    whole: dict[str, Any] = resolve(schema)
    return whole
