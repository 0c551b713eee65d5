"""The pages of the reference say what the code declares."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import re
from pathlib import Path

import pytest

from mlserver import errors
from mlserver.cli import OVERRIDES, main
from mlserver.config.schema import KEYS
from mlserver.errors import PredictionFailed, RequestError
from mlserver.lines import render_json
from mlserver.observers.logs import RequestLog
from mlserver.server import access, reload
from mlserver.serving.call import Batch, Call, Response
from mlserver.signals import METRICS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_generated_page_is_stale(generate):
    assert "".join(generate.stale(DOCS)) == ""


def test_check_accepts_what_was_written(generate, tmp_path, capsys):
    assert generate.main([], folder=tmp_path) == 0
    assert generate.main(["--check"], folder=tmp_path) == 0
    assert capsys.readouterr().out == ""


def test_check_refuses_a_stale_page_with_a_diff_and_leaves_it(generate, tmp_path, capsys):
    generate.main([], folder=tmp_path)
    page = tmp_path / "reference/settings.md"
    stale = page.read_text("utf-8").replace("`8000`", "`8080`")
    page.write_text(stale, "utf-8")
    assert generate.main(["--check"], folder=tmp_path) == 1
    out = capsys.readouterr().out
    assert re.search(r"^-.*`8080`", out, re.MULTILINE)
    assert re.search(r"^\+.*`8000`", out, re.MULTILINE)
    assert page.read_text("utf-8") == stale


def test_check_refuses_a_missing_page(generate, tmp_path):
    assert generate.main(["--check"], folder=tmp_path) == 1


def test_every_setting_has_its_row_with_its_meaning():
    rows = (DOCS / "reference/settings.md").read_text("utf-8").splitlines()
    for path, key in KEYS.items():
        starts = f"| `{'.'.join(path[1:])}` | {key.expected} | "
        assert any(row.startswith(starts) and row.endswith(f" | {key.description} |") for row in rows), path


def test_every_command_and_option_is_documented(capsys):
    page = (DOCS / "reference/commands.md").read_text("utf-8")
    with contextlib.suppress(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert commands == ["serve", "validate", "reload"]
    assert all(f"| `mlserver {command} [CONFIG]` |" in page for command in commands)
    for option, key in OVERRIDES.items():
        assert re.search(rf"^\| `--{option.replace('_', '-')} .*` \| `{re.escape(key)}`", page, re.MULTILINE)


def test_every_metric_has_its_row_with_its_labels_and_every_bucket_is_named():
    page = (DOCS / "reference/metrics.md").read_text("utf-8")
    rows = [
        tuple(cell.strip() for cell in line.split("|")[1:-1])
        for line in page.splitlines()
        if line.startswith("| `")
    ]
    assert rows == [
        (f"`mlserver_{metric.name}`", metric.type, ", ".join(f"`{label}`" for label in metric.labels), metric.unit,
         metric.help)
        for metric in METRICS
    ]  # fmt: skip
    bounds = [
        float(bound) for bound in re.search(r"^Buckets .*: (.+), \+Inf", page, re.MULTILINE)[1].split(", ")
    ]
    assert all(list(metric.buckets) == bounds for metric in METRICS if metric.type == "histogram")


def own_errors(module):
    """The errors that a module declares itself."""
    return {
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, RequestError) and value.__module__ == module.__name__
    }


def test_every_error_of_the_management_listener_has_its_row():
    page = (DOCS / "reference/errors.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (.+?) \| .+ \|$", page, re.MULTILINE)
    declared = own_errors(access) | own_errors(reload)
    assert sorted(rows) == sorted((str(error.status), error.code, error.title) for error in declared)
    assert declared.isdisjoint(own_errors(errors))


class Lines:
    def __init__(self):
        self.records = []

    def write(self, lines):
        self.records += map(json.loads, lines)


def a_call(status, error=None):
    call = Call("POST", "/predict", 1.0, request_id="4c1f", operation="predict", error=error)
    call.response = Response(status, b"{}")
    return call


def test_the_fields_of_a_line_in_the_reference_are_those_that_a_line_can_have():
    failed = PredictionFailed("The predictor failed.")
    failed.__cause__ = ValueError("no")
    calls = [a_call(200), a_call(500, failed)]
    calls[0].batch = Batch(calls, "predict", rows=2, id="8e2a")
    lines = Lines()
    settings = {"model": "iris", "version": "1.0.0", "worker": 0, "level": logging.INFO, "payloads": True}
    RequestLog(lines, render_json, **settings)(calls, [])
    possible = list(dict.fromkeys(field for record in lines.records for field in record))
    page = (DOCS / "reference/logs.md").read_text("utf-8")
    table = page.partition("| field |")[2].partition("\n\n")[0]
    documented = [
        field
        for line in table.splitlines()
        if line.startswith("| `")
        for field in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert sorted(documented) == sorted(possible)
    shown = json.loads(re.search(r"^```json\n(.+)\n```", page, re.MULTILINE)[1])
    assert list(shown) == documented[: len(shown)]
