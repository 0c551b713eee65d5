"""The line of a request: its fields, its two ways of being made, and what it never holds."""

from __future__ import annotations

import json
import logging
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.config import PayloadSettings
from mlserver.errors import InvalidInput, PredictionFailed
from mlserver.lines import ATOMIC_BYTES, form_of, hidden
from mlserver.observers.logs import RequestLog, hide_values
from mlserver.redaction import Redaction
from mlserver.serving.call import Batch, Call, Response, Trace
from mlserver.signals.lines import ECS_VERSION, REQUEST_FIELDS

SEED_FIELDS = [
    "timestamp", "level", "message", "request_id", "model", "version", "duration_ms", "input_shape", "output_shape",
    "status",
]  # fmt: skip
FILE = 1 << 20
WAYS = [{}, {"ecs": True}, {"structured": False}]


class Lines:
    def __init__(self, longest=FILE):
        self.written, self.longest = [], longest

    def write(self, lines):
        self.written.append(list(lines))


def a_call(status=200, **fields):
    call = Call("POST", "/predict", 10.0, request_id="abc-123", operation="predict", **fields)
    call.finished, call.input_shape = 10.0451239, (1, 4)
    call.response = call.response or Response(status, b'{"predictions": [1]}')
    call.output_shape = (1,) if status == 200 else None
    return call


def failed(cause, **fields):
    """A call whose predictor raised."""
    call = a_call(500, **fields)
    call.error = PredictionFailed("The predictor failed.")
    with pytest.raises(type(cause)) as raised:
        raise cause
    call.error.__cause__ = raised.value
    return call


def a_log(lines, *, level=logging.INFO, structured=True, ecs=False, form=None, **settings):
    made = form_of(structured=structured, ecs=ecs, longest=lines.longest, colours=False)
    ways = {"structured": structured, "ecs": ecs, "level": level}
    return RequestLog(
        lines, form or made, **{"model": "iris", "version": "1.0.0", "worker": 1, **ways, **settings}
    )


def written(*calls, longest=FILE, **settings):
    """The lines of a turn, as bytes."""
    lines = Lines(longest)
    a_log(lines, **settings)(calls, [])
    return [line for turn in lines.written for line in turn]


def logged(*calls, **settings):
    return [json.loads(line) for line in written(*calls, **settings)]


