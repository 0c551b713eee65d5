"""What a process says by ``logging``, ``structlog``, warnings and uncaught exceptions: lines of one form."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mlserver.lines import (
    ATOMIC_BYTES,
    LineWriter,
    bound_fields,
    form_of,
    hidden,
    set_level,
    take_over,
    teller,
)
from mlserver.lines.structured import use_structlog
from mlserver.lines.takeover import RESERVED
from mlserver.lines.texts import UNHIDDEN

JSON = form_of(structured=True, ecs=False, longest=ATOMIC_BYTES, colours=False)


class Lines:
    """Keeps what is written."""

    closed = False
    tell = None

    def __init__(self):
        self.written = []
        self.lost = 0

    def write(self, lines):
        self.written += lines

    def lose(self, lines, reason):
        self.lost += lines

    @property
    def records(self):
        return [json.loads(line) for line in self.written]


@contextmanager
def taken_over():
    """What this process logs, from DEBUG on; all is as before after it."""
    root, made = logging.getLogger(), Lines()
    level = root.level
    hooks = [
        (sys, "excepthook"),
        (sys, "unraisablehook"),
        (threading, "excepthook"),
        (warnings, "showwarning"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root, "handlers", [])
        for module, hook in hooks:
            patch.setattr(module, hook, getattr(module, hook))
        take_over(made, JSON, level=logging.DEBUG, worker=2)
        use_structlog()
        yield made
        root.setLevel(level)
        logging.captureWarnings(capture=False)
        structlog.reset_defaults()


@pytest.fixture
def lines(monkeypatch, request):
    plugin = request.config.pluginmanager.getplugin("logging-plugin")
    for handler in (plugin.caplog_handler, plugin.report_handler):  # they would raise what is tested here
        monkeypatch.setattr(handler, "handleError", lambda record: None)
    with taken_over() as made:
        yield made


def by_logging(message, **fields):
    logging.getLogger("predictor").info(message, extra=fields)


def by_structlog(message, **fields):
    structlog.get_logger("predictor").info(message, **fields)


BOTH = pytest.mark.parametrize("log", [by_logging, by_structlog], ids=["logging", "structlog"])
EARLY = structlog.get_logger()


@BOTH
def test_a_line_has_its_own_fields_first_and_then_what_was_logged_beside_the_message(lines, log):
    token = bound_fields.set({"request_id": "abc"})
    log("done", rows=3, model="iris")
    bound_fields.reset(token)
    (record,) = lines.records
    assert list(record) == [
        "timestamp",
        "level",
        "message",
        "logger",
        "worker",
        "request_id",
        "rows",
        "model",
    ]
    assert record | {"timestamp": ""} == {
        "timestamp": "", "level": "INFO", "message": "done", "logger": "predictor", "worker": 2,
        "request_id": "abc", "rows": 3, "model": "iris",
    }  # fmt: skip


def cycle():
    made = []
    made.append(made)
    return made


class Broken:
    def __repr__(self):
        raise ValueError


HOSTILE = {
    "newlines": "a\r\nb\u2028c",
    "quotes": '"}{"level": "FORGED',
    "escapes": "\x1b[2J\x00\\",
    "numpy scalar": np.float32(0.5),
    "numpy array": np.arange(6).reshape(2, 3),
    "large array": np.zeros(10**6),
    "bytes": b"\xff\n",
    "cycle": cycle(),
    "surrogate": "\ud800",
    "long": "x" * 1_000_000,
    "long list": list(range(100_000)),
    "no repr": Broken(),
    "nan": float("nan"),
    "large": 1 << 200,
    "set": {1},
    "exception": ValueError("no\nway"),
    "keys": {None: 1, (1, 2): {b"\n": "\ud800"}},
}


@BOTH
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_make_one_valid_line(lines, log, name):
    value = HOSTILE[name]
    log(value, given=value, nested={"deep": [value]})
    (line,) = lines.written
    assert line.count(b"\n") == 1
    assert len(line) <= ATOMIC_BYTES
    (record,) = lines.records
    assert {"given", "nested"} <= set(record)
    assert (record["level"], record["worker"]) == ("INFO", 2)
    assert lines.lost == 0


@BOTH
def test_a_million_bytes_are_cut_with_a_mark(lines, log):
    log("m" * 1_000_000, text="t" * 1_000_000)
    (record,) = lines.records
    assert record["message"] == "m" * 1024 + "…(998976 bytes more)"
    assert record["text"] == "t" * 1024 + "…(998976 bytes more)"


@BOTH
@given(
    fields=st.dictionaries(
        st.sampled_from([*sorted(RESERVED - {"message"}), "request_id", "exception", "level_", "rows"])
        | st.text(min_size=1),
        st.text() | st.integers(),
    )
)
def test_nothing_that_is_logged_takes_the_place_of_the_servers_own_fields(fields, log):
    free = {name: value for name, value in fields.items() if name not in TAKEN}
    with taken_over() as made:
        token = bound_fields.set({"request_id": "abc"})
        log("done", **free)
        bound_fields.reset(token)
    (record,) = made.records
    assert (record["level"], record["message"], record["logger"]) == ("INFO", "done", "predictor")
    assert (record["worker"], record["request_id"]) == (2, "abc")
    assert record["timestamp"].startswith("20")
    assert "http_status" not in record
    assert "truncated" not in record
    assert len(record) == 6 + len(free)


TAKEN = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "event", "log", "positional_args", "exc_info", "stack_info", "stacklevel", "extra", "self",
}  # fmt: skip
"""Names that `logging` or `structlog` refuse or take for something else."""


@BOTH
def test_a_field_with_a_name_of_ours_gets_a_line_below(lines, log):
    log("done", level="DEBUG", level_=1, http_status=200, timestamp="never")
    (record,) = lines.records
    assert (record["level"], record["level_"], record["level__"]) == ("INFO", "DEBUG", 1)
    assert (record["http_status_"], record["timestamp_"]) == (200, "never")
    assert "http_status" not in record


@BOTH
def test_a_request_id_of_a_users_own_stays_where_the_server_has_none(lines, log):
    log("done", request_id="mine")
    assert lines.records[0]["request_id"] == "mine"


def test_a_logger_that_was_made_before_the_server_started_is_like_any_other(lines):
    EARLY.info("early", rows=1)
    EARLY.bind(step=3).warning("bound %d of %s", 1, "two")
    assert [(record["message"], record["level"]) for record in lines.records] == [
        ("early", "INFO"), ("bound 1 of two", "WARNING"),
    ]  # fmt: skip
    assert lines.records[1]["step"] == 3
    assert lines.records[0]["logger"] == __name__


def test_structlogs_context_variables_are_in_the_line(lines):
    with structlog.contextvars.bound_contextvars(user=7):
        by_structlog("done")
    by_structlog("later")
    assert [record.get("user") for record in lines.records] == [7, None]


def test_structlog_from_a_coroutine_keeps_the_ids_of_the_request(lines):
    async def run():
        bound_fields.set({"request_id": "abc"})
        await structlog.get_logger("predictor").ainfo("done")

    asyncio.run(run())
    assert [record["request_id"] for record in lines.records if record["message"] == "done"] == ["abc"]


NATIVE = structlog.make_filtering_bound_logger(0)
METHODS = sorted(name for name in vars(NATIVE) if not name.startswith("_") and "log" not in name)
ASKS = ("is_enabled_for", "get_effective_level")


@pytest.mark.parametrize("method", METHODS)
def test_a_logger_of_structlog_has_every_method_that_it_has_without_configuration(lines, method):
    logger = structlog.get_logger("predictor")
    if method in ASKS:
        assert getattr(logger, method)(*[10][: method == ASKS[0]]) in (True, logging.DEBUG)
        return
    if method.startswith("a"):
        asyncio.run(getattr(logger, method)("done", rows=1))
    else:
        getattr(logger, method)("done", rows=1)
    (record,) = [record for record in lines.records if record["logger"] == "predictor"]
    assert (record["message"], record["rows"]) == ("done", 1)
    level = method.removeprefix("a").replace("warning", "warn").replace("fatal", "critical")
    same = {"msg": "info", "exception": "error", "warn": "warning"}
    assert record["level"].lower() == same.get(level, level)


@pytest.mark.parametrize(
    "log",
    [
        lambda: logging.getLogger("predictor").info("%d of %d", "one"),  # noqa: PLE1206
        lambda: logging.getLogger("predictor").info("no place", 1, "two\n"),  # noqa: PLE1205
        lambda: logging.getLogger("predictor").info("%s", Broken()),
        lambda: logging.getLogger("predictor").info(Broken()),
        lambda: structlog.get_logger("predictor").info("%d of %d", "one"),
        lambda: structlog.get_logger("predictor").info("%(name)s", {"other": 1}),
    ],
)
def test_arguments_that_do_not_suit_the_message_cost_neither_the_line_nor_the_request(lines, log, capsys):
    log()
    (record,) = lines.records
    assert "not formatted" in record["message"]
    assert "--- Logging error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "logger",
    [logging.getLogger("predictor"), structlog.get_logger("predictor")],
    ids=["logging", "structlog"],
)
def test_exceptions_come_with_their_traceback(lines, logger):
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        logger.exception("one")
        logger.error("two", exc_info=True)  # noqa: G201  # as the seed does
        logger.info("three", exc_info=error)
    logger.info("four", exc_info=False)
    logger.info("five", stack_info=True)
    one, two, three, four, five = lines.records
    for record in (one, two, three):
        assert record["exception"].startswith("Traceback")
        assert record["exception"].endswith("ZeroDivisionError: division by zero\n")
    assert [record["level"] for record in (one, two, three)] == ["ERROR", "ERROR", "INFO"]
    assert "exception" not in four
    assert "test_exceptions_come_with_their_traceback" in five["stack"]


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError

    __repr__ = __str__


@pytest.mark.parametrize(
    "error", [Unspeakable(), ValueError("x" * 1_000_000), ExceptionGroup("g", [ValueError("\ud800")])]
)
def test_hostile_exceptions_make_one_valid_line(lines, error):
    error.__cause__ = error
    try:
        raise error  # noqa: TRY301
    except Exception:
        logging.getLogger("predictor").exception("failed")
    (record,) = lines.records
    assert type(error).__name__ in record["exception"] or "more" in record["exception"]
    assert len(lines.written[0]) <= ATOMIC_BYTES


def test_a_warning_is_one_line_that_says_where(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("beware\nof this", DeprecationWarning, stacklevel=1)
    (record,) = lines.records
    assert record["message"] == "DeprecationWarning: beware\nof this"
    assert (record["level"], record["logger"], record["file"]) == ("WARNING", "py.warnings", __file__)
    assert record["line"] > 0


def test_the_level_can_be_changed_while_running(lines):
    logs = (logging.getLogger("library"), structlog.get_logger("predictor"))
    for level in (logging.INFO, logging.ERROR, logging.DEBUG):
        set_level(level)
        for logger in logs:
            logger.debug("debug")
            logger.warning("warning")
            logger.error("error")
    assert [record["message"] for record in lines.records] == (
        ["warning", "error"] * 2 + ["error"] * 2 + ["debug", "warning", "error"] * 2
    )


def test_loggers_with_handlers_of_their_own_keep_them(lines):
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = logging.getLogger("with.its.own")
    logger.addHandler(handler)
    try:
        take_over(lines, JSON, level=logging.INFO)
        logger.info("both")
        logger.propagate = False
        logger.info("one")
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    assert seen == ["both", "one"]
    assert [record["message"] for record in lines.records] == ["both"]


def test_a_filter_of_the_root_handler_is_asked(lines):
    logging.getLogger().handlers[0].addFilter(lambda record: record.name != "noisy")
    logging.getLogger("noisy").info("no")
    logging.getLogger("other").info("yes")
    assert [record["message"] for record in lines.records] == ["yes"]


def test_sources_of_the_moment_are_asked_and_one_that_fails_costs_only_itself(lines):
    now = iter(["1", "2"])

    def broken():
        raise OSError

    take_over(lines, JSON, level=logging.INFO, more=[broken, lambda: {"trace_id": next(now)}])
    by_structlog("one", trace_id="forged")
    by_logging("two")
    assert [record["trace_id"] for record in lines.records] == ["1", "2"]
    assert lines.records[0]["trace_id_"] == "forged"


class Logging:
    """Logs whenever it is shown, itself too if told so."""

    def __init__(self, what=None):
        self.what = what

    def __repr__(self):
        logging.getLogger("inner").info("inner", extra={"value": self if self.what is None else self.what})
        return "shown"


def test_a_repr_that_logs_makes_lines_of_its_own(lines):
    by_logging("outer", value=Logging(1))
    assert [record["message"] for record in lines.records] == ["inner", "outer"]
    assert lines.records[1]["value"] == "shown"


def test_a_repr_that_logs_itself_comes_to_an_end_and_is_counted(lines):
    by_logging("outer", value=Logging())
    assert [record["message"] for record in lines.records] == ["inner", "inner", "outer"]
    assert lines.lost == 1


def test_a_fault_in_the_form_or_the_writer_reaches_nobody_and_is_counted(lines, capsys):
    def broken(record):
        raise OSError

    take_over(lines, broken, level=logging.INFO)
    by_logging("one")
    by_structlog("two")
    assert lines.lost == 2
    assert capsys.readouterr().err == ""


SECRET = "hunter-2"


def hide(text):
    return text.replace(SECRET, "[REDACTED]").replace("1234567", "[REDACTED]")


@pytest.mark.parametrize("way", ["hidden", "hide"])
@BOTH
def test_what_must_be_hidden_is_nowhere_in_a_line(lines, log, way, odd_level):
    if way == "hide":
        take_over(lines, JSON, level=logging.INFO, hide=hide)
    token = hidden.set(hide if way == "hidden" else None)
    log(f"message {SECRET}", text=SECRET, number=1234567, nested={SECRET: [1234567.0, {"x": b"hunter-2"}]})
    log("z" * 1010 + SECRET, array=np.array([1234567]))
    logging.getLogger("predictor").info("%s and %(x)d", SECRET)
    structlog.get_logger("predictor").info("got %s", SECRET)
    try:
        try:
            raise ValueError(SECRET)  # noqa: TRY301
        except ValueError as cause:
            error = RuntimeError(["x", SECRET])
            error.add_note(SECRET * 500)
            raise error from cause
    except RuntimeError:
        structlog.get_logger("predictor").exception("failed")
        logging.getLogger("predictor").exception("failed", stack_info=True)
    logging.getLogger(f"of.{SECRET}").info("done")
    logging.getLogger("predictor").log(odd_level, "done")
    hidden.reset(token)
    out = b"".join(lines.written)
    assert len(lines.written) == 8
    assert out.count(b"[REDACTED]") > 10
    assert b"hunter" not in out
    assert b"1234567" not in out


@pytest.fixture
def odd_level():
    """A level with a name that must be hidden; `logging` forgets it."""
    logging.addLevelName(35, SECRET)
    yield 35
    del logging._levelToName[35], logging._nameToLevel[SECRET]


def test_a_stack_is_without_what_must_be_hidden(lines):
    token = hidden.set(lambda text: text.replace("test_a_stack_is_without", "[REDACTED]"))
    logging.getLogger("predictor").info("done", stack_info=True)
    hidden.reset(token)
    (record,) = lines.records
    assert "in [REDACTED]_what_must_be_hidden" in record["stack"]


def test_a_logger_with_a_long_name_leaves_room_for_the_message(lines):
    logging.getLogger("x" * 5000).info("done")
    (record,) = lines.records
    assert (record["logger"], record["message"]) == ("x" * 1024 + "…(3976 bytes more)", "done")


def test_a_fault_in_hiding_shows_nothing(lines):
    def broken(text):
        raise ValueError(text)

    take_over(lines, JSON, level=logging.INFO, hide=broken)
    by_logging(SECRET, text=SECRET)
    (record,) = lines.records
    assert (record["message"], record[UNHIDDEN]) == (UNHIDDEN, UNHIDDEN)
    assert SECRET.encode() not in lines.written[0]


def test_losses_are_told_in_the_same_form(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    writer = LineWriter.to_file(tmp_path / "server.log")
    writer.tell = teller(JSON, worker=1)
    writer.lose(2, "of a test")
    writer.write([b'{"message": "next"}\n'])
    writer.close()
    told, after = map(json.loads, (tmp_path / "server.log").read_text().splitlines())
    assert told | {"timestamp": ""} == {
        "timestamp": "", "level": "WARNING", "message": "2 log lines before this one were lost",
        "logger": "mlserver.lines", "worker": 1, "lost": 2,
    }  # fmt: skip
    assert after == {"message": "next"}


UNCAUGHT = """
import atexit, logging, os, sys, threading
from mlserver.lines import LineWriter, form_of, take_over

