"""What is seen in a queue that others look through, too; what is acknowledged when a channel is closed."""

import asyncio

import pytest
from pamqp.commands import Basic

from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.client.lanes import Lanes
from partymq.client.ownership import Owned
from partymq.client.parking import sift
from partymq.client.partition import Partition
from partymq.group.key import PropertyKey
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


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_what_is_acknowledged_message_by_message_does_not_come_again(
    vhost: Vhost, queue_type: str
) -> None:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="a member")
    channel = await connection.open_channel()
    arguments = {"x-queue-type": queue_type, "x-single-active-consumer": True}
    await channel.declare_queue("partition", durable=True, arguments=arguments)
    await channel.select_confirms()
    message = Basic.Properties(delivery_mode=2)
    bodies = [b"%d" % number for number in range(_MESSAGES)]
    await asyncio.gather(*(channel.publish("", "partition", body, message) for body in bodies))

    lanes = Lanes(_MESSAGES)
    partition = Partition(
        Owned(0, "partition", 1), lanes, PropertyKey("message_id"), _MESSAGES, lambda: None, lambda *_: None
    )
    await partition.open(connection)
    async with asyncio.timeout(30):
        while len(partition.stream) < _MESSAGES:
            await asyncio.sleep(0.01)
    items = [item for item in iter(lanes.start, None) if item.tag % 2 == 0 and item.tag <= _MESSAGES // 2]
    for item in items:
        lanes.finish(item)
    await partition.close()

    while (left := await channel.declare_queue("partition", passive=True)).consumers:
        await asyncio.sleep(0.01)
    assert left.messages == _MESSAGES - len(items)
    await connection.close()
