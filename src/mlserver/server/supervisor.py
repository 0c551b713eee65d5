"""The supervisor: the parent process. It owns sockets, metric pages and workers, and runs no model."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from mlserver.config import load_config
from mlserver.config.surroundings import privacy_risk
from mlserver.errors import RequestError
from mlserver.lines import LineWriter
from mlserver.server import sockets
from mlserver.server.fleet import Fleet
from mlserver.server.limits import Limits
from mlserver.server.listening import listen
from mlserver.server.logs import log_to, open_log
from mlserver.server.management import Management
from mlserver.server.metrics import FleetMetrics
from mlserver.server.output import go_the_same_way
from mlserver.server.process import STDERR
from mlserver.server.reload import Reload
from mlserver.server.verbosity import Verbosity

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable

    from mlserver.config import Config
    from mlserver.server.listening import AnyListener

STDOUT = 1
LAST_ANSWERS_S = 1.0
"""How long the management listener may take to finish what it is answering at the end."""
_logger = logging.getLogger("mlserver.supervisor")


def serve(config: Config, *, overrides: dict[str, object]) -> int:
    """Serves until a signal ends it. To be called in the main thread.

    Args:
        config: the settings.
        overrides: what was put in place of the file's settings, for the next time it is read.

    Returns:
        the exit code: 0 if every request was answered, else 1.

    Raises:
        ConfigError: the log file cannot be written.
        MLServerError: an address cannot be listened on.
    """
    setproctitle("ml_server: supervisor")
    return asyncio.run(_serve(config, overrides))


async def _serve(config: Config, overrides: dict[str, object]) -> int:
    server = config.server
    data = sockets.bind(server.host, server.port, count=server.worker_count, what="server")
    management = None
    if server.management.port is not None:
        (management,) = sockets.bind(
            server.management.host, server.management.port, count=1, what="server.management"
        )
    return await Supervisor(config, overrides, data=data, management=management).run()


class Supervisor:
    """One server from its sockets to its exit code."""

    def __init__(
        self,
        config: Config,
        overrides: dict[str, object],
        *,
        data: list[socket.socket],
        management: socket.socket | None,
    ) -> None:
        self._config = config
        self._overrides = overrides
        self._data = data
        self._management = management
        self._log = os.dup(STDOUT)
        self._writer: LineWriter | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._metrics = FleetMetrics(config, slots=len(data))
        self._printing = self._line_up_prints(config)
        self._fleet = Fleet(
            config, sockets=data, metrics=self._metrics, log=self._log, printing=self._printing
        )
        self._verbosity = Verbosity(config.observability.log_level, tell=self._fleet.set_log_level)
        self._reload = Reload(config, self._fleet, load=self._load, adopt=self._adopt)
        self._adopt(config)

    async def run(self) -> int:
        """Serves, waits for a reason to end, and winds everything down."""
        self._listen_to_signals()
        management = await self._manage()
        self._announce()
        self._fleet.start()
        await _first(self._stop.wait(), asyncio.shield(self._fleet.crashed))
        faults = await self._wind_down()
        for fault in faults:
            _logger.error(fault)
            sys.stderr.write(f"mlserver: {fault}\n")
        if management is not None:
            await management.close(LAST_ANSWERS_S)
        _logger.info("Stopped")
        return 1 if faults else 0

    def _line_up_prints(self, config: Config) -> LineWriter | None:
        """What takes the prints of workers, if log lines go there, too, or may do after a reload."""
        places = (self._log, config.observability.log_file)
        if not any(place is not None and go_the_same_way(place, STDERR) for place in places):
            return None
        return LineWriter(os.dup(STDERR), on_drop=partial(self._metrics.note_dropped, "prints"))

    def _load(self) -> Config:
        """The configuration as it is now.

        Raises:
            ConfigError: it cannot be used.
        """
        if self._config.path is None:
            return self._config
        config = load_config(self._config.path, overrides=self._overrides)
        open_log(config, self._log).close()  # a worker that could not write there would die without a word
        return config

    def _adopt(self, config: Config) -> None:
        """Logs and shows metrics as a configuration says.

        Raises:
            ConfigError: the log file cannot be written.
        """
        writer = open_log(config, self._log)
        writer.on_drop = partial(self._metrics.note_dropped, "logs")
        log_to(writer, config)
        if self._writer is not None:
            self._writer.close()
        self._writer = writer
        if self._printing is not None:
            self._printing.tell = writer.tell
        self._verbosity.adopt(config.observability.log_level)
        self._metrics.adopt(config)
        if risk := privacy_risk(config):
            _logger.warning(risk)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        hangs_up = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        loop.add_signal_handler(signal.SIGTERM, self._told_to_stop)
        loop.add_signal_handler(signal.SIGINT, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload, hangs_up)

    def _told_to_stop(self) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()

    def _told_to_reload(self, hangs_up: bool) -> None:  # noqa: FBT001
        """A reload, unless the signal means that the terminal the server was started in has been closed."""
        if hangs_up and not _has_terminal():
            self._told_to_stop()
            return
        try:
            self._reload.begin()
        except RequestError as error:
            _logger.warning(str(error))

    async def _manage(self) -> AnyListener | None:
        if self._management is None:
            return None
        app = Management(
            reload=self._reload,
            verbosity=self._verbosity,
            health=lambda: self._fleet.health,
            render=self._metrics.render,
        )
        listener = listen(app, limits=Limits.of(self._config.server), sink=app)
        await listener.accept(self._management, "management")
        return listener

    def _announce(self) -> None:
        """Where everything is, for whoever started the server in a terminal."""
        data, metrics = sockets.url(self._data[0]), self._config.observability.metrics_endpoint
        lines = [f"predictions  {data}/predict", f"docs         {data}/docs"]
        if self._config.observability.metrics:
            lines.append(f"metrics      {data}{metrics}")
        if self._management is not None:
            lines.append(f"management   {sockets.url(self._management)}")
        if risk := privacy_risk(self._config):
            lines.append(f"mlserver: warning: {risk}")
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()

    async def _wind_down(self) -> list[str]:
        """Ends all workers; returns what went wrong."""
        self._reload.stop()
        crash = self._fleet.crashed.result() if self._fleet.crashed.done() else None
        server = self._reload.config.server
        stopping = asyncio.create_task(
            self._fleet.stop(
                delay_s=0 if crash else server.drain_delay_s, timeout_s=server.graceful_timeout_s
            )
        )
        await _first(stopping, self._stop_now.wait())
        if not stopping.done():
            stopping.cancel()
            await self._fleet.kill()
            return ["A second signal ended the server at once; requests it was answering were cut off."]
        return [crash] if crash else stopping.result()


async def _first(*ways: Awaitable[object]) -> None:
    """Waits until the first of them ends; the others go on."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def _has_terminal() -> bool:
    """Whether there is a terminal whose end would end the programs started in it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