class TestFields:
    def test_a_line_begins_with_the_fields_of_the_specification_in_its_order(self):
        (record,) = logged(a_call())
        assert list(record)[: len(SEED_FIELDS)] == SEED_FIELDS
        assert record | {"timestamp": ""} == {
            "timestamp": "", "level": "INFO", "message": "Prediction completed", "request_id": "abc-123",
            "model": "iris", "version": "1.0.0", "duration_ms": 45.124, "input_shape": [1, 4], "output_shape": [1],
            "status": "success", "endpoint": "/predict", "method": "POST", "http_status": 200, "error_type": None,
            "worker": 1,
        }  # fmt: skip
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["timestamp"])

    def test_a_line_with_everything_has_the_declared_fields_in_their_order(self):
        call = failed(ValueError("x"), batch=Batch([], "predict", 2, id="b"), trace=Trace("f" * 32, "a" * 16))
        (record,) = logged(call, payloads=PayloadSettings())
        assert list(record) == [field.name for field in REQUEST_FIELDS]
        (record,) = logged(a_call())
        assert list(record) == [field.name for field in REQUEST_FIELDS if field.always]

    def test_the_elastic_common_schema_has_its_names_and_units(self):
        (record,) = logged(a_call(trace=Trace("f" * 32, "a" * 16)), ecs=True)
        assert record | {"@timestamp": ""} == {
            "@timestamp": "", "log.level": "info", "message": "Prediction completed", "ecs.version": ECS_VERSION,
            "http.request.id": "abc-123", "service.name": "iris", "service.version": "1.0.0",
            "event.duration": 45_124_000, "mlserver.input_shape": [1, 4], "mlserver.output_shape": [1],
            "event.outcome": "success", "mlserver.endpoint": "/predict", "http.request.method": "POST",
            "http.response.status_code": 200, "mlserver.worker": 1, "trace.id": "f" * 32, "span.id": "a" * 16,
        }  # fmt: skip
        (record,) = logged(a_call(503), ecs=True)
        assert (record["event.outcome"], record["log.level"]) == ("failure", "error")
        assert None not in record.values()

    @pytest.mark.parametrize(
        ("status", "level"), [(200, "INFO"), (404, "WARNING"), (499, "WARNING"), (503, "ERROR")]
    )
    def test_the_level_follows_the_status(self, status, level):
        assert [record["level"] for record in logged(a_call(status))] == [level]

    @pytest.mark.parametrize("status", [200, 503])
    def test_probes_and_scrapes_are_logged_at_debug_only(self, status):
        assert written(a_call(status, quiet=True)) == []
        (record,) = logged(a_call(status, quiet=True), level=logging.DEBUG)
        assert record["level"] == "DEBUG"

    def test_the_level_can_be_changed_at_any_time(self):
        lines = Lines()
        log = a_log(lines, level=logging.ERROR)
        for log.level in (logging.ERROR, logging.INFO, logging.WARNING):
            log([a_call(), a_call(503)], [])
        assert [len(turn) for turn in lines.written] == [1, 2, 1]

    def test_all_lines_of_a_turn_are_written_at_once(self):
        lines = Lines()
        a_log(lines)([a_call(), a_call(404), a_call()], [])
        assert [[json.loads(line)["http_status"] for line in turn] for turn in lines.written] == [
            [200, 404, 200]
        ]

    def test_a_turn_without_lines_writes_nothing(self):
        lines = Lines()
        a_log(lines, level=logging.WARNING)([a_call()], [])
        assert lines.written == []

    def test_a_failed_prediction_names_the_exception_and_where_it_was_raised(self):
        (record,) = logged(failed(ZeroDivisionError("division by zero")))
        assert record["error_type"] == "ZeroDivisionError"
        assert record["error"] == "division by zero"
        assert "in failed" in record["exception"]
        assert record["message"] == "Prediction failed"

    def test_a_refused_request_says_what_the_client_was_told(self):
        call = a_call(422)
        call.error = InvalidInput("row 2 has 3 values, expected 4")
        (record,) = logged(call)
        assert (record["error_type"], record["error"]) == ("InvalidInput", "row 2 has 3 values, expected 4")
        assert "exception" not in record

    def test_a_shared_run_is_named_and_a_run_alone_is_not(self):
        assert logged(a_call(batch=Batch([], "predict", 2, id="b-1")))[0]["batch_id"] == "b-1"
        assert "batch_id" not in logged(a_call(batch=Batch([], "predict", 1)))[0]

    def test_a_trace_that_only_the_caller_has_has_no_span_of_ours(self):
        (record,) = logged(a_call(trace=Trace("f" * 32, None, "a" * 16)))
        assert record["trace_id"] == "f" * 32
        assert "span_id" not in record

    def test_timestamps_are_those_of_the_clock(self, monkeypatch):
        lines = Lines()
        log = a_log(lines)
        for seconds in (1705314645.1239, 1705314645.9999, 1705314646.0, 1705314645.5):
            monkeypatch.setattr("mlserver.observers.logs.time.time", lambda seconds=seconds: seconds)
            log([a_call()], [])
            log([a_call(404)], [])
        assert [json.loads(line)["timestamp"][-13:] for turn in lines.written for line in turn] == [
            "10:30:45.123Z", "10:30:45.123Z", "10:30:45.999Z", "10:30:45.999Z",
            "10:30:46.000Z", "10:30:46.000Z", "10:30:45.500Z", "10:30:45.500Z",
        ]  # fmt: skip


