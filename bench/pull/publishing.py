"""The rate and the CPU of confirmed publishes, beside aio-pika's.

The same messages to the same partition queues, in turn. CPU is that of this process, which publishes; nothing
else happens in it meanwhile.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

import aio_pika

from bench.broker import Broker, Vhost
from bench.pull.plan import Plan
from partymq.client.publisher import Publisher
from partymq.group.layout import GroupLayout
from partymq.group.names import write_exchange
from partymq.group.partitioner import partition_of

MANY, AT_ONCE, IN_TURN = "partymq, publish_many", "partymq, 1,000 at once", "partymq, one by one"
THEIRS_AT_ONCE, THEIRS_IN_TURN = "aio-pika, 1,000 at once", "aio-pika, one by one"
THEIRS = (THEIRS_AT_ONCE, THEIRS_IN_TURN)
_GROUP = "bench"
_BODY = b"x" * 700
_PARTITIONS = 8
_KEYS = 1_000
_CHUNK = 1_000

Send = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rate:
    """One run: messages a second; CPU seconds for 100,000 messages."""

    way: str
    queue_type: str
    per_second: float
    cpu: float


def median_rate(rates: list[Rate], way: str, queue_type: str) -> float:
    """Messages a second."""
    return median(one.per_second for one in rates if (one.way, one.queue_type) == (way, queue_type))


async def measure(broker: Broker, plan: Plan, tell: Callable[[str], None]) -> list[Rate]:
    """All runs, the ways in turn."""
    found = []
    for queue_type in plan.queue_types:
        async with broker.vhost() as vhost:
            theirs = await aio_pika.connect(vhost.url)
            channel = await theirs.channel(publisher_confirms=True)
            async with Publisher(
                vhost.url, group=_GROUP, partitions=_PARTITIONS, queue_type=queue_type
            ) as publisher:
                exchange = await channel.get_exchange(write_exchange(_GROUP))
                ways = _ways(publisher, exchange, plan.publishes)
                for number in range(plan.repeat):
                    for way, (count, work) in ways.items():
                        found.append(await _timed(way, queue_type, count, work))
                        await _empty(vhost, publisher.layout)
                    tell(f"publishing to {queue_type} queues {number + 1}/{plan.repeat}")
            await theirs.close()
    return found


def _ways(
    publisher: Publisher, exchange: aio_pika.abc.AbstractExchange, messages: int
) -> dict[str, tuple[int, Send]]:
    """How many messages are sent in a run, and what sends them."""
    layout = publisher.layout

    async def many(count: int) -> None:
        await publisher.publish_many((_BODY, _key(number)) for number in range(count))

    async def ours(number: int) -> None:
        await publisher.publish(_BODY, _key(number))

    async def theirs(number: int) -> None:
        key = _key(number)
        routing_key = layout.routing_key(partition_of(key.encode(), layout.partitions))
        message = aio_pika.Message(_BODY, headers={"partitionKey": key}, delivery_mode=2)
        await exchange.publish(message, routing_key)

    return {
        MANY: (messages, many),
        AT_ONCE: (messages, lambda count: _at_once(count, ours)),
        IN_TURN: (messages // 20, lambda count: _in_turn(count, ours)),
        THEIRS_AT_ONCE: (messages // 4, lambda count: _at_once(count, theirs)),
        THEIRS_IN_TURN: (messages // 40, lambda count: _in_turn(count, theirs)),
    }


async def _at_once(count: int, publish: Send) -> None:
    for start in range(0, count, _CHUNK):
        await asyncio.gather(*(publish(number) for number in range(start, min(start + _CHUNK, count))))


async def _in_turn(count: int, publish: Send) -> None:
    for number in range(count):
        await publish(number)


async def _timed(way: str, queue_type: str, count: int, work: Send) -> Rate:
    cpu, clock = time.process_time(), time.perf_counter()
    await work(count)
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    return Rate(way, queue_type, count / seconds, cpu * 100_000 / count)


async def _empty(vhost: Vhost, layout: GroupLayout) -> None:
    """So that none is measured against the backlog of the one before."""
    for partition in range(layout.partitions):
        await vhost.channel.purge_queue(layout.queue(_GROUP, partition))


def _key(number: int) -> str:
    return f"customer-{number % _KEYS}"
