"""mlserver.yaml → settings: what is taken, and what comes first."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import yaml

from mlserver.config import Config, dump_config, load_config, make_config
from mlserver.config.schema import KEYS

SOME_CLASS = {"module": "my_predictor", "class_name": "CachedPredictor"}
CLASS = "predictor: {module: my_predictor, class_name: CachedPredictor}\n"
SECRET = "hunter2-correct-horse"


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


def make(**sections):
    return make_config({"predictor": SOME_CLASS} | sections, Path.cwd())


# What is taken


def test_every_key_but_the_predictor_has_a_default(load):
    config = load(CLASS)
    assert config.server.port == 8000
    assert config.server.management.host == "127.0.0.1"
    assert config.server.graceful_timeout_s == 30
    assert (config.model.name, config.model.version) == ("model", "0")
    assert config.predictor.init_kwargs == {}
    assert config.api.batching.enabled is None
    assert config.observability.metrics_prefix == "mlserver_"


def test_settings_cannot_be_changed(load):
    config = load(CLASS)
    with pytest.raises(ValueError, match="frozen"):
        config.server.port = 1


def test_the_folder_is_the_one_of_the_yaml_file(load, folder):
    config = load(CLASS)
    assert config.folder == folder
    assert config.path == folder / "mlserver.yaml"


def test_a_linked_file_counts_as_being_where_the_link_is(load, folder, tmp_path_factory):
    load(CLASS)
    link = tmp_path_factory.mktemp("mounted") / "mlserver.yaml"
    link.symlink_to(folder / "mlserver.yaml")
    assert load_config(link, environ={}).folder == link.parent


def test_relative_paths_start_at_the_folder_of_the_yaml_file(load, folder):
    (folder / "features.json").write_text('["age", "income"]')
    config = load(
        "predictor: {artifact: model.skops}\n"
        "api: {feature_order: features.json}\n"
        "observability: {log_file: server.log}\n"
    )
    assert config.predictor.artifact == folder / "model.skops"
    assert config.api.feature_order == ("age", "income")
    assert config.observability.log_file == folder / "server.log"


def test_settings_made_in_python_are_the_same_as_from_the_file(load, folder):
    text = CLASS + "server: {port: 9, management: {port: null}}\n"
    made = make_config(yaml.safe_load(text), folder)
    assert made.path is None
    assert made.folder == folder
    assert made.model_dump() == load(text).model_dump()


def test_settings_survive_the_way_to_another_process(load):
    config = load(CLASS + f"server: {{management: {{token: {SECRET}}}}}")
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert (copy.folder, copy.path) == (config.folder, config.path)
    assert copy.server.management.token.get_secret_value() == SECRET


def test_workers_auto_is_the_number_of_cpus_this_process_may_use(load):
    assert load(CLASS + "server: {workers: auto}").server.worker_count == len(os.sched_getaffinity(0))
    assert load(CLASS + "server: {workers: 3}").server.worker_count == 3


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("1.0", "1.0"),
        ("1.10", "1.10"),
        ("0x10", "0x10"),
        ("no", "no"),
        ("2024-01-15", "2024-01-15"),
        ("1e3", "1e3"),
    ],
)
def test_a_text_key_takes_its_value_as_it_is_written(load, written, text):
    assert load(CLASS + f"model: {{version: {written}}}").model.version == text
    assert load(CLASS + f"api: {{feature_order: [a, {written}]}}").api.feature_order == ("a", text)


def test_text_keys_leave_an_alias_elsewhere_as_the_number_it_is(load):
    config = load(
        "model: {version: &v 1.5}\npredictor: {module: a, class_name: B, init_kwargs: {scale: *v, on: yes}}"
    )
    assert config.model.version == "1.5"
    assert config.predictor.init_kwargs == {"scale": 1.5, "on": True}


def test_an_exponent_without_a_point_is_a_number(load):
    text = "predictor: {module: a, class_name: B, init_kwargs: {rate: 1e-3, text: '1e-3'}}"
    config = load(text)
    assert config.predictor.init_kwargs == {"rate": 0.001, "text": "1e-3"}
    assert load(dump_config(config)) == config


def test_merged_mappings_are_read(load):
    config = load(CLASS + "server: {<<: {host: 10.0.0.1, port: 1}, port: 2}\nmodel: {<<: {version: 1.10}}")
    assert (config.server.host, config.server.port) == ("10.0.0.1", 2)
    assert config.model.version == "1.10"


def test_a_section_without_keys_is_as_if_it_were_not_there(load):
    assert load(CLASS + "server:\nmodel:\n") == load(CLASS)


def test_the_log_level_may_be_in_small_letters(load):
    assert load(CLASS + "observability: {log_level: debug}").observability.log_level == "DEBUG"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "localhost", "my-host.example.com", "10.0.0.1"])
def test_addresses_and_host_names_are_hosts(host):
    assert make(server={"host": host}).server.host == host


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("m.skops", "skops"),
        ("m.CBM", "catboost"),
        ("m.json", "xgboost"),
        ("m.ubj", "xgboost"),
        ("m.txt", "lightgbm"),
        ("m.onnx", "onnx"),
    ],
)
def test_the_format_follows_from_the_suffix(folder, name, known):
    (folder / name).touch()
    assert make_config({"predictor": {"artifact": name}}, folder).predictor.artifact_format == known


def test_the_format_can_be_given(folder):
    (folder / "m.bin").touch()
    predictor = {"artifact": "m.bin", "format": "onnx"}
    assert make_config({"predictor": predictor}, folder).predictor.artifact_format == "onnx"


@pytest.mark.parametrize(("name", "known"), [("m.joblib", "joblib"), ("m.pkl", "pickle")])
def test_files_that_run_code_are_loaded_where_that_is_allowed(folder, name, known):
    (folder / name).touch()
    predictor = {"artifact": name, "allow_pickle": True}
    assert make_config({"predictor": predictor}, folder).predictor.artifact_format == known


# Precedence


def test_overrides_come_before_variables_before_the_file_before_defaults(load):
    text = CLASS + "server: {port: 1, host: file, max_body_bytes: 1}"
    environ = {"MLSERVER_SERVER__PORT": "2", "MLSERVER_SERVER__HOST": "variable"}
    config = load(text, environ=environ, overrides={"server.port": 3})
    assert config.server.port == 3
    assert config.server.host == "variable"
    assert config.server.max_body_bytes == 1
    assert config.server.max_header_bytes == 32768


def test_a_variable_sets_a_key_below_a_section_that_the_file_does_not_have(load):
    environ = {"MLSERVER_SERVER__MANAGEMENT__PORT": "9001", "MLSERVER_API__BATCHING__ENABLED": "true"}
    config = load(CLASS, environ=environ)
    assert config.server.management.port == 9001
    assert config.api.batching.enabled is True


def test_a_variable_for_text_is_taken_as_it_is(load):
    environ = {"MLSERVER_MODEL__VERSION": "1.10", "MLSERVER_MODEL__NAME": "[a: b"}
    assert load(CLASS, environ=environ).model.version == "1.10"
    assert load(CLASS, environ=environ).model.name == "[a: b"


def test_a_variable_can_be_null_where_null_is_allowed(load):
    text = CLASS + "observability: {log_file: x.log}"
    environ = {"MLSERVER_OBSERVABILITY__LOG_FILE": "null", "MLSERVER_SERVER__MANAGEMENT__PORT": "null"}
    config = load(text, environ=environ | {"MLSERVER_MODEL__NAME": "null"})
    assert config.observability.log_file is None
    assert config.server.management.port is None
    assert config.model.name == "null"


def test_variables_set_lists_and_mappings_and_whole_sections(load):
    config = load(
        CLASS,
        environ={
            "MLSERVER_API__FEATURE_ORDER": "[age, on, 1.0]",
            "MLSERVER_PREDICTOR__INIT_KWARGS": "{depth: 3}",
            "MLSERVER_API__BATCHING": "{max_rows: 8, enabled: true}",
            "MLSERVER_API__BATCHING__ENABLED": "false",
        },
    )
    assert config.api.feature_order == ("age", "on", "1.0")
    assert config.predictor.init_kwargs == {"depth": 3}
    assert (config.api.batching.max_rows, config.api.batching.enabled) == (8, False)


def test_variables_of_others_are_left_alone(load):
    environ = {"MLSERVER_PORT": "tcp://10.0.0.1:80", "MLSERVER_SERVICE_HOST": "x", "OTHER_SERVER__PORT": "x"}
    assert load(CLASS, environ=environ) == load(CLASS)


# The declaration


def test_every_setting_says_what_it_means():
    assert [path for path, key in KEYS.items() if not key.description.endswith(".")] == []


def test_the_settings_in_effect_are_all_in_the_dump(load):
    dumped = yaml.safe_load(dump_config(load(CLASS)))
    for path in KEYS:
        value = dumped
        for part in path:
            value = value[part]


def test_config_is_the_type_of_loaded_settings(load):
    assert isinstance(load(CLASS), Config)
