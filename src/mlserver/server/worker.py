"""A worker process: holds the model and answers requests on the sockets that its supervisor gives it.

Run as ``python -m mlserver.server.worker CONTROL SUPERVISOR``: the descriptor of its end of the control
channel, and the supervisor's process id. All else comes over the channel.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import uvloop
from setproctitle import setproctitle

from mlserver.app import create_app
from mlserver.exposition import Exposition
from mlserver.pages import Page
from mlserver.server import garbage
from mlserver.server.control import (
    Accept,
    Beat,
    Channel,
    Drain,
    Drained,
    Launch,
    Loaded,
    LogLevel,
    NotLoaded,
    Readiness,
    Scraped,
    Started,
    unpack_config,
)
from mlserver.server.lifeline import die_with, leave_signals
from mlserver.server.limits import Limits
from mlserver.server.listening import listen
from mlserver.server.logs import log_to, open_log
from mlserver.server.scrapes import Scrapes

if TYPE_CHECKING:
    from mlserver.app import App
    from mlserver.server.listening import AnyListener

BEAT_S = 1.0
CLOSE_S = 3.5
"""How long the predictor may take to close."""
HASTE_S = 0.2
"""The same where a run was cut off, or the model is still being loaded: that is not waited for."""
END_S = 4.5
"""How long it all may take, the sending of the last spans included; less than the supervisor's `EXIT_S`."""


class Worker:
    """The application, its listener, and what the supervisor asks of them."""

    def __init__(
        self,
        channel: Channel,
        app: App,
        listener: AnyListener,
        sockets: list[socket.socket],
        *,
        scrapes: Scrapes | None,
    ) -> None:
        self._channel = channel
        self._app = app
        self._listener = listener
        self._sockets = sockets
        self._loaded = False
        self._draining: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._scrapes = scrapes

    @classmethod
    def launched(cls, channel: Channel, launch: Launch) -> Worker:
        """Makes what the launch describes.

        Raises:
            MLServerError: it is not possible; the log has the traceback.
        """
        for descriptor in (*launch.sockets, *launch.pages, launch.log):
            os.set_inheritable(descriptor, False)  # noqa: FBT003  # what a predictor starts gets none of them
        setproctitle(f"ml_server: worker {launch.slot}")
        config = unpack_config(launch.config)
        before = open_log(config, launch.log)
        log_to(before, config, worker=launch.slot)  # until the application does
        pages = [Page.shared(descriptor) for descriptor in launch.pages]
        app = create_app(
            config,
            pages=pages,
            page=pages[launch.page],
            worker=launch.slot,
            log_fd=launch.log,
        )
        before.close()
        app.set_log_level(logging.getLevelNamesMapping()[launch.log_level])
        sockets = [socket.socket(fileno=descriptor) for descriptor in launch.sockets]
        scrapes = None
        if app.metrics is not None:
            scrapes = Scrapes(
                channel,
                app.metrics.snapshots,
                alone=Exposition(config, pages),
                timeout_s=config.server.request_timeout_s,
            )
            app.metrics.answer_with(scrapes.answer)
        listener = listen(app, limits=Limits.of(config.server), sink=app, entry=app.entry)
        return cls(channel, app, listener, sockets, scrapes=scrapes)

    async def run(self) -> None:
        """Serves until the supervisor says to drain. If the supervisor is gone, so is this process."""
        self._channel.send(Started())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (self._load(), self._beat(), self._obey())]
            await self._drained.wait()
            for task in tasks:
                task.cancel()

    async def _load(self) -> None:
        await self._app.start()
        # Not before: until then a predecessor's gauges are those that are so. And not later: a worker that is
        # ready has all its series.
        self._loaded = True
        garbage.settle()
        if self._scrapes is not None:
            await self._scrapes.send()
        health = self._app.health
        if health.model_loaded:
            self._channel.send(Loaded(health.dependencies_healthy))
        else:
            self._channel.send(NotLoaded(health.failure or "The model could not be loaded."))

    async def _beat(self) -> None:
        while True:
            self._channel.send(Beat(self._app.health.dependencies_healthy))
            await asyncio.sleep(BEAT_S)
            if self._scrapes is not None and self._loaded:
                await self._scrapes.send()

    async def _obey(self) -> None:
        async for message in self._channel.messages():
            match message:
                case Accept(slots) if self._draining is None:
                    await self._accept(slots)
                case Readiness(ready, draining):
                    self._take_in(ready=ready, draining=draining)
                case LogLevel(level):
                    self._app.set_log_level(logging.getLevelNamesMapping()[level])
                case Scraped() if self._scrapes is not None:
                    self._scrapes.take_in(message)
                case Drain(timeout_s) if self._draining is None:
                    # Not here: an answer to what is still open may come from the supervisor.
                    self._draining = asyncio.create_task(self._drain(timeout_s))
        os._exit(1)

    async def _accept(self, slots: list[int]) -> None:
        for slot in self._listener.accepting - set(slots):
            self._listener.refuse(slot)
        for slot in set(slots) - self._listener.accepting:
            await self._listener.accept(self._sockets[slot], slot)

    def _take_in(self, *, ready: bool, draining: bool) -> None:
        self._app.health.fleet_ready = ready
        if draining and not self._app.health.draining:
            self._app.health.draining = True
            self._listener.start_draining()

    async def _drain(self, timeout_s: float) -> None:
        try:
            await self._end(timeout_s)
        finally:
            self._drained.set()

    async def _end(self, timeout_s: float) -> None:
        for listening in self._sockets:
            listening.close()
        complete = await self._listener.close(timeout_s, cut_off=self._app.cut_off)
        if self._scrapes is not None:
            await self._scrapes.send_last()
        self._channel.send(Drained(complete))
        await self._channel.flush()
        patience_s = CLOSE_S if complete and self._app.health.model_loaded else HASTE_S
        with suppress(TimeoutError):
            await asyncio.wait_for(self._app.close(patience_s), END_S)


async def _run(control: socket.socket) -> None:
    channel = await Channel.over(control)
    async for message in channel.messages():
        if isinstance(message, Launch):
            await Worker.launched(channel, message).run()
        return


def main() -> None:
    """The process, from its first line to its last."""
    control, supervisor = map(int, sys.argv[1:])
    die_with(supervisor)
    leave_signals()
    faulthandler.enable()
    os.set_inheritable(control, False)  # noqa: FBT003
    uvloop.run(_run(socket.socket(fileno=control)))


if __name__ == "__main__":
    main()
