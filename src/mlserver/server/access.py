"""Who may do what on the management listener."""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING

from mlserver.errors import NotFound, RequestError, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlserver.config import ManagementSettings

OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
NOTHING_HERE = "There is nothing at this path."


class Unauthorized(RequestError):
    status, code, title = 401, "unauthorized", "Unauthorized"
    headers = ((b"www-authenticate", b"Bearer"),)


class CrossOrigin(RequestError):
    status, code, title = 403, "cross_origin", "Cross-origin write refused"


class WrongHost(RequestError):
    status, code, title = 421, "wrong_host", "Misdirected request"


def admit(settings: ManagementSettings, headers: Mapping[bytes, bytes], *, harmless: bool) -> None:
    """Lets a request pass, or says why not.

    On loopback the ``Host`` header must be a name of this listener: a page in a browser that has its own
    name resolve to 127.0.0.1 comes with another one. Off loopback, what is harmless is open to any name,
    since a prober uses whatever address it knows.

    Args:
        settings: of the listener.
        headers: names in lower case.
        harmless: a probe or a scrape.

    Raises:
        RequestError: it may not pass.
    """
    loopback = is_loopback(settings.host)
    if harmless and not loopback:
        return
    if not loopback and settings.token is None:
        raise NotFound(NOTHING_HERE)
    _check_host(settings, headers.get(b"host", b"").decode("latin-1"))
    if settings.token is not None and not harmless:
        _check_token(settings.token.get_secret_value(), headers.get(b"authorization", b""))


def admit_write(headers: Mapping[bytes, bytes]) -> None:
    """Lets a request that changes something pass, unless a page in a browser may have sent it.

    Raises:
        RequestError: it has an ``Origin``, or a body that a form can send.
    """
    if b"origin" in headers:
        raise CrossOrigin(
            "The request has an Origin header, so a browser sent it; only other clients may write."
        )
    media_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise UnsupportedMediaType(
            f"The content type is {media_type.decode('latin-1')[:100]!r}; expected application/json."
        )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(header: str) -> str:
    """The name in a ``Host`` header: without the port and without the brackets of IPv6."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _check_host(settings: ManagementSettings, header: str) -> None:
    allowed = OWN_NAMES | {settings.host.lower(), *map(host_name, settings.allowed_hosts)}
    if host_name(header) not in allowed:
        raise WrongHost(
            f"The Host header is {header[:100]!r}, which is no name of this listener; expected one of "
            f"{', '.join(sorted(allowed))}. Others can be added to server.management.allowed_hosts."
        )


def _check_token(token: str, header: bytes) -> None:
    scheme, _, given = header.partition(b" ")
    known = hmac.compare_digest(given.strip(), token.encode())
    if scheme.lower() != b"bearer" or not known:
        raise Unauthorized("Expected the header Authorization: Bearer with server.management.token.")
