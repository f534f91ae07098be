"""The OpenAPI document: the routes describe themselves, and this module adds what holds for all of them."""

from typing import Any

from pydantic import BaseModel

from mcdrop.api.oip.responses import Failure
from mcdrop.api.v1.schemas import Problem
from mcdrop.http.error_docs import oip_error_docs, problem_docs
from mcdrop.http.problems import is_oip
from mcdrop.security.auth import anonymous_scope, scope_of
from mcdrop.settings import Settings

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key from `mcdrop key new`, or the server's own."},
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "Alternative to the Authorization header.",
    },
}
_TAGS = {
    "predict": "Uncertainty of rows, and which rows to label next.",
    "models": "The models and their descriptions.",
    "open inference protocol": "Version 2, with binary tensors and the extensions that its clients use.",
    "health": "Health and metrics for operators.",
}
_REFUSED: list[type[BaseModel]] = [Problem, Failure]
_REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Returned with the response and written to the log, if it has up to 64 letters, digits, '.', '_' "
    "and '-'.",
    "schema": {"type": "string"},
    "example": "7f9c24e5-1",
}
_RESPONSE_ID = {
    "description": "The id of the request: the client's own, or a new one.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
# FastAPI documents a 422 for invalid paths; this server reports an unknown model instead.
_FASTAPI_SCHEMAS = {"HTTPValidationError", "ValidationError"}
_FASTAPI_422 = {"$ref": "#/components/schemas/HTTPValidationError"}


def complete_document(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return FastAPI's document with request ids and keys, and without the 422 that FastAPI adds.

    Args:
        document: The document that FastAPI makes.
        settings: Whether the server asks for keys.

    Returns:
        FastAPI's document with request ids and keys.
    """
    paths = {
        path: {method: _operation(path, operation, settings) for method, operation in operations.items()}
        for path, operations in document["paths"].items()
    }
    schemas = {
        name: schema for name, schema in document["components"]["schemas"].items() if name not in _FASTAPI_SCHEMAS
    }
    components: dict[str, Any] = {
        "schemas": {**schemas, **{kind.__name__: kind.model_json_schema() for kind in _REFUSED}}
    }
    if settings.asks_for_keys:
        components["securitySchemes"] = _SCHEMES
    tags = [{"name": name, "description": description} for name, description in _TAGS.items()]
    return {**document, "paths": paths, "components": components, "tags": tags}


def _operation(path: str, operation: dict[str, Any], settings: Settings) -> dict[str, Any]:
    needed, anonymous = scope_of(path, settings), anonymous_scope(settings)
    open_to_all = needed is None or anonymous in {"admin", needed}
    asks = settings.asks_for_keys and needed is not None
    codes = ["unauthorized"] if asks or not open_to_all else []
    if needed == "admin" and settings.keys is not None:  # only keys of a file have a smaller scope
        codes.append("forbidden")
    refused = (oip_error_docs if is_oip(path) else problem_docs)(*codes)
    responses = {**operation["responses"], **{str(status): response for status, response in refused.items()}}
    kept = {status: response for status, response in sorted(responses.items()) if not _is_fastapi_422(response)}
    return {
        **operation,
        **({"security": [*([{}] if open_to_all else []), *({name: []} for name in _SCHEMES)]} if asks else {}),
        "parameters": [*operation.get("parameters", []), _REQUEST_ID],
        "responses": {status: _response(response) for status, response in kept.items()},
    }


def _response(response: dict[str, Any]) -> dict[str, Any]:
    return {**response, "headers": {**response.get("headers", {}), "X-Request-Id": _RESPONSE_ID}}


def _is_fastapi_422(response: dict[str, Any]) -> bool:
    return bool(response.get("content", {}).get("application/json", {}).get("schema") == _FASTAPI_422)
