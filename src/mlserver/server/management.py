"""The management listener: probes, metrics, reload and log level, from a process that runs no model."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlserver.errors import (
    BodyTooLarge,
    ClientGone,
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    RequestError,
    RequestTimeout,
)
from mlserver.exposition.http import asked_for, scraped
from mlserver.server.access import NOTHING_HERE, admit, admit_write
from mlserver.server.reload import ConfigRefused
from mlserver.server.verbosity import EXPECTED, UnknownLevel, known_level
from mlserver.serving.call import Response
from mlserver.serving.ids import accept_id
from mlserver.serving.routes import send_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from mlserver.exposition import Rendered
    from mlserver.server.reload import Reload
    from mlserver.server.verbosity import Verbosity
    from mlserver.serving.health import Answer, Health
    from mlserver.serving.routes import Receive, Scope, Send

MAX_BODY_BYTES = 1 << 16
BODY_S = 10.0
READS = ("GET", "HEAD")
PROBLEM = b"application/problem+json"
_logger = logging.getLogger("mlserver.management")


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler may look at."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: Callable[[], Awaitable[bytes]]
    """Reads it; raises `RequestError` where it is too large or breaks off."""


class Management:
    """The listener's ASGI application. Its traffic is not counted and has no log lines.

    Args:
        health: how the workers are at this moment.
        render: the metrics at this moment, by the headers ``Accept`` and ``Accept-Encoding``.
    """

    def __init__(
        self,
        *,
        reload: Reload,
        verbosity: Verbosity,
        health: Callable[[], Health],
        render: Callable[[str, str], Rendered],
    ) -> None:
        self._reload = reload
        self._verbosity = verbosity
        self._health = health
        self._render = render
        self._probes: dict[str, Callable[[Health], Answer]] = {
            "/healthz": lambda health: health.healthz(),
            "/readyz": lambda health: health.readyz(),
            "/startupz": lambda health: health.startupz(),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            return
        request = Request(scope["method"], scope["path"], dict(scope["headers"]), partial(_read, receive))
        request_id = accept_id(request.headers.get(b"x-request-id"))
        try:
            response = await self._answer(request)
        except RequestError as error:
            response = problem(error, request_id)
        except Exception:
            _logger.exception("The management listener failed to answer %s", request.path)
            response = problem(InternalError("The log has the reason."), request_id)
        if response.status != ClientGone.status:
            response.add_header(b"x-request-id", request_id.encode("ascii"))
            await send_response(send, response, body=request.method != "HEAD")

    def reject(
        self, error: RequestError, *, method: str, received: float, reply: Callable[[Response], None]
    ) -> None:
        """Answers what never became a request, for the protocol."""
        del method, received
        reply(problem(error, accept_id(None)))

    async def _answer(self, request: Request) -> Response:
        config = self._reload.config
        settings = config.observability
        scrape = settings.metrics and request.path == settings.metrics_endpoint
        probe = self._probes.get(request.path)
        admit(config.server.management, request.headers, harmless=scrape or probe is not None)
        if probe is not None:
            _expect(request, READS)
            status, answer = probe(self._health())
            return Response(status, _compact(answer))
        if scrape:
            _expect(request, READS)
            return scraped(self._render(*asked_for(request.headers)))
        if request.path == "/reload":
            return await self._do_reload(request)
        if request.path == "/log-level":
            return await self._log_level(request)
        raise NotFound(NOTHING_HERE)

    async def _do_reload(self, request: Request) -> Response:
        _expect(request, ("POST",))
        admit_write(request.headers)
        _object(await request.body(), expected="{}")
        return Response(200, _compact(await self._reload.result(self._reload.begin())))

    async def _log_level(self, request: Request) -> Response:
        _expect(request, (*READS, "POST"))
        if request.method != "POST":
            return Response(200, _compact({"level": self._verbosity.level}))
        admit_write(request.headers)
        wish = _object(await request.body(), expected='{"level": "…"}')
        if set(wish) != {"level"}:
            raise UnknownLevel(f'Expected {{"level": "…"}} and nothing else, with {EXPECTED}.')
        level, before = known_level(wish["level"]), self._verbosity.level
        self._verbosity.change(level)
        return Response(200, _compact({"level": level, "was": before}))


def problem(error: RequestError, request_id: str) -> Response:
    """An error as RFC 9457 problem details."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "code": error.code,
        "request_id": request_id,
    }
    if isinstance(error, ConfigRefused):
        body["faults"] = [fault._asdict() for fault in error.faults]
    return Response(error.status, _compact(body), PROBLEM, error.headers)


def _expect(request: Request, methods: tuple[str, ...]) -> None:
    if request.method not in methods:
        allow = ", ".join(methods)
        raise MethodNotAllowed(f"{request.path} takes {allow}, not {request.method[:32]}.", allow=allow)


def _object(body: bytes, *, expected: str) -> dict[str, Any]:
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise MalformedRequest(f"The body is no JSON; expected {expected}.") from None
    if not isinstance(document, dict):
        raise MalformedRequest(f"The body is no JSON object; expected {expected}.")
    return document


async def _read(receive: Receive) -> bytes:
    try:
        async with asyncio.timeout(BODY_S):
            return await _read_all(receive)
    except TimeoutError:
        raise RequestTimeout(f"The body did not end within {BODY_S:g} s.") from None


async def _read_all(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("The client closed the connection within the body.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The body has more than {MAX_BODY_BYTES} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
