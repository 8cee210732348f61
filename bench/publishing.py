"""`python -m bench.publishing`: the rate and the CPU of confirmed publishes, beside aio-pika's.

The same messages to the same partition queues on one private node, the two in turn; medians. CPU is the
publishing process's own, user and system.
"""

import argparse
import asyncio
import resource
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

import aio_pika
import uvloop

from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.broker import PrivateNode
from partymq.client.publisher import Publisher
from partymq.group.layout import GroupLayout
from partymq.group.names import write_exchange
from partymq.group.partitioner import partition_of

_BODY = b"x" * 700
_PARTITIONS = 8
_KEYS = 1_000
_AT_ONCE = 1_000
_TARGET = 5.0


@dataclass(frozen=True, slots=True)
class Figure:
    """Messages a second; CPU seconds for 100,000 messages."""

    per_second: float
    cpu: float


def main(options: argparse.Namespace) -> int:
    """The exit status: 0, whatever the figures."""
    with PrivateNode() as node, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for queue_type in ("classic", "quorum"):
            runner.run(_measure(node.amqp_url, queue_type, options.messages, options.rounds))
    return 0


async def _measure(url: str, queue_type: str, messages: int, rounds: int) -> None:
    group = f"bench-{queue_type}"
    figures: dict[str, list[Figure]] = {}
    theirs = await aio_pika.connect(url)
    channel = await theirs.channel(publisher_confirms=True)
    async with Publisher(url, group=group, partitions=_PARTITIONS, queue_type=queue_type) as publisher:
        layout = publisher.layout
        exchange = await channel.get_exchange(write_exchange(group))

        async def many(count: int) -> None:
            await publisher.publish_many((_BODY, _key(number)) for number in range(count))

        async def one(number: int) -> None:
            await publisher.publish(_BODY, _key(number))

        async def other(number: int) -> None:
            key = _key(number)
            routing_key = layout.routing_key(partition_of(key.encode(), layout.partitions))
            message = aio_pika.Message(_BODY, headers={"partitionKey": key}, delivery_mode=2)
            await exchange.publish(message, routing_key)

        ways: list[tuple[str, int, Callable[[int], Awaitable[None]]]] = [
            ("partymq, publish_many", messages, many),
            ("partymq, publish, 1,000 at once", messages, lambda count: _at_once(count, one)),
            ("partymq, publish, one by one", messages // 20, lambda count: _in_turn(count, one)),
            ("aio-pika, publish, 1,000 at once", messages // 4, lambda count: _at_once(count, other)),
            ("aio-pika, publish, one by one", messages // 40, lambda count: _in_turn(count, other)),
        ]
        for _ in range(rounds):
            for name, count, work in ways:
                figures.setdefault(name, []).append(await _timed(count, work))
                await _empty(url, group, layout)
    await theirs.close()
    _print(queue_type, figures)


async def _at_once(count: int, publish: Callable[[int], Awaitable[None]]) -> None:
    for start in range(0, count, _AT_ONCE):
        await asyncio.gather(*(publish(number) for number in range(start, min(start + _AT_ONCE, count))))


async def _in_turn(count: int, publish: Callable[[int], Awaitable[None]]) -> None:
    for number in range(count):
        await publish(number)


async def _timed(count: int, work: Callable[[int], Awaitable[None]]) -> Figure:
    cpu, clock = _cpu(), time.perf_counter()
    await work(count)
    seconds, cpu = time.perf_counter() - clock, _cpu() - cpu
    return Figure(count / seconds, cpu * 100_000 / count)


async def _empty(url: str, group: str, layout: GroupLayout) -> None:
    """So that none is measured against the backlog of the one before."""
    connection = await connect(BrokerUrl.parse(url), name="bench")
    channel = await connection.open_channel()
    for partition in range(layout.partitions):
        await channel.purge_queue(layout.queue(group, partition))
    await connection.close()


def _print(queue_type: str, figures: dict[str, list[Figure]]) -> None:
    rates = {name: median(one.per_second for one in found) for name, found in figures.items()}
    print(f"\n| {queue_type} | messages/s | CPU s / 100k |\n|---|---|---|")
    for name, found in figures.items():
        print(f"| {name} | {rates[name]:,.0f} | {median(one.cpu for one in found):.2f} |")
    best = max(rate for name, rate in rates.items() if name.startswith("aio-pika"))
    times = rates["partymq, publish_many"] / best
    print(f"\npublish_many is {times:.1f} × aio-pika's best confirmed publish (target: {_TARGET:g} ×)")


def _key(number: int) -> str:
    return f"customer-{number % _KEYS}"


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.publishing", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000, help="of each run of ours; fewer of others")
    parser.add_argument("--rounds", type=int, default=3)
    raise SystemExit(main(parser.parse_args()))
