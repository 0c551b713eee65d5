"""What is refused of mlserver.yaml and the environment, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlserver.config import load_config, make_config
from mlserver.config.schema import KEYS
from mlserver.errors import ConfigError

SOME_CLASS = {"module": "my_predictor", "class_name": "CachedPredictor"}
CLASS = "predictor: {module: my_predictor, class_name: CachedPredictor}\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.skops").touch()
    return tmp_path


@pytest.fixture
def load(folder):
    """Loads a YAML text; without variables of an environment unless given."""

    def load(text, *, environ=None, **options):
        path = folder / "mlserver.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, environ=environ or {}, **options)

    return load


@pytest.fixture
def faults(load, folder):
    """The lines of what is wrong with a YAML text, the folder's path left out."""

    def faults(text, **options):
        with pytest.raises(ConfigError) as caught:
            load(text, **options)
        lines = str(caught.value).split("\n")
        assert len(lines) == len(caught.value.faults)
        return [line.replace(f"{folder}/", "") for line in lines]

    return faults


# Values and keys


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("server: {prot: 80}", "server.prot: unknown key, got 80; did you mean server.port?"),
        ("servr: {}", "servr: unknown key, got a mapping; did you mean server?"),
        ("model: {max_queue: 1}", "model.max_queue: unknown key, got 1; did you mean api.max_queue?"),
        (
            "model: {port: 1}",
            "model.port: unknown key, got 1; did you mean server.port or server.management.port?",
        ),
        ("model: {zzz: 1}", "model.zzz: unknown key, got 1; known here: name, version"),
        ("server: {port: abc}", 'server.port: got "abc", expected a whole number from 0 to 65535'),
        ('server: {port: "80"}', 'server.port: got "80", expected a whole number from 0 to 65535'),
        ("server: {port: true}", "server.port: got true, expected a whole number from 0 to 65535"),
        ("server: {port: 65536}", "server.port: got 65536, expected a whole number from 0 to 65535"),
        ("server: {workers: 0}", 'server.workers: got 0, expected a whole number of at least 1 or "auto"'),
        (
            "server: {workers: all}",
            'server.workers: got "all", expected a whole number of at least 1 or "auto"',
        ),
        ("server: 5", "server: got ********, expected a mapping with the keys host, port, workers"),
        (
            "server: {drain_delay_s: .nan}",
            "server.drain_delay_s: got nan, expected a number from 0 to 86400",
        ),
        ("server: {request_timeout_s: 0}", "server.request_timeout_s: got 0, expected a number above 0 and"),
        (
            "server: {host: '0.0.0.0:80'}",
            'server.host: got "0.0.0.0:80", expected an IP address or a host name',
        ),
        ("server: {host: 1.2.3.4.5}", 'server.host: got "1.2.3.4.5", expected an IP address or a host name'),
        ("server: {host: null}", "server.host: got null, expected an IP address or a host name"),
        ("server: {port: 8001}", "server.management.port: 8001 is server.port, too; expected another port"),
        (
            "server: {management: {allowed_hosts: [a, {}]}}",
            "server.management.allowed_hosts[1]: got a mapping,",
        ),
        ("model: {name: ''}", 'model.name: got "", expected printable text of 1 to 200 characters'),
        ('model: {name: "a\\nb"}', 'model.name: got "a\\nb", expected printable text'),
        ("api: {adapter: csv}", 'api.adapter: got "csv", expected one of "auto", "records", "ndarray"'),
        (
            "api: {batching: null}",
            "api.batching: got null, expected a mapping with the keys enabled, max_rows",
        ),
        ("api: {batching: {enabled: 1}}", "api.batching.enabled: got 1, expected true or false, or null"),
        ("api: {feature_order: []}", "api.feature_order: got a list, expected a list of names, or the path"),
        (
            "api: {feature_order: [a, b, a]}",
            "api.feature_order: has a more than once; expected each name once",
        ),
        ("api: {feature_order: none.json}", "api.feature_order: no such file: none.json; expected"),
        (
            "api: {feature_order: [a], categorical_features: [b]}",
            "api.categorical_features: names b; expected names in feature_order",
        ),
        ("observability: {drift: {window_rows: 9}}", "observability.drift: unknown key, got a mapping"),
        (
            "observability: {log_level: infoo}",
            'observability.log_level: got "infoo", expected one of "DEBUG",',
        ),
        ("observability: {log_file: none/x.log}", "observability.log_file: there is no folder none; make it"),
        ("observability: {log_file: .}", "observability.log_file: "),
        (
            "observability: {log_file: /dev/stdout}",
            "observability.log_file: /dev/stdout is another place in each process",
        ),
        (
            "observability: {log_file: /proc/self/fd/1}",
            "observability.log_file: /proc/self/fd/1 is another place",
        ),
        ("observability: {metrics_prefix: 9x}", 'observability.metrics_prefix: got "9x", expected the start'),
        (
            "observability: {metrics_endpoint: metrics}",
            'observability.metrics_endpoint: got "metrics", expected',
        ),
        (
            "observability: {metrics_endpoint: /predict}",
            "observability.metrics_endpoint: /predict is a path of",
        ),
        (
            "observability: {metrics_endpoint: /debug/x}",
            "observability.metrics_endpoint: /debug/x is a path of",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(faults, text, line):
    (found,) = faults(CLASS + text)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("predictor", "lines"),
    [
        ({}, ["predictor: says no predictor; expected a class"]),
        (
            {"artefact": "m.skops"},
            ['predictor.artefact: unknown key, got "m.skops"; did you mean predictor.artifact?'],
        ),
        (SOME_CLASS | {"artifact": "model.skops"}, ["predictor: has both a class and an artifact"]),
        ({"module": "a"}, ["predictor.class_name: missing; expected the name of a class in module a"]),
        ({"class_name": "A"}, ["predictor.module: missing; expected the name of the module that holds A"]),
        (
            {"module": "a.py", "class_name": "A"},
            ['predictor.module: got "a.py", expected a module\'s name, without'],
        ),
        (SOME_CLASS | {"allow_pickle": True}, ["predictor.allow_pickle: is for a model file"]),
        ({"artifact": "model.skops", "init_kwargs": {"a": 1}}, ["predictor.init_kwargs: is for a class"]),
        ({"artifact": "none.skops"}, ["predictor.artifact: no such file: none.skops"]),
        ({"artifact": 5}, ["predictor.artifact: got 5, expected the path of a file"]),
        ({"artifact": ""}, ['predictor.artifact: got "", expected the path of a file']),
        ({"artifact": "."}, ["predictor.artifact: no such file", "predictor.artifact:"]),
        ({"artifact": "a\0b.skops"}, ["predictor.artifact: no such file"]),
        (
            {"artifact": "model.skops", "format": "h5"},
            ['predictor.format: got "h5", expected one of "skops",'],
        ),
        (
            {"artifact": "none.pkl"},
            [
                "predictor.artifact: no such file: none.pkl",
                "predictor.artifact: pickle files can run any code",
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_predictor_is_said_in_a_line_each(folder, predictor, lines):
    with pytest.raises(ConfigError) as caught:
        make_config({"predictor": predictor}, folder)
    found = [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]
    assert len(found) == len(lines)
    assert all(line in fault for line, fault in zip(lines, found, strict=True)), found


def test_an_unknown_suffix_is_answered_with_the_known_ones(folder):
    (folder / "m.h5").touch()
    with pytest.raises(ConfigError, match=r"m\.h5 has no known suffix; expected \.skops \(skops\), .*\.onnx"):
        make_config({"predictor": {"artifact": "m.h5"}}, folder)


@pytest.mark.parametrize("predictor", [{"artifact": "m.joblib"}, {"artifact": "m.bin", "format": "joblib"}])
def test_files_that_run_code_are_refused_with_both_ways_out(folder, predictor):
    (folder / predictor["artifact"]).touch()
    with pytest.raises(ConfigError, match=r"run any code when loaded.*allow_pickle: true.*skops"):
        make_config({"predictor": predictor}, folder)


def test_all_faults_are_found_at_once(faults):
    lines = faults("server: {port: x, prot: 1}\nmodel: {name: 5, vers: 1}\napi: {max_queue: 0}\nextra: 1\n")
    assert [line.split(":")[0] for line in lines] == [
        "server.port",
        "server.prot",
        "model.vers",
        "predictor",
        "api.max_queue",
        "extra",
    ]


def test_faults_do_not_speak_of_pydantic(faults):
    lines = faults(
        "server: {port: x, workers: [], management: 5}\nmodel: []\npredictor: 1\napi: {max_queue: 1.5}\n"
    )
    assert not any(
        word in line for line in lines for word in ("pydantic", "Input", "int_", "type=", "literal[")
    )
    assert len(lines) == 6


def test_a_long_value_is_shortened(faults):
    (line,) = faults(CLASS + f"server: {{port: {'x' * 500}}}")
    assert f'"{"x" * 59}…"' in line


def test_a_fault_of_a_variable_names_it(faults):
    environ = {"MLSERVER_SERVER__PORT": "abc", "MLSERVER_API__BATCHING": "{max_rows: 0}"}
    assert faults(CLASS, environ=environ) == [
        'server.port (MLSERVER_SERVER__PORT): got "abc", expected a whole number from 0 to 65535',
        "api.batching.max_rows (MLSERVER_API__BATCHING): got 0, expected a whole number of at least 1",
    ]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "MLSERVER_SERVER__PROT",
            "1",
            "MLSERVER_SERVER__PROT: unknown variable; did you mean MLSERVER_SERVER__PORT?",
        ),
        (
            "MLSERVER_server__port",
            "1",
            "MLSERVER_server__port: unknown variable; did you mean MLSERVER_SERVER__PORT?",
        ),
        ("MLSERVER__", "1", "MLSERVER__: unknown variable; it sets no known key"),
        (
            "MLSERVER_OBSERVABILITY__DRIFT__METHOD",
            "1",
            "MLSERVER_OBSERVABILITY__DRIFT__METHOD: unknown variable; it sets no known key",
        ),
        (
            "MLSERVER_MANAGEMENT__PORT",
            "1",
            "MLSERVER_MANAGEMENT__PORT: unknown variable; did you mean MLSERVER_SERVER__MANAGEMENT__PORT?",
        ),
        (
            "MLSERVER_SERVER__PORT",
            "",
            "MLSERVER_SERVER__PORT: empty; expected a whole number from 0 to 65535.",
        ),
        ("MLSERVER_API__BATCHING", "{a", "MLSERVER_API__BATCHING: not valid YAML: line 1, column 3"),
        (
            "MLSERVER_API__BATCHING",
            "{max_rows: 1, max_rows: 2}",
            "api.batching.max_rows (MLSERVER_API__BATCHING)",
        ),
        (
            "MLSERVER_SERVER__MANAGEMENT__TOKEN",
            "",
            "server.management.token (MLSERVER_SERVER__MANAGEMENT__TOKEN): got",
        ),
    ],
)
def test_a_variable_that_cannot_be_used_is_a_fault(faults, name, value, line):
    (found,) = faults(CLASS, environ={name: value})
    assert found.startswith(line)


def test_an_override_of_no_known_key_is_a_fault(faults):
    assert faults(CLASS, overrides={"server.prot": 1, "server.port.x": 2}) == [
        "server.prot (override): unknown key, got 1; did you mean server.port?",
        "server.port.x (override): unknown key, got 2",
    ]


def test_a_fault_of_an_override_names_the_option_that_it_was_given_by(faults):
    assert faults(CLASS, overrides={"server.port": -1}, options={"server.port": "--port"}) == [
        "server.port (--port): got -1, expected a whole number from 0 to 65535"
    ]


# Files that cannot be read


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\nb: 2\n", "not valid YAML: line 2, column 2: "),
        ("\tserver: 1", "not valid YAML: line 1, column 1: "),
        ("server: \x01", "not valid YAML: line 1, column 9: a character that YAML does not permit"),
        ("server: *nowhere", "not valid YAML: line 1, column 9: an alias (*name) without its anchor"),
        ("server: !!python/name:os.system", "not valid YAML: line 1, column 9: an unknown tag (!name)"),
        ("server: 2024-13-45", "not valid YAML: line 1, column 9: a value that its type cannot hold"),
        (f"server: 0x{'f' * 9999}", "not valid YAML: line 1, column 9: a value that its type cannot hold"),
        ("? [server]\n: 1", "not valid YAML: line 1, column 3: found unhashable key"),
        ("--- {}\n--- {}\n", "not valid YAML: line 2"),
        ("&a [*a]", "not valid YAML: line 1, column 1: an alias inside of what it stands for"),
        ("[" * 10_000, "nested more than 50 levels deep"),
        ("[" * 60 + "]" * 60, "nested more than 50 levels deep"),
        ("- server", "holds no mapping; expected a mapping with the keys server, model, predictor"),
        ("just text", "holds no mapping; expected a mapping with the keys server, model, predictor"),
        (b"model: {name: \xff}", "not UTF-8: byte 15 cannot be decoded; save the file in UTF-8"),
        ("#" * (2**20 + 1), "larger than 1048576 bytes; expected a file of settings"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_one_fault(faults, text, line):
    (found,) = faults(text)
    assert found.startswith(f"mlserver.yaml: {line}")


def test_aliases_that_multiply_are_refused(faults):
    layers = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 9))
    (line,) = faults("l0: &l0 x\n" + layers)
    assert "aliases that stand for more than 1,000,000 values" in line


