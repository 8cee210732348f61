"""The router on a real broker: every byte, every fault, order, and nothing lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Message, Span, decode, encode_content, publish_frame
from partymq.amqp.url import BrokerUrl
from partymq.broker import PrivateNode
from partymq.errors import ConnectionLost
from partymq.group.key import KeyRule
from partymq.group.names import member_key
from partymq.group.partitioner import partition_of
from partymq.group.state import SetAside
from partymq.router import Router, RouterSettings
from partymq.router.events import (
    Depth,
    FetchBlocked,
    Fetched,
    HoldExhausted,
    RouterEvent,
    SessionEnded,
    SessionStarted,
    Unroutable,
)
from tests.broker.tcp_proxy import TcpProxy
from tests.conftest import Vhost, new_vhost

SOURCE = "orders"
EXCHANGE = "partymq.ex.write"
DEAD = "partymq.default.q.dead-letter"
PARTITIONS = 12


async def until(condition: Callable[[], bool], seconds: float = 60.0, what: str = "") -> None:
    """Wait until something holds."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what or condition}") from None


@dataclass
class World:
    """A vhost with a source, members' queues, and a router."""

    vhost: Vhost
    url: BrokerUrl
    control: Connection
    channel: Channel
    events: list[RouterEvent] = field(default_factory=list)
    router: Router = field(init=False)
    running: "asyncio.Task[None] | None" = None

    async def make_router(self, source_url: str | None = None, **settings: Any) -> Router:
        made = RouterSettings(
            group="default",
            source_queue=SOURCE,
            exchange=EXCHANGE,
            dead_letter_queue=DEAD,
            partitions=PARTITIONS,
            **{"window": 0.0, **settings},
        )
        url = BrokerUrl.parse(source_url or self.vhost.amqp_url)
        self.router = Router(made, url, self.events.append)
        return self.router

    def run(self, connection: Connection | None = None) -> None:
        self.running = asyncio.create_task(self.router.run(connection or self.control))

    async def member(self, hostname: str, **arguments: Any) -> str:
        """A member's queue, bound as a client does it."""
        queue = f"queue-{hostname}"
        await self.channel.declare_queue(queue, durable=True, **arguments)
        await self.channel.bind_queue(queue, EXCHANGE, member_key(hostname))
        return queue

    async def start(self, *hostnames: str) -> None:
        """Partitions are dealt to members in turn, and routing begins."""
        for hostname in hostnames:
            await self.member(hostname)
        self.router.assign({number: hostnames[number % len(hostnames)] for number in range(PARTITIONS)})
        self.router.start()
        self.run()
        await until(lambda: self.router.session > 0, what="a session")

    async def publish(self, count: int, first: int = 0, keys: int = 50, body: bytes = b"") -> None:
        """To the source. Confirmed: what a quorum queue has not taken in is forgotten with the channel."""
        channel = await self.control.open_channel()
        missing = set(range(1, count + 1))

        def confirms(batch: list[tuple[int, bool, bool]]) -> None:
            for upto, multiple, _ in batch:
                missing.difference_update(range(min(missing), upto + 1) if multiple and missing else (upto,))

        await channel.select_confirms(confirms)
        raw = []
        for number in range(first, first + count):
            properties = Basic.Properties(
                headers={"partitionKey": f"key{number % keys}"}, message_id=str(number), delivery_mode=2
            )
            raw.append(publish_frame(channel.number, "", SOURCE))
            raw.append(encode_content(channel.number, body, properties, self.control.frame_max))
        self.control.write(b"".join(raw))
        await until(lambda: not missing, seconds=60, what="confirms")
        await channel.close()

    async def count(self, queue: str) -> int:
        return (await self.channel.declare_queue(queue, passive=True)).messages

    async def counts(self, *queues: str, total: int, seconds: float = 80.0) -> list[int]:
        """Wait until so many messages are in these queues together."""
        async with asyncio.timeout(seconds):
            while True:
                found = [await self.count(queue) for queue in queues]
                if sum(found) >= total:
                    return found
                await asyncio.sleep(0.02)

    async def take(self, queue: str, count: int) -> list[Message]:
        """Consume so many messages, in order, acked."""
        connection = await connect(self.url, name="taker")
        channel = await connection.open_channel()
        messages: list[Message] = []
        enough = asyncio.Event()

        def delivered(buf: bytes, spans: list[Span]) -> None:
            messages.extend(decode(buf, span) for span in spans)
            channel.ack(spans[-1][0], multiple=True)
            if len(messages) >= count:
                enough.set()

        if count:
            await channel.qos(1000)
            await channel.consume(queue, delivered)
            async with asyncio.timeout(60):
                await enough.wait()
        await connection.close()
        return messages

    async def source_is_empty(self, unacked: int = 0) -> None:
        """Nothing in the source, neither ready nor unacked."""
        await until(lambda: self.totals(SOURCE) == (0, unacked), what="an empty source")

    def totals(self, queue: str) -> tuple[int, int]:
        path = f"queues/{self.vhost.name}?disable_stats=true&enable_queue_totals=true"
        for found in self.vhost.api("GET", path):
            if found["name"] == queue:
                return found.get("messages_ready", 0), found.get("messages_unacknowledged", 0)
        raise AssertionError(f"no queue {queue}")

    def of(self, kind: type[RouterEvent]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.properties.message_id or -1) for message in messages]


