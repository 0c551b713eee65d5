"""One worker's server as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from functools import partial
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

import orjson

from mlserver import paths
from mlserver.errors import MLServerError
from mlserver.exposition.http import asked_for, scraped
from mlserver.serving import openapi
from mlserver.serving.call import Response
from mlserver.serving.codec import Decoder, Encoder
from mlserver.serving.entry import Entry
from mlserver.serving.linger import Linger
from mlserver.serving.model import Model
from mlserver.serving.predictors import load_predictor
from mlserver.serving.routes import Request, Route, Routes

if TYPE_CHECKING:
    from mlserver.app.observation import Observation
    from mlserver.config import Config
    from mlserver.exposition.alone import OwnMetrics
    from mlserver.serving.health import Health
    from mlserver.serving.pipeline import Pipeline
    from mlserver.serving.routes import Receive, Scope, Send
    from mlserver.serving.runner import Runner

RECHECK_S = 5.0
"""Between questions to a predictor whose dependencies are not healthy yet."""
_logger = logging.getLogger("mlserver.app")


class App:
    """One worker's server: the parts that `create_app` made, started and closed together.

    It is started by the ASGI lifespan or, where none is passed on, by the first request; predictions then
    wait for the model. Under ``mlserver serve`` the worker starts it; predictions are 503 until it is loaded.
    """

    def __init__(
        self,
        config: Config,
        health: Health,
        runner: Runner,
        pipeline: Pipeline,
        observation: Observation,
    ) -> None:
        self.config = config
        self.health = health
        self.metrics = observation.metrics
        self.set_log_level = observation.set_log_level
        self._runner = runner
        self._pipeline = pipeline
        self._observation = observation
        self._levels = observation.levels
        self._starting: asyncio.Task[None] | None = None
        self._patient: asyncio.Task[None] | None = None  # a start that predictions wait for
        self._checking: asyncio.Task[None] | None = None
        self._closed = False
        self._model = Model.unknown(config)
        self.entry = Entry(
            pipeline,
            max_body=config.server.max_body_bytes,
            ids=config.observability.correlation_ids,
            trace=observation.trace,
        )
        self._routes = Routes(
            pipeline,
            self.entry,
            self._table(),
            timeout=config.server.request_timeout_s,
            loading=self._loading,
        )
        self.reject = self._routes.reject

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] == "http":
            if self._starting is None:
                self._starting = self._patient = asyncio.create_task(self._load())
            await self._routes(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def start(self) -> None:
        """Loads the model; returns when `health` says that it is ready or has failed. May be called twice."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._load())
        await asyncio.shield(self._starting)

    def cut_off(self) -> None:
        """Ends what is still open with an error, since nobody waits for it any longer."""
        self._pipeline.cut_off()

    async def close(self, timeout: float = 5.0) -> None:
        """Ends open calls with an error, then the predictor and its threads; may be called twice.

        Args:
            timeout: seconds given to a load or a run that goes on. The last spans are sent after that.
        """
        if self._closed:
            return
        self._closed = True
        self.health.draining, self.health.model_loaded = True, False
        self._levels.model_loaded[0] = 0.0
        self._pipeline.cut_off()
        await asyncio.sleep(0)  # the turn in which the observers see what was cut off
        since = time.monotonic()
        try:
            if not await self._end(timeout):
                _logger.warning("The predictor still runs after %g s and is left behind", timeout)
            await self._observation.flush(time.monotonic() - since)
        finally:
            self._observation.close()

    async def _end(self, timeout: float) -> bool:
        """Ends the predictor; whether it ended in time."""
        deadline = time.monotonic() + timeout
        if waiting := {task for task in (self._starting, self._checking) if task is not None}:
            await asyncio.wait(waiting, timeout=timeout)
        return await self._runner.close(max(0.0, deadline - time.monotonic()))

    async def _loading(self) -> None:
        """Returns when the model is loaded or has failed, if it was a request that started it."""
        if self._patient is not None and not self._patient.done():
            await asyncio.wait({self._patient}, timeout=self.config.server.request_timeout_s)

    async def _load(self) -> None:
        self._observation.start()
        try:
            predictor = await self._runner.load(partial(load_predictor, self.config))
            self._model = Model.of(predictor, self.config)
            self._observation.learn(self._model)
            await self._runner.prepare(self._model.concurrency)
        except Exception as error:
            self.health.failure = _public_reason(error)
            _logger.exception("The model could not be loaded: %s", error)  # noqa: TRY401  # found by its message
            return
        if self._closed:
            return
        self._pipeline.connect(
            Decoder(self._model.schema),
            Encoder(self.config.model.name, self.config.model.version),
            self._model.queue(self.config.api),
            operations=self._model.operations,
            concurrency=self._model.concurrency,
            brevity=self._model.brevity(self.config.api),
            linger=Linger(self.config.api.batching.max_rows),
        )
        self.health.model_loaded = True
        self._levels.model_loaded[0] = 1.0
        self._recheck()
        if self._checking is not None:
            # One that hangs does not hold up the start.
            await asyncio.wait({self._checking}, timeout=RECHECK_S)

    async def _check_dependencies(self) -> None:
        """Asks the predictor's ``check_health``, and again until it is content: a start is over only then."""
        health, before, raised = self.health, self.health.waiting_for, None
        try:
            health.dependencies_healthy = await self._runner.check_health()
            health.waiting_for = None if health.dependencies_healthy else "check_health() returned False"
        except Exception as error:  # noqa: BLE001  # it is the user's: whatever it raises is a no
            health.waiting_for, raised = f"check_health() raised {type(error).__name__}", error
        if health.waiting_for and health.waiting_for != before:  # said once, not every few seconds
            _logger.warning("The start is not over: %s", health.waiting_for, exc_info=raised)
        if not health.dependencies_healthy and not self._closed:
            asyncio.get_running_loop().call_later(RECHECK_S, self._recheck)

    def _recheck(self) -> None:
        if self._closed:
            return
        self._checking = asyncio.create_task(self._check_dependencies())

    async def _live(self, receive: Receive, send: Send) -> None:
        """The ASGI lifespan."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _table(self) -> list[Route]:
        """Every path but what a supervisor adds on its management listener."""
        routes = [
            *(Route(path, operation=operation) for path, operation in paths.PREDICTIONS.items()),
            Route("/healthz", lambda _: _json(*self.health.healthz()), quiet=True),
            Route("/readyz", lambda _: _json(*self.health.readyz()), quiet=True),
            Route("/startupz", lambda _: _json(*self.health.startupz()), quiet=True),
            Route("/info", lambda _: _json(200, self._info())),
            Route("/openapi.json", lambda _: _json(200, self._openapi())),
            Route("/docs", lambda _: self._docs()),
        ]
        if self.metrics is not None:
            scrape = partial(_scrape, self.metrics)
            routes.append(Route(self.config.observability.metrics_endpoint, scrape, quiet=True))
        return routes

    def _info(self) -> dict[str, Any]:
        return {
            "model": self.config.model.name,
            "version": self.config.model.version,
            **self._model.info(),
            "server": {"name": "mlserver", "version": installed_version("mlserver-observability")},
            "python": platform.python_version(),
        }

    def _openapi(self) -> dict[str, Any]:
        return openapi.document(
            self._model.schema,
            model=self.config.model.name,
            version=self.config.model.version,
            operations=self._model.operations,
            metrics_endpoint=self.config.observability.metrics_endpoint if self.metrics else None,
        )

    def _docs(self) -> Response:
        headers = ((b"content-security-policy", openapi.CONTENT_SECURITY_POLICY.encode("ascii")),)
        return Response(200, openapi.docs_page(self._openapi()), b"text/html; charset=utf-8", headers)


async def _scrape(metrics: OwnMetrics, request: Request) -> Response:
    return scraped(await metrics.answer(*asked_for(request.headers)))


def _public_reason(error: Exception) -> str:
    """Why the model could not be loaded, for everybody: what others' code says may hold secrets."""
    own_words = error.__cause__ is None or isinstance(error.__cause__, ModuleNotFoundError)
    if own_words and isinstance(error, MLServerError):
        return str(error)
    return f"{type(error.__cause__ or error).__name__} while the model was loaded; the log has the rest"


def _json(status: int, body: object) -> Response:
    return Response(status, orjson.dumps(body))