shapes = st.none() | st.lists(st.integers(0, 1 << 40), min_size=1, max_size=3).map(tuple)
calls = st.builds(
    Call,
    st.sampled_from(["POST", "GET", "P" * 3000, "\ud800\n"]),
    st.sampled_from(["/predict", "/predict_proba", "/info", "unmatched"]),
    st.just(10.0),
    request_id=st.none() | st.text(max_size=128),
    operation=st.none() | st.sampled_from(["predict", "predict_proba"]),
    quiet=st.booleans(),
    finished=st.floats(10.0, 1e6),
    response=st.builds(Response, st.sampled_from([200, 404, 500]), st.just(b"{}")),
    input_shape=shapes,
    output_shape=shapes,
    trace=st.none() | st.builds(Trace, st.just("f" * 32), st.none() | st.just("a" * 16)),
    batch=st.none()
    | st.builds(Batch, st.just([]), st.just("predict"), st.just(1), st.sampled_from(["", "b"])),
    error=st.none() | st.builds(InvalidInput, st.text(st.characters())),
)


answered = st.builds(
    a_call,
    body=st.just(b"{}"),
    trace=st.none() | st.builds(Trace, st.just("f" * 32), st.none() | st.just("a" * 16)),
    batch=st.none()
    | st.builds(Batch, st.just([]), st.just("predict"), st.just(1), st.sampled_from(["", "b"])),
)


def changed(call, request_id, endpoint, given, output, finished):
    call.request_id, call.endpoint, call.input_shape, call.output_shape = request_id, endpoint, given, output
    call.finished = finished
    return call


answered = st.builds(
    changed,
    answered,
    st.none() | st.text(max_size=128),
    st.sampled_from(["/predict", "/predict_proba"]),
    shapes,
    shapes,
    st.floats(10.0, 1e6),
)


@given(
    turn=st.lists(calls | answered, max_size=4), ecs=st.booleans(), level=st.sampled_from([10, 20, 30, 40])
)
def test_the_quick_way_makes_the_lines_that_the_form_makes(turn, ecs, level):
    def without_time(lines):
        return [re.sub(rb'"(@?timestamp)":"[^"]*"', b"", line) for line in lines]

    quick, slow = Lines(), Lines()
    a_log(quick, ecs=ecs, level=level)(turn, [])
    log = a_log(slow, ecs=ecs, level=level)
    log._quick = None
    log(turn, [])
    assert list(map(without_time, quick.written)) == list(map(without_time, slow.written))


def test_answered_predictions_go_the_quick_way():
    lines = Lines()
    made = form_of(structured=True, ecs=False, longest=FILE, colours=False)
    forms = []
    log = a_log(lines, form=lambda record: forms.append(record) or made(record))
    log([a_call(), a_call()], [])
    forms.clear()
    log([a_call(), a_call(batch=Batch([], "predict", 2, id="b")), a_call(trace=Trace("f" * 32))], [])
    assert forms == []
    assert len(lines.written[1]) == 3


class TestHostile:
    @given(turn=st.lists(calls, max_size=3), message=st.text(st.characters()), way=st.sampled_from(WAYS))
    def test_every_call_has_one_line_of_bounded_length(self, turn, message, way):
        turn = [*turn, failed(ValueError(message))]
        made = written(*turn, level=logging.DEBUG, longest=ATOMIC_BYTES, payloads=PayloadSettings(), **way)
        assert len(made) == len(turn)
        for line in made:
            assert len(line) <= ATOMIC_BYTES
            assert line.endswith(b"\n")
            if way.get("structured", True):
                assert line.count(b"\n") == 1
                assert isinstance(json.loads(line), dict)

    def test_long_texts_are_cut_with_a_mark_and_stacks_keep_their_end(self):
        (record,) = logged(failed(ValueError("é" * 3000)))
        assert re.search(r"é…\(\d+ bytes more\)$", record["error"])
        assert record["exception"].endswith("é\n")

    def test_an_exception_that_cannot_be_shown_still_has_its_line(self):
        class Odd(Exception):
            def __str__(self):
                raise ValueError("no")

        (record,) = logged(failed(Odd()))
        assert record["error_type"] == "Odd"
        assert record["error"] == "<Odd without text: ValueError>"

    def test_a_line_that_cannot_be_made_costs_no_other_and_says_less(self):
        def form(record):
            if "error" in record:
                raise KeyError("4111")
            return orjson.dumps(record) + b"\n"

        lines = Lines()
        with pytest.raises(RuntimeError, match="KeyError when the line of a request was made") as raised:
            a_log(lines, form=form)([a_call(), failed(ValueError("x")), a_call(404)], [])
        assert [json.loads(line)["http_status"] for line in lines.written[0]] == [200, 500, 404]
        assert "4111" not in str(raised.value)
        assert raised.value.__suppress_context__

    def test_a_form_that_never_works_loses_the_line_alone(self):
        made = form_of(structured=True, ecs=False, longest=FILE, colours=False)

        def form(record):
            if record["http_status"] == 404:
                raise OSError
            return made(record)

        lines = Lines()
        with pytest.raises(RuntimeError):
            a_log(lines, form=form)([a_call(404), a_call(500)], [])
        assert [json.loads(line)["http_status"] for line in lines.written[0]] == [500]

    def test_a_long_name_of_the_model_does_not_make_lines_too_long_for_a_pipe(self):
        for letters in (
            3700,
            5000,
        ):  # the longer one is cut in all lines, the other one in lines with more fields
            call = a_call(batch=Batch([], "predict", 2, id="b"), trace=Trace("f" * 32, "a" * 16))
            call.request_id = "i" * 128
            (line,) = written(call, longest=ATOMIC_BYTES, model="m" * letters)
            assert len(line) <= ATOMIC_BYTES
            assert json.loads(line)["http_status"] == 200