def assert_ordered(messages: list[Message], keys: int = 50) -> None:
    """First occurrences of each key's messages ascend."""
    last: dict[int, int] = {}
    seen: set[int] = set()
    for number in numbers(messages):
        if number in seen:
            continue
        seen.add(number)
        key = number % keys
        assert last.get(key, -1) < number, f"{number} after {last[key]}"
        last[key] = number


def memory_alarm(vhost: Vhost) -> bool:
    return any(node.get("mem_alarm") for node in vhost.api("GET", "nodes"))


@contextlib.asynccontextmanager
async def routing_in(vhost: Vhost) -> AsyncIterator[World]:
    url = BrokerUrl.parse(vhost.amqp_url)
    control = await connect(url, name="coordinator")
    channel = await control.open_channel()
    await channel.declare_queue(SOURCE, durable=True)
    await channel.declare_exchange(EXCHANGE, durable=True)
    made = World(vhost, url, control, channel)
    await made.make_router()
    try:
        yield made
    finally:
        if made.running is not None:
            made.running.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionLost):
                await made.running
        await control.close()


@pytest.fixture
async def world(vhost: Vhost) -> AsyncIterator[World]:
    async with routing_in(vhost) as made:
        yield made


async def test_every_message_arrives_once_in_order_and_byte_for_byte(world: World) -> None:
    random = Random(1)
    channel = await world.control.open_channel()
    sent: dict[str, tuple[bytes, Basic.Properties]] = {}
    raw = []
    for number in range(20_000):
        body = random.randbytes(random.choice([0, 1, 20, 300, 300, 300, 2000]))
        properties = Basic.Properties(
            content_type=random.choice([None, "application/json"]),
            headers={"partitionKey": f"key{number % 50}", "n": number, "nested": {"a": [1, "x", None]}},
            delivery_mode=random.choice([1, 2]),
            priority=random.choice([None, 3]),
            correlation_id=random.choice([None, "c" * 40]),
            message_id=str(number),
            timestamp=None,
            app_id=random.choice([None, "app"]),
        )
        sent[str(number)] = body, properties
        raw.append(publish_frame(channel.number, "", SOURCE))
        raw.append(encode_content(channel.number, body, properties, world.control.frame_max))
    world.control.write(b"".join(raw))
    await channel.close()
    await world.start("a", "b", "c")
    counts = await world.counts("queue-a", "queue-b", "queue-c", total=20_000)
    await world.source_is_empty()
    assert sum(counts) == 20_000
    for position, hostname in enumerate("abc"):
        messages = await world.take(f"queue-{hostname}", counts[position])
        assert_ordered(messages)
        for message in messages:
            body, properties = sent.pop(message.properties.message_id or "")
            assert message.body == body
            assert list(message.properties) == list(properties)
            assert message.routing_key == member_key(hostname)
            key = f"key{int(message.properties.message_id or 0) % 50}".encode()
            assert partition_of(key, PARTITIONS) % 3 == position
    assert not sent
    assert world.router.statistics.messages == 20_000


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 20 * 2**20])
async def test_bodies_of_any_size(world: World, size: int) -> None:
    await world.start("a")
    body = Random(2).randbytes(size)
    for number in range(3):
        await world.publish(1, number, body=body)
    await world.counts("queue-a", total=3)
    messages = await world.take("queue-a", 3)
    assert numbers(messages) == [0, 1, 2]
    assert all(message.body == body for message in messages)
    await world.source_is_empty()


