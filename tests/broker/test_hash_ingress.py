"""Publishers that know nothing of partitions, and an exchange of the broker's that hashes the keys."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pamqp.commands import Basic

from partymq import Consumer, Message, Publisher, RetryPolicy
from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import encode_content, publish_frame
from partymq.amqp.url import BrokerUrl
from partymq.broker import PrivateNode
from partymq.client.deadletters import count
from partymq.client.parking import ask_for_release
from partymq.coordinator.hash_ingress import Placing, places
from partymq.coordinator.layout_store import locked, read_layout, write_layout
from partymq.coordinator.pull_removal import delete, remove_before
from partymq.coordinator.pull_topology import agree, declare, resize, unbind
from partymq.errors import ConfigError
from partymq.group.layout import GroupLayout, key_rule
from partymq.group.names import former_queue, hash_exchange, parked_queue, ring_exchange
from tests.broker.management import delete_vhost
from tests.broker.test_permissions import left
from tests.broker.test_pull_group import Start, start
from tests.broker.test_pull_resize import over
from tests.conftest import Vhost, new_vhost

__all__ = ["start"]

PLUGINS = ("rabbitmq_management", "rabbitmq_consistent_hash_exchange", "rabbitmq_sharding")


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    with PrivateNode(plugins=PLUGINS) as own:
        yield own


@pytest.fixture
def vhost(node: PrivateNode) -> Iterator[Vhost]:
    fresh = new_vhost(node)
    yield fresh
    delete_vhost(fresh.management_url, fresh.name)


@pytest.fixture
async def connection(vhost: Vhost) -> AsyncIterator[Connection]:
    opened = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    yield opened
    await opened.close()


def wish(key: str, partitions: int, queue_type: str = "classic") -> dict[str, Any]:
    return {
        "partitions": partitions,
        "ingress": "hash-exchange",
        "key": key_rule(key),
        "queue_type": queue_type,
    }


class Outsider:
    """A publisher that knows of an exchange, and of nothing else."""

    def __init__(self, connection: Connection, channel: Channel, exchange: str, name: str, key: str) -> None:
        self._connection = connection
        self._channel = channel
        self._exchange = exchange
        self._header = key.partition(":")[2]
        self.name = name
        self.sent = 0

    async def send(self, key: str) -> None:
        """Raises Unroutable, Nacked."""
        properties, routing_key = self._addressed(key)
        body = self._next(key)
        await self._channel.publish(self._exchange, routing_key, body, properties, mandatory=True)

    def shout(self, key: str) -> None:
        """Neither confirmed nor mandatory: what has no way is lost without a word."""
        properties, routing_key = self._addressed(key)
        number = self._channel.number
        content = encode_content(number, self._next(key), properties, self._connection.frame_max)
        self._connection.write(publish_frame(number, self._exchange, routing_key) + content)

    def _addressed(self, key: str) -> tuple[Basic.Properties, str]:
        if self._header:
            return Basic.Properties(headers={self._header: key}, delivery_mode=2), ""
        return Basic.Properties(delivery_mode=2), key

    def _next(self, key: str) -> bytes:
        number, self.sent = self.sent, self.sent + 1
        return f"{self.name} {key} {number}".encode()


async def in_partitions(connection: Connection, layout: GroupLayout) -> list[list[tuple[str, str, int]]]:
    """What is in each partition: (publisher, key, number). It is taken out."""
    found: list[list[tuple[str, str, int]]] = []
    channel = await connection.open_channel()
    for partition in range(layout.partitions):
        here = []
        while (message := await channel.get(layout.queue("g", partition))) is not None:
            channel.ack(message.tag)
            name, key, number = message.body.decode().split()
            here.append((name, key, int(number)))
        found.append(here)
    await channel.close()
    return found


@pytest.mark.parametrize("key", ["header:customer", "routing_key"])
async def test_each_key_is_in_one_partition(vhost: Vhost, connection: Connection, key: str) -> None:
    layout = await agree(
        connection,
        "g",
        {"partitions": 4, "ingress": "hash-exchange", "key": key_rule(key), "queue_type": "classic"},
    )
    async with Publisher(vhost.amqp_url, group="g") as publisher:
        await publisher.publish_many((f"p k{n % 20} {n}", f"k{n % 20}") for n in range(200))
    parts = await in_partitions(connection, layout)
    where: dict[str, set[int]] = defaultdict(set)
    for partition, found in enumerate(parts):
        for _, name, _ in found:
            where[name].add(partition)
    assert len(where) == 20
    assert all(len(numbers) == 1 for numbers in where.values()), where
    assert len({min(numbers) for numbers in where.values()}) > 1
    assert all([one[2] for one in found] == sorted(one[2] for one in found) for found in parts)
    await resize(connection, "g", 3)
    present = await read_layout(connection, "g")
    assert present is not None
    assert await delete(connection, "g", present) == 0
    assert left(vhost) == {former_queue("g")}


async def test_a_routing_key_keeps_its_partition_when_the_broker_starts_anew(
    node: PrivateNode, vhost: Vhost
) -> None:
    """More than ten partitions: in the order of names, 10 is before 2."""
    places = []
    layout = None
    for turn in range(2):
        if turn:
            node.sync_metadata()
            node.kill()
            node.start()
        connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
        layout = layout or await agree(connection, "g", wish("routing_key", 12))
        channel = await connection.open_channel()
        await channel.select_confirms()
        outsider = Outsider(connection, channel, hash_exchange("g"), "p", "routing_key")
        for number in range(100):
            await outsider.send(f"k{number}")
        parts = await in_partitions(connection, layout)
        places.append({key: partition for partition, part in enumerate(parts) for _, key, _ in part})
        await connection.close()
    assert len(places[0]) == 100
    assert places[0] == places[1]


@pytest.mark.parametrize("key", ["header:customer", "routing_key"])
async def test_a_publisher_that_asks_for_nothing_loses_and_doubles_nothing_when_the_layout_changes(
    vhost: Vhost, connection: Connection, key: str
) -> None:
    """Six times, with publishers that would not even notice."""
    layouts = [await agree(connection, "g", wish(key, 3))]
    ended = False
    turns = [0, 0, 0]

    async def publish(me: int) -> int:
        own = await connect(BrokerUrl.parse(vhost.amqp_url), name=f"p{me}")
        channel = await own.open_channel()
        outsider = Outsider(own, channel, hash_exchange("g"), f"p{me}", key)
        while not ended:
            for number in range(10):
                outsider.shout(f"k{number}")
            await channel.declare_exchange(hash_exchange("g"), passive=True)  # behind all of that
            turns[me] += 1
            await asyncio.sleep(0.01)
        await own.close()
        return outsider.sent

    async with asyncio.timeout(60):
        running = [asyncio.create_task(publish(number)) for number in range(3)]
        channel = await connection.open_channel()
        for step in range(6):
            layouts.append(layouts[-1].settled().resized(2 + step % 3))
            async with locked(connection, "g"):
                await declare(connection, "g", layouts[-1], new=True)
                await write_layout(connection, "g", layouts[-1])
                await unbind(connection, "g", layouts[-2])
                await declare(connection, "g", layouts[-1])  # as a publisher does that misses something
            since = list(turns)
            while any(now < then + 3 for now, then in zip(turns, since, strict=True)):
                await asyncio.sleep(0.01)
            await channel.delete_exchange(ring_exchange("g", layouts[-2].layout))
        ended = True
        sent = await asyncio.gather(*running)
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for layout in layouts:
        for part in await in_partitions(connection, layout):
            for name, _, number in part:
                found[name].append((number, layout.layout))
    for number, total in enumerate(sent):
        messages = sorted(found[f"p{number}"])
        assert [one for one, _ in messages] == list(range(total))
        used = [layout for _, layout in messages]
        assert used == sorted(used), "an older layout after a newer one"
        assert set(used) == set(range(1, 8))


async def test_order_is_kept_nothing_repeated_and_what_is_parked_stays_so_while_such_groups_are_resized(
    node: PrivateNode, start: Start
) -> None:
    """Four groups at a time, each in a vhost of its own."""
    vhosts = [new_vhost(node) for _ in range(4)]
    async with asyncio.TaskGroup() as groups:
        groups.create_task(resized_while_at_work(vhosts[0], start, "classic", "header:customer"))
        groups.create_task(resized_while_at_work(vhosts[1], start, "quorum", "routing_key"))
        groups.create_task(resized_while_parked(vhosts[2], start, "header:customer"))
        groups.create_task(resized_while_parked(vhosts[3], start, "routing_key"))
    for vhost in vhosts:
        delete_vhost(vhost.management_url, vhost.name)


async def resized_while_at_work(vhost: Vhost, start: Start, queue_type: str, key: str) -> None:
    """One publisher uses the group's exchange, one an exchange of its own in front of that."""
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    seen: dict[str, list[int]] = defaultdict(list)
    running: set[str] = set()
    ended = False

    async def handle(message: Message) -> None:
        name, of, number = message.body.decode().split()
        assert message.key == of
        assert of not in running, f"{of} is handled twice at the same time"
        running.add(of)
        await asyncio.sleep(0.002)
        seen[f"{name} {of}"].append(int(number))
        running.discard(of)

    async def publish(name: str, exchange: str) -> dict[str, list[int]]:
        own = await connect(BrokerUrl.parse(vhost.amqp_url), name=name)
        channel = await own.open_channel()
        await channel.select_confirms()
        outsider = Outsider(own, channel, exchange, name, key)
        sent: dict[str, list[int]] = defaultdict(list)
        while not ended:
            async with asyncio.TaskGroup() as sending:
                for number in range(30):
                    sent[f"{name} k{number}"].append(outsider.sent + number)
                    sending.create_task(outsider.send(f"k{number}"))
            await asyncio.sleep(0.05)
        await own.close()
        return sent

    async with asyncio.timeout(150):
        await agree(connection, "g", wish(key, 4, queue_type))
        channel = await connection.open_channel()
        await channel.declare_exchange("theirs", "fanout")
        await channel.bind_exchange(hash_exchange("g"), "theirs")
        members = [Consumer(vhost.amqp_url, group="g") for _ in range(3)]
        for member in members:
            start(member, handle)
        publishing = [
            asyncio.create_task(publish("p", hash_exchange("g"))),
            asyncio.create_task(publish("q", "theirs")),
        ]
        for partitions in (8, 5):
            while sum(map(len, seen.values())) < 100:
                await asyncio.sleep(0.02)
            if partitions == 8:
                await resize(connection, "g", partitions)
            else:
                await resize_half(connection, partitions)
            assert (await over(connection)).partitions == partitions
        ended = True
        sent = {name: numbers for part in await asyncio.gather(*publishing) for name, numbers in part.items()}
        while sum(map(len, seen.values())) < sum(map(len, sent.values())):
            await asyncio.sleep(0.02)
        while sorted(number for member in members for number in member.partitions) != list(range(5)):
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    assert seen == sent
    await connection.close()


