"""The pages of the reference say what the code declares."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path

import pytest

from mlserver.cli import OVERRIDES, main
from mlserver.config.schema import KEYS

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