async def test_smaller_frames_where_it_publishes(world: World) -> None:
    connection = await connect(BrokerUrl.parse(world.vhost.amqp_url + "?frame_max=8192"), name="small")
    assert connection.frame_max == 8192
    await world.member("a")
    world.router.assign(dict.fromkeys(range(PARTITIONS), "a"))
    world.router.start()
    world.run(connection)
    body = Random(3).randbytes(100_000)
    await world.publish(2, body=body)
    await world.counts("queue-a", total=2)
    assert [message.body for message in await world.take("queue-a", 2)] == [body, body]
    assert world.running is not None
    world.router.finish()
    await world.running
    await connection.close()


async def test_what_is_held_for_a_paused_member_goes_to_the_next_owner_in_order(world: World) -> None:
    await world.start("a", "b")
    await world.member("c")
    world.router.pause("a")
    await world.publish(1000)
    await world.counts("queue-b", total=1)
    await until(lambda: world.router.statistics.held_messages > 400)
    assert await world.count("queue-a") == 0
    assert world.router.settled("a")
    held = world.router.statistics.held_messages
    owners = dict.fromkeys(range(0, PARTITIONS, 2), "c")
    world.router.assign(owners)
    await world.publish(1000, first=1000)
    counts = await world.counts("queue-b", "queue-c", total=2000)
    await world.source_is_empty()
    assert await world.count("queue-a") == 0
    assert counts[1] >= held
    assert_ordered(await world.take("queue-c", counts[1]))
    assert_ordered(await world.take("queue-b", counts[0]))


async def test_a_member_without_a_binding_is_set_aside_and_little_is_repeated(world: World) -> None:
    await world.start("a", "b")
    await world.publish(2000)
    await world.counts("queue-a", "queue-b", total=2000)
    await world.channel.unbind_queue("queue-a", EXCHANGE, member_key("a"))
    await world.publish(2000, first=2000)
    await until(lambda: bool(world.of(Unroutable)))
    (event,) = world.of(Unroutable)
    assert (event.hostname, event.reason) == ("a", SetAside.RETURNED)
    assert "NO_ROUTE" in event.text
    world.router.assign(dict.fromkeys(range(0, PARTITIONS, 2), "b"))
    counts = await world.counts("queue-a", "queue-b", total=4000)
    await world.source_is_empty()
    assert sum(counts) == 4000  # those to `a` came back, those to `b` were acked: nothing is repeated
    messages = await world.take("queue-a", counts[0]) + await world.take("queue-b", counts[1])
    assert sorted(numbers(messages)) == list(range(4000))
    assert len(world.of(SessionStarted)) == 2
    assert world.router.statistics.returns == 1


async def test_a_queue_that_refuses_messages(world: World) -> None:
    await world.member("a", arguments={"x-max-length": 10, "x-overflow": "reject-publish"})
    await world.member("b")
    world.router.assign({number: "ab"[number % 2] for number in range(PARTITIONS)})
    world.router.start()
    world.run()
    await world.publish(1000)
    await until(lambda: bool(world.of(Unroutable)))
    event = world.of(Unroutable)[0]
    assert (event.hostname, event.reason) == ("a", SetAside.REJECTED)
    world.router.assign(dict.fromkeys(range(PARTITIONS), "b"))
    counts = await world.counts("queue-b", total=900)
    await world.source_is_empty()
    counts = [await world.count("queue-a"), await world.count("queue-b")]
    messages = await world.take("queue-a", counts[0]) + await world.take("queue-b", counts[1])
    assert set(numbers(messages)) == set(range(1000))
    assert_ordered(messages)


