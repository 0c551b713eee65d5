"""The project as a whole: what it carries, what it says of itself, what its import costs."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = re.search(r"^\.PHONY: (.+)", MAKEFILE, re.MULTILINE)[1].split()

OPTIONAL_LIBRARIES = [
    "sklearn",
    "pandas",
    "scipy",
    "catboost",
    "lightgbm",
    "xgboost",
    "onnxruntime",
    "skops",
    "joblib",
]
MACHINE_PATH = re.compile(r"(?<![\w.}/-])/(?:work|root|home/\w+|Users/\w+)/")
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|npmjs\.org|(?:deb|packages)\.debian\.org", re.IGNORECASE
)


@cache
def project_files() -> dict[str, str]:
    """Text of every file that is, or is about to be, in the repository, by its path."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: its files cannot be told from others")
    texts = {}
    for name in filter(None, listing.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content:
            texts[name] = content.decode()
    return texts


def matches(pattern: re.Pattern[str]) -> list[str]:
    """Where `pattern` is found, as file:line: text."""
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in project_files().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def markdown() -> dict[str, str]:
    return {name: text for name, text in project_files().items() if name.endswith(".md")}


def locked_versions() -> dict[str, set[str]]:
    """Every version in the lock by the package's name; more than one where Pythons differ."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def declared_requirements() -> list[Requirement]:
    tables = [
        PROJECT["build-system"]["requires"],
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
        *PROJECT["dependency-groups"].values(),
    ]
    return [Requirement(text) for table in tables for text in table]


def imported_by(module: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after importing `module`."""
    code = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, cwd="/")
    return set(run.stdout.split())


def test_no_file_names_a_path_of_somebodys_machine():
    assert matches(MACHINE_PATH) == []


def test_no_file_names_the_host_of_a_package_registry():
    assert matches(REGISTRY_HOST) == []


@pytest.mark.parametrize("folder", ["work", "root", "home/ada"])
@pytest.mark.parametrize("line", ["cd /{}/main", "open('/{}/model.skops')", "--config=/{}/mlserver.yaml"])
def test_the_search_for_machine_paths_finds_one(folder, line):
    assert MACHINE_PATH.search(line.format(folder))


@pytest.mark.parametrize(
    ("line", "folder"), [("GET /{}", "work"), ("https://example.com/{}/x", "root"), ("rooted/{}/x", "work")]
)
def test_the_search_for_machine_paths_leaves_addresses_alone(line, folder):
    assert not MACHINE_PATH.search(line.format(folder))


def test_every_target_of_the_makefile_is_listed_by_make_help():
    listing = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    assert TARGETS
    assert re.findall(r"^  make ([a-z-]+) +\S", listing, re.MULTILINE) == TARGETS


def test_every_target_of_the_makefile_is_explained_to_contributors():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert [target for target in TARGETS if f"`make {target}`" not in text] == []


def test_every_make_command_in_the_documents_exists():
    named = {
        (name, target)
        for name, text in markdown().items()
        for target in re.findall(r"(?:`|^|\$ )make ([a-z]+)\b", text, re.MULTILINE)
    }
    assert named
    assert {(name, target) for name, target in named if target not in TARGETS} == set()


def test_the_changelog_begins_with_the_version_of_the_package():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.search(r"^## (\S+)", text, re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["project"]["version"]


def test_the_lock_satisfies_every_declared_requirement():
    versions = locked_versions()
    unmet = [
        f"{requirement}: {sorted(locked)} locked; run `make lock`"
        for requirement in declared_requirements()
        if (name := canonicalize_name(requirement.name)) != PROJECT["project"]["name"]
        if not (locked := versions.get(name, set())) or not all(map(requirement.specifier.contains, locked))
    ]
    assert unmet == []


def test_the_lock_pins_every_package_by_hash_and_names_no_address():
    entries = re.split(r"^(?=\w)", LOCK.partition("make lock\n")[2], flags=re.MULTILINE)[1:]
    assert len(entries) > len(declared_requirements())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "//" not in LOCK


@pytest.mark.parametrize("module", ["mlserver", "mlserver.cli", "mlserver.app", "mlserver.server.supervisor"])
def test_importing_it_brings_in_no_model_library(module):
    imported = imported_by(module)
    assert "mlserver" in imported
    assert imported.isdisjoint(OPTIONAL_LIBRARIES)


def test_the_public_api_is_at_most_twelve_names_and_all_of_them_exist():
    package = importlib.import_module("mlserver")
    assert 1 <= len(package.__all__) <= 12
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert [name for name in package.__all__ if name.startswith("_")] == []
