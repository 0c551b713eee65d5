"""Every error the server raises on purpose.

    MLServerError
    ├── ConfigError            the configuration cannot be used; exit code 2
    ├── ModelLoadError         the model or its class could not be loaded
    ├── PredictorError         the predictor answered something that is no prediction
    └── RequestError           a request is answered with this status
        ├── MalformedRequest       400
        ├── NotFound               404
        ├── MethodNotAllowed       405
        ├── RequestTimeout         408  headers or body came too slowly
        ├── BodyTooLarge           413
        ├── UnsupportedMediaType   415
        ├── InvalidInput           422  the rows are not what the model takes
        ├── QueueFull              429
        ├── HeadersTooLarge        431
        ├── ClientGone             499  counted and logged, never sent
        ├── PredictionFailed       500
        ├── InternalError          500  the server itself is at fault
        ├── NotReady               503
        ├── Overloaded             503  too many connections, too many bytes
        ├── CutOff                 503  the server ended before the answer
        └── PredictionTimeout      504

A message says what was given, what was expected and, where it is not plain, what to do.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class MLServerError(Exception):
    """Base of all errors of this package."""


class Fault(NamedTuple):
    """One thing that is wrong with a configuration."""

    path: str
    """Where: the key's path in the YAML file, such as ``server.port``."""
    message: str
    """The value given, what was expected and, for a misspelt key, the nearest known one."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(MLServerError):
    """The configuration cannot be used. ``str()`` of it has one line per fault."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("\n".join(map(str, faults)))


class ModelLoadError(MLServerError):
    """The model or the predictor's class could not be loaded."""


class PredictorError(MLServerError):
    """The predictor answered something that is no prediction for the rows it was given."""


class RequestError(MLServerError):
    """A request that is answered with an error. The message goes to the client as ``detail``."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Additional response headers, such as ``Allow`` or ``Retry-After``."""


class MalformedRequest(RequestError):
    status, code, title = 400, "malformed_request", "Malformed request"


class NotFound(RequestError):
    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowed(RequestError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"

    def __init__(self, detail: str, *, allow: str) -> None:
        super().__init__(detail)
        self.headers = ((b"allow", allow.encode("ascii")),)


class RequestTimeout(RequestError):
    status, code, title = 408, "request_timeout", "Request timed out"


class BodyTooLarge(RequestError):
    status, code, title = 413, "body_too_large", "Body too large"


class UnsupportedMediaType(RequestError):
    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class InvalidInput(RequestError):
    status, code, title = 422, "invalid_input", "Invalid input"


class QueueFull(RequestError):
    status, code, title = 429, "queue_full", "Too many waiting requests"
    headers = ((b"retry-after", b"1"),)


class HeadersTooLarge(RequestError):
    status, code, title = 431, "headers_too_large", "Request headers too large"


class ClientGone(RequestError):
    status, code, title = 499, "client_gone", "Client closed the connection"


class PredictionFailed(RequestError):
    status, code, title = 500, "prediction_failed", "Prediction failed"


class InternalError(RequestError):
    status, code, title = 500, "internal_error", "Internal error"

    @classmethod
    def because(cls, cause: Exception) -> InternalError:
        """The error that hides a fault of the server's own from the client, and keeps it for the log."""
        error = cls("The server failed to answer this request. Its log has the reason.")
        error.__cause__ = cause
        return error


class NotReady(RequestError):
    status, code, title = 503, "not_ready", "Not ready"
    headers = ((b"retry-after", b"1"),)


class Overloaded(RequestError):
    status, code, title = 503, "overloaded", "Overloaded"
    headers = ((b"retry-after", b"1"),)


class CutOff(RequestError):
    status, code, title = 503, "cut_off", "Cut off"


class PredictionTimeout(RequestError):
    status, code, title = 504, "prediction_timeout", "Prediction timed out"
