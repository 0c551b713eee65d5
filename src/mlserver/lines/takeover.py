"""What a process says by itself, made lines: through ``logging``, as warnings, and by what nobody caught."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
import warnings
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

from mlserver.lines.forms import TRUNCATED
from mlserver.lines.texts import MAX_STACK, MAX_TEXT, cut, cut_stack, hidden, plain, timestamp, without
from mlserver.lines.values import key_of, simple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from mlserver.lines.forms import Form
    from mlserver.lines.texts import Hide
    from mlserver.lines.writer import LineWriter

    More = Sequence[Callable[[], Mapping[str, Any]]]

bound_fields: ContextVar[Mapping[str, Any]] = ContextVar("bound_fields", default=MappingProxyType({}))
"""Fields of every line that is logged in this context, such as the id of the request it is for."""

KEYWORDS = "mlserver_keywords"
"""Attribute of a log record that holds what was logged beside the message under names of any kind."""
RESERVED = frozenset({"timestamp", "level", "message", "logger", "worker", "http_status", TRUNCATED})
"""Names of fields that are ours even in a line that lacks them."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", KEYWORDS}
_MAX_NESTED = 3
"""Lines that are logged by the ``repr`` of what is being logged."""


def take_over(
    writer: LineWriter,
    form: Form,
    *,
    level: int,
    worker: int | None = None,
    more: More = (),
    hide: Hide | None = None,
) -> None:
    """Makes lines of all that this process logs, of warnings, and of exceptions that nobody caught.

    For a process of our own only: it replaces the handlers of the root logger. To be called again for another
    writer or form.

    Args:
        writer: where lines go; it is given a line to tell losses by.
        form: how they look.
        worker: number of this worker.
        level: what is below it is not logged.
        more: asked for each line for fields of the moment, such as the ids of a trace.
        hide: applied to all texts where `hidden` says nothing, which does as much and more.
    """
    handler = _LineHandler(writer, form, worker=worker, more=more, hide=hide)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    writer.tell = teller(form, worker=worker)
    logging.captureWarnings(capture=True)
    warnings.showwarning = handler.warn
    sys.excepthook = handler.uncaught
    threading.excepthook = handler.uncaught_in_thread
    sys.unraisablehook = handler.unraisable


def set_level(level: int) -> None:
    """Logs what has this level or a higher one, from now on."""
    logging.getLogger().setLevel(level)


def teller(form: Form, *, worker: int | None = None) -> Callable[[int], bytes]:
    """Renders the line that says how many lines were lost."""

    def tell(lost: int) -> bytes:
        return form(
            {
                "timestamp": timestamp(time.time()),
                "level": "WARNING",
                "message": f"{lost} log lines before this one were lost",
                "logger": "mlserver.lines",
                "worker": worker,
                "lost": lost,
            }
        )

    return tell