async def test_the_source_connection_is_cut_again_and_again(world: World, tcp_proxy: TcpProxy) -> None:
    await world.make_router(tcp_proxy.url(world.vhost.amqp_url), backoff=0.02)
    await world.publish(10_000)
    await world.start("a", "b", "c")
    for _ in range(5):
        await asyncio.sleep(0.15)
        tcp_proxy.cut()
    await world.counts("queue-a", "queue-b", "queue-c", total=10_000)
    await world.source_is_empty()
    seen: set[int] = set()
    for hostname in "abc":
        messages = await world.take(f"queue-{hostname}", await world.count(f"queue-{hostname}"))
        assert_ordered(messages)
        seen |= set(numbers(messages))
    assert seen == set(range(10_000))


async def test_the_end_of_the_coordinators_connection_is_the_end(world: World, tcp_proxy: TcpProxy) -> None:
    connection = await connect(BrokerUrl.parse(tcp_proxy.url(world.vhost.amqp_url)), name="cut")
    await world.publish(10_000)
    await world.member("a")
    world.router.assign(dict.fromkeys(range(PARTITIONS), "a"))
    world.router.start()
    world.run(connection)
    await world.counts("queue-a", total=500)
    tcp_proxy.cut()
    assert world.running is not None
    with pytest.raises(ConnectionLost):
        await asyncio.wait_for(world.running, 60)
    assert world.router.session == 0
    await world.make_router()
    await world.start("a")
    await world.counts("queue-a", total=10_000)
    await world.source_is_empty()
    messages = await world.take("queue-a", await world.count("queue-a"))
    assert_ordered(messages)
    assert set(numbers(messages)) == set(range(10_000))


@pytest.mark.parametrize("how", ["finish", "cancel", "stop"])
async def test_a_planned_end_repeats_nothing(world: World, how: str) -> None:
    await world.start("a", "b", "c")
    world.router.pause("c")
    publishing = asyncio.create_task(world.publish(30_000))
    await world.counts("queue-a", "queue-b", total=300)
    assert world.running is not None
    match how:
        case "finish":
            world.router.finish()
            await asyncio.wait_for(world.running, 60)
        case "cancel":
            world.running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(world.running, 60)
        case "stop":
            world.router.stop()
            await until(lambda: bool(world.of(SessionEnded)))
    await publishing
    assert world.of(SessionEnded)[0].expected
    if how == "stop":
        world.router.start()
    else:
        await world.make_router()
        await world.start("a", "b", "c")
    world.router.resume("c")
    counts = await world.counts("queue-a", "queue-b", "queue-c", total=30_000)
    await world.source_is_empty()
    assert sum(counts) == 30_000
    for position, hostname in enumerate("abc"):
        assert_ordered(await world.take(f"queue-{hostname}", counts[position]))


async def test_a_leftover_is_fetched_in_order_ahead_of_what_is_newer(world: World) -> None:
    await world.start("a", "b")
    await world.publish(3000)
    counts = await world.counts("queue-a", "queue-b", total=3000)
    await world.source_is_empty()
    world.router.pause("a")
    moved = {number: "c" if number % 4 else "b" for number in range(0, PARTITIONS, 2)}
    await world.member("c")
    world.router.assign(moved, locked=True)
    await world.publish(3000, first=3000)
    world.router.fetch(1, "queue-a")
    await until(lambda: bool(world.of(Fetched)))
    assert world.of(Fetched) == [Fetched(1)]
    session = world.router._current
    assert session is not None
    assert len(session._ack_writers) == 1, "nothing is kept of the fetch, however long the session lasts"
    assert await world.count("queue-a") == 0
    assert world.router.statistics.fetched == counts[0]
    world.router.unlock(moved)
    after = await world.counts("queue-b", "queue-c", total=6000)
    await world.source_is_empty()
    assert sum(after) == 6000
    assert_ordered(await world.take("queue-b", after[0]))
    assert_ordered(await world.take("queue-c", after[1]))


