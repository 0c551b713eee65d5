"""What requests carry on: ids and trace context, from the caller's headers to those of the calls it causes.

`outgoing` is set for the length of a run. While it is, requests that ``httpx``, ``requests`` and ``urllib3``
make get its headers, in whatever thread or task the context reaches. What the code that makes a request has
set itself stays as it is.
"""

from __future__ import annotations

import logging
import re
import threading
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from mlserver.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType

    Args = tuple[Any, ...]
    Kwargs = dict[str, Any]

REQUEST_ID = "X-Request-ID"
TRACEPARENT, TRACESTATE, BAGGAGE = "traceparent", "tracestate", "baggage"
TRACE_CONTEXT = (TRACEPARENT, TRACESTATE, BAGGAGE)
MAX_BYTES = {TRACEPARENT: 256, TRACESTATE: 512, BAGGAGE: 8192}
"""Of what is passed on; the last two are what W3C asks for at least."""
MAX_MEMBERS = {TRACESTATE: 32, BAGGAGE: 64}
MAX_MEMBER_BYTES = 4096

outgoing: ContextVar[Mapping[str, str]] = ContextVar("outgoing", default=MappingProxyType({}))
"""Headers of requests made in this context; where it has none, requests are as their makers made them."""

sources: list[Callable[[], Mapping[str, str]]] = []
"""Asked for headers at each request made in a run, such as of the span that is current then. What any of them
says takes the place of the trace context in `outgoing`."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
# Members of both lists, by W3C Trace Context and W3C Baggage; the first group is the key.
_STATE_CHARS = r"[a-z0-9_\-*/]"
_STATE_KEY = rf"[a-z]{_STATE_CHARS}{{0,255}}|[a-z0-9]{_STATE_CHARS}{{0,240}}@[a-z]{_STATE_CHARS}{{0,13}}"
_STATE_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_OWS = r"[ \t]*"
_MEMBER = {
    TRACESTATE: re.compile(f"({_STATE_KEY})={_STATE_VALUE}"),
    BAGGAGE: re.compile(f"({_NAME}){_OWS}={_OWS}{_VALUE}(?:{_OWS};{_OWS}{_NAME}(?:{_OWS}={_OWS}{_VALUE})?)*"),
}
_SAMPLED = 0x01
_logger = logging.getLogger("mlserver.propagation")
_pace = Pace()
_installing = threading.Lock()
_installed = False


class Traceparent(NamedTuple):
    """A caller's place in its trace."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    sampled: bool
    """Whether the caller records the trace."""


def read_traceparent(value: bytes | None) -> Traceparent | None:
    """The place that a ``traceparent`` names, by W3C Trace Context.

    A version above 00 may have more fields; ids of zeros only and version ff are no ids, and what does not
    fit is as if it were not there.
    """
    if value is None or not (found := _TRACEPARENT.fullmatch(value)):
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or not trace.strip(b"0") or not span.strip(b"0"):
        return None
    return Traceparent(trace.decode("ascii"), span.decode("ascii"), bool(int(flags, 16) & _SAMPLED))


def passed_on(headers: Mapping[bytes, bytes], repeated: Iterable[tuple[bytes, bytes]] = ()) -> dict[str, str]:
    """The trace context of a request as it came, for the requests that it causes.

    What is malformed or too long is left out: of lists, the members that are, and those beyond
    `MAX_MEMBERS`.

    Args:
        headers: of the request; names in lower case.
        repeated: all of them; ``tracestate`` and ``baggage`` may come in several, which are joined.
    """
    parent = headers.get(b"traceparent")
    if parent is None and b"baggage" not in headers:
        return {}
    context: dict[str, str] = {}
    if read_traceparent(parent) is not None:
        context[TRACEPARENT] = (parent or b"").decode("latin-1")
    for name in (TRACESTATE, BAGGAGE) if context else (BAGGAGE,):
        key = name.encode("ascii")
        values = [value for other, value in repeated if other == key] or [headers.get(key, b"")]
        context[name] = _well_formed(name, b",".join(values).decode("latin-1"))
    fit = {name: value for name, value in context.items() if value and _is_fit(name, value)}
    if TRACEPARENT not in fit:
        fit.pop(TRACESTATE, None)
    return fit


def _well_formed(name: str, value: str) -> str:
    """The members of a list that are as they must be; of those with one key in ``tracestate``, the first."""
    if len(value) > MAX_BYTES[name]:
        return ""
    member_form, most = _MEMBER[name], MAX_MEMBERS[name]
    members: dict[str | int, str] = {}
    for given in value.split(",", 4 * most)[: 4 * most]:  # that many are looked at
        member = given.strip(" \t")
        if len(member) <= MAX_MEMBER_BYTES and (found := member_form.fullmatch(member)):
            members.setdefault(found[1] if name == TRACESTATE else len(members), member)
            if len(members) == most:
                break
    return ",".join(members.values())


