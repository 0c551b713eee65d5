"""Reloading: the configuration is read again, and every worker is replaced by one that has it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from mlserver.errors import ConfigError, Fault, ModelLoadError, RequestError
from mlserver.server.fleet import LOAD_S, Superseded
from mlserver.server.process import DRAIN_SLACK_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlserver.config import Config, ServerSettings
    from mlserver.server.fleet import Fleet

FIXED = ("host", "port", "workers")
"""Settings of ``server`` that a running server cannot change; `MANAGEMENT_FIXED` of ``server.management``."""
MANAGEMENT_FIXED = ("host", "port")
Outcome = dict[str, Any] | RequestError
_logger = logging.getLogger("mlserver.supervisor")


class ReloadReplaced(RequestError):
    status, code, title = 409, "reload_replaced", "Reload replaced by a later one"


class ConfigRefused(RequestError):
    status, code, title = 422, "config_refused", "The configuration cannot be used"

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("\n".join(map(str, faults)))


class ReloadFailed(RequestError):
    status, code, title = 502, "reload_failed", "Reload failed"


class ServerStops(RequestError):
    status, code, title = 503, "server_stops", "The server stops"


class Reload:
    """Runs one reload at a time, the latest that was asked for; one that fails leaves everything as it was.

    Args:
        config: what is in effect.
        load: reads the configuration again.
        adopt: told what is in effect from then on.
    """

    def __init__(
        self, config: Config, fleet: Fleet, *, load: Callable[[], Config], adopt: Callable[[Config], None]
    ) -> None:
        self.config = config
        self._fleet = fleet
        self._load = load
        self._adopt = adopt
        self._stopping = False
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._turn = asyncio.Lock()
        self._superseded = asyncio.Event()
        """Of the reload that was begun last."""

    def begin(self) -> asyncio.Task[Outcome]:
        """Begins a reload, which goes on whatever becomes of who asked for it.

        One that runs is given up for it: a model that hangs while it loads must not stand in the way of a
        better one.

        Raises:
            ServerStops: it is too late.
        """
        if self._stopping:
            raise ServerStops("The server was told to stop; it reloads no more.")
        task = asyncio.create_task(self._run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def result(self, task: asyncio.Task[Outcome]) -> dict[str, Any]:
        """Waits for a reload that was begun.

        Raises:
            RequestError: why it failed.
        """
        await asyncio.wait({task})
        if task.cancelled():
            raise ServerStops("The server was told to stop while it reloaded.")
        outcome = task.result()
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    def stop(self) -> None:
        """Gives up the reloads that run, and begins no more."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()

    async def _run(self) -> Outcome:
        _logger.info("Reloading")
        try:
            config, kept = keep_fixed(self.config, self._load())
        except ConfigError as error:  # which is no reason to give up one that runs
            _logger.error("The reload was refused: %s", "; ".join(map(str, error.faults)))  # noqa: TRY400
            return ConfigRefused(error.faults)
        self._superseded.set()
        superseded = self._superseded = asyncio.Event()
        async with self._turn:
            if (failure := await self._replace(config, superseded)) is not None:
                return failure
            self.config = config
            self._adopt(config)
        detail = "Reloaded" + (f"; in effect only after a restart: {', '.join(kept)}" if kept else "")
        _logger.info(detail)
        return {"status": "reloaded", "detail": detail, "restart_needed": kept}

    async def _replace(self, config: Config, superseded: asyncio.Event) -> RequestError | None:
        """Gives the workers a configuration, or says why they do not have it."""
        try:
            await self._fleet.replace(config, before=self.config, superseded=superseded)
        except Superseded:
            _logger.warning("The reload was given up for a later one")
            return ReloadReplaced("It was replaced by a later reload, whose answer says what is in effect.")
        except ModelLoadError as error:
            _logger.error("The reload failed, the model before it goes on: %s", error)  # noqa: TRY400
            return ReloadFailed(f"The model that runs goes on: its successor did not get ready. {error}")
        except Exception:
            _logger.exception("The reload failed, the model before it goes on")
            return ReloadFailed(
                "The model that runs goes on: the reload itself failed. The log has the reason."
            )
        return None


def longest_s(server: ServerSettings) -> float:
    """Seconds after which any reload has ended.

    At worst every worker is replaced, the last one in vain, and all are put back; and before that the reload
    that this one takes the place of finishes with one worker.
    """
    return (2 * server.worker_count + 1) * (LOAD_S + server.graceful_timeout_s + DRAIN_SLACK_S)


def keep_fixed(running: Config, loaded: Config) -> tuple[Config, list[str]]:
    """A new configuration with what a running server cannot change as it is.

    Returns:
        the configuration, and the keys whose new values it does not have.
    """
    old, new = running.server, loaded.server
    kept = [f"server.{key}" for key in FIXED if getattr(old, key) != getattr(new, key)]
    kept += [
        f"server.management.{key}"
        for key in MANAGEMENT_FIXED
        if getattr(old.management, key) != getattr(new.management, key)
    ]
    management = new.management.model_copy(
        update={key: getattr(old.management, key) for key in MANAGEMENT_FIXED}
    )
    server = new.model_copy(update={key: getattr(old, key) for key in FIXED} | {"management": management})
    return loaded.model_copy(update={"server": server}), kept