async def test_a_fetch_that_is_given_up_repeats_nothing(world: World) -> None:
    await world.make_router(fetch_prefetch=50)
    await world.start("a")
    await world.publish(5000)
    await world.counts("queue-a", total=5000)
    await world.member("b")
    world.router.pause("a")
    world.router.assign(dict.fromkeys(range(PARTITIONS), "b"), locked=True)
    world.router.fetch(7, "queue-a")
    await world.counts("queue-b", total=100)
    world.router.cancel_fetch(7)
    await until(lambda: world.totals("queue-a")[1] == 0, what="nothing unacked")
    left, done = await world.count("queue-a"), await world.count("queue-b")
    assert left + done == 5000
    assert not world.of(Fetched)
    world.router.pause("b")
    world.router.fetch(8, "queue-a")
    await asyncio.sleep(0.1)
    world.router.fetch(9, "queue-a")
    world.router.resume("b")
    await until(lambda: bool(world.of(Fetched)))
    assert world.of(Fetched) == [Fetched(9)]
    assert await world.count("queue-b") == 5000
    assert_ordered(await world.take("queue-b", 5000))


async def test_a_leftover_that_is_gone_or_consumed_by_somebody_else(world: World) -> None:
    await world.start("a")
    world.router.fetch(1, "no-such-queue")
    await until(lambda: world.of(Fetched) == [Fetched(1)])
    await world.channel.declare_queue("busy")
    other = await world.control.open_channel()
    await other.consume("busy", lambda _, __: None)
    world.router.fetch(2, "busy")
    await until(lambda: bool(world.of(FetchBlocked)))
    assert world.of(FetchBlocked)[0].number == 2
    await other.close()
    await until(lambda: world.of(Fetched) == [Fetched(1), Fetched(2)])
    assert len(world.of(FetchBlocked)) == 1


async def test_a_fetch_survives_the_end_of_a_session(world: World, tcp_proxy: TcpProxy) -> None:
    await world.make_router(tcp_proxy.url(world.vhost.amqp_url), fetch_prefetch=20, backoff=0.02)
    await world.start("a")
    await world.publish(5000)
    await world.counts("queue-a", total=5000)
    await world.member("b")
    world.router.pause("a")
    world.router.assign(dict.fromkeys(range(PARTITIONS), "b"), locked=True)
    world.router.fetch(1, "queue-a")
    await world.counts("queue-b", total=100)
    tcp_proxy.cut()
    await until(lambda: bool(world.of(Fetched)))
    messages = await world.take("queue-b", await world.count("queue-b"))
    assert_ordered(messages)
    assert set(numbers(messages)) == set(range(5000))


async def test_a_missing_source_is_waited_for(world: World) -> None:
    await world.channel.delete_queue(SOURCE)
    world.router.start()
    world.run()
    await until(lambda: world.router.unready() == f"source queue '{SOURCE}' does not exist")
    await world.channel.declare_queue(SOURCE, durable=True)
    await until(lambda: world.router.unready() is None)
    assert 2 <= world.router.statistics.session_failures + 1 < 10
    await world.channel.delete_queue(SOURCE)
    await until(lambda: f"source queue '{SOURCE}'" in (world.router.unready() or ""))
    await world.channel.declare_queue(SOURCE, durable=True)
    await until(lambda: world.router.unready() is None)


async def test_a_source_that_somebody_else_consumes(world: World) -> None:
    other = await world.control.open_channel()
    await other.consume(SOURCE, lambda _, __: None)
    world.router.start()
    world.run()
    await until(lambda: "consumed by somebody else" in (world.router.unready() or ""))
    await other.close()
    await until(lambda: world.router.unready() is None)


@pytest.mark.parametrize("arguments", [{"x-single-active-consumer": True}, {"x-queue-type": "quorum"}])
async def test_other_kinds_of_source(world: World, arguments: dict[str, Any]) -> None:
    await world.channel.delete_queue(SOURCE)
    await world.channel.declare_queue(SOURCE, durable=True, arguments=arguments)
    await world.publish(1000)
    await world.start("a")
    await world.counts("queue-a", total=1000)
    messages = await world.take("queue-a", 1000)
    assert_ordered(messages)
    assert world.router.statistics.messages == 1000


