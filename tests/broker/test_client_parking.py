"""Looking through the parking queue: everything in it is seen, whoever else does the same."""

import asyncio

import pytest
from pamqp.commands import Basic

from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.client.parking import sift
from tests.conftest import Vhost

_MESSAGES = 400
_LOOKS = 8


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_a_queue_is_seen_whole_by_all_who_look_through_it(vhost: Vhost, queue_type: str) -> None:
    url = BrokerUrl.parse(vhost.amqp_url)
    connections = [await connect(url, name=f"one of three: {number}") for number in range(3)]
    channel = await connections[0].open_channel()
    arguments: dict[str, str | int] = {"x-queue-type": queue_type}
    if queue_type == "quorum":
        arguments["x-delivery-limit"] = 1_000_000
    await channel.declare_queue("looked-through", durable=True, arguments=arguments)
    await channel.select_confirms()
    message = Basic.Properties(delivery_mode=2)
    await asyncio.gather(*(channel.publish("", "looked-through", b"x", message) for _ in range(_MESSAGES)))

    async def look(connection: int) -> list[int]:
        found = [await sift(connections[connection], "looked-through", lambda _: True) for _ in range(_LOOKS)]
        return [len(each) for each in found]

    # Two of them on one connection, as a member does it.
    counts = await asyncio.gather(look(0), look(0), look(1), look(2))
    assert counts == [[_MESSAGES] * _LOOKS] * 4
    assert len(await sift(connections[1], "looked-through", lambda _: True, remove=True)) == _MESSAGES
    assert await sift(connections[2], "looked-through", lambda _: True) == []
    for connection in connections:
        await connection.close()
