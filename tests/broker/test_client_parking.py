"""What is seen in a queue that others look through, too; what is acknowledged when a channel is closed."""

import asyncio

import pytest
from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import add_headers, encode_content, publish_frame
from partymq.amqp.url import BrokerUrl
from partymq.client import parking
from partymq.client.deadletters import parked_keys, replay
from partymq.client.failure import KEY_HEADER
from partymq.client.lanes import Lanes
from partymq.client.message import RawCopy
from partymq.client.outlet import Outlet
from partymq.client.ownership import Owned
from partymq.client.parking import ask_for_release, header, sift
from partymq.client.partition import Partition
from partymq.coordinator.pull_topology import agree
from partymq.errors import ChannelClosed, Nacked
from partymq.group.key import PropertyKey
from partymq.group.names import (
    dead_letter_queue,
    looked_through,
    parked_queue,
    partition_queue,
    release_queue,
)
from tests.conftest import Vhost

_MESSAGES = 400
_LOOKS = 8


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("at_a_time", [65_535, 150])
async def test_a_queue_is_seen_whole_by_all_who_look_through_it(
    vhost: Vhost, queue_type: str, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it has more messages than a consumer can have."""
    monkeypatch.setattr(parking, "_MOST", at_a_time)
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


async def test_the_lock_of_who_looks_through_a_queue_is_no_longer_there_than_his_connection(
    vhost: Vhost,
) -> None:
    """In a cluster that may end with its node: a durable lock would be there, out of reach of all others, for
    as long as the node is away."""
    connections = [await connect(BrokerUrl.parse(vhost.amqp_url), name="test") for _ in range(2)]
    channel = await connections[0].open_channel()
    await channel.declare_queue("looked-through", durable=True)
    await channel.consume("looked-through", lambda _buf, _spans: None)  # so that the look takes its time
    looking = asyncio.create_task(sift(connections[0], "looked-through", lambda _: True))
    seen = 404
    async with asyncio.timeout(60):
        while seen == 404:
            other = await connections[1].open_channel()
            try:
                await other.declare_queue(looked_through("looked-through"), passive=True)
                seen = 0
            except ChannelClosed as error:
                seen = error.code
    assert seen == 405
    looking.cancel()
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
    partition.prove()
    async with asyncio.timeout(60):
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


async def put(connection: Connection, queue: str, content: bytes) -> None:
    channel = await connection.open_channel()
    confirmed = asyncio.Event()
    await channel.select_confirms(lambda _: confirmed.set())
    assert channel.number == 1
    connection.write(publish_frame(1, "", queue) + content)
    await asyncio.wait_for(confirmed.wait(), 60)
    await channel.close()


def undecodable(headers: dict[str, str]) -> bytes:
    """A message with a header whose name is no text."""
    content = encode_content(1, b"body", Basic.Properties(delivery_mode=2, headers={"??": 7}))
    return add_headers(content.replace(b"\x02??", b"\x02\xff\xfe"), headers, 1)


async def test_a_parked_message_that_can_not_be_decoded_is_found_and_released_like_any_other(
    vhost: Vhost,
) -> None:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="a member")
    await agree(connection, "g", {"partitions": 4, "queue_type": "classic"})
    await put(connection, parked_queue("g"), undecodable({KEY_HEADER: "\udcff"}))
    (key,) = await parked_keys(connection, "g")
    assert (key.raw, key.key, key.messages) == (b"\xff", "\\xff", 1)
    await ask_for_release(connection, "g", key.raw)
    (asked,) = await sift(connection, release_queue("g"), lambda _: True)
    assert header(asked, KEY_HEADER) == b"\xff"
    await connection.close()


async def test_a_dead_letter_without_our_headers_is_replayed_into_the_partition_of_its_key(
    vhost: Vhost,
) -> None:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="an operator")
    await agree(connection, "g", {"partitions": 4, "queue_type": "classic"})
    await put(connection, dead_letter_queue("g"), undecodable({"partitionKey": "customer-42"}))
    assert await replay(connection, "g") == 1
    channel = await connection.open_channel()
    counts = [
        (await channel.declare_queue(partition_queue("g", 1, number), passive=True)).messages
        for number in range(4)
    ]
    assert counts == [0, 1, 0, 0]
    await connection.close()


async def test_what_the_broker_refuses_goes_on_another_channel(
    vhost: Vhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one on which a quorum queue had no leader it refuses while the old leader's node is away."""
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="a member")
    channel = await connection.open_channel()
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.declare_queue(dead_letter_queue("g"), durable=True, arguments=full)
    outlet, raw = Outlet(connection, "g"), RawCopy(encode_content(1, b"x", Basic.Properties(), 131_072), 0)
    await outlet.dead_letter(raw, {})
    opened: list[Channel] = []
    open_channel = connection.open_channel

    async def opens() -> Channel:
        opened.append(await open_channel())
        return opened[-1]

    monkeypatch.setattr(connection, "open_channel", opens)
    with pytest.raises(Nacked):
        await outlet.dead_letter(raw, {})
    assert opened
    assert all(each.error is not None for each in opened)
    await channel.purge_queue(dead_letter_queue("g"))
    await outlet.dead_letter(raw, {})
    assert (await channel.declare_queue(dead_letter_queue("g"), passive=True)).messages == 1
    await connection.close()