class _LineHandler(logging.Handler):
    def __init__(
        self, writer: LineWriter, form: Form, *, worker: int | None, more: More, hide: Hide | None
    ) -> None:
        super().__init__()
        self._writer = writer
        self._form = form
        self._worker = worker
        self._more = more
        self._hide = hide
        self._nested = threading.local()

    def createLock(self) -> None:  # noqa: N802
        """Does without: the writer has its own, and a ``repr`` may wait for a thread that logs."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Logs a record that passes the filters."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line; whatever goes wrong is counted and never reaches who logs."""
        depth = getattr(self._nested, "depth", 0)
        self._nested.depth = depth + 1
        try:
            if depth >= _MAX_NESTED:
                self._writer.lose(1, "what is logged logs itself")
            else:
                self._writer.write([self._form(self._fields(record))])
        except Exception as error:  # noqa: BLE001  # as said
            self._writer.lose(1, f"{type(error).__name__} when they are made")
        finally:
            self._nested.depth = depth

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        hide = hidden.get() or self._hide
        message, given = _message(record, hide), _given(record)
        fields: dict[str, Any] = {
            "timestamp": timestamp(record.created),
            "level": cut(without(record.levelname, hide)),
            "message": cut(without(message, hide)),
            "logger": cut(without(record.name, hide)),
            "worker": self._worker,
            **bound_fields.get(),
        }
        for source in self._more:
            try:
                fields |= source()
            except Exception as error:  # noqa: BLE001  # the line matters more than its trace
                fields["fields_missing"] = type(error).__name__
        if record.exc_info and record.exc_info[0] is not None:
            stack = _stack(*record.exc_info)
            fields["exception"] = cut_stack(without(stack, hide, end=True), MAX_STACK)
        if record.stack_info:
            fields["stack"] = cut_stack(without(record.stack_info, hide, end=True), MAX_STACK)
        for key, value in given.items():
            name = key_of(key, hide)
            while name in fields or name in RESERVED:
                name += "_"
            fields[name] = simple(value, limit=MAX_TEXT, hide=hide)
        return fields

    def warn(  # noqa: PLR0917  # as Python calls it
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,  # noqa: ARG002
    ) -> None:
        """Takes the place of ``warnings.showwarning``."""
        text = f"{category.__name__}: {plain(message)}"
        if file is not None:
            file.write(text + "\n")
            return
        logger = logging.getLogger("py.warnings")
        if logger.isEnabledFor(logging.WARNING):
            where = {KEYWORDS: {"file": filename, "line": lineno}}
            logger.handle(_record(logger.name, logging.WARNING, text, where))

    def uncaught(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None, where: str = ""
    ) -> None:
        """Takes the place of ``sys.excepthook``."""
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        if self._writer.closed:
            sys.stderr.write(without(_stack(kind, error, trace), self._hide, end=True))
            return
        message = f"Uncaught exception{where}: {kind.__name__}: {plain(error)}"
        self._tell(logging.ERROR, message, (kind, error, trace))

    def uncaught_in_thread(self, args: threading.ExceptHookArgs) -> None:
        """Takes the place of ``threading.excepthook``."""
        if not issubclass(args.exc_type, SystemExit):
            error = args.exc_value if args.exc_value is not None else args.exc_type()
            where = f" in thread {args.thread.name}" if args.thread else " in a thread"
            self.uncaught(args.exc_type, error, args.exc_traceback, where)

    def unraisable(self, given: sys.UnraisableHookArgs) -> None:
        """Takes the place of ``sys.unraisablehook``: an exception where there is nobody to catch it."""
        error = given.exc_value if given.exc_value is not None else given.exc_type()
        what = f"{given.err_msg or 'Exception ignored in'} {plain(given.object)}"
        message = f"{what}: {given.exc_type.__name__}: {plain(error)}"
        self._tell(logging.WARNING, message, (given.exc_type, error, given.exc_traceback))

    def _tell(
        self,
        level: int,
        message: str,
        exc_info: tuple[type[BaseException], BaseException, TracebackType | None],
    ) -> None:
        if logging.getLogger().isEnabledFor(level):
            self.handle(_record("py.exceptions", level, message, {"exc_info": exc_info}))


def _record(name: str, level: int, message: str, more: dict[str, Any]) -> logging.LogRecord:
    made = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": message}
    return logging.makeLogRecord(made | more)


def _message(record: logging.LogRecord, hide: Hide | None) -> str:
    """The message, also of a record whose arguments do not suit it."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  # a text of theirs may raise anything
        text = record.msg if isinstance(record.msg, str) else plain(record.msg)
        args = simple(record.args, limit=MAX_TEXT, hide=hide)
        return f"{text} (not formatted with {args}: {type(error).__name__}: {plain(error)})"


def _given(record: logging.LogRecord) -> dict[object, Any]:
    """What was logged beside the message: ``extra=`` of logging, key words of structlog."""
    given: dict[object, Any] = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return given | getattr(record, KEYWORDS, {})


def _stack(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_exception(kind, error, trace))
    except Exception as fault:  # noqa: BLE001  # whatever is in the exception
        return f"{getattr(kind, '__name__', kind)} without traceback: {type(fault).__name__}"
