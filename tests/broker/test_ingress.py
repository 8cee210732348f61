"""Filling a pull group from a source queue: what its members get, whatever happens to those who route."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pamqp.commands import Basic

from partymq import Consumer, Message, Publisher, RetryPolicy
from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.client.deadletters import count, dead_letters, replay
from partymq.config.pull import PullGroupSettings, PullKeySettings
from partymq.config.settings import BrokerSettings
from partymq.coordinator.ingress import Ingress
from partymq.coordinator.layout_store import read_layout
from partymq.coordinator.pull_removal import delete
from partymq.coordinator.pull_topology import agree, resize
from partymq.errors import ConfigError
from partymq.group.layout import GroupLayout, key_rule
from partymq.group.names import dead_letter_queue, write_exchange
from partymq.group.partitioner import partition_of
from tests.broker.tcp_proxy import TcpProxy
from tests.broker.test_pull_group import KEYS, Seen, Start, start
from tests.conftest import Vhost

__all__ = ["start"]

SOURCE = "orders"
CHILD = Path(__file__).with_name("ingress_process.py")


class World:
    """A source, a group that is filled from it, and those who do."""

    def __init__(self, vhost: Vhost, connection: Connection) -> None:
        self.vhost = vhost
        self.connection = connection
        self.running: dict[Ingress, asyncio.Task[None]] = {}
        self.enough = asyncio.Event()

    async def create(self, queue_type: str = "classic", partitions: int = 8, **wish: Any) -> GroupLayout:
        channel = await self.connection.open_channel()
        await channel.declare_queue(SOURCE, durable=True, arguments={"x-queue-type": queue_type})
        await channel.close()
        wish = {"queue_type": queue_type, "partitions": partitions, "ingress": "router", **wish}
        return await agree(self.connection, "g", wish)

    def ingress(self, url: str | None = None, **settings: Any) -> Ingress:
        broker = BrokerSettings(BrokerUrl.parse(url or self.vhost.amqp_url), None)
        made = PullGroupSettings("g", source_queue=SOURCE, source_prefetch=200, **settings)
        ingress = Ingress(broker, made, instance="i")
        self.running[ingress] = asyncio.create_task(ingress.run())
        return ingress

    async def stop(self, ingress: Ingress) -> None:
        task = self.running.pop(ingress)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def resized(self) -> None:
        """Nothing is left of the layout before."""
        while (found := await read_layout(self.connection, "g")) is None or found.previous:
            await asyncio.sleep(0.1)

    async def publish(self, rounds: int, pause: float = 0.0) -> int:
        """To the source, in order, until it is enough; how often to each key."""
        channel = await self.connection.open_channel()
        await channel.select_confirms()
        for number in range(rounds):
            if self.enough.is_set():
                rounds = number
                break
            await asyncio.gather(
                *(
                    channel.publish(
                        "",
                        SOURCE,
                        b'{"key": "k%d", "number": %d}' % (key, number),
                        Basic.Properties(headers={"partitionKey": f"k{key}"}, delivery_mode=2),
                    )
                    for key in range(KEYS)
                )
            )
            await asyncio.sleep(pause)
        await channel.close()
        return rounds

    async def all_of_it(self, layout: GroupLayout, total: int) -> list[Any]:
        """Messages of all partitions, as they lie there, when there are so many."""
        channel = await self.connection.open_channel()
        found: list[Any] = []
        async with asyncio.timeout(60):
            while len(found) < total:
                for partition in range(layout.partitions):
                    while (
                        message := await channel.get(layout.queue("g", partition), no_ack=True)
                    ) is not None:
                        found.append((partition, message))
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
async def world(vhost: Vhost) -> AsyncIterator[World]:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    made = World(vhost, connection)
    yield made
    for ingress in tuple(made.running):
        await made.stop(ingress)
    await connection.close()


async def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_resize_and_a_planned_end_repeat_lose_and_swap_nothing(world: World, start: Start) -> None:
    """One routes and another stands by; after the resize the first one ends, and the other one goes on."""
    seen = Seen()
    await world.create("quorum", partitions=4)
    for _ in range(2):
        start(Consumer(world.vhost.amqp_url, group="g"), seen.handle)
    world.ingress()
    publishing = asyncio.create_task(world.publish(1_000, 0.03))
    async with asyncio.timeout(150):
        world.ingress()
        while seen.count < 5 * KEYS:
            await asyncio.sleep(0.01)
        layout = await resize(world.connection, "g", 6)
        while not (routing := [one for one in world.running if is_routing(one, layout)]):
            await asyncio.sleep(0.01)
        assert not any(one.statistics.returns for one in world.running), "what comes back may be repeated"
        await world.stop(routing[0])
        await world.resized()
        world.enough.set()
        rounds = await publishing
        while seen.count < rounds * KEYS:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    for key, numbers in seen.numbers.items():
        swapped = [(before, after) for before, after in pairwise(numbers) if after != before + 1]
        assert numbers == list(range(rounds)), f"{key}: {swapped}"
    assert await count(world.connection, SOURCE) == 0
    assert await count(world.connection, dead_letter_queue("g")) == 0


async def test_connections_lost_in_a_resize_repeat_but_lose_and_swap_nothing(
    world: World, start: Start, tcp_proxy: TcpProxy
) -> None:
    """Those of two routers, so that now one routes and now the other."""
    seen = Seen()
    await world.create("classic", partitions=4)
    start(Consumer(world.vhost.amqp_url, group="g"), seen.handle)
    for _ in range(2):
        world.ingress(tcp_proxy.url(world.vhost.amqp_url))
    publishing = asyncio.create_task(world.publish(1_000, 0.02))
    async with asyncio.timeout(150):
        while seen.count < 3 * KEYS:
            await asyncio.sleep(0.01)
        resizing = asyncio.create_task(resize(world.connection, "g", 6))
        for number in range(6):
            await asyncio.sleep(0.05 * number)
            tcp_proxy.cut_one(number)
        await resizing
        await world.resized()
        world.enough.set()
        rounds = await publishing
        while any(not numbers or numbers[-1] < rounds - 1 for numbers in seen.numbers.values()):
            await asyncio.sleep(0.01)
    assert_only_repeats(seen, rounds)
    assert await count(world.connection, dead_letter_queue("g")) == 0


def assert_only_repeats(seen: Seen, rounds: int) -> None:
    """All is there; again from an earlier one on, perhaps, but never past one that was not handled yet."""
    assert len(seen.numbers) == KEYS
    for numbers in seen.numbers.values():
        assert all(after <= before + 1 for before, after in pairwise(numbers)), numbers
        assert sorted(set(numbers)) == list(range(rounds))


def is_routing(ingress: Ingress, layout: GroupLayout) -> bool:
    router = ingress.describe()["router"]
    return router["session"] > 0 and router["layout"] == layout.layout


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_router_that_dies_or_hangs_is_followed_by_the_one_that_stands_by(
    world: World, start: Start, how: signal.Signals
) -> None:
    """The one that hung is to leave its layout, and does not. It wakes up later, and does no harm."""
    seen = Seen()
    await world.create("quorum")
    start(Consumer(world.vhost.amqp_url, group="g"), seen.handle)
    url = world.vhost.amqp_url + "?heartbeat=1"
    child = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), url)
    try:
        publishing = asyncio.create_task(world.publish(1_000, 0.02))
        await until(lambda: seen.count > 3 * KEYS)
        second = world.ingress()
        await until(lambda: second.unready() is None)
        assert not second.describe()["router"]["routes"]
        child.send_signal(how)
        if how == signal.SIGSTOP:
            await resize(world.connection, "g", 6)
        await until(lambda: second.describe()["router"]["session"] > 0)
        if how == signal.SIGSTOP:
            child.send_signal(signal.SIGCONT)
            await world.resized()
        world.enough.set()
        rounds = await publishing
        await until(lambda: all(numbers and numbers[-1] == rounds - 1 for numbers in seen.numbers.values()))
        await asyncio.sleep(0.2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    assert_only_repeats(seen, rounds)
    assert await count(world.connection, dead_letter_queue("g")) == 0


@pytest.mark.parametrize("key", ["header:partitionKey", "body:key", "property:message_id", "routing_key"])
async def test_members_find_the_key_wherever_it_is(world: World, start: Start, key: str) -> None:
    layout = await world.create(key=key_rule(key))
    channel = await world.connection.open_channel()
    await channel.declare_exchange("shop", "topic", durable=True)
    await channel.bind_queue(SOURCE, "shop", "#")
    await channel.select_confirms()
    seen: list[Message] = []

    async def handle(message: Message) -> None:
        seen.append(message)

    for number in range(20):
        properties = Basic.Properties(headers={"partitionKey": f"k{number}"}, message_id=f"k{number}")
        await channel.publish("shop", f"k{number}", b'{"key": "k%d"}' % number, properties)
    await channel.publish("shop", "other", b"no JSON", Basic.Properties())
    # It has been delivered before, to somebody else.
    other = await world.connection.open_channel()
    assert await other.get(SOURCE) is not None
    await other.close()
    world.ingress()
    start(Consumer(world.vhost.amqp_url, group="g"), handle)
    await until(lambda: len(seen) == 21)
    keyless = [message for message in seen if message.body == b"no JSON"]
    assert [message.key for message in keyless] == (["other"] if key == "routing_key" else [None])
    for message in seen:
        if message.key is not None:
            assert message.partition == partition_of(message.key.encode(), layout.partitions)
    found = {message.key: message for message in seen if message not in keyless}
    assert sorted(str(name) for name in found) == sorted(f"k{number}" for number in range(20))
    assert [name for name, message in found.items() if message.redelivered] == ["k0"]
    ours = {"x-partymq-routing-key": "k1"} if key == "routing_key" else {}
    assert found["k1"].headers == {"partitionKey": "k1", **ours}
    assert (found["k1"].exchange, found["k1"].routing_key) == (
        write_exchange("g"),
        layout.routing_key(found["k1"].partition),
    )


async def test_messages_without_a_key_are_rejected_with_the_reason_where_the_settings_say_so(
    world: World, start: Start
) -> None:
    await world.create("quorum")
    world.ingress(key=PullKeySettings(missing="reject"))
    channel = await world.connection.open_channel()
    await channel.select_confirms()
    for number in range(100):
        headers = {"partitionKey": "k"} if number % 2 else {}
        await channel.publish("", SOURCE, b"%d" % number, Basic.Properties(headers=headers))
    async with asyncio.timeout(60):
        while len(letters := await dead_letters(world.connection, "g", 100)) < 50:
            await asyncio.sleep(0.05)
    assert [letter.body for letter in letters] == [b"%d" % number for number in range(0, 100, 2)]
    assert {letter.describe()["reason"] for letter in letters} == {"absent"}
    assert letters[0].headers["x-partymq-routing-key"] == SOURCE

    seen: list[Message] = []

    async def handle(message: Message) -> None:
        seen.append(message)

    start(Consumer(world.vhost.amqp_url, group="g"), handle)
    assert await replay(world.connection, "g", places=[1]) == 1
    await until(lambda: len(seen) == 51)
    assert [message.body for message in seen if message.key is None] == [b"0"]


@pytest.mark.parametrize("key", ["routing_key", "property:user_id"])
async def test_a_dead_letter_is_replayed_with_its_key(world: World, start: Start, key: str) -> None:
    """What the router has moved to a header is what it is ordered by, whoever publishes it again."""
    layout = await world.create(key=key_rule(key))
    channel = await world.connection.open_channel()
    await channel.declare_exchange("shop", "topic", durable=True)
    await channel.bind_queue(SOURCE, "shop", "#")
    await channel.select_confirms()
    seen: list[Message] = []
    failing = True

    async def handle(message: Message) -> None:
        if failing:
            raise RuntimeError("not yet")
        seen.append(message)

    start(Consumer(world.vhost.amqp_url, group="g", retry=RetryPolicy(max_attempts=1)), handle)
    world.ingress()
    await channel.publish("shop", "guest", b"", Basic.Properties(user_id="guest"))
    async with asyncio.timeout(60):
        while not await count(world.connection, dead_letter_queue("g")):
            await asyncio.sleep(0.02)
    failing = False
    assert await replay(world.connection, "g") == 1
    await until(lambda: len(seen) == 1)
    assert seen[0].key == "guest"
    assert seen[0].partition == partition_of(b"guest", layout.partitions)


async def test_what_somebody_deletes_is_told_and_declared_again_and_nothing_is_lost(world: World) -> None:
    layout = await world.create()
    ingress = world.ingress()
    await world.publish(5)
    assert len(await world.all_of_it(layout, 5 * KEYS)) == 5 * KEYS
    channel = await world.connection.open_channel()
    await channel.delete_queue(layout.queue("g", 3))
    await channel.unbind_queue(layout.queue("g", 4), write_exchange("g"), layout.routing_key(4))
    publishing = asyncio.create_task(world.publish(50, 0.02))
    await until(lambda: "is gone, though it has not been resized" in (ingress.unready() or ""))
    await publishing
    await until(lambda: ingress.unready() is None)
    found = await world.all_of_it(layout, 50 * KEYS)
    assert ingress.statistics.sessions < 10
    for key in range(KEYS):
        bodies = [message.body for _, message in found if b'"k%d"' % key in message.body]
        assert list(dict.fromkeys(bodies)) == [b'{"key": "k%d", "number": %d}' % (key, n) for n in range(50)]

    await channel.delete_exchange(write_exchange("g"))
    publishing = asyncio.create_task(world.publish(5))
    await until(lambda: "is gone" in (ingress.unready() or ""))
    await publishing
    assert {message.body for _, message in await world.all_of_it(layout, 5 * KEYS)}


async def test_a_partition_that_refuses_messages_is_told_and_waited_for(world: World) -> None:
    """It is limited by a policy, and nobody takes anything out of it."""
    layout = await world.create(partitions=2)
    policies = f"policies/{world.vhost.name}/full"
    limit = {"max-length": 10, "overflow": "reject-publish"}
    policy = {"pattern": "partition-", "definition": limit, "apply-to": "queues"}
    world.vhost.api("PUT", policies, policy)
    ingress = world.ingress()
    await world.publish(3)
    await until(lambda: "its queue refused a message" in (ingress.unready() or ""))
    sessions = ingress.statistics.sessions
    await asyncio.sleep(0.5)
    assert ingress.statistics.sessions < sessions + 6
    world.vhost.api("DELETE", policies)
    found = await world.all_of_it(layout, 3 * KEYS)
    for key in range(KEYS):
        bodies = [message.body for _, message in found if b'"k%d"' % key in message.body]
        assert list(dict.fromkeys(bodies)) == [b'{"key": "k%d", "number": %d}' % (key, n) for n in range(3)]


async def test_a_group_that_is_deleted_or_another_one_is_told(world: World) -> None:
    layout = await world.create(partitions=2)
    ingress = world.ingress()
    await until(lambda: ingress.unready() is None)
    with pytest.raises(ConfigError, match="`partymq serve` fills it: stop that first"):
        await delete(world.connection, "g", layout)
    await delete(world.connection, "g", layout, if_unused=False)
    await world.publish(1)
    await until(lambda: "there is no pull group 'g' any more" in (ingress.unready() or ""))
    await agree(world.connection, "g", {"ingress": "publisher", "partitions": 2, "queue_type": "classic"})
    with pytest.raises(ConfigError, match="'router' is set here, but the group has ingress 'publisher'"):
        await asyncio.wait_for(world.running[ingress], 60)


async def test_publishing_to_its_partitions_is_refused_with_what_to_do(world: World) -> None:
    await world.create(partitions=2)
    with pytest.raises(ConfigError, match=r"publish to the source that `partymq serve` routes"):
        await Publisher(world.vhost.amqp_url, group="g").open()
