"""The servers that are measured: how each is started, asked and ended."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import works
from environments import environment, version
from machine import HERE, RUN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PORT = 18500
MANAGEMENT = f"http://127.0.0.1:{PORT + 1}"
SINK_PORT = PORT + 9
LOG = RUN / "bench" / "server.log"
SERVERS = HERE / "servers"

ALL_OFF = {
    "METRICS": "false",
    "LOG_LEVEL": "ERROR",  # no line for an answered request
    "CORRELATION_IDS": "false",
    "TRACING__ENABLED": "false",
}
EACH = {
    "metrics": {"METRICS": "true"},
    "lines": {"LOG_LEVEL": "INFO", "LOG_FILE": str(LOG)},
    "ids": {"CORRELATION_IDS": "true"},
    "traces": {
        "TRACING__ENABLED": "true",
        "TRACING__ENDPOINT": f"http://127.0.0.1:{SINK_PORT}",
        "TRACING__SAMPLE_RATIO": "0.01",
    },
}
ALL_ON = {key: value for settings in EACH.values() for key, value in settings.items()}
CONFIG = """\
server: {{host: 127.0.0.1, port: {port}, management: {{port: {management}}}}}
model: {{name: {model}, version: "1.0.0"}}
predictor: {predictor}
"""


@dataclass(frozen=True)
class Contender:
    """A server, ready to be started.

    Args:
        command: what starts it, in `folder`.
        stop: the signal that ends it and all its processes.
        body: the request's body, of rows.
    """

    title: str
    command: tuple[str, ...]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    path: str = "/predict"
    stop: signal.Signals = signal.SIGTERM
    body: Callable[[works.Rows], str] = works.ndarray

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{PORT}{self.path}"

    def surroundings(self) -> dict[str, str]:
        """All its environment variables; settings of ours that stand outside are not for it."""
        outside = {key: value for key, value in os.environ.items() if not key.startswith("MLSERVER_")}
        return outside | {"PORT": str(PORT), "PYTHONPATH": str(SERVERS)} | self.environment


def floor(model: str) -> Contender:
    """What one core can do at all."""
    file = () if model == "noop" else (str(works.model_file(model)),)
    return Contender(
        title="floor",
        command=(sys.executable, str(SERVERS / "floor.py"), str(PORT), *file),
        folder=SERVERS,
    )


def ours(model: str, title: str, settings: dict[str, str], *, as_class: bool = False) -> Contender:
    """MLServer with settings of `observability`, by their environment variables."""
    config = RUN / "bench" / f"{model}{'-class' if as_class else ''}.yaml"
    if model == "noop" or as_class:
        named = "Noop" if model == "noop" else "Regression"
        predictor = f"{{module: predictors, class_name: {named}}}"
    else:
        predictor = f'{{artifact: "{works.model_file(model)}", trusted: [sklearn.tree._tree.Tree]}}'
    config.parent.mkdir(parents=True, exist_ok=True)
    text = CONFIG.format(port=PORT, management=PORT + 1, model=model, predictor=predictor)
    config.write_text(text, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(SERVERS), os.environ.get("PYTHONPATH", ""))))
    variables = {f"MLSERVER_OBSERVABILITY__{key}": value for key, value in settings.items()}
    return Contender(
        title=title,
        command=(sys.executable, "-m", "mlserver", "serve", str(config)),
        folder=config.parent,
        environment={"PYTHONPATH": path} | variables,
    )


def fastapi(model: str) -> Contender:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{SINK_PORT}"}
    peer = _peer("fastapi", "FastAPI", model, ("python", "serve.py"), endpoint)
    return replace(peer, title=f"{peer.title}, assembled")


def seldon(model: str) -> Contender:
    ports = {f"MLSERVER_{name}_PORT": str(PORT + at) for at, name in enumerate(("HTTP", "GRPC", "METRICS"))}
    peer = _peer("seldon", "Seldon MLServer", model, ("mlserver", "start", "."), ports)
    return replace(peer, path="/v2/models/model/infer", body=works.inference)


def bentoml(model: str) -> Contender:
    command = ("bentoml", "serve", "service:Model", "--host", "127.0.0.1", "--port", str(PORT))
    return _peer("bentoml", "BentoML", model, command, {"BENTOML_DO_NOT_TRACK": "True"})


def litserve(model: str) -> Contender:
    peer = _peer("litserve", "LitServe", model, ("python", "serve.py"))
    return replace(peer, stop=signal.SIGINT)  # SIGTERM would leave its workers behind


def _peer(
    name: str, title: str, model: str, command: tuple[str, ...], variables: dict[str, str] | None = None
) -> Contender:
    """A peer; the first word of its command is in its own environment."""
    package = {"seldon": "mlserver"}.get(name, name)
    return Contender(
        title=f"{title} {version(name, package)}",
        command=(str(environment(name) / command[0]), *command[1:]),
        folder=HERE / "peers" / name,
        environment={"MODEL": model} | (variables or {}),
    )


def _ours_with(title: str, settings: dict[str, str]) -> Callable[[str], Contender]:
    return lambda model: ours(model, f"MLServer, {title}", settings)


PEERS = {"fastapi": fastapi, "seldon": seldon, "bentoml": bentoml, "litserve": litserve}
CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "floor": floor,
    "on": _ours_with("all signals on", ALL_ON),
    "off": _ours_with("all signals off", ALL_OFF),
    **{name: _ours_with(f"{name} alone", ALL_OFF | settings) for name, settings in EACH.items()},
    "class": lambda model: ours(
        model, "MLServer, all signals on, the model in a class", ALL_ON, as_class=True
    ),
    **PEERS,
}
