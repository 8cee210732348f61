"""The router and its source: what was acknowledged stays so, and nobody else takes messages meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from partymq.amqp.connection import connect
from partymq.router.alone import consume_alone
from partymq.router.events import SessionEnded
from tests.broker.tcp_proxy import TcpProxy
from tests.broker.test_router import PARTITIONS, SOURCE, World, assert_ordered, numbers, routing_in, until
from tests.conftest import Vhost

COUNT = 1_000


@pytest.fixture(params=["classic", "quorum", "classic in line", "quorum in line"])
async def world(vhost: Vhost, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """With a source of each type, with and without a single active consumer."""
    kind, _, in_line = request.param.partition(" ")
    async with routing_in(vhost) as made:
        await made.channel.delete_queue(SOURCE)
        arguments = {"x-queue-type": kind} | ({"x-single-active-consumer": True} if in_line else {})
        await made.channel.declare_queue(SOURCE, durable=True, arguments=arguments)
        yield made


async def test_what_was_acknowledged_message_by_message_does_not_come_again(world: World) -> None:
    """The oldest message is held, so that all others are acknowledged singly."""
    await world.start("a", "b")
    world.router.pause("b")
    await world.publish(COUNT)
    taken = await world.counts("queue-a", "queue-b", total=1)
    await until(lambda: world.router.published("a") + world.router.statistics.held_messages == COUNT)
    world.router.stop()
    await until(lambda: bool(world.of(SessionEnded)))
    taken = await world.counts("queue-a", "queue-b", total=1)
    while (left := await world.channel.declare_queue(SOURCE, passive=True)).consumers:
        await asyncio.sleep(0.01)
    assert taken[1] == 0
    assert left.messages == COUNT - taken[0]
    world.router.start()
    world.router.resume("b")
    counts = await world.counts("queue-a", "queue-b", total=COUNT)
    await world.source_is_empty()
    assert sum(counts) == COUNT
    for name, count in zip("ab", counts, strict=True):
        assert_ordered(await world.take(f"queue-{name}", count))


async def test_a_session_that_is_over_while_it_begins_leaves_the_source_in_order(world: World) -> None:
    await world.publish(COUNT)
    connection = await connect(world.url, name="beginning")
    beginning = asyncio.create_task(
        consume_alone(connection, None, SOURCE, 100, lambda *_: None, lambda: None)
    )
    while not any(channel._consuming for channel in connection._channels.values()):
        await asyncio.sleep(0)
    beginning.cancel()
    await asyncio.gather(beginning, return_exceptions=True)
    # Time for messages to come, and to be given back.
    channel = await connection.open_channel()
    for _ in range(50):
        await channel.declare_queue(SOURCE, passive=True)
    await connection.close()
    while (await world.channel.declare_queue(SOURCE, passive=True)).messages < COUNT:
        await asyncio.sleep(0.01)
    assert numbers(await world.take(SOURCE, COUNT)) == list(range(COUNT))


async def test_a_source_that_somebody_else_consumes_is_left_alone(world: World) -> None:
    other = await world.control.open_channel()
    await other.qos(1)
    await other.consume(SOURCE, lambda _, __: None)
    await world.publish(10)
    await world.member("a")
    world.router.assign(dict.fromkeys(range(PARTITIONS), "a"))
    world.router.start()
    world.run()
    await until(lambda: "consumed by somebody else" in (world.router.unready() or ""))
    assert await world.count(SOURCE) == 9
    await other.close()
    await world.counts("queue-a", total=10)
    assert numbers(await world.take("queue-a", 10)) == list(range(10))


async def test_nothing_is_taken_while_another_router_may_have_older_messages(
    world: World, tcp_proxy: TcpProxy
) -> None:
    """Its publishing connection is gone, but for the broker it still consumes: it, or its network, hangs."""
    url = tcp_proxy.url(world.vhost.amqp_url) + "?heartbeat=600"
    await world.make_router(url, prefetch=50, settle_timeout=0.1)
    control, world.control = world.control, await connect(world.url, name="the first one's")
    await world.start("a")
    first, running = world.router, world.running
    assert running is not None
    first.pause("a")
    await world.publish(200)
    await until(lambda: first.statistics.held_messages == 50)
    tcp_proxy.pause()
    world.control.abort()
    world.control = control

    second = await world.make_router()
    second.assign(dict.fromkeys(range(PARTITIONS), "a"))
    second.start()
    world.run()
    await until(lambda: "somebody else" in (second.unready() or ""), what="refused")
    await asyncio.sleep(0.3)
    assert await world.count("queue-a") == 0
    tcp_proxy.cut()
    await world.counts("queue-a", total=200)
    messages = await world.take("queue-a", 200)
    assert_ordered(messages)
    assert sorted(numbers(messages)) == list(range(200))
    tcp_proxy.resume()
    await asyncio.gather(running, return_exceptions=True)
