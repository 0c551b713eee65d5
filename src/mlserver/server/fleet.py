"""All workers together: keeps every slot occupied, shares out the sockets, replaces and drains."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from mlserver.errors import MLServerError, ModelLoadError
from mlserver.server.control import (
    Accept,
    Launch,
    LogLevel,
    Message,
    Readiness,
    Scrape,
    Snapshot,
    pack_config,
)
from mlserver.server.process import NOT_STARTED, Worker, hint
from mlserver.server.respawn import CRASH_LOOP, Respawn
from mlserver.server.scrapes import packed
from mlserver.server.slots import assign
from mlserver.serving.health import Health

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Sequence

    from mlserver.config import Config
    from mlserver.lines import LineWriter
    from mlserver.server.metrics import FleetMetrics

LOAD_S = 600.0
"""How long a successor may take to load its model."""
SILENCE_S = 10.0
SILENCE = (
    f"has been silent for {SILENCE_S:g} s: its event loop is blocked, by native code that holds the "
    "interpreter lock or by a lack of CPU time. Requests in it wait."
)
_logger = logging.getLogger("mlserver.supervisor")


class Superseded(MLServerError):
    """A replacement was given up for a later one, which has to deal with what it left."""


class Slot:
    """One place for a worker: it is always to have one."""

    def __init__(self, number: int, config: Config) -> None:
        self.number = number
        self.config = config
        """What its next worker is started with."""
        self.worker: Worker | None = None
        self.respawn = Respawn()
        self.filling = asyncio.Lock()
        """Held by whoever starts a worker for it, or puts one in it; never while a model loads."""


class Fleet:
    """The workers of one server.

    Args:
        sockets: the listening sockets, one per slot; closed when the fleet stops.
        metrics: of the whole server; its pages are the workers' to write.
        log: descriptor for log lines.
        printing: takes what workers print, if that is not to go to the standard error itself.
    """

    def __init__(
        self,
        config: Config,
        *,
        sockets: Sequence[socket.socket],
        metrics: FleetMetrics,
        log: int,
        printing: LineWriter | None = None,
    ) -> None:
        self._printing = printing
        self.crashed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with what to say, when the workers of a slot cannot even start."""
        self.draining = False
        self._sockets = sockets
        self._metrics = metrics
        self._log = log
        self._log_level: str | None = None  # in place of what configurations say
        self._slots = [Slot(number, config) for number in range(len(sockets))]
        self._workers: list[Worker] = []
        self._ids = count()
        self._keepers: set[asyncio.Task[None]] = set()
        self._followers: set[asyncio.Task[None]] = set()

    @property
    def health(self) -> Health:
        """The state of all workers together, in the words of a worker's own probes."""
        ready = [worker for worker in self._workers if worker.ready]
        failures = [worker.failure for worker in self._workers if worker.failure]
        return Health(
            model_loaded=bool(ready),
            failure=failures[0] if failures and not ready else None,
            dependencies_healthy=any(worker.healthy for worker in ready),
            draining=self.draining,
        )

    def start(self) -> None:
        """Starts a worker in every slot."""
        for slot in self._slots:
            self._spawn(self._keep(slot), self._keepers)
        self._spawn(self._listen_for_silence(), self._keepers)

    def set_log_level(self, level: str | None) -> None:
        """Has all workers log from a level, later ones too; None: from that of their configuration."""
        self._log_level = level
        self._share()

    async def replace(self, config: Config, *, before: Config, superseded: asyncio.Event) -> None:
        """Gives every slot a worker with a new configuration, one after the other and without a gap.

        Args:
            config: the new one.
            before: what all slots are to have if that fails.
            superseded: set when a later replacement waits to take the place of this one.

        Raises:
            ModelLoadError: a successor did not get ready. The workers before it are put back.
            Superseded: it was given up. Some slots may have the new configuration, others not.
        """
        try:
            for slot in self._slots:
                await self._replace(slot, config, superseded)
        except ModelLoadError:
            await self._put_back(before, superseded)
            raise

    async def stop(self, *, delay_s: float, timeout_s: float) -> list[str]:
        """Drains and ends all workers.

        Args:
            delay_s: how long to go on accepting.
            timeout_s: how long a worker may then take to answer what it has accepted.

        Returns:
            what went wrong, a line each; nothing if every request was answered.
        """
        self.draining = True
        self._keep_no_longer()
        self._share()
        await asyncio.sleep(delay_s)
        for listening in self._sockets:
            listening.close()
        workers = list(self._workers)
        served = [worker for worker in workers if worker.ready]
        await asyncio.gather(*(worker.drain(timeout_s) for worker in workers))
        return [worker.fault(timeout_s) for worker in served if not worker.complete]

    async def kill(self) -> None:
        """Ends all workers at once."""
        self._keep_no_longer()
        for worker in self._workers:
            worker.kill()
        await asyncio.gather(*self._followers)

    # Keeping every slot occupied.

    async def _keep(self, slot: Slot) -> None:
        """Starts a worker whenever the slot has none."""
        while True:
            wait_s = await self._occupy(slot) if slot.worker is None else await self._watch(slot, slot.worker)
            if wait_s is None:
                return
            await asyncio.sleep(wait_s)

    def _keep_no_longer(self) -> None:
        for task in self._keepers:
            task.cancel()

    async def _occupy(self, slot: Slot) -> float | None:
        async with slot.filling:
            if slot.worker is not None:  # a reload was faster
                return 0
            try:
                slot.worker = await self._launch(slot, slot.config)
            except OSError as error:
                return self._lost(slot, lived_s=0, settled=False, ending=f"{NOT_STARTED}: {error}")
        return 0

    async def _watch(self, slot: Slot, worker: Worker) -> float | None:
        await worker.gone.wait()
        if slot.worker is not worker:
            return 0
        slot.worker = None
        lived_s = time.monotonic() - worker.born
        return self._lost(slot, lived_s=lived_s, settled=worker.came_up, ending=worker.ending)

    def _lost(self, slot: Slot, *, lived_s: float, settled: bool, ending: str) -> float | None:
        """Seconds until the slot's next worker starts; None if that has no prospects."""
        self._metrics.note_restart()
        wait_s = slot.respawn.died(lived_s=lived_s, settled=settled)
        if wait_s is not None:
            _logger.info("The next worker %d starts in %g s", slot.number, wait_s)
        elif not self.crashed.done():
            self.crashed.set_result(
                f"Worker {slot.number} died {CRASH_LOOP} times in a row before its model was loaded; "
                f"the last time: {ending}. {hint(ending)}"
            )
        return wait_s

    async def _launch(self, slot: Slot, config: Config) -> Worker:
        log_level = config.observability.log_level
        launch = Launch(
            config=pack_config(config),
            slot=slot.number,
            sockets=[listening.fileno() for listening in self._sockets],
            pages=self._metrics.descriptors,
            page=self._free_page(slot),
            log=self._log,
            log_level=self._log_level or log_level,
        )
        worker = await Worker.start(launch, log_level=log_level, id_=next(self._ids), printing=self._printing)
        self._workers.append(worker)
        self._spawn(self._follow(worker), self._followers)
        return worker

    def _free_page(self, slot: Slot) -> int:
        """That one of the slot's two pages which no living worker writes."""
        taken = {worker.launch.page for worker in self._workers}
        return next(page for page in (2 * slot.number, 2 * slot.number + 1) if page not in taken)

    async def _follow(self, worker: Worker) -> None:
        await worker.follow(partial(self._told, worker), partial(self._ended, worker))
        self._workers.remove(worker)
        self._metrics.retire(worker.id)
        self._share()
        if worker.leaving:
            _logger.info("%s has ended", worker)
        else:
            _logger.error("%s died: %s. %s", worker, worker.ending, hint(worker.ending))

    def _ended(self, worker: Worker) -> None:
        self._metrics.reset(worker.launch.page)
        self._share()

    def _told(self, worker: Worker, message: Message) -> None:
        match message:
            case Snapshot(families):
                self._metrics.take(worker.id, worker.launch.slot, families)
            case Scrape(number, accept, accept_encoding):
                worker.answer(packed(number, self._metrics.render(accept, accept_encoding)))
            case _:
                self._share()

    # What depends on all of them.

    def _share(self) -> None:
        """Tells every worker what to accept on and how all of them are."""
        up = {worker.id: worker for worker in self._workers if worker.up}
        shares = assign(len(self._slots), [worker.member for worker in up.values()])
        readiness = Readiness(ready=self.health.ready, draining=self.draining)
        for id_, worker in up.items():
            worker.tell(Accept(sorted(shares[id_])))
            worker.tell(readiness)
            worker.tell(LogLevel(self._log_level or worker.log_level))
        ready = [worker for worker in self._workers if worker.ready and not worker.leaving]
        self._metrics.note_workers(ready=0 if self.draining else len(ready), pids=self._processes())

    def _processes(self) -> dict[str, int]:
        """Process ids by what they are called on ``/metrics``: the elder worker of a slot by its number.

        A successor takes over the name, and what its CPU time is added to, when its predecessor has ended.
        """
        named: dict[str, int] = {}
        for worker in self._workers:
            slot = str(worker.launch.slot)
            named[f"{slot} (next)" if slot in named else slot] = worker.process.pid
        return named

    async def _listen_for_silence(self) -> None:
        silent: set[Worker] = set()
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            quiet = {worker for worker in self._workers if worker.up and now - worker.heard > SILENCE_S}
            for worker in quiet - silent:
                _logger.warning("%s %s", worker, SILENCE)
            silent = quiet

    # Replacing.

    async def _replace(self, slot: Slot, config: Config, superseded: asyncio.Event) -> None:
        timeout_s = slot.config.server.graceful_timeout_s
        successor = await self._ready_worker(slot, config, superseded)
        async with slot.filling:
            predecessor, slot.worker = slot.worker, successor
            slot.config = config
        if predecessor is not None:
            served, predecessor.leaving = predecessor.ready, True
            self._share()
            await predecessor.drain(timeout_s)
            if served and not predecessor.complete:
                _logger.warning(predecessor.fault(timeout_s))

    async def _ready_worker(self, slot: Slot, config: Config, superseded: asyncio.Event) -> Worker:
        if superseded.is_set():
            raise Superseded
        worker = await self._launch_successor(slot, config)
        await _any(worker.settled, superseded, timeout_s=LOAD_S)
        if worker.ready:
            return worker
        reason = _unready(worker)
        await worker.drain(0)
        if superseded.is_set():
            raise Superseded
        raise ModelLoadError(reason)

    async def _launch_successor(self, slot: Slot, config: Config) -> Worker:
        async with slot.filling:
            try:
                worker = await self._launch(slot, config)
            except OSError as error:
                raise ModelLoadError(f"{NOT_STARTED}: {error}. {hint(NOT_STARTED)}") from error
        _logger.info("Worker %d: successor (pid %d) loads its model", slot.number, worker.process.pid)
        return worker

    async def _put_back(self, before: Config, superseded: asyncio.Event) -> None:
        for slot in self._slots:
            try:
                if slot.config is not before:
                    await self._replace(slot, before, superseded)
            except ModelLoadError as error:
                _logger.error("Worker %d keeps the new configuration: %s", slot.number, error)  # noqa: TRY400

    def _spawn(self, work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def _unready(worker: Worker) -> str:
    if not worker.settled.is_set():
        return f"It did not load its model within {LOAD_S:g} s and was ended."
    return worker.failure or f"It died: {worker.ending}. {hint(worker.ending)}"


async def _any(*events: asyncio.Event, timeout_s: float) -> None:
    """Waits until one of them is set, for so long at most."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