writer = LineWriter(os.dup(1))
take_over(writer, form_of(structured=True, ecs=False, longest=4096, colours=False), level=logging.INFO, worker=3)

class Bad:
    def __del__(self):
        raise KeyError("unraisable")

Bad()
thread = threading.Thread(target=lambda: 1 / 0, name="of a user")
thread.start()
thread.join()
ended = threading.Thread(target=sys.exit)
ended.start()
ended.join()
ENDING
"""


def run(ending):
    done = subprocess.run(
        [sys.executable, "-c", UNCAUGHT.replace("ENDING", ending)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done, [json.loads(line) for line in done.stdout.splitlines()]


def test_what_nobody_caught_is_one_line_each():
    done, records = run("raise ValueError('at\\nlast')")
    assert (done.returncode, done.stderr) == (1, "")
    assert [(record["level"], record["logger"], record["worker"]) for record in records] == [
        ("WARNING", "py.exceptions", 3), ("ERROR", "py.exceptions", 3), ("ERROR", "py.exceptions", 3),
    ]  # fmt: skip
    assert [record["exception"].splitlines()[-1] for record in records] == [
        "KeyError: 'unraisable'", "ZeroDivisionError: division by zero", "last",
    ]  # fmt: skip
    assert "Bad.__del__" in records[0]["message"]
    assert (
        records[1]["message"] == "Uncaught exception in thread of a user: ZeroDivisionError: division by zero"
    )
    assert records[2]["message"] == "Uncaught exception: ValueError: at\nlast"


def test_an_exit_and_an_interrupt_are_no_faults():
    done, records = run("sys.exit(5)")
    assert (done.returncode, len(records)) == (5, 2)
    done, records = run("raise KeyboardInterrupt")
    assert len(records) == 2
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_an_exception_after_the_log_was_closed_is_on_standard_error():
    done, records = run("writer.close(); raise ValueError('late')")
    assert len(records) == 2
    assert done.stderr.rstrip().endswith("ValueError: late")


ANY_MEANS = """
import json, logging, os, warnings, structlog
early = structlog.get_logger()
from mlserver.lines import LineWriter, bound_fields, form_of, take_over
from mlserver.lines.structured import use_structlog

