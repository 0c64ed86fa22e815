"""The service as an OpenAPI 3.1 document, from the signature in force."""

from __future__ import annotations

from typing import Any

from holdfast.core.records import FieldSpec
from holdfast.serving.predict import State

_TYPES: dict[str, dict[str, Any]] = {
    "int64": {"type": "integer", "format": "int64"},
    "float64": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "timestamp": {"type": ["string", "integer"], "description": "ISO 8601, or microseconds since 1970 UTC"},
}


def document(state: State, *, replay: bool) -> dict[str, Any]:
    """The document of the release in force."""
    model = state.champion.model
    assert model is not None
    package = model.package
    required = [f.name for f in package.request if not f.nullable]
    row = {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": {f.name: _field(f) for f in package.request},
    }
    score = {"type": "array", "items": {"type": "number"}} if package.task == "multiclass" else {"type": "number"}
    answer = {
        "type": "object",
        "required": ["id", "output", "score", "version", "arm", "logged"],
        "properties": {
            "id": {"type": "string"},
            "output": {"enum": model.classes} if model.classes else {"type": "number"},
            "score": score,
            "version": {"type": "integer"},
            "arm": {"enum": ["champion", "challenger"]},
            "logged": {"type": "boolean"},
        },
    }
    body: dict[str, Any] = {"rows": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Row"}}}
    if replay:
        instant = _TYPES["timestamp"]
        body["request_time"] = {"oneOf": [instant, {"type": "array", "items": instant}]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": state.release.service,
            "version": str(model.version),
            "description": f"Model {package.name}, {package.task}.",
        },
        "paths": {
            "/predict": {
                "post": _operation(
                    "Predict rows",
                    {"type": "object", "required": ["rows"], "additionalProperties": False, "properties": body},
                    _list("predictions", "Answer"),
                )
            },
            "/labels": {
                "post": _operation(
                    "Tell the truth about predictions",
                    _list("labels", "Label"),
                    {"type": "object", "properties": {"accepted": {"type": "integer"}}},
                )
            },
            "/health/live": {"get": {"summary": "Is the process up", "responses": {"200": {"description": "yes"}}}},
            "/health/ready": {
                "get": {
                    "summary": "Can it answer",
                    "responses": {"200": {"description": "yes"}, "503": {"description": "no"}},
                }
            },
            "/release": {
                "get": {"summary": "What answers", "responses": {"200": {"description": "the release in force"}}}
            },
            "/metrics": {"get": {"summary": "Prometheus metrics", "responses": {"200": {"description": "text"}}}},
        },
        "components": {"schemas": {"Row": row, "Answer": answer, "Label": _LABEL, "Error": _ERROR}},
    }


_LABEL = {
    "type": "object",
    "required": ["prediction_id", "value"],
    "properties": {
        "prediction_id": {"type": "string"},
        "value": {"type": ["number", "string", "boolean"]},
        "at": _TYPES["timestamp"],
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": ["string", "null"]},
            },
        }
    },
}


def _list(name: str, schema: str) -> dict[str, Any]:
    items = {"$ref": f"#/components/schemas/{schema}"}
    return {"type": "object", "required": [name], "properties": {name: {"type": "array", "items": items}}}


def _operation(summary: str, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    refused = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {"description": "done", "content": {"application/json": {"schema": answer}}},
            "4XX": {"description": "your turn: the message says what and how to mend it", **refused},
            "503": {"description": "not now; see Retry-After", **refused},
        },
    }


def _field(f: FieldSpec) -> dict[str, Any]:
    out = dict(_TYPES[f.dtype])
    if f.strict:
        out |= {k: v for k, v in (("minimum", f.low), ("maximum", f.high)) if v is not None}
    if f.nullable:
        kinds = out["type"] if isinstance(out["type"], list) else [out["type"]]
        out["type"] = [*kinds, "null"]
    return out
