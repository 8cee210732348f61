"""A pull group as its users see it: publishers and consumers that come, go and restart."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from partymq import Consumer, Message, Publisher
from partymq.client.handlers import Handle
from tests.broker.tcp_proxy import TcpProxy
from tests.conftest import Vhost

KEYS = 40
Start = Callable[[Consumer, Handle], asyncio.Task[None]]


class Seen:
    """What was handled, by key, in order."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[int]] = defaultdict(list)
        self.running: set[str] = set()

    async def handle(self, message: Message) -> None:
        body = message.json()
        key = body["key"]
        assert key not in self.running, f"{key} is handled twice at the same time"
        self.running.add(key)
        try:
            await asyncio.sleep(0.002)
            self.numbers[key].append(body["number"])
        finally:
            self.running.discard(key)

    @property
    def count(self) -> int:
        return sum(len(numbers) for numbers in self.numbers.values())


@pytest.fixture
async def start(vhost: Vhost) -> AsyncIterator[Start]:
    tasks: list[asyncio.Task[None]] = []

    def serve(consumer: Consumer, handle: Handle) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(consumer.serve(handle)))
        return tasks[-1]

    yield serve
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def publish(url: str, wish: dict[str, Any], rounds: int, pause: float) -> None:
    async with Publisher(url, group="g", **wish) as publisher:
        for number in range(rounds):
            await asyncio.gather(
                *(
                    publisher.publish({"key": f"k{key}", "number": number}, key=f"k{key}")
                    for key in range(KEYS)
                )
            )
            await asyncio.sleep(pause)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_a_rolling_restart_under_load_repeats_loses_and_swaps_nothing(
    vhost: Vhost, start: Start, queue_type: str
) -> None:
    seen = Seen()
    wish = {"partitions": 8, "queue_type": queue_type}
    rounds = 60

    def consumer(name: str) -> tuple[Consumer, asyncio.Task[None]]:
        made = Consumer(vhost.amqp_url, group="g", name=name, **wish)
        return made, start(made, seen.handle)

    async with asyncio.timeout(60):
        members = [consumer(f"m{number}") for number in range(4)]
        while not all(made.partitions for made, _ in members):
            await asyncio.sleep(0.02)
        publishing = asyncio.create_task(publish(vhost.amqp_url, wish, rounds, 0.05))
        for place in range(4):
            made, task = members[place]
            made.stop()
            await task
            members[place] = consumer(f"m{place}")
            await asyncio.sleep(0.3)
        await publishing
        while seen.count < rounds * KEYS:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    assert all(numbers == list(range(rounds)) for numbers in seen.numbers.values()), seen.numbers


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_lost_connections_repeat_but_lose_and_swap_nothing(
    vhost: Vhost, start: Start, tcp_proxy: TcpProxy, queue_type: str
) -> None:
    seen = Seen()
    wish = {"partitions": 8, "queue_type": queue_type}
    rounds = 40
    for url in (vhost.amqp_url, tcp_proxy.url(vhost.amqp_url), tcp_proxy.url(vhost.amqp_url)):
        start(Consumer(url, group="g", **wish), seen.handle)
    async with asyncio.timeout(60):
        publishing = asyncio.create_task(publish(vhost.amqp_url, wish, rounds, 0.05))
        for _ in range(4):
            await asyncio.sleep(0.5)
            tcp_proxy.cut()
        await publishing
        while len(seen.numbers) < KEYS or any(numbers[-1] < rounds - 1 for numbers in seen.numbers.values()):
            await asyncio.sleep(0.02)
    assert len(seen.numbers) == KEYS
    for numbers in seen.numbers.values():
        # Again from an earlier one on, perhaps, but never past one that was not handled yet.
        assert all(after <= before + 1 for before, after in pairwise(numbers)), numbers
        assert sorted(set(numbers)) == list(range(rounds))
