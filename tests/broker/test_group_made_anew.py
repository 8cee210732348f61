"""A group that is deleted and made anew with other settings, while those who knew it before go on."""

import asyncio
from collections import defaultdict

import pytest

from partymq import Consumer, Message, Publisher
from partymq.amqp.connection import connect
from partymq.amqp.queues import look_at
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.layout_store import read_layout
from partymq.coordinator.pull_removal import delete
from partymq.coordinator.pull_topology import agree
from partymq.errors import ConfigError
from partymq.group.names import former_queue
from tests.conftest import Vhost

KEYS = 16


async def test_who_knew_a_group_before_it_was_made_anew_notices(vhost: Vhost) -> None:
    """A publisher and a member that go on: each key is in one partition, and each partition is consumed."""
    where: dict[str | None, set[int]] = defaultdict(set)
    handled: list[bytes] = []

    async def handle(message: Message) -> None:
        where[message.key].add(message.partition)
        handled.append(message.body)

    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="operator")
    layout = await agree(connection, "g", {"partitions": 4, "queue_type": "classic"})
    old_member = Consumer(vhost.amqp_url, group="g")
    async with asyncio.timeout(90), Publisher(vhost.amqp_url, group="g") as old:
        await old.publish(b"", key="a key")
        old_member.handler(handle)
        async with old_member:
            while not handled:
                await asyncio.sleep(0.05)
            await delete(connection, "g", layout, if_unused=False)
            where.clear()
            await agree(connection, "g", {"partitions": 6, "queue_type": "classic"})
            async with Publisher(vhost.amqp_url, group="g") as new:
                for publisher in (old, new):
                    for key in range(KEYS):
                        await publisher.publish(b"again", key=f"k{key}")
            while handled.count(b"again") < 2 * KEYS:
                await asyncio.sleep(0.05)
    assert len(where) == KEYS
    assert {len(partitions) for partitions in where.values()} == {1}
    await connection.close()


async def test_layouts_are_counted_on_over_a_deletion(vhost: Vhost) -> None:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="operator")
    first = await agree(connection, "g", {"partitions": 2, "queue_type": "classic"})
    assert await delete(connection, "g", first) == 0
    assert await look_at(connection, former_queue("g")) is not None
    second = await agree(connection, "g", {"partitions": 3, "queue_type": "classic"})
    assert (second.layout, second.version) == (2, 2)
    assert second == await read_layout(connection, "g")
    assert await look_at(connection, former_queue("g")) is None
    with pytest.raises(ConfigError, match="partitions"):  # it was not resized since it was made
        await agree(connection, "g", {"partitions": 2})
    await delete(connection, "g", second)
    third = await agree(connection, "g", {"partitions": 2, "queue_type": "classic"})
    assert third.layout == 3
    # With the same partitions nobody has to notice, and publishers that know their names can go on.
    await delete(connection, "g", third)
    assert (await agree(connection, "g", {"partitions": 2, "queue_type": "quorum"})).layout == 3
    await connection.close()
