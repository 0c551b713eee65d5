"""Reloading: the configuration is read again, and every worker is replaced by one that has it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from mlserver.errors import ConfigError, Fault, ModelLoadError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlserver.config import Config
    from mlserver.server.fleet import Fleet

FIXED = ("host", "port", "workers")
"""Settings of ``server`` that a running server cannot change; `MANAGEMENT_FIXED` of ``server.management``."""
MANAGEMENT_FIXED = ("host", "port")
_logger = logging.getLogger("mlserver.supervisor")


class ReloadRunning(RequestError):
    status, code, title = 409, "reload_running", "A reload is running"


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
    """Runs one reload at a time, and leaves everything as it was where one fails.

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
        self._task: asyncio.Task[dict[str, Any] | RequestError] | None = None

    def begin(self) -> None:
        """Begins a reload, which goes on whatever becomes of who asked for it.

        Raises:
            ReloadRunning: there is one.
        """
        if self._task is not None and not self._task.done():
            raise ReloadRunning("The last reload has not ended yet. Wait for it, then ask again.")
        self._task = asyncio.create_task(self._run())

    async def result(self) -> dict[str, Any]:
        """Waits for the reload that was begun.

        Raises:
            RequestError: why it failed.
        """
        assert self._task is not None  # noqa: S101
        await asyncio.wait({self._task})
        if self._task.cancelled():
            raise ServerStops("The server was told to stop while it reloaded.")
        outcome = self._task.result()
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    def cancel(self) -> None:
        """Gives up the reload that runs, if one does."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> dict[str, Any] | RequestError:
        _logger.info("Reloading")
        try:
            loaded = self._load()
            config, kept = keep_fixed(self.config, loaded)
            await self._fleet.replace(config)
        except ConfigError as error:
            _logger.error("The reload was refused: %s", "; ".join(map(str, error.faults)))  # noqa: TRY400
            return ConfigRefused(error.faults)
        except ModelLoadError as error:
            _logger.error("The reload failed, the model before it goes on: %s", error)  # noqa: TRY400
            return ReloadFailed(f"The model that runs goes on: its successor did not get ready. {error}")
        except Exception:
            _logger.exception("The reload failed, the model before it goes on")
            return ReloadFailed(
                "The model that runs goes on: the reload itself failed. The log has the reason."
            )
        self.config = config
        self._adopt(config)
        detail = "Reloaded" + (f"; in effect only after a restart: {', '.join(kept)}" if kept else "")
        _logger.info(detail)
        return {"status": "reloaded", "detail": detail, "restart_needed": kept}


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