async def test_a_message_without_a_key_is_rejected_with_the_reason(world: World) -> None:
    await world.make_router(key=KeyRule("header", "partitionKey", "reject"))
    await world.start("a")
    properties = Basic.Properties(headers={"other": 1}, message_id="m")
    await world.channel.declare_exchange("in", "fanout")
    await world.channel.bind_queue(SOURCE, "in")
    publisher = await world.control.open_channel()
    await publisher.select_confirms()
    await publisher.publish("in", "the.key", b"body", properties)
    await world.counts(DEAD, total=1)
    (message,) = await world.take(DEAD, 1)
    assert message.body == b"body"
    assert message.properties.message_id == "m"
    assert message.properties.headers == {
        "other": 1,
        "x-partymq-reason": "absent",
        "x-partymq-exchange": "in",
        "x-partymq-routing-key": "the.key",
        "x-partymq-group": "default",
    }
    assert world.router.statistics.rejects == {"absent": 1}
    await world.source_is_empty()


async def test_a_foreign_user_id_is_moved_to_a_header(world: World) -> None:
    world.vhost.api("PUT", "users/somebody", {"password": "x", "tags": ""})
    grant = {"configure": ".*", "write": ".*", "read": ".*"}
    world.vhost.api("PUT", f"permissions/{world.vhost.name}/somebody", grant)
    own, _, rest = world.vhost.amqp_url.partition("@")
    other = await connect(BrokerUrl.parse(f"{own.partition('//')[0]}//somebody:x@{rest}"), name="other")
    publisher = await other.open_channel()
    await publisher.select_confirms()
    for _ in range(2):
        properties = Basic.Properties(headers={"partitionKey": "k"}, user_id="somebody")
        await publisher.publish("", SOURCE, b"hello", properties)
    await other.close()
    ours = await world.control.open_channel()
    await ours.select_confirms()
    own_properties = Basic.Properties(headers={"partitionKey": "k"}, user_id=world.control.username)
    await ours.publish("", SOURCE, b"ours", own_properties)
    await world.start("a")
    await world.counts("queue-a", total=3)
    first, _, last = await world.take("queue-a", 3)
    assert first.properties.user_id is None
    assert first.properties.headers == {"partitionKey": "k", "x-partymq-user-id": "somebody"}
    assert last.properties.user_id == world.control.username
    assert world.router.statistics.users_moved == 2
    assert len(world.of(SessionStarted)) == 1
    world.vhost.api("DELETE", "users/somebody")


async def test_the_routing_key_as_key_survives_a_fetch(world: World) -> None:
    await world.make_router(key=KeyRule("routing_key"))
    await world.channel.declare_exchange("in", "topic")
    await world.channel.bind_queue(SOURCE, "in", "#")
    await world.start("a")
    publisher = await world.control.open_channel()
    await publisher.select_confirms()
    for number in range(200):
        properties = Basic.Properties(message_id=str(number))
        await publisher.publish("in", f"order.{number % 50}", b"", properties)
    await world.counts("queue-a", total=200)
    await world.source_is_empty()
    world.router.pause("a")
    owners = {number: "bc"[number % 2] for number in range(PARTITIONS)}
    await world.member("b")
    await world.member("c")
    world.router.assign(owners, locked=True)
    world.router.fetch(1, "queue-a")
    await until(lambda: bool(world.of(Fetched)))
    for hostname in "bc":
        messages = await world.take(f"queue-{hostname}", await world.count(f"queue-{hostname}"))
        assert_ordered(messages)
        for message in messages:
            key = f"order.{int(message.properties.message_id or 0) % 50}"
            assert owners[partition_of(key.encode(), PARTITIONS)] == hostname
            assert message.properties.headers == {"x-partymq-routing-key": key}


async def test_held_bytes_are_bounded(world: World) -> None:
    await world.make_router(hold_bytes=2**20, hold_messages=1000)
    await world.start("a")
    world.router.pause("a")
    body = bytes(100_000)
    await world.publish(200, body=body)
    await until(lambda: world.router.statistics.held_bytes >= 2**20)
    await asyncio.sleep(0.3)
    assert world.router.statistics.held_bytes < 3 * 2**20
    world.router.resume("a")
    await world.counts("queue-a", total=200)
    messages = await world.take("queue-a", 200)
    assert numbers(messages) == list(range(200))


