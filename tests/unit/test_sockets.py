from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from mlserver.server.sockets import BindError, bind, url


@pytest.fixture
def opened():
    with ExitStack() as stack:
        yield lambda sockets: [stack.enter_context(listening) for listening in sockets]


def test_port_0_gives_all_sockets_the_same_free_port(opened):
    ports = {s.getsockname()[1] for s in opened(bind("127.0.0.1", 0, count=3, what="server"))}
    assert len(ports) == 1
    assert ports != {0}


def test_connections_are_spread_over_all_sockets(opened):
    sockets = opened(bind("127.0.0.1", 0, count=2, what="server"))
    opened(socket.create_connection(sockets[0].getsockname()) for _ in range(64))
    accepted = [len(opened(accept_all(listening))) for listening in sockets]
    assert sum(accepted) == 64
    assert min(accepted) > 10


def accept_all(listening):
    while True:
        try:
            yield listening.accept()[0]
        except BlockingIOError:
            return


def test_a_port_that_another_server_of_ours_listens_on_is_refused(opened):
    (taken,) = opened(bind("127.0.0.1", 0, count=1, what="server"))
    port = taken.getsockname()[1]
    with pytest.raises(BindError, match=rf"Cannot listen on 127.0.0.1:{port} \(server.host, .*another"):
        bind("127.0.0.1", port, count=2, what="server")


def test_a_port_taken_on_all_interfaces_is_refused_on_one(opened):
    (taken,) = opened(bind("0.0.0.0", 0, count=1, what="server"))
    with pytest.raises(BindError, match="another program"):
        bind("127.0.0.1", taken.getsockname()[1], count=1, what="server")


def test_a_port_is_free_again_when_its_server_ended_with_connections_open(opened):
    (first,) = bind("127.0.0.1", 0, count=1, what="server")
    address = first.getsockname()
    (client,) = opened([socket.create_connection(address)])
    first.accept()[0].close()
    first.close()
    client.close()
    (again,) = opened(bind(*address, count=1, what="server"))
    assert again.getsockname() == address


def test_an_address_of_another_machine_is_refused_with_the_reason():
    with pytest.raises(BindError, match="no interface of this machine"):
        bind("192.0.2.1", 0, count=1, what="server.management")


def test_a_name_that_does_not_resolve_is_refused_in_one_line():
    with pytest.raises(BindError) as refused:
        bind("no-such-host.invalid", 0, count=1, what="server")
    assert "no-such-host.invalid" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_ipv6_addresses_are_listened_on_and_shown_in_brackets(opened):
    try:
        sockets = opened(bind("::1", 0, count=2, what="server"))
    except BindError:
        pytest.skip("this machine has no IPv6")
    assert url(sockets[0]) == f"http://[::1]:{sockets[1].getsockname()[1]}"


def test_the_url_of_all_interfaces_is_one_that_can_be_opened(opened):
    (listening,) = opened(bind("0.0.0.0", 0, count=1, what="server"))
    assert url(listening) == f"http://localhost:{listening.getsockname()[1]}"