class TestPayloads:
    def test_bodies_are_in_the_line_only_when_asked_for(self):
        call = a_call(body=b'{"ndarray": [[1]]}')
        assert "request_body" not in logged(call)[0]
        record = logged(call, payloads=PayloadSettings())[0]
        assert (record["request_body"], record["response_body"]) == (
            '{"ndarray": [[1]]}',
            '{"predictions": [1]}',
        )

    def test_bodies_are_cut_with_a_mark(self):
        call = a_call(body="é".encode() * 100, response=Response(200, b"y" * 7))
        (record,) = logged(call, payloads=PayloadSettings(max_bytes=7))
        assert (record["request_body"], record["response_body"]) == ("ééé…(194 bytes more)", "yyyyyyy")

    def test_a_share_of_the_requests_is_enough(self, monkeypatch):
        numbers = iter([0.1, 0.25, 0.9, 0.2])
        monkeypatch.setattr("mlserver.observers.logs.random", lambda: next(numbers))
        records = logged(*[a_call(body=b"x") for _ in range(4)], payloads=PayloadSettings(sample_ratio=0.25))
        assert ["request_body" in record for record in records] == [True, False, False, True]

    def test_a_share_of_none_has_none(self):
        (record,) = logged(a_call(body=b"x"), payloads=PayloadSettings(sample_ratio=0))
        assert "request_body" not in record

    def test_what_is_no_text_is_shown_as_far_as_it_is(self):
        (record,) = logged(a_call(body=b"a\xff\x00"), payloads=PayloadSettings())
        assert record["request_body"] == "a\ufffd\x00"

    def test_a_file_takes_bodies_whole(self):
        call = a_call(body=b'"' * 200_000, response=Response(200, b"y" * 100_000))
        (record,) = logged(call, payloads=PayloadSettings(max_bytes=1 << 20))
        assert (len(record["request_body"]), len(record["response_body"])) == (200_000, 100_000)

    @given(
        asked=st.text(st.sampled_from('"\x00é a'), max_size=9000).map(str.encode) | st.binary(max_size=3000),
        answered=st.text(st.sampled_from('"\x00é a'), max_size=9000).map(str.encode),
        ecs=st.booleans(),
    )
    def test_on_a_pipe_they_share_what_is_left_of_the_line(self, asked, answered, ecs):
        call = a_call(body=asked, response=Response(200, answered))
        (line,) = written(call, longest=ATOMIC_BYTES, payloads=PayloadSettings(), ecs=ecs)
        assert len(line) <= ATOMIC_BYTES
        record = json.loads(line)
        assert "truncated" not in record
        bodies = [record[name] for name in record if name.endswith(("_body", ".content"))]
        whole = [asked.decode("utf-8", "replace"), answered.decode()]
        assert len(bodies) == 2
        for shown, all_of_it in zip(bodies, whole, strict=True):
            assert all_of_it.startswith(shown.rpartition("…(")[0] or shown)
        if bodies != whole:  # what is cut is not cut for nothing
            assert len(line) > ATOMIC_BYTES * 0.8

    def test_a_short_body_leaves_its_room_to_the_other(self):
        for sizes in ((10, 5000), (5000, 10)):
            call = a_call(body=b"x" * sizes[0], response=Response(200, b"y" * sizes[1]))
            (record,) = logged(call, longest=ATOMIC_BYTES, payloads=PayloadSettings())
            lengths = sorted(len(record[name]) for name in ("request_body", "response_body"))
            assert lengths[0] == 10
            assert lengths[1] > 3000