async def test_no_window_no_limit_and_with_one_the_rest_stays_in_the_source(world: World) -> None:
    await world.make_router(window=0.5, prefetch=300, hold_messages=150)
    await world.publish(3000)
    await world.start("a", "b")
    now = asyncio.get_running_loop().time
    await until(lambda: world.router.statistics.held_messages >= 250)
    for _ in range(20):
        for hostname in "ab":
            depth = Depth(await world.count(f"queue-{hostname}"), 0, 1)
            world.router.observe(hostname, depth, now())
        await asyncio.sleep(0.02)
    assert await world.count("queue-a") <= 8
    assert await world.count(SOURCE) >= 2500
    assert not world.of(HoldExhausted)


async def test_holding_is_exhausted_where_others_would_starve(world: World) -> None:
    await world.make_router(prefetch=200, hold_messages=100)
    await world.start("a", "b")
    world.router.pause("a")
    await world.publish(3000)
    await until(lambda: bool(world.of(HoldExhausted)))
    assert world.of(HoldExhausted)[0].hostnames == ("a",)
    before = await world.count("queue-a")
    world.router.give_way("a")
    await until(lambda: world.router.settled("a"))
    assert await world.count("queue-a") > before
    world.router.resume("a")
    counts = await world.counts("queue-a", "queue-b", total=3000)
    assert sum(counts) == 3000
    assert_ordered(await world.take("queue-a", counts[0]))


async def test_messages_held_for_long_go_back_once(world: World) -> None:
    await world.make_router(max_hold=0.5)
    await world.start("a")
    world.router.pause("a")
    await world.publish(10)
    await until(lambda: len(world.of(SessionStarted)) >= 2)
    assert world.of(SessionEnded)[0].expected
    assert world.router.statistics.session_failures == 0
    world.router.resume("a")
    await world.counts("queue-a", total=10)
    assert numbers(await world.take("queue-a", 10)) == list(range(10))


async def test_a_deleted_exchange_is_noticed_and_nothing_is_lost(world: World) -> None:
    await world.start("a")
    await world.channel.delete_exchange(EXCHANGE)
    await world.publish(100)
    await until(lambda: bool(world.of(SessionEnded)))
    assert "404" in world.of(SessionEnded)[0].why
    await world.channel.declare_exchange(EXCHANGE, durable=True)
    await world.member("a")
    world.router.resume("a")
    await world.counts("queue-a", total=100)
    messages = await world.take("queue-a", await world.count("queue-a"))
    assert_ordered(messages)
    assert set(numbers(messages)) == set(range(100))


async def test_settled_and_published_tell_what_a_proof_needs(world: World) -> None:
    assert not world.router.settled("a")
    await world.start("a")
    session = world.router.session
    assert world.router.settled("a")
    await world.publish(50)
    await until(lambda: world.router.published("a") == 50)
    await until(lambda: world.router.settled("a"))
    assert world.router.session == session
    described: dict[str, Any] = {
        "members": [{"hostname": "a"}],
        "partitions": [{"partition": number} for number in range(PARTITIONS)],
    }
    world.router.add_to(described)
    assert described["members"][0] == {
        "hostname": "a",
        "held": 0,
        "outstanding": 0,
        "window": None,
        "rate": None,
    }
    assert sum(partition["messages"] for partition in described["partitions"]) == 50
    assert described["router"]["session"] == session


async def test_while_the_broker_takes_no_publishes_nothing_is_read(
    own_node: Callable[..., PrivateNode],
) -> None:
    node = own_node()
    vhost = new_vhost(node)
    async with routing_in(vhost) as world:
        await world.make_router(prefetch=50)
        await world.publish(1000, body=bytes(1000))
        node.ctl("set_vm_memory_high_watermark", "0.000001")
        await until(lambda: memory_alarm(vhost), what="an alarm")
        # The alarm blocks a connection as soon as it publishes.
        await world.start("a")
        await until(lambda: world.control.blocked is not None, what="blocked")
        assert "takes no messages" in (world.router.unready() or "")
        world.router.stop()
        await until(lambda: bool(world.of(SessionEnded)))
        world.router.start()
        await asyncio.sleep(0.2)
        node.ctl("set_vm_memory_high_watermark", "0.6")
        await until(lambda: world.control.blocked is None, what="unblocked")
        await world.counts("queue-a", total=1000)
        await world.source_is_empty()
        assert world.router.unready() is None
        messages = await world.take("queue-a", await world.count("queue-a"))
        assert_ordered(messages)
        assert set(numbers(messages)) == set(range(1000))