take_over(LineWriter(os.dup(1)), form_of(structured=True, ecs=False, longest=4096, colours=False), level=logging.INFO, worker=3)
use_structlog()
bound_fields.set({"request_id": "abc"})
early.info("from structlog", rows=(1, 4))
logging.getLogger("library").warning("from %s", "logging", extra={"rows": 2})
structlog.get_logger().debug("too low")
warnings.warn("from warnings")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().error("failed", exc_info=True)
    logging.getLogger("library").exception("failed, too")
"""


def test_what_a_predictor_logs_by_any_means_has_one_form_and_the_ids_of_its_call():
    out = subprocess.run([sys.executable, "-c", ANY_MEANS], capture_output=True, check=True).stdout
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["message"].split(":")[-1].strip() for record in records] == [
        "from structlog", "from logging", "from warnings", "failed", "failed, too",
    ]  # fmt: skip
    assert {(record["request_id"], record["worker"]) for record in records} == {("abc", 3)}
    assert [list(record)[:6] for record in records] == [
        ["timestamp", "level", "message", "logger", "worker", "request_id"]
    ] * 5
    assert [record["level"] for record in records] == ["INFO", "WARNING", "WARNING", "ERROR", "ERROR"]
    assert (records[0]["rows"], records[1]["rows"]) == ([1, 4], 2)
    assert all("ZeroDivisionError" in record["exception"] for record in records[3:])


def test_the_supervisor_needs_neither_structlog_nor_numpy_for_its_lines():
    script = "import sys, mlserver.lines; print(sorted({'structlog', 'numpy', 'opentelemetry'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


LONG = "O'Hara of the long name " * 3


@pytest.mark.parametrize("kind", ["arguments", "unraisable"])
def test_a_hidden_value_is_hidden_before_the_text_that_it_stands_in_is_cut(lines, kind):
    secret = "987-65-4321"
    text = LONG + "." * (1024 - len(LONG) - 5) + secret  # across the border

    class Odd:
        def __repr__(self):
            return text

    def hide(given):
        return given.replace(LONG, "[REDACTED]").replace(secret, "[REDACTED]")

    take_over(lines, JSON, level=logging.INFO, hide=hide)
    if kind == "arguments":
        logging.getLogger("library").info("no place", text)  # noqa: PLE1205
    else:
        arguments = (ValueError, ValueError("x"), None, None, Odd())
        sys.unraisablehook(SimpleNamespace(**dict(zip(UNRAISABLE, arguments, strict=True))))
    assert "987" not in json.dumps(lines.records)
    assert "[REDACTED]" in json.dumps(lines.records)


UNRAISABLE = ("exc_type", "exc_value", "exc_traceback", "err_msg", "object")
