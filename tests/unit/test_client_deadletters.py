"""Looking through dead letters, where the broker does not go on."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from partymq.amqp.topology import QueueInfo
from partymq.client.deadletters import dead_letters
from partymq.errors import BrokerError, ConnectionLost


class Broker:
    """A connection and its one channel; the queue has two messages, of which none comes."""

    def __init__(self) -> None:
        self.consuming = asyncio.Event()
        self.closed: list[Callable[[BrokerError], None]] = []

    async def open_channel(self) -> "Broker":
        return self

    async def declare_queue(self, name: str, *, passive: bool) -> QueueInfo:
        return QueueInfo(name, 2, 0)

    async def qos(self, prefetch: int) -> None: ...

    async def consume(self, queue: str, on_deliveries: object, *, exclusive: bool) -> None:
        self.consuming.set()

    def on_closed(self, callback: Callable[[BrokerError], None]) -> None:
        self.closed.append(callback)

    async def close(self) -> None: ...

    def end(self, error: BrokerError) -> None:
        for callback in self.closed:
            callback(error)


async def test_a_connection_that_is_lost_meanwhile_is_an_error_at_once() -> None:
    """It is not taken for a queue of which nothing more comes."""
    broker = Broker()
    async with asyncio.timeout(60):
        looking = asyncio.create_task(dead_letters(cast("Any", broker), "g"))
        await broker.consuming.wait()
        broker.end(ConnectionLost("cut"))
        with pytest.raises(ConnectionLost, match="cut"):
            await looking