async def test_an_end_while_nobody_answers_is_quick(world: World, tcp_proxy: TcpProxy) -> None:
    await world.make_router(tcp_proxy.url(world.vhost.amqp_url))
    tcp_proxy.pause()
    world.router.start()
    world.run()
    await until(lambda: tcp_proxy.accepted > 0)
    world.router.finish()
    assert world.running is not None
    await asyncio.wait_for(world.running, 2)
    assert world.control.error is None


async def test_a_refused_login_is_told(world: World) -> None:
    await world.make_router(world.vhost.amqp_url.replace("guest:guest", "guest:wrong"))
    world.router.start()
    world.run()
    await until(lambda: "ACCESS_REFUSED" in (world.router.unready() or ""))


@dataclass
class Worker:
    """Consumes a member's queue and writes down what it gets, while it lives."""

    world: World
    hostname: str
    log: list[int]
    connection: Connection | None = None

    async def live(self) -> None:
        self.connection = connection = await connect(self.world.url, name=self.hostname)
        channel = await connection.open_channel()
        await channel.qos(20)

        def delivered(buf: bytes, spans: list[Span]) -> None:
            self.log.extend(numbers([decode(buf, span) for span in spans]))
            channel.ack(spans[-1][0], multiple=True)

        await channel.consume(f"queue-{self.hostname}", delivered)

    async def die(self) -> None:
        assert self.connection is not None
        await self.connection.close()
        self.connection = None


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_order_is_kept_while_partitions_move_members_die_and_connections_break(
    world: World, tcp_proxy: TcpProxy, seed: int
) -> None:
    random = Random(seed)
    count = 12_000
    await world.make_router(
        tcp_proxy.url(world.vhost.amqp_url), backoff=0.02, fetch_prefetch=50, prefetch=500
    )
    log: list[int] = []
    workers = {hostname: Worker(world, hostname, log) for hostname in "abc"}
    await world.start(*workers)
    router = world.router
    owners = {number: "abc"[number % 3] for number in range(PARTITIONS)}
    for worker in workers.values():
        await worker.live()

    async def publish() -> None:
        for first in range(0, count, 200):
            await world.publish(200, first)
            await asyncio.sleep(0.05)

    async def drain(hostname: str) -> None:
        """Pause a member and wait for the proof that it has finished."""
        router.pause(hostname)
        for _ in range(1000):
            session = router.session
            empty = router.settled(hostname) and world.totals(f"queue-{hostname}") == (0, 0)
            if empty and router.session == session and router.settled(hostname):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"no proof: {router!r}")

    publishing = asyncio.create_task(publish())
    leftovers = 0
    while not publishing.done():
        hostname = random.choice("abc")
        mine = [number for number, owner in owners.items() if owner == hostname]
        others = [other for other in "abc" if other != hostname]
        match random.randint(0, 4):
            case 0 | 1:
                await drain(hostname)
                moves = {number: random.choice(others) for number in mine if random.random() < 0.5}
                owners |= moves
                router.assign(moves)
                router.resume(hostname)
            case 2:
                tcp_proxy.cut()
                await asyncio.sleep(random.random() / 5)
            case 3:
                router.pause(hostname)
                await workers[hostname].die()
                await until(lambda name=hostname: router.settled(name), what="settled")  # type: ignore[misc]
                await asyncio.sleep(0.05)  # what its session had in flight is in its queue
                moves = {number: random.choice(others) for number in mine}
                owners |= moves
                router.assign(moves, locked=True)
                leftovers += 1
                router.fetch(leftovers, f"queue-{hostname}")
                if random.random() < 0.3:
                    tcp_proxy.cut()
                await until(lambda: bool(world.of(Fetched)), what="fetched")
                world.events.clear()
                router.unlock(moves)
                await workers[hostname].live()
                router.resume(hostname)
            case 4:
                await asyncio.sleep(random.random() / 5)
    await publishing
    await until(lambda: len(set(log)) == count, what="everything")
    await world.source_is_empty()
    last: dict[int, int] = {}
    for number in dict.fromkeys(log):
        assert last.get(number % 50, -1) < number
        last[number % 50] = number
    for worker in workers.values():
        await worker.die()
