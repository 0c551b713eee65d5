"""What holds for every configuration, not only for those that somebody thought of."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlserver.config import dump_config, load_config, make_config
from mlserver.config.schema import KEYS, SECTIONS
from mlserver.errors import ConfigError

SOME_CLASS = {"module": "my_predictor", "class_name": "CachedPredictor"}
TOKEN = ("server", "management", "token")

counts = st.integers(1, 10**6)
seconds = st.floats(0.001, 86_400)
labels = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates()
arguments = st.dictionaries(
    st.text(min_size=1).map(lambda name: f"x{name}"),
    st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8),
    max_size=4,
)

VALUES = {
    ("server", "host"): st.ip_addresses().map(str) | st.sampled_from(["localhost", "a.example.com"]),
    ("server", "port"): st.integers(10_000, 65_535),
    ("server", "workers"): st.integers(1, 64) | st.just("auto"),
    ("server", "management", "host"): st.ip_addresses().map(str),
    ("server", "management", "port"): st.none() | st.integers(0, 9_999),
    ("server", "management", "allowed_hosts"): st.lists(labels),
    ("server", "graceful_timeout_s"): seconds,
    ("server", "drain_delay_s"): st.just(0) | seconds,
    ("server", "max_body_bytes"): counts,
    ("model", "name"): labels,
    ("model", "version"): labels
    | st.floats(0, 100).map(str)
    | st.sampled_from(["no", "null", "1e3", "0x1", "~", "="]),
    ("predictor", "init_kwargs"): arguments,
    ("api", "adapter"): st.sampled_from(["auto", "records", "ndarray"]),
    ("api", "feature_order"): st.none() | st.lists(labels, min_size=1, unique=True),
    ("api", "batching", "enabled"): st.none() | st.booleans(),
    ("api", "batching", "max_wait_ms"): st.floats(0, 60_000),
    ("api", "max_queue"): counts,
    ("observability", "metrics"): st.booleans(),
    ("observability", "metrics_prefix"): st.from_regex(r"[a-z_:][a-z0-9_:]*", fullmatch=True),
    ("observability", "log_level"): st.sampled_from(["DEBUG", "info", "Warning", "ERROR"]),
}


@st.composite
def accepted(draw):
    """The data of a file that is accepted, of any number of its keys."""
    tree = {"predictor": dict(SOME_CLASS)}
    for path in draw(st.lists(st.sampled_from(list(VALUES)), unique=True)):
        put(tree, path, draw(VALUES[path]))
    return tree


def put(tree, path, value):
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def load_text(text, **options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mlserver.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return load_config(path, environ=options.pop("environ", {}), **options)


def outcome(run):
    """The settings, or nothing where they are refused for stated reasons, each of one printable line."""
    try:
        return run()
    except ConfigError as error:
        lines = [str(fault) for fault in error.faults]
    assert lines
    assert all(line.isprintable() for line in lines)
    return None


@given(accepted())
def test_what_is_accepted_can_be_dumped_and_loaded_to_the_same(tree):
    config = make_config(tree, Path.cwd())
    assert load_text(dump_config(config)).model_dump() == config.model_dump()


@given(accepted(), st.from_regex(r"[!-~]{8,40}", fullmatch=True))
def test_only_a_secret_is_lost_in_a_dump(tree, token):
    put(tree, TOKEN, token)
    config = make_config(tree, Path.cwd())
    reloaded = load_text(dump_config(config), overrides={".".join(TOKEN): token})
    assert reloaded.model_dump() == config.model_dump()
    assert config.server.management.token.get_secret_value() == token


@given(st.sampled_from(sorted(VALUES)).flatmap(lambda path: st.tuples(st.just(path), VALUES[path])))
def test_a_variable_is_the_same_as_the_value_in_the_file(pair):
    path, value = pair
    tree = {"predictor": dict(SOME_CLASS)}
    plain = yaml.safe_dump(tree)
    put(tree, path, value)
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**9)
    by_variable = load_text(plain, environ={KEYS[path].variable: text})
    assert by_variable.model_dump() == make_config(tree, Path.cwd()).model_dump()


@given(st.sampled_from(sorted(VALUES)).flatmap(lambda path: st.tuples(st.just(path), VALUES[path])))
def test_an_override_is_the_same_as_the_value_in_the_file(pair):
    path, value = pair
    tree = {"predictor": dict(SOME_CLASS)}
    plain = yaml.safe_dump(tree)
    put(tree, path, value)
    by_override = load_text(plain, overrides={".".join(path): value})
    assert by_override.model_dump() == make_config(tree, Path.cwd()).model_dump()


any_value = st.recursive(
    plain
    | st.binary()
    | st.sampled_from([2**70, 10**400, float("nan"), float("inf"), "\ud800", "a\0b", "*a", "!a"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.booleans(), inner),
    max_leaves=10,
)
names = st.sampled_from(sorted({part for path in (*KEYS, *SECTIONS) for part in path})) | st.text()
any_tree = st.recursive(any_value, lambda inner: st.dictionaries(names, inner), max_leaves=12)


@st.composite
def nearly_accepted(draw):
    """An accepted file in which anything stands in a few places."""
    tree = draw(accepted())
    for path in draw(st.lists(st.sampled_from([*KEYS, *SECTIONS][1:]), max_size=4)):
        try:
            put(tree, path or ("server",), draw(any_value))
        except (AttributeError, TypeError):
            continue  # something else stands in the way already
    return tree


@given(st.dictionaries(names, any_tree) | nearly_accepted())
def test_no_mapping_raises_anything_but_config_errors(tree):
    config = outcome(lambda: make_config(tree, Path.cwd()))
    assert config is None or dump_config(config)


@given(st.dictionaries(names, any_tree) | nearly_accepted())
def test_no_mapping_in_a_file_raises_anything_but_config_errors(tree):
    outcome(lambda: load_text(yaml.safe_dump(tree, allow_unicode=True)))


@given(st.text() | st.binary() | st.text("!&*?:-[]{}<>|#%@\"'=~,\n \t0123456789.eExbaon_"))
def test_no_file_raises_anything_but_config_errors(text):
    outcome(lambda: load_text(text))


@given(
    st.text("!&*?:-[]{}<>|#%@\"'=~,\n \t0123456789.eExbaon_", max_size=40),
    st.sampled_from(["", "!!int ", "!!set "]),
)
def test_no_value_in_a_file_raises_anything_but_config_errors(text, tag):
    outcome(lambda: load_text(f"predictor: {{module: a, class_name: B, init_kwargs: {{a: {tag}{text}}}}}"))


@given(
    st.sampled_from(sorted({key.variable for key in KEYS.values()}))
    | st.text("MLSERV_ APX").map("MLSERVER_".__add__),
    st.text(),
)
def test_no_variable_raises_anything_but_config_errors(name, value):
    outcome(lambda: load_text(json.dumps({"predictor": SOME_CLASS}), environ={name: value}))


@pytest.mark.parametrize("path", KEYS)
def test_every_key_refuses_what_it_cannot_take_in_one_line(path):
    tree = {"predictor": dict(SOME_CLASS)}
    put(tree, path, object())
    with pytest.raises(ConfigError) as caught:
        make_config(tree, Path.cwd())
    (fault,) = caught.value.faults
    assert fault.path == ".".join(path)
    assert fault.message.endswith(f"expected {KEYS[path].expected}")