def test_a_key_given_twice_is_a_fault(faults):
    assert faults(CLASS + "server:\n  port: 1\n  host: a\n  port: 2\n") == [
        "server.port: given twice, in lines 3 and 5; keep one"
    ]


def test_a_key_given_twice_in_init_kwargs_is_a_fault(faults):
    (line,) = faults("predictor: {module: a, class_name: B, init_kwargs: {x: [{k: 1, k: 1}]}}")
    assert line == "predictor.init_kwargs.x.k: given twice, in lines 1 and 1; keep one"


def test_an_empty_file_has_no_predictor(faults):
    (line,) = faults("")
    assert line.startswith("predictor: missing; expected a mapping with a class (module and class_name) or a")


def test_a_file_may_begin_with_a_byte_order_mark(load):
    assert load(b"\xef\xbb\xbf" + CLASS.encode()) == load(CLASS)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(
        ConfigError, match=r"none\.yaml: no such file; name the YAML file, or start in its folder"
    ):
        load_config(tmp_path / "none.yaml", environ={})


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="a folder; expected the YAML file in it"):
        load_config(tmp_path, environ={})


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "\udcff"])
def test_a_path_that_cannot_exist_is_a_fault_of_one_line(path):
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "path", [*(path for path, key in KEYS.items() if key.text), ("extra",), ("api", "feature_order")]
)
def test_text_that_is_no_unicode_is_a_fault(path):
    tree = {"predictor": {"module": "a", "class_name": "B"}, "server": {"management": {}}, "model": {}}
    section = tree
    for part in path[:-1]:
        section = section.setdefault(part, {})
    section[path[-1]] = "\ud800"
    with pytest.raises(ConfigError) as caught:
        make_config(tree, Path.cwd())
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [b"{}", b'["a", 1]', b"[", b"\xff", b"[" * 100_000])
def test_a_file_of_features_that_is_no_list_of_names_is_a_fault(folder, content):
    (folder / "features.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^api\.feature_order: .*features\.json"):
        make_config({"predictor": SOME_CLASS, "api": {"feature_order": "features.json"}}, folder)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            "{batch_row: [1]}",
            "batch_row: no histogram of the server has this name, without the prefix; did you mean",
        ),
        ("{batch_rows: [2, 1]}", "batch_rows: got 1 in the list, expected 1 to 100 numbers above 0"),
        ("{batch_rows: [1, 1]}", "batch_rows: got 1 in the list, expected"),
        ("{batch_rows: [0]}", "batch_rows: got 0 in the list, expected"),
        ("{batch_rows: [true]}", "batch_rows: got true in the list, expected"),
        ("{batch_rows: [.inf]}", "batch_rows: got inf in the list, expected"),
        ("{batch_rows: [.nan]}", "batch_rows: got nan in the list, expected"),
        ("{batch_rows: []}", "batch_rows: got a list of 0, expected"),
        (f"{{batch_rows: {list(range(1, 102))}}}", "batch_rows: got a list of 101, expected"),
        ("{batch_rows: 3}", "batch_rows: got 3, expected"),
    ],
)
def test_buckets_are_rising_numbers_of_a_known_histogram(faults, chosen, message):
    (line,) = faults(f"{CLASS}observability: {{buckets: {chosen}}}")
    assert line.startswith(f"observability.buckets.{message}")


