"""A worker as the supervisor sees it: its process, what it last said, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from mlserver.processors import shared_threads
from mlserver.server.control import (
    Accept,
    Beat,
    Channel,
    Drain,
    Drained,
    Launch,
    Loaded,
    LogLevel,
    Message,
    NotLoaded,
    Readiness,
    Scraped,
    Started,
)
from mlserver.server.lifeline import signals_held
from mlserver.server.output import Output
from mlserver.server.slots import Member

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable

    from mlserver.lines import LineWriter

STDERR = 2
LAST_WORDS_S = 1.0
"""How long messages may still arrive after the process has ended."""
EXIT_S = 5.0
"""How long a worker that has answered everything may take to exit."""
DRAIN_SLACK_S = LAST_WORDS_S + EXIT_S + LAST_WORDS_S
"""How much longer than its time-out a drain may take."""
NOT_STARTED = "It could not be started"
_logger = logging.getLogger("mlserver.supervisor")


@dataclass(eq=False)
class Worker:
    """One worker process, registered as soon as it exists and then to be followed."""

    id: int
    launch: Launch
    log_level: str
    """What its configuration says."""
    process: Process
    control: socket.socket
    output: Output | None = None
    """What it prints, unless that goes to the standard error itself."""
    born: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    """When it last said something."""
    up: bool = False
    """Its event loop runs."""
    came_up: bool = False
    """It has once got as far as to say whether its model is loaded."""
    ready: bool = False
    healthy: bool = False
    """What its predictor's ``check_health`` said."""
    failure: str | None = None
    """Why its model could not be loaded."""
    leaving: bool = False
    """It has been told to drain."""
    complete: bool | None = None
    """What it said when it had drained: whether it answered everything it had accepted."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Its model is loaded or cannot be, or it is gone."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """It has answered what it accepted, or is gone."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    _channel: Channel | None = None
    _told: dict[type[Message], Message] = field(default_factory=dict)

    @classmethod
    async def start(
        cls, launch: Launch, *, log_level: str, id_: int, printing: LineWriter | None = None
    ) -> Self:
        """Starts a fresh interpreter that inherits only what the launch names.

        Its standard output is as its standard error, and where log lines go there, too, neither is the
        server's own: no print can tear them.

        Args:
            launch: what it is to be.
            log_level: what its configuration says.
            id_: higher than that of any worker before it.
            printing: takes what it prints, in whole lines; without, it has the standard error itself.

        Raises:
            OSError: the system does not give another process.
        """
        ours, theirs = socket.socketpair()
        output = Output(printing) if printing is not None else None
        with theirs, signals_held(), output or nullcontext(STDERR) as printed:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the current folder is no place to import from
                "-m",
                "mlserver.server.worker",
                str(theirs.fileno()),
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env={**os.environ, **shared_threads(len(launch.sockets), os.environ)},
                pass_fds=(theirs.fileno(), *launch.sockets, *launch.pages, launch.log),
            )
        return cls(id_, launch, log_level, process, ours, output)

    def __str__(self) -> str:
        return f"Worker {self.launch.slot} (pid {self.process.pid})"

    @property
    def member(self) -> Member:
        """Itself for the sharing out of sockets."""
        return Member(self.id, self.launch.slot, ready=self.ready, draining=self.leaving)

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        code = self.process.returncode
        if code is None or code >= 0:
            return f"exit code {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"

    def fault(self, timeout_s: float) -> str:
        """What went wrong in a drain that did not answer everything."""
        if self.complete is None:
            return (
                f"{self} did not say within {timeout_s:g} s that it had answered its requests: {self.ending}."
            )
        return (
            f"{self} had to cut off requests that took longer than {timeout_s:g} s "
            "(server.graceful_timeout_s)."
        )

    async def follow(self, told: Callable[[Message], None], ended: Callable[[], None]) -> None:
        """Takes in what the worker says until its process has ended.

        Args:
            told: called with everything that it said.
            ended: called when its process has ended; it may still be heard for a moment.
        """
        listening = asyncio.create_task(self._listen(told))
        ending = asyncio.create_task(self.process.wait())
        await asyncio.wait({listening, ending}, return_when=asyncio.FIRST_COMPLETED)
        # A predictor may have closed the channel; a worker that cannot be told anything is of no use.
        await _within(EXIT_S, ending)
        self.kill()
        await ending
        self.up = self.ready = False
        ended()
        # A predictor may have forked a process that holds the channel open; the worker has said all it will.
        await asyncio.wait({listening}, timeout=LAST_WORDS_S)
        listening.cancel()
        if self.output is not None:
            self.output.take_rest()
        self.up = self.ready = False  # whatever its last words were
        for event in (self.settled, self.finished, self.gone):
            event.set()

    def tell(self, message: Accept | Readiness | LogLevel | Drain) -> None:
        """Sends a message unless it is the last of its kind again."""
        if self._channel and self._told.get(type(message)) != message:
            self._told[type(message)] = message
            self._channel.send(message)

    def answer(self, message: Scraped) -> None:
        """Sends what the worker has asked for."""
        if self._channel:
            self._channel.send(message)

    async def drain(self, timeout_s: float) -> None:
        """Lets the worker answer what it has accepted, and ends it; `complete` then says how that went."""
        self.leaving = True
        if self.up:
            self.tell(Drain(timeout_s))
            await _within(timeout_s + LAST_WORDS_S, self.finished.wait())
            await _within(EXIT_S if self.complete is not None else 0, self.gone.wait())
        self.kill()
        await self.gone.wait()

    def kill(self) -> None:
        """Ends the process at once."""
        if self.process.returncode is None:
            self.process.kill()

    async def _listen(self, told: Callable[[Message], None]) -> None:
        self._channel = channel = await Channel.over(self.control)
        channel.send(self.launch)
        try:
            async for message in channel.messages():
                self._take(message)
                told(message)
                await asyncio.sleep(0)  # a worker that says much does not keep others waiting
        finally:
            channel.close()

    def _take(self, message: Message) -> None:
        self.heard = time.monotonic()
        match message:
            case Started():
                self.up = True
            case Loaded(healthy):
                self.came_up, self.ready, self.healthy = True, True, healthy
                self.settled.set()
                _logger.info("%s is ready", self)
            case NotLoaded(reason):
                self.came_up, self.failure = True, reason
                self.settled.set()
                _logger.error("%s runs without a model: %s", self, reason)
            case Beat(healthy):
                self.healthy = healthy
            case Drained(complete):
                self.complete = complete
                self.finished.set()


async def _within(seconds: float, work: Awaitable[object]) -> None:
    """Waits for something, for so long at most. A task goes on."""
    await asyncio.wait({asyncio.ensure_future(work)}, timeout=seconds)


def hint(ending: str) -> str:
    """What a user can do about a worker that ended like this."""
    if ending.startswith(NOT_STARTED):
        return "A limit on processes or memory may be reached."
    if "SIGKILL" in ending:
        return "If nobody killed it, the system was out of memory: see `dmesg`, and use fewer workers."
    if "killed by" in ending:
        return "A native library crashed; the stack is on standard error."
    return "The log or standard error says why."
