"""What we lean on inside uvicorn, in one place: not all of it is promised to anybody."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable

_CONFIG, _STATE = "uvicorn.Config", "uvicorn.server.ServerState"
_FLOW = "uvicorn.protocols.http.flow_control.FlowControl"
_PROTOCOL = "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol"

PARAMETERS: dict[str, str] = {
    _CONFIG: "app http interface lifespan ws workers log_config proxy_headers forwarded_allow_ips",
    _PROTOCOL: "config server_state app_state",
}
METHODS: dict[str, str] = {
    _CONFIG: "load",
    _PROTOCOL: "connection_made connection_lost pause_writing resume_writing on_message_begin on_url",
    _FLOW: "pause_reading resume_reading drain",
}
ATTRIBUTES: dict[str, str] = {
    _PROTOCOL: "app connections flow headers loop parser scope tasks transport",
    _FLOW: "write_paused",
    _STATE: "connections",
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


def _missing(expected: dict[str, str], kind: str, found: Callable[[Any], Any]) -> list[str]:
    missing = []
    for place, names in expected.items():
        module, _, owner = place.rpartition(".")
        try:
            there = found(getattr(import_module(module), owner))
        except (ImportError, AttributeError):
            missing.append(place)
        else:
            missing += [f"{kind} {owner}.{name}" for name in names.split() if name not in there]
    return missing
