from __future__ import annotations

import pytest

from mlserver.config import ManagementSettings
from mlserver.errors import NotFound, RequestError, UnsupportedMediaType
from mlserver.server.access import CrossOrigin, Unauthorized, WrongHost, admit, admit_write, is_loopback

LOOPBACK = ManagementSettings()
TOKEN = ManagementSettings.model_validate({"token": "s3cret"})
OPEN = ManagementSettings(host="0.0.0.0")
OPEN_TOKEN = ManagementSettings.model_validate(
    {"host": "0.0.0.0", "token": "s3cret", "allowed_hosts": ("ops",)}
)


def headers(**given):
    return {name.replace("_", "-").encode(): value.encode() for name, value in given.items()}


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8001", "127.0.0.1", "127.0.0.1:8001", "[::1]", "[::1]:80"]
)
def test_loopback_takes_its_own_names_with_and_without_port(host):
    admit(LOOPBACK, headers(host=host), harmless=False)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8001", "127.0.0.1.evil.example", "", "[", "[::2]:1"]
)
@pytest.mark.parametrize("harmless", [True, False])
def test_loopback_refuses_every_other_name_even_for_probes(host, harmless):
    with pytest.raises(WrongHost, match="allowed_hosts"):
        admit(LOOPBACK, headers(host=host), harmless=harmless)


def test_a_request_without_a_host_is_refused():
    with pytest.raises(WrongHost):
        admit(LOOPBACK, {}, harmless=True)


def test_allowed_hosts_adds_names():
    settings = ManagementSettings(allowed_hosts=("Ops.example",))
    admit(settings, headers(host="ops.EXAMPLE:8001"), harmless=False)


def test_the_bound_address_is_a_name_of_the_listener():
    admit(ManagementSettings(host="127.0.0.5"), headers(host="127.0.0.5:8001"), harmless=False)


def test_off_loopback_probes_and_metrics_take_any_name():
    admit(OPEN, headers(host="10.1.2.3:8001"), harmless=True)
    admit(OPEN_TOKEN, headers(host="10.1.2.3:8001"), harmless=True)


def test_off_loopback_without_a_token_nothing_else_is_there():
    with pytest.raises(NotFound):
        admit(OPEN, headers(host="localhost"), harmless=False)


def test_off_loopback_with_a_token_everything_is_there_under_its_names():
    right = {"authorization": "Bearer s3cret"}
    admit(OPEN_TOKEN, headers(host="ops:8001", **right), harmless=False)
    with pytest.raises(WrongHost):
        admit(OPEN_TOKEN, headers(host="evil.example", **right), harmless=False)


@pytest.mark.parametrize(
    "given", ["", "s3cret", "Bearer", "Bearer wrong", "Basic s3cret", "Bearer s3cret2", "Bearer é"]
)
@pytest.mark.parametrize("settings", [TOKEN, OPEN_TOKEN])
def test_a_wrong_token_is_refused(settings, given):
    with pytest.raises(Unauthorized) as refused:
        admit(settings, headers(host="localhost", authorization=given), harmless=False)
    assert "s3cret" not in str(refused.value)
    assert refused.value.headers == ((b"www-authenticate", b"Bearer"),)


def test_the_right_token_passes_and_probes_need_none():
    admit(TOKEN, headers(host="localhost", authorization="bearer s3cret"), harmless=False)
    admit(TOKEN, headers(host="localhost"), harmless=True)


@pytest.mark.parametrize("origin", ["http://localhost:8001", "null", ""])
def test_a_write_with_any_origin_is_refused(origin):
    with pytest.raises(CrossOrigin):
        admit_write(headers(origin=origin, content_type="application/json"))


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_write_that_a_form_could_send_is_refused(media_type):
    with pytest.raises(UnsupportedMediaType):
        admit_write(headers(content_type=media_type))


def test_a_write_as_json_passes():
    admit_write(headers(content_type="Application/JSON; charset=utf-8"))


def test_every_refusal_has_its_status():
    assert [error.status for error in (Unauthorized, CrossOrigin, WrongHost)] == [401, 403, 421]
    assert issubclass(WrongHost, RequestError)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("box.local", False),
    ],
)
def test_what_counts_as_loopback(host, expected):
    assert is_loopback(host) is expected
