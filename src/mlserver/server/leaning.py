"""What we lean on inside uvicorn, in one place: not all of it is promised to anybody."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMETERS: dict[Any, str] = {
    uvicorn.Config: "app http interface lifespan ws workers log_config proxy_headers forwarded_allow_ips",
    HttpToolsProtocol: "config server_state app_state",
}
METHODS: dict[Any, str] = {
    uvicorn.Config: "load",
    HttpToolsProtocol: "connection_made connection_lost pause_writing resume_writing on_message_begin on_url",
    FlowControl: "pause_reading resume_reading drain",
}
ATTRIBUTES: dict[Any, str] = {
    HttpToolsProtocol: "app connections flow headers loop parser scope tasks transport",
    FlowControl: "write_paused",
    ServerState: "connections",
}


def supported() -> str | None:
    """Whether the installed uvicorn is one that we can work with: None, or what is wrong with it."""
    missing = [
        *_missing(PARAMETERS, "parameter", lambda owner: inspect.signature(owner).parameters),
        *_missing(METHODS, "method", dir),
        *_missing(ATTRIBUTES, "attribute", lambda owner: owner.__init__.__code__.co_names),
    ]
    if not missing:
        return None
    return (
        f"uvicorn {uvicorn.__version__} has changed: {', '.join(missing)} not found. "
        "Install the version that requirements.lock names."
    )


def _missing(expected: dict[Any, str], kind: str, found: Callable[[Any], Any]) -> list[str]:
    return [
        f"{kind} {owner.__name__}.{name}"
        for owner, names in expected.items()
        for name in names.split()
        if name not in found(owner)
    ]