def install() -> None:
    """Has the requests of ``httpx``, ``requests`` and ``urllib3`` carry `outgoing`, for good.

    Whether they are imported before or later; may be called more than once.
    """
    global _installed  # noqa: PLW0603
    with _installing:
        if _installed:
            return
        _installed = True
    from wrapt import register_post_import_hook  # noqa: PLC0415  # the supervisor does without

    for name, patch in (("httpx", _patch_httpx), ("requests", _patch_requests), ("urllib3", _patch_urllib3)):
        register_post_import_hook(partial(_quietly, patch), name)


def _quietly(patch: Callable[[ModuleType], None], module: ModuleType) -> None:
    """A version that cannot be patched is none that cannot be imported."""
    try:
        patch(module)
    except Exception:
        _logger.exception("Requests made with %s will not carry ids and trace context", module.__name__)


def _patch_httpx(module: ModuleType) -> None:
    from wrapt import wrap_function_wrapper  # noqa: PLC0415

    def send(wrapped: Callable[..., Any], _: object, args: Args, kwargs: Kwargs) -> Any:
        args, kwargs = _changed(args, kwargs, 0, "request", _httpx_request)
        return wrapped(*args, **kwargs)

    # Not the transports: those that a user makes are called by the client, too.
    wrap_function_wrapper(module, "Client.send", send)
    wrap_function_wrapper(module, "AsyncClient.send", send)


def _patch_requests(module: ModuleType) -> None:
    from wrapt import wrap_function_wrapper  # noqa: PLC0415

    def send(wrapped: Callable[..., Any], _: object, args: Args, kwargs: Kwargs) -> Any:
        args, kwargs = _changed(args, kwargs, 0, "request", _requests_request)
        return wrapped(*args, **kwargs)

    # urllib3 is below most adapters of a session, but an adapter need not use it.
    wrap_function_wrapper(module, "Session.send", send)


def _patch_urllib3(module: ModuleType) -> None:
    from wrapt import wrap_function_wrapper  # noqa: PLC0415

    def urlopen(wrapped: Callable[..., Any], pool: Any, args: Args, kwargs: Kwargs) -> Any:
        def change(headers: Any) -> Any:
            return _urllib3_headers(pool.headers if headers is None else headers)

        args, kwargs = _changed(args, kwargs, 3, "headers", change)
        return wrapped(*args, **kwargs)

    wrap_function_wrapper(module, "connectionpool.HTTPConnectionPool.urlopen", urlopen)


def _changed(
    args: Args, kwargs: Kwargs, position: int, name: str, change: Callable[[Any], Any]
) -> tuple[Args, Kwargs]:
    """Arguments with one of them changed, or as they are where nothing is to be added or that fails."""
    if not outgoing.get():
        return args, kwargs
    try:
        if len(args) > position:
            return (*args[:position], change(args[position]), *args[position + 1 :]), kwargs
        return args, {**kwargs, name: change(kwargs.get(name))}
    except Exception:  # whatever it is, the user's request goes on
        if _pace.due():
            _logger.exception("A request made in a run goes out without ids and trace context")
        return args, kwargs


def _httpx_request(request: Any) -> Any:
    if added := _additions(request.headers):
        # A copy that shares the body, since the request may be used again in another run.
        copy = object.__new__(type(request))
        copy.__dict__.update(request.__dict__)
        copy.headers = request.headers.copy()
        copy.headers.update(added)
        return copy
    return request


def _requests_request(request: Any) -> Any:
    if added := _additions(request.headers):
        request = request.copy()
        request.headers.update(added)
    return request


def _urllib3_headers(given: Any) -> Any:
    if added := _additions(given):
        given = given.copy()
        given.update(added)
    return given


def _additions(given: Iterable[str | bytes]) -> dict[str, str]:
    """What is to be added to the headers of a request, by their names."""
    names = {name.decode("latin-1").lower() if isinstance(name, bytes) else name.lower() for name in given}
    if TRACEPARENT in names:  # its state would not be of that trace
        names.add(TRACESTATE)
    return {
        name: value
        for name, value in _headers().items()
        if name.lower() not in names and _is_fit(name, value)
    }


def _headers() -> Mapping[str, str]:
    headers = outgoing.get()
    traced: dict[str, str] = {}
    for source in sources:
        try:
            traced.update(source())
        except Exception:
            if _pace.due():
                _logger.exception("A request made in a run goes out without the trace context of its span")
    if traced:
        headers = {name: value for name, value in headers.items() if name not in TRACE_CONTEXT} | traced
    return headers


def _is_fit(name: str, value: str) -> bool:
    return value.isascii() and value.isprintable() and len(value) <= MAX_BYTES.get(name, MAX_BYTES[BAGGAGE])