async def test_what_a_resize_left_that_came_to_its_end_half_way_gets_no_messages(
    vhost: Vhost, connection: Connection
) -> None:
    """It had declared its layout, of other queues, and had not written it yet."""
    first = await agree(connection, "g", wish("routing_key", 2))
    async with locked(connection, "g"):
        await declare(connection, "g", first.resized(9), new=True)
    second = await resize(connection, "g", 3)
    channel = await connection.open_channel()
    await channel.select_confirms()
    outsider = Outsider(connection, channel, hash_exchange("g"), "p", "routing_key")
    for number in range(60):
        await outsider.send(f"k{number}")
    assert sum(map(len, await in_partitions(connection, second))) == 60


@pytest.mark.parametrize("number", [2, 3])
async def test_a_ring_that_was_deleted_is_made_again_by_a_publisher_whose_message_came_back(
    vhost: Vhost, connection: Connection, number: int
) -> None:
    layout = await agree(connection, "g", wish("routing_key", 2))
    channel = await connection.open_channel()
    async with Publisher(vhost.amqp_url, group="g") as publisher:
        for partitions in range(3, 2 + number):
            await resize(connection, "g", partitions)
            async with locked(connection, "g"):
                found = await read_layout(connection, "g")
                assert found is not None
                await remove_before(connection, "g", found)
            layout = found.settled()
        assert layout.layout == number
        await channel.delete_exchange(ring_exchange("g", number))
        await publisher.publish("p k 0", key="k")
    assert sum(map(len, await in_partitions(connection, layout))) == 1