class TestRedaction:
    def test_errors_are_without_hidden_values_even_where_no_bodies_are_logged(self):
        body = b'{"records": [{"ssn": "123-45-6789", "age": 4}]}'
        call = failed(ValueError("no such person: 123-45-6789 of 4"), body=body)
        (record,) = logged(call, redaction=Redaction(["ssn"]))
        assert record["error"] == "no such person: [REDACTED] of 4"
        assert "6789" not in record["exception"]
        assert "request_body" not in record

    def test_what_patterns_match_is_in_no_text(self):
        call = failed(ValueError("card 4111111111111111"), body=b"4111111111111111")
        call.method = "4111111111111111"
        (line,) = written(call, redaction=Redaction((), [r"\d{16}"]), payloads=PayloadSettings())
        assert b"4111" not in line

    def test_an_echo_is_hidden_in_the_response(self):
        call = a_call(body=b'{"records": [{"name": "Ada Lovelace"}]}')
        call.response = Response(200, b'{"predictions": ["Dear Ada Lovelace"]}')
        (record,) = logged(call, redaction=Redaction(["name"]), payloads=PayloadSettings())
        assert record["request_body"] == '{"records": [{"name": "[REDACTED]"}]}'
        assert record["response_body"] == '{"predictions": ["Dear [REDACTED]"]}'

    def test_a_short_value_is_hidden_in_an_error_and_left_in_an_answer(self):
        call = a_call(body=b'{"records": [{"name": 7, "age": 7}]}')
        call.response = Response(200, b'{"predictions": [7]}')
        settings = {"redaction": Redaction(["name"]), "payloads": PayloadSettings()}
        (record,) = logged(call, **settings)
        assert record["request_body"] == '{"records": [{"name": "[REDACTED]", "age": 7}]}'
        assert record["response_body"] == '{"predictions": [7]}'
        call.error = InvalidInput("7 is no name")
        call.response = Response(422, b'{"detail": "7 is no name"}')
        (record,) = logged(call, **settings)
        assert record["error"] == "[REDACTED] is no name"
        assert record["response_body"] == '{"detail": "[REDACTED] is no name"}'

    def test_a_redaction_that_fails_shows_nothing(self, monkeypatch):
        redaction = Redaction(["ssn"])
        monkeypatch.setattr(redaction, "hide", lambda bodies: 1 / 0)
        lines, call = Lines(), failed(ValueError("123-45-6789"), body=b'{"ssn": "123-45-6789"}')
        call.method = "123-45-6789"
        with pytest.raises(RuntimeError):
            a_log(lines, redaction=redaction)([call], [])
        assert b"6789" not in lines.written[0][0]
        assert json.loads(lines.written[0][0])["http_status"] == 500

    def test_the_hook_hides_the_values_of_all_requests_of_a_run(self):
        bodies = [b'{"ssn": "123-45-6789"}', b'{"ssn": 987654321}', b"no json"]
        batch = Batch([a_call(body=body) for body in bodies], "predict", 2)
        before = hidden.get()
        try:
            hide_values(Redaction(["SSN"]))(batch)
            assert hidden.get()("of 123-45-6789 and 9.87654321e+08") == "of [REDACTED] and [REDACTED]"
        finally:
            hidden.set(before)
