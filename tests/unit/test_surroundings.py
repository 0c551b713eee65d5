"""What `validate` finds outside of the file."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from mlserver.config import make_config
from mlserver.config.surroundings import missing_module, unwritable_log

NOBODY = 65534


@pytest.fixture
def shared():
    """A folder that any user can look into, and that belongs to the one who runs the tests."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def unprivileged():
    """Takes root's rights away for the length of a test, if it has them."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        yield
        os.seteuid(0)
    else:
        yield


def config(folder, *, module="a_module", log_file="server.log"):
    return make_config(
        {
            "predictor": {"module": module, "class_name": "Model"},
            "observability": {"log_file": log_file},
        },
        folder,
    )


def lock(*paths):
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_a_log_file_that_can_be_made_or_written_is_not_made(tmp_path):
    assert unwritable_log(config(tmp_path)) is None
    assert not (tmp_path / "server.log").exists()
    (tmp_path / "server.log").touch()
    assert unwritable_log(config(tmp_path)) is None
    assert unwritable_log(config(tmp_path, log_file=None)) is None


@pytest.mark.parametrize("there", [True, False])
def test_a_log_file_that_this_user_may_not_write_is_a_fault(shared, request, there):
    log = shared / "server.log"
    if there:
        log.touch()
        lock(log)
    lock(shared)
    settings = config(shared)
    request.getfixturevalue("unprivileged")
    assert str(unwritable_log(settings)) == (
        f"observability.log_file: {log}: expected a file that this user may append to"
    )


def test_a_log_file_that_is_a_link_counts_as_where_it_leads(tmp_path):
    (tmp_path / "server.log").symlink_to(tmp_path / "other.log")
    assert unwritable_log(config(tmp_path)) is None
    (tmp_path / "lost.log").symlink_to(tmp_path / "none" / "server.log")
    assert unwritable_log(config(tmp_path, log_file="lost.log")) is not None


def test_a_module_that_is_nowhere_is_named_with_its_folder(tmp_path):
    assert str(missing_module(config(tmp_path, module="nowhere_at_all.models"))) == (
        f"predictor.module: there is no module nowhere_at_all.models in {tmp_path}, nor is one installed"
    )


@pytest.mark.parametrize(
    "module", ["beside", "package.models", "json.decoder", "sys", "mlserver", "__main__"]
)
def test_a_module_is_found_without_being_imported(tmp_path, module):
    (tmp_path / "beside.py").write_text("raise SystemExit")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("raise SystemExit")
    before = list(sys.path)
    assert missing_module(config(tmp_path, module=module)) is None
    assert sys.path == before
    assert not {"beside", "package"} & set(sys.modules)


def test_a_model_file_needs_no_module(tmp_path):
    (tmp_path / "model.skops").touch()
    assert missing_module(make_config({"predictor": {"artifact": "model.skops"}}, tmp_path)) is None
