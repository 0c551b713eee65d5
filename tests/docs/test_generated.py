"""The pages of the reference say what the code declares."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import re
from pathlib import Path

import pytest
import yaml

from mlserver import errors
from mlserver.cli import OVERRIDES, main
from mlserver.config import PayloadSettings
from mlserver.config.schema import KEYS
from mlserver.errors import PredictionFailed, RequestError
from mlserver.lines import form_of
from mlserver.observers.logs import RequestLog
from mlserver.server import access, reload, verbosity
from mlserver.serving.call import Batch, Call, Response, Trace
from mlserver.signals import CATALOGUE, METRICS, PROCESSES, reserved_names
from mlserver.signals.lines import EVENT_FIELDS, REQUEST_FIELDS
from mlserver.signals.spans import SPANS

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
    commands = re.findall(r"^    ([\w-]+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    assert commands == ["serve", "validate", "reload", "log-level"]
    assert all(
        re.search(rf"^\| `mlserver {command} .*\[CONFIG\]` \|", page, re.MULTILINE) for command in commands
    )
    for option, key in OVERRIDES.items():
        assert re.search(rf"^\| `--{option.replace('_', '-')} .*` \| `{re.escape(key)}`", page, re.MULTILINE)


def page(name):
    return (DOCS / name).read_text("utf-8")


def rows(text, heading):
    """The cells of the first table after a heading, without its head."""
    table = text.partition(f"\n## {heading}\n")[2].partition("\n|---")[2].partition("\n\n")[0]
    return [
        tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        for line in table.splitlines()[1:]
    ]


def codes(names):
    return ", ".join(f"`{name}`" for name in names)


@pytest.mark.parametrize(
    ("heading", "metrics"), [("What the server counts", METRICS), ("Processes", PROCESSES)]
)
def test_every_metric_has_its_row_with_its_labels(heading, metrics):
    assert rows(page("reference/metrics.md"), heading) == [
        (f"`{metric.full_name('mlserver_')}`", metric.type, codes(metric.labels), metric.unit, metric.help)
        for metric in metrics
    ]


def test_every_histogram_has_its_buckets():
    found = {
        name: bounds
        for names, bounds in rows(page("reference/metrics.md"), "Buckets")
        for name in names.split(", ")
    }
    assert found == {
        f"`mlserver_{metric.name}`": ", ".join([*(f"{bound:g}" for bound in metric.buckets), "+Inf"])
        for metric in METRICS
        if metric.type == "histogram"
    }


def test_every_label_is_explained():
    explained = {
        label
        for labels, _ in rows(page("reference/metrics.md"), "Labels")
        for label in re.findall(r"`(\w+)`", labels)
    }
    of_python = {"generation", "implementation", "major", "minor", "patchlevel"}
    assert explained | of_python == {label for metric in CATALOGUE for label in metric.labels}


def shown(expr, metric):
    return expr.replace("$metric", metric.full_name("mlserver_"))


def test_every_panel_is_a_question():
    found = {
        (title, name.strip("`"), expression)
        for title, name, expressions in rows(page("reference/metrics.md"), "Questions")
        for expression in re.findall(r"`([^`]+)`", expressions)
    }
    assert found == {
        (panel.title, metric.full_name("mlserver_"), shown(panel.expr, metric))
        for metric in CATALOGUE
        for panel in metric.panels
    }


def test_every_alert_is_in_the_reference_and_among_the_rules_to_copy():
    declared = {
        (alert.name, shown(alert.expr, metric), alert.after, alert.severity)
        for metric in CATALOGUE
        for alert in metric.alerts
    }
    assert {
        (name, expr.strip("`"), after, severity)
        for name, expr, after, severity in rows(page("reference/metrics.md"), "Alerts")
    } == declared
    block = re.search(
        r"^```yaml\n(# mlserver-rules.yml\n.+?)^```",
        page("how-to/scrape-with-prometheus.md"),
        re.MULTILINE | re.DOTALL,
    )
    (group,) = yaml.safe_load(block[1])["groups"]
    copied = {
        (rule["alert"], rule["expr"], rule.get("for"), rule["labels"]["severity"]) for rule in group["rules"]
    }
    assert declared <= copied


def test_every_metric_that_a_document_names_is_there():
    names = reserved_names("mlserver_")
    wrong = {
        (document.name, name)
        for document in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
        for name in re.findall(r"\b(?:mlserver|process|python)_\w*[a-z]\b", document.read_text("utf-8"))
        if name not in names and not any(known.startswith(f"{name}_") for known in names)
    }
    assert wrong == set()


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
    declared = own_errors(access) | own_errors(reload) | own_errors(verbosity)
    assert sorted(rows) == sorted((str(error.status), error.code, error.title) for error in declared)
    assert declared.isdisjoint(own_errors(errors))


class Lines:
    longest = 1 << 20

    def __init__(self):
        self.records = []

    def write(self, lines):
        self.records += map(json.loads, lines)


def a_call(status, error=None):
    call = Call("POST", "/predict", 1.0, request_id="4c1f", operation="predict", error=error)
    call.response = Response(status, b"{}")
    return call


def logged(*calls):
    """The records of calls, with all that may be in them."""
    lines = Lines()
    form = form_of(structured=True, ecs=False, longest=lines.longest, colours=False)
    settings = {"model": "iris", "version": "1.0.0", "worker": 0, "level": logging.INFO}
    RequestLog(lines, form, structured=True, ecs=False, payloads=PayloadSettings(), **settings)(calls, [])
    return lines.records


def test_the_fields_of_a_line_in_the_reference_are_those_that_a_line_can_have():
    failed = PredictionFailed("The predictor failed.")
    failed.__cause__ = ValueError("no")
    calls = [a_call(200), a_call(500, failed)]
    calls[0].batch = Batch(calls, "predict", rows=2, id="8e2a")
    calls[0].trace = Trace("4" * 32, "2" * 16)
    possible = {field for record in logged(*calls) for field in record}
    declared = [field.name for field in REQUEST_FIELDS]
    assert sorted(possible) == sorted(declared)
    text = page("reference/logs.md")
    documented = [name.strip("`") for name, *_ in rows(text, "The line of a request")]
    assert documented == declared
    shown = json.loads(re.search(r"^```json\n(.+)\n```", text, re.MULTILINE)[1])
    assert list(shown) == documented[: len(shown)]


def test_the_fields_of_other_lines_are_in_the_reference():
    documented = [name.strip("`") for name, *_ in rows(page("reference/logs.md"), "Lines of others")]
    assert documented == [field.name for field in EVENT_FIELDS]


def test_every_span_is_in_the_reference_with_its_attributes():
    found = {
        name.strip("`"): re.findall(r"`([\w.]+)`:", attributes)
        for name, _, attributes in rows(page("reference/traces.md"), "Spans")
    }
    assert found == {span.name: [attribute.name for attribute in span.attributes] for span in SPANS}
