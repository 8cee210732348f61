"""The library as its users see it: a consumer, a publisher, a group; nothing else runs but the broker."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from partymq import Consumer, Message, Publisher
from partymq.errors import ConfigError
from partymq.group.partitioner import partition_of
from tests.conftest import Vhost


@dataclass
class Order:
    customer: str
    number: int


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_members_come_and_go_and_every_order_is_handled_once_and_in_its_turn(
    vhost: Vhost, queue_type: str
):
    seen: dict[str, list[int]] = defaultdict(list)
    by_member: dict[str, int] = defaultdict(int)
    running: set[str] = set()

    def member(name: str) -> Consumer:
        settings: dict[str, Any] = {"partitions": 8, "queue_type": queue_type, "name": name}
        consumer = Consumer(vhost.amqp_url, group="orders", **settings)

        @consumer.handler
        async def handle(message: Message, order: Order) -> None:
            assert message.key == order.customer
            assert order.customer not in running
            running.add(order.customer)
            await asyncio.sleep(0.001)
            running.discard(order.customer)
            seen[order.customer].append(order.number)
            by_member[name] += 1

        return consumer

    first, second = member("one"), member("two")
    async with first, Publisher(vhost.amqp_url, group="orders", **_wish(queue_type)) as publisher:

        async def publish() -> None:
            for number in range(60):
                orders = [Order(f"customer-{customer}", number) for customer in range(10)]
                await asyncio.gather(
                    *(publisher.publish(vars(order), key=order.customer) for order in orders)
                )
                await asyncio.sleep(0.02)

        await until(lambda: len(first.partitions) == 8)
        publishing = asyncio.create_task(publish())
        await until(lambda: by_member["one"] > 50)
        async with second:
            await until(lambda: by_member["two"] > 50)
            assert len(first.partitions) == len(second.partitions) == 4
        assert len(second.partitions) == 0
        await publishing
        await until(lambda: sum(map(len, seen.values())) == 600)
    assert seen == {f"customer-{customer}": list(range(60)) for customer in range(10)}


async def test_a_handler_that_takes_long_holds_back_its_partition_alone(vhost: Vhost):
    release = asyncio.Event()
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        seen.append(message.body)
        if message.body == b"slow":
            await release.wait()

    settings: dict[str, Any] = {"partitions": 4, "queue_type": "classic"}
    first, second = (Consumer(vhost.amqp_url, group="orders", name=name, **settings) for name in ("1", "2"))
    first.handler(handle)
    second.handler(handle)
    key = next(key for key in "abcdefghi" if partition_of(key.encode(), 4) == 3)
    async with first, Publisher(vhost.amqp_url, group="orders", **settings) as publisher:
        await until(lambda: len(first.partitions) == 4)
        await publisher.publish(b"slow", key=key)
        await publisher.publish(b"next", key=key)
        await until(lambda: seen == [b"slow"])
        async with second:
            await until(lambda: (first.partitions, second.partitions) == ([0, 1, 3], [2]))
        await until(lambda: first.partitions == [0, 1, 2, 3])
        assert seen == [b"slow"]
        release.set()
        await until(lambda: seen == [b"slow", b"next"])


def _wish(queue_type: str) -> dict[str, Any]:
    return {"partitions": 8, "queue_type": queue_type}


async def test_settings_that_nobody_knows_or_that_contradict_the_group_are_refused(vhost: Vhost):
    with pytest.raises(ConfigError, match=r"colour.*known are.*concurrency.*partitions"):
        Consumer(vhost.amqp_url, group="orders", colour="red")
    with pytest.raises(ConfigError, match="partitions"):
        Consumer(vhost.amqp_url, group="orders", partitions=0)

    async def handle(message: Message) -> None: ...

    consumer = Consumer(vhost.amqp_url, group="orders", partitions=2, queue_type="classic")
    consumer.handler(handle)
    async with consumer:
        await until(lambda: len(consumer.partitions) == 2)
        other = Consumer(vhost.amqp_url, group="orders", partitions=3)
        with pytest.raises(ConfigError, match=r"3.*2"):
            await other.serve(handle)
