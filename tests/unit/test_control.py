from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from mlserver.config import make_config
from mlserver.server.control import (
    Accept,
    Channel,
    Drained,
    Launch,
    LogLevel,
    NotLoaded,
    decode,
    encode,
    pack_config,
    unpack_config,
)


def test_a_message_survives_the_way_over_the_channel():
    for message in (Accept([0, 2]), LogLevel("DEBUG"), NotLoaded("no\nsuch file: ü"), Drained(complete=True)):
        assert decode(encode(message)) == message


def test_a_configuration_travels_whole_with_its_secrets_and_its_folder():
    data = {
        "predictor": {"module": "m", "class_name": "C", "init_kwargs": {"since": 1.5, "names": ["ü"]}},
        "server": {"management": {"token": "s3cret"}},
    }
    config = make_config(data, "/srv/model")
    copy = unpack_config(pack_config(config))
    assert copy == config
    assert copy.folder == Path("/srv/model")
    assert copy.server.management.token.get_secret_value() == "s3cret"


def run_over_pair(work):
    async def both():
        ours, theirs = socket.socketpair()
        return await work(await Channel.over(ours), await Channel.over(theirs))

    return asyncio.run(both())


def test_messages_arrive_in_order_until_the_other_end_closes():
    async def work(ours, theirs):
        for slot in range(3):
            ours.send(Accept([slot]))
        ours.close()
        received = [message async for message in theirs.messages()]
        theirs.close()
        return received

    assert run_over_pair(work) == [Accept([0]), Accept([1]), Accept([2])]


def test_a_launch_with_a_large_configuration_fits():
    launch = Launch(
        config="x" * 1_000_000, slot=0, sockets=[3], pages=[4, 5], page=4, log=6, log_level="INFO"
    )

    async def work(ours, theirs):
        ours.send(launch)
        received = await anext(theirs.messages())
        ours.close()
        theirs.close()
        return received

    assert run_over_pair(work) == launch


def test_sending_to_an_end_that_is_gone_does_nothing():
    async def work(ours, theirs):
        theirs.close()
        assert [message async for message in ours.messages()] == []
        for _ in range(3):
            ours.send(Accept([0]))
            await ours.flush()
        ours.close()

    run_over_pair(work)


def test_a_message_that_is_too_long_is_told_in_the_log_and_ends_nothing(monkeypatch, caplog):
    monkeypatch.setattr("mlserver.server.control.LONGEST_LINE", 1000)

    async def work(ours, theirs):
        ours.send(NotLoaded("x" * 1000))
        ours.send(Accept([1]))
        ours.close()
        received = [message async for message in theirs.messages()]
        theirs.close()
        return received

    assert run_over_pair(work) == [Accept([1])]
    assert "NotLoaded" in caplog.text
