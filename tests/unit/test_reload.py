from __future__ import annotations

import pytest

from mlserver.config import make_config
from mlserver.server.reload import keep_fixed


def config(**server):
    return make_config({"predictor": {"module": "m", "class_name": "C"}, "server": server}, "/srv/model")


@pytest.mark.parametrize(
    ("server", "key"),
    [
        ({"host": "127.0.0.1"}, "server.host"),
        ({"port": 9000}, "server.port"),
        ({"workers": 3}, "server.workers"),
        ({"management": {"host": "::1"}}, "server.management.host"),
        ({"management": {"port": None}}, "server.management.port"),
    ],
)
def test_what_sockets_and_processes_depend_on_stays_and_is_named(server, key):
    assert keep_fixed(config(), config(**server)) == (config(), [key])


@pytest.mark.parametrize(
    "server",
    [
        {"graceful_timeout_s": 5.0},
        {"max_body_bytes": 1},
        {"management": {"token": "t", "allowed_hosts": ["ops"]}},
    ],
)
def test_everything_else_is_taken_over(server):
    assert keep_fixed(config(), config(**server)) == (config(**server), [])


def test_the_folder_of_the_file_is_kept():
    kept, _ = keep_fixed(config(), config(port=9000))
    assert str(kept.folder) == "/srv/model"
