"""The OpenAPI document of a served model, and the page that shows it without any network."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib import resources
from typing import TYPE_CHECKING

import orjson

from mlserver import errors
from mlserver.serving.codec import arrow, npy
from mlserver.serving.codec.encode import PREDICTION_KEYS, PROBLEM_TYPE
from mlserver.serving.schemas import STRING, Json, fixed_object, input_examples, input_schemas, ref

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlserver.serving.codec.schema import InputSchema

SUMMARIES = {
    "predict": "Predictions for rows of features",
    "predict_proba": "Probabilities for rows of features",
}
OPTIONAL_STRING = {"type": ["string", "null"]}


def sent_errors() -> list[type[errors.RequestError]]:
    """Every error that a client can be sent, in order of status."""
    return [
        error
        for error in vars(errors).values()
        if isinstance(error, type)
        and issubclass(error, errors.RequestError)
        and error not in (errors.RequestError, errors.ClientGone)
    ]


def document(
    schema: InputSchema,
    *,
    model: str,
    version: str,
    operations: Iterable[str],
    metrics_endpoint: str | None,
) -> Json:
    """An OpenAPI 3.1 document, ready for JSON.

    Args:
        schema: what is known of the model's input: the request's schema and examples are made of it.
        model: the model's name.
        version: the model's version.
        operations: what the predictor can do, of ``predict`` and ``predict_proba``.
        metrics_endpoint: path of the metrics; None where there are none.
    """
    examples = input_examples(schema)
    paths: Json = {
        f"/{name}": {"post": _prediction(name, schema, examples)} for name in SUMMARIES if name in operations
    }
    paths |= _probes()
    if metrics_endpoint is not None:
        paths[metrics_endpoint] = _get("metrics", "Metrics for Prometheus", "text/plain", STRING)
    paths["/info"] = _get(
        "info", "The model: name, version, features", "application/json", {"type": "object"}
    )
    paths["/docs"] = _get("docs", "This API as a page to read and try", "text/html", STRING)
    paths["/openapi.json"] = _get("openapi", "This API as a document", "application/json", {"type": "object"})
    return {
        "openapi": "3.1.0",
        "info": {"title": model, "version": version},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": {
                **input_schemas(schema),
                **{name: _answer(key) for name, key in PREDICTION_KEYS.items() if name in operations},
                "problem": _problem(),
            },
            "responses": _error_responses(),
        },
        "x-features": schema.feature_names,
        "x-errors": [
            {"code": error.code, "status": error.status, "title": error.title} for error in sent_errors()
        ],
    }


def _prediction(operation: str, schema: InputSchema, examples: Json) -> Json:
    """One of the paths that run the model."""
    routing = (errors.NotFound, errors.MethodNotAllowed)
    statuses = sorted({error.status for error in sent_errors() if error not in routing})
    return {
        "operationId": operation,
        "summary": SUMMARIES[operation],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"oneOf": [ref(form) for form in examples]},
                    "examples": {form: {"value": value} for form, value in examples.items()},
                },
                **_binary(schema),
            },
        },
        "responses": {
            "200": _response(
                "One element for each row, in the rows' order", "application/json", ref(operation)
            ),
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses},
        },
    }


def _binary(schema: InputSchema) -> Json:
    """What else a body may be; OpenAPI 3.1 describes bytes by having no schema for them."""
    taken = {
        npy.MEDIA_TYPE: (schema.takes_unnamed, "Rows as an array of numbers, as numpy.save writes it"),
        arrow.MEDIA_TYPE: (schema.takes_named, "Rows as an Arrow stream with a column for each feature"),
    }
    return {
        media_type: {"schema": {"description": text}} for media_type, (takes, text) in taken.items() if takes
    }


def _answer(key: str) -> Json:
    """Schema of an answered prediction."""
    return fixed_object(
        {
            key: {"type": "array"},
            "model": STRING,
            "version": STRING,
            "request_id": OPTIONAL_STRING,
            "time_ms": {"type": "number"},
        }
    )


def _problem() -> Json:
    codes = [error.code for error in sent_errors()]
    return fixed_object(
        {
            "type": {"type": "string", "format": "uri-reference", "pattern": f"^{PROBLEM_TYPE}"},
            "title": STRING,
            "status": {"type": "integer"},
            "detail": STRING,
            "code": {"enum": codes},
            "request_id": OPTIONAL_STRING,
        }
    )


def _error_responses() -> Json:
    """One response for each status; some statuses have several codes."""
    titles: dict[int, list[str]] = {}
    for error in sent_errors():
        titles.setdefault(error.status, []).append(error.title)
    problem = ref("problem")
    return {
        str(status): _response(" / ".join(several), "application/problem+json", problem)
        for status, several in titles.items()
    }


def _probes() -> Json:
    """The three paths that an orchestrator asks."""
    detail = fixed_object({"detail": STRING}) | {"additionalProperties": True}
    probes: Json = {}
    for name, status, summary in (
        ("healthz", "healthy", "Whether the process is alive"),
        ("readyz", "ready", "Whether requests should be sent here"),
        ("startupz", "started", "Whether the start is complete"),
    ):
        schema = fixed_object({"status": {"const": status}}) | {"additionalProperties": True}
        probe = _get(name, summary, "application/json", schema)
        if name != "healthz":
            probe["get"]["responses"]["503"] = _response("Not yet, or no longer", "application/json", detail)
        probes[f"/{name}"] = probe
    return probes


def _get(operation: str, summary: str, media_type: str, schema: Json) -> Json:
    responses = {"200": _response(summary, media_type, schema)}
    return {"get": {"operationId": operation, "summary": summary, "responses": responses}}


def _response(description: str, media_type: str, schema: Json) -> Json:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def docs_page(document: Json) -> bytes:
    """A page of HTML that shows a document and can send predictions.

    It loads nothing and finds the API relative to its own address, whatever prefix that has. Send it with
    `CONTENT_SECURITY_POLICY`.
    """
    info = document["info"]
    parts = {
        "title": html.escape(f"{info['title']} {info['version']}"),
        "style": _STYLE,
        "script": _SCRIPT,
        # No "<" is left that could end the element.
        "document": orjson.dumps(document).decode().replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html")).encode()


def _asset(name: str) -> str:
    return resources.files("mlserver.assets").joinpath("docs", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _asset("page.css"), _asset("page.js")

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(_STYLE)}",
        f"script-src {_hash(_SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The header of that name for the docs page: only its own style and script, only requests to this server."""