async def test_a_group_of_before_there_was_an_entry_is_not_resized(connection: Connection) -> None:
    first = await agree(connection, "g", wish("routing_key", 2))
    channel = await connection.open_channel()
    await channel.delete_exchange(hash_exchange("g"))
    await channel.declare_exchange(hash_exchange("g"), "x-consistent-hash", durable=True)
    for partition in range(2):
        await channel.bind_queue(first.queue("g", partition), hash_exchange("g"), "1")
    with pytest.raises(ConfigError, match="make another group"):
        await resize(connection, "g", 3)
    assert await read_layout(connection, "g") == first
    await channel.declare_exchange(hash_exchange("g"), passive=True)


async def resize_half(connection: Connection, partitions: int) -> None:
    """A command that is killed when the settings are written: the coordinator does the rest."""
    async with locked(connection, "g"):
        present = await read_layout(connection, "g")
        assert present is not None
        await declare(connection, "g", present.resized(partitions), new=True)
        await write_layout(connection, "g", present.resized(partitions))


async def resized_while_parked(vhost: Vhost, start: Start, key: str) -> None:
    """Whose the parked keys are afterwards only the broker knows."""
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    handled: dict[str, list[int]] = defaultdict(list)
    failing = True

    async def handle(message: Message) -> None:
        _, of, number = message.body.decode().split()
        if failing:
            raise RuntimeError("not yet")
        handled[of].append(int(number))

    keys = [f"bad{number}" for number in range(6)]
    async with asyncio.timeout(60):
        await agree(connection, "g", wish(key, 2))
        for _ in range(2):
            retry = RetryPolicy(max_attempts=1)
            start(Consumer(vhost.amqp_url, group="g", retry=retry, on_failure="park"), handle)
        channel = await connection.open_channel()
        await channel.select_confirms()
        outsider = Outsider(connection, channel, hash_exchange("g"), "p", key)
        for bad in keys:
            await outsider.send(bad)
        while await count(connection, parked_queue("g")) < 6:
            await asyncio.sleep(0.05)
        await resize(connection, "g", 7)
        layout = await over(connection)
        failing = False
        for other in [*keys, "good"]:
            await outsider.send(other)
        while await count(connection, parked_queue("g")) < 12 or handled != {"good": [12]}:
            await asyncio.sleep(0.05)
        taken = await places(connection, "g", layout, [bad.encode() for bad in keys])
        assert len(set(taken.values())) > 1
        placing = Placing(connection, "g")
        assert await placing.places(layout, [keys[0].encode()]) == {keys[0].encode(): taken[keys[0].encode()]}
        assert await placing.places(layout, [bad.encode() for bad in keys]) == taken
        for bad in keys:
            await ask_for_release(connection, "g", bad)
        while len(handled) < 7 or any(len(handled[bad]) < 2 for bad in keys):
            await asyncio.sleep(0.05)
    assert {bad: handled[bad] for bad in keys} == {bad: [n, n + 6] for n, bad in enumerate(keys)}
    await connection.close()


async def test_the_first_layout_gets_the_messages_whatever_its_number(connection: Connection, vhost: Vhost):
    """A group that is deleted and made anew counts on."""
    layout = await agree(connection, "g", wish("routing_key", 3))
    for number, partitions in ((2, 2), (3, 4), (3, 4)):
        await delete(connection, "g", layout)
        layout = await agree(connection, "g", wish("routing_key", partitions))
        assert layout.layout == number
        async with Publisher(vhost.amqp_url, group="g") as publisher:
            assert await publisher.publish_many((b"", f"k{key}") for key in range(20)) == 20
        counts = [await count(connection, layout.queue("g", partition)) for partition in range(partitions)]
        assert sum(counts) == 20
