"""What the configuration and OpenTelemetry's variables say; a key that is set in the configuration wins."""

from __future__ import annotations

import logging
import os
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from mlserver.errors import MLServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlserver.config import Config

TRACES_PATH = "/v1/traces"
DEFAULT_ENDPOINTS = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
PACKAGES = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
}
_FOLLOWS_PARENT = "parentbased_"
_RATIO = "traceidratio"
_LEAST_SECRET = 4
"""Characters of a header that is looked for; less are in every other text."""
_USER = re.compile(r"//[^/\s]*@")
_QUERY = re.compile(r"\?[^\s'\")>]+")
_logger = logging.getLogger("mlserver.traces")


class Rate(NamedTuple):
    """Which requests are sampled."""

    ratio: float
    """Share of them, from 0 to 1."""
    follows_caller: bool = True
    """Whether a caller that traces has decided already."""


class Target(NamedTuple):
    """Where spans go."""

    protocol: str
    """``http/protobuf`` or ``grpc``."""
    url: str

    @property
    def shown(self) -> str:
        """Its address without what may be secret."""
        return masked(self.url, {})


class Limits(NamedTuple):
    """Of the queue, and of one message to the collector."""

    spans: int = 65_536
    bytes: int = 64 * 2**20
    """Estimated."""
    batch_spans: int = 2048
    batch_bytes: int = 2 * 2**20
    """Collectors take 4 MiB by gRPC unless told otherwise."""
    delay_s: float = 0.2
    """How long the first span waits for others."""


def disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether ``OTEL_SDK_DISABLED`` turns tracing off."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def rate_of(config: Config, environ: Mapping[str, str] = os.environ) -> Rate:
    """The sampler of ``OTEL_TRACES_SAMPLER`` unless ``tracing.sample_ratio`` is set."""
    tracing = config.observability.tracing
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if "sample_ratio" in tracing.model_fields_set or not name:
        return Rate(tracing.sample_ratio)
    kind = name.removeprefix(_FOLLOWS_PARENT)
    if kind not in ("always_on", "always_off", _RATIO):
        _logger.warning(
            "OTEL_TRACES_SAMPLER=%s is not known here; expected always_on, always_off or traceidratio, each "
            "also with parentbased_ before it. Taken: parentbased_always_on",
            name,
        )
        return Rate(1.0)
    ratio = _sampler_arg(environ) if kind == _RATIO else float(kind == "always_on")
    return Rate(ratio, follows_caller=name.startswith(_FOLLOWS_PARENT))


def target_of(config: Config, environ: Mapping[str, str] = os.environ) -> Target:
    """The collector: by the configuration, else by ``OTEL_EXPORTER_OTLP_*``, else on this machine.

    Raises:
        MLServerError: what the protocol needs is not installed, or the address is none.
    """
    tracing = config.observability.tracing
    protocol: str = tracing.protocol
    if "protocol" not in tracing.model_fields_set:
        protocol = _of_traces(environ, "PROTOCOL") or protocol
    if protocol not in PACKAGES:
        _logger.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL=%s is not known here; expected %s. Taken: %s",
            protocol,
            " or ".join(PACKAGES),
            tracing.protocol,
        )
        protocol = tracing.protocol
    if not _is_installed(PACKAGES[protocol]):
        extra = "[grpc]" if protocol == "grpc" else ""
        raise MLServerError(
            f"observability.tracing.protocol is {protocol}, and what it needs is not installed: "
            f"pip install 'mlserver-observability{extra}'"
        )
    return Target(protocol, _url(config, protocol, environ))


def masked(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """A text about the way to the collector, without what may be secret.

    That is users, passwords and queries of addresses, and what the exporter's headers hold.
    """
    for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        for header in environ.get(variable, "").split(","):
            value = header.partition("=")[2].strip()
            for secret in (value, unquote(value)):
                if len(secret) >= _LEAST_SECRET:
                    text = text.replace(secret, "…")
    return _QUERY.sub("", _USER.sub("//", text))


def limits_of(environ: Mapping[str, str] = os.environ) -> Limits:
    """The defaults, or what ``OTEL_BSP_*`` say in their place."""
    defaults = Limits()
    spans = _positive(environ, "OTEL_BSP_MAX_QUEUE_SIZE", defaults.spans)
    batch = _positive(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", defaults.batch_spans)
    delay_ms = _positive(environ, "OTEL_BSP_SCHEDULE_DELAY", round(defaults.delay_s * 1000))
    return defaults._replace(spans=spans, batch_spans=min(batch, spans), delay_s=delay_ms / 1000)


def resource_of(config: Config) -> Resource:
    """Who gives the spans; what ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` say wins."""
    own: dict[str, str | int] = {
        "service.name": config.model.name,
        "service.version": config.model.version,
        "service.instance.id": str(uuid4()),
        "process.pid": os.getpid(),
    }
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in own.items() if name not in given})


def _url(config: Config, protocol: str, environ: Mapping[str, str]) -> str:
    tracing = config.observability.tracing
    if "endpoint" in tracing.model_fields_set:
        base = tracing.endpoint
    elif url := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return _checked("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url, protocol)
    elif url := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        base = _checked("OTEL_EXPORTER_OTLP_ENDPOINT", url, protocol)
    else:
        base = DEFAULT_ENDPOINTS[protocol]
    if protocol == "grpc" or base.rstrip("/").endswith(TRACES_PATH):
        return base
    return base.rstrip("/") + TRACES_PATH


def _checked(variable: str, url: str, protocol: str) -> str:
    """An address by the rules of ``tracing.endpoint``; gRPC also takes ``collector:4317``."""
    if "@" in url or "?" in url:  # not shown: it may be a secret
        raise MLServerError(
            f"{variable} holds a user, a password or a query; expected an address such as "
            f"{DEFAULT_ENDPOINTS[protocol]}, and what authenticates in OTEL_EXPORTER_OTLP_HEADERS"
        )
    try:
        parts = urlsplit(url if "//" in url or protocol != "grpc" else f"http://{url}")
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        known = False
    if not known or "#" in url or " " in url:
        raise MLServerError(
            f"{variable} is {url!r}; expected an address such as {DEFAULT_ENDPOINTS[protocol]}"
        )
    return url


def _of_traces(environ: Mapping[str, str], name: str) -> str | None:
    """A variable of the exporter: the one for traces, else the one for all signals."""
    return environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environ.get(f"OTEL_EXPORTER_OTLP_{name}")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


def _sampler_arg(environ: Mapping[str, str]) -> float:
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "1")
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if 0 <= ratio <= 1:
        return ratio
    _logger.warning("OTEL_TRACES_SAMPLER_ARG=%s is no number from 0 to 1. Taken: 1", text)
    return 1.0


def _positive(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if text.isdecimal() and int(text[:12]) > 0:
        return int(text[:12])
    if text:
        _logger.warning("%s=%s is no whole number above 0. Taken: %d", name, text, default)
    return default
