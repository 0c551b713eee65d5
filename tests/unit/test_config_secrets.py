"""Secrets in the settings are shown nowhere."""

from __future__ import annotations

import json
import traceback

import pytest

from mlserver.config import dump_config, load_config
from mlserver.errors import ConfigError

CLASS = "predictor: {module: my_predictor, class_name: CachedPredictor}\n"
SECRET = "hunter2-correct-horse"


@pytest.fixture
def load(tmp_path):
    """Loads a YAML text; without variables of an environment unless given."""

    def load(text, *, environ=None):
        path = tmp_path / "mlserver.yaml"
        path.write_text(text, "utf-8")
        return load_config(path, environ=environ or {})

    return load


def test_the_token_is_masked_wherever_settings_are_shown(load):
    config = load(CLASS + f"server: {{management: {{token: {SECRET}}}}}")
    assert config.server.management.token.get_secret_value() == SECRET
    shown = [repr(config), str(config), dump_config(config), repr(config.server.management.token)]
    assert SECRET not in "".join([*shown, json.dumps(config.model_dump(mode="json"))])


def test_secrets_among_the_arguments_of_a_class_are_masked(load):
    kwargs = f"{{db_password: {SECRET}, clients: [{{api_key: {SECRET}}}], top_k: 5, tokenizer: bert}}"
    config = load(f"predictor: {{module: a, class_name: B, init_kwargs: {kwargs}}}")
    assert config.predictor.init_kwargs["db_password"] == SECRET
    assert SECRET not in repr(config) + dump_config(config)
    assert "top_k: 5\n" in dump_config(config)
    assert "tokenizer: bert\n" in dump_config(config)


@pytest.mark.parametrize(
    "text",
    [
        f"server: {{management: {{token: ['{SECRET}']}}}}",
        f"server: {{management: {{token: 'with space {SECRET}'}}}}",
        f"server: {{management: {{tokn: {SECRET}}}}}",
        f"server: {{management: {{password: {SECRET}}}}}",
        f"server: {{management: {SECRET}}}",
        f"server: {{token: {SECRET}}}",
        f"server: {SECRET}",
        f"tok: {SECRET}",
        f"api_key: {SECRET}",
        f"{SECRET}",
        f"server: {{management: {{token: *{SECRET}}}}}",
        f"server: {{management: {{token: !{SECRET} x}}}}",
        f"server: {{management: {{token: !{SECRET}!x y}}}}",
        f"server: {{management: {{token: [{SECRET}",
        f"server: {{management: {{token: '{SECRET}\0'}}}}",
        f"server: {{management: {{token: {SECRET}, token: {SECRET}}}}}",
    ],
)
def test_a_secret_is_in_no_fault_and_no_traceback(load, text):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLSERVER_SERVER__MANAGEMENT__TOKEN", f"with space {SECRET}"),
        ("MLSERVER_SERVER__MANAGEMENT__TOKN", SECRET),
        ("MLSERVER_SERVER__MANAGEMENT", f"{{token: {SECRET}"),
        ("MLSERVER_SERVER__MANAGEMENT", f"{{tokens: {SECRET}}}"),
        ("MLSERVER_SERVER__MANAGEMENT", SECRET),
    ],
)
def test_a_secret_in_a_variable_is_in_no_fault(load, name, value):
    with pytest.raises(ConfigError) as caught:
        load(CLASS, environ={name: value})
    assert SECRET not in "".join(traceback.format_exception(caught.value))