def test_every_histogram_s_buckets_can_be_chosen(load):
    config = load(
        f"{CLASS}observability: {{buckets: {{request_duration_seconds: [0.1, 1], batch_rows: [8]}}}}"
    )
    assert config.observability.buckets == {"request_duration_seconds": (0.1, 1.0), "batch_rows": (8.0,)}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            'payloads: {redact_patterns: ["\\\\d+", "("]}',
            'observability.payloads.redact_patterns: "(" is no regular expression: missing ), unterminated subpattern at position 0',
        ),
        (
            'payloads: {redact_patterns: ["x*"]}',
            'observability.payloads.redact_patterns: "x*" matches the empty text; expected one that needs a character',
        ),
        (
            "payloads: {redact: ssn}",
            'observability.payloads.redact: got "ssn", expected a list of texts',
        ),
        (
            "payloads: {sample_ratio: 1.5}",
            "observability.payloads.sample_ratio: got 1.5, expected a number from 0 to 1",
        ),
        (
            "payloads: {max_bytes: 0}",
            "observability.payloads.max_bytes: got 0, expected a whole number from 1 to 1048576",
        ),
        (
            "log_format: elk",
            'observability.log_format: got "elk", expected one of "default", "ecs"',
        ),
        (
            "tracing: {protocol: http/json}",
            'observability.tracing.protocol: got "http/json", expected one of "http/protobuf", "grpc"',
        ),
        (
            "tracing: {sample_rate: 0.1}",
            "observability.tracing.sample_rate: unknown key, got 0.1; did you mean observability.tracing.sample_ratio?",
        ),
    ],
)
def test_signals_are_asked_for_in_a_form_that_can_be_kept(faults, given, line):
    assert faults(f"{CLASS}observability: {{{given}}}") == [line]


@pytest.mark.parametrize(
    "given",
    [
        "localhost:4318",
        "jaeger",
        "ftp://host",
        "http://",
        "http://user:secret@host:4318",
        "http://h:99999",
        "http://h?token=secret",
    ],
)
def test_a_collector_is_an_address_that_holds_no_secret(faults, given):
    (line,) = faults(f'{CLASS}observability: {{tracing: {{endpoint: "{given}"}}}}')
    assert line.startswith("observability.tracing.endpoint: ")
    assert "expected an address such as http://localhost:4318" in line
    assert "secret" not in line
