"""What a member left goes to our own queue: all of it, in order, once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Message, Span
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.depths import QueueDepths
from partymq.coordinator.leftovers import discard_leftover, move_leftover
from partymq.coordinator.management import Management
from partymq.coordinator.proofs import Proofs
from partymq.errors import ConnectionLost
from partymq.group.names import leftover_queue, own_exchange
from tests.broker.tcp_proxy import UP, TcpProxy
from tests.broker.test_depths_and_proofs import FakeLanes
from tests.conftest import Vhost

TARGET = leftover_queue("g", 7)


class Mover:
    """A connection to move with, and another to look with."""

    def __init__(
        self, vhost: Vhost, connection: Connection, eyes: Connection, management: Management
    ) -> None:
        self.vhost = vhost
        self.connection = connection
        self.eyes = eyes
        self.depths = QueueDepths(lambda: eyes, management)
        self.proofs = Proofs(
            FakeLanes(),
            self.depths,
            drain_timeout=1.0,
            idle_handover=1.0,
            queue_of=lambda hostname: None,
            moved_on=self._never,
            is_unbound=self._bound,
        )

    @staticmethod
    async def _never(hostname: str, queue: str) -> bool:
        return False

    @staticmethod
    async def _bound(hostname: str) -> bool:
        return False

    async def fill(self, messages: int) -> None:
        channel = await self.eyes.open_channel()
        await channel.declare_exchange(own_exchange("g"), "direct", durable=True)
        await channel.declare_queue("q", durable=True)
        await channel.select_confirms()
        await asyncio.gather(*(self._publish(channel, number) for number in range(messages)))

    async def _publish(self, channel: Channel, number: int) -> None:
        properties = Basic.Properties(headers={"partitionKey": f"k{number % 7}"}, delivery_mode=2)
        await channel.publish("", "q", str(number).encode(), properties)

    def move(self) -> "asyncio.Task[None]":
        return asyncio.create_task(
            move_leftover(self.connection, self.proofs, self.depths, group="g", number=7, queue="q")
        )

    async def content(self, queue: str) -> list[Message]:
        channel = await self.eyes.open_channel()
        found = []
        while (message := await channel.get(queue, no_ack=True)) is not None:
            found.append(message)
        return found


@pytest.fixture
async def mover(vhost: Vhost) -> AsyncIterator[Mover]:
    url = BrokerUrl.parse(vhost.amqp_url)
    async with Management(vhost.management_url, vhost.name, timeout=60) as management, asyncio.timeout(150):
        connection, eyes = await connect(url, name="mover"), await connect(url, name="eyes")
        yield Mover(vhost, connection, eyes, management)
        await connection.close()
        await eyes.close()


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.body) for message in messages]


async def test_all_is_moved_in_order_and_unchanged(mover: Mover) -> None:
    await mover.fill(1300)
    await mover.move()
    moved = await mover.content(TARGET)
    assert numbers(moved) == list(range(1300))
    assert await mover.content("q") == []
    assert moved[3].properties.headers == {"partitionKey": "k3"}
    assert moved[3].properties.delivery_mode == 2
    await discard_leftover(mover.connection, group="g", number=7)
    assert mover.vhost.api("GET", f"queues/{mover.vhost.name}")[0]["name"] == "q"


async def test_given_up_and_begun_again_nothing_is_lost_or_repeated(mover: Mover) -> None:
    await mover.fill(3000)
    for wait in (0.01, 0.05, 0.02, 0.1):
        move = mover.move()
        await asyncio.sleep(wait)
        move.cancel()
        with suppress(asyncio.CancelledError):
            await move
    await mover.move()
    assert numbers(await mover.content(TARGET)) == list(range(3000))


async def test_after_a_cut_connection_nothing_is_lost_or_out_of_order(mover: Mover) -> None:
    await mover.fill(3000)
    move = mover.move()
    await asyncio.sleep(0.08)
    mover.connection.abort()
    with suppress(ConnectionLost):
        await move
    mover.connection = await connect(BrokerUrl.parse(mover.vhost.amqp_url), name="mover")
    await mover.move()
    moved = numbers(await mover.content(TARGET))
    first_time = list(dict.fromkeys(moved))
    assert first_time == list(range(3000))
    assert await mover.content("q") == []


async def test_while_somebody_consumes_the_queue_nothing_is_moved(mover: Mover) -> None:
    await mover.fill(10)
    member = await connect(BrokerUrl.parse(mover.vhost.amqp_url), name="member")
    tags: list[int] = []

    def delivered(buf: bytes, spans: list[Span]) -> None:
        tags.extend(span[0] for span in spans)

    channel = await member.open_channel()
    await channel.consume("q", delivered)
    move = mover.move()
    while len(tags) < 10:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert not move.done()
    channel.ack(tags[4], multiple=True)
    await asyncio.sleep(0.2)
    assert not move.done()
    await member.close()
    await move
    assert numbers(await mover.content(TARGET)) == [5, 6, 7, 8, 9]


async def test_a_queue_that_is_gone_leaves_nothing_to_move(mover: Mover) -> None:
    await mover.fill(0)
    await (await mover.eyes.open_channel()).delete_queue("q")
    await mover.move()
    assert await mover.content(TARGET) == []


async def test_our_own_consumer_is_not_taken_for_the_members(mover: Mover) -> None:
    await mover.fill(4000)
    move = mover.move()
    seen: list[int | None] = []
    while not move.done():
        seen.append((await mover.depths.sample(["q"]))["q"].consumers)
    seen.append((await mover.depths.sample(["q"]))["q"].consumers)
    await move
    assert not any(seen), seen
    async with asyncio.timeout(60):
        while (await mover.depths.sample(["q"]))["q"].consumers is None:
            await asyncio.sleep(0.1)


async def test_large_messages_are_not_all_in_memory_at_once(mover: Mover, tcp_proxy: TcpProxy) -> None:
    await mover.fill(0)
    channel = await mover.eyes.open_channel()
    await channel.select_confirms()
    size, count = 2**20, 60
    for _ in range(count):
        await channel.publish("", "q", bytes(size))
    slow = await connect(BrokerUrl.parse(tcp_proxy.url(mover.vhost.amqp_url)), name="slow")
    mover.connection = slow
    move = mover.move()
    while tcp_proxy.bytes_up < 4 * size:
        await asyncio.sleep(0.002)
    tcp_proxy.pause(UP)
    await asyncio.sleep(1.0)
    waiting = slow.bytes_waiting
    tcp_proxy.resume(UP)
    await move
    assert waiting < 10 * size
    assert [len(message.body) for message in await mover.content(TARGET)] == [size] * count
    await slow.close()
