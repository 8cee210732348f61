"""Whether a queue that is consumed alone has anything ready."""

import asyncio
from typing import cast

import pytest

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.topology import QueueInfo
from partymq.errors import ChannelClosed
from partymq.router.alone import Alone, consume_alone


class Says:
    """A channel on which the broker says this of the queue."""

    def __init__(self, messages: int, consumers: int) -> None:
        self._said = QueueInfo("q", messages, consumers)

    async def declare_queue(self, name: str, *, passive: bool) -> QueueInfo:
        assert (name, passive) == ("q", True)
        return self._said


@pytest.mark.parametrize(("messages", "consumers", "nothing"), [(0, 1, True), (3, 1, False), (0, 0, False)])
async def test_a_queue_that_knows_nothing_of_its_consumer_is_not_taken_for_empty(
    messages: int, consumers: int, nothing: bool
) -> None:
    alone = Alone(cast("Channel", Says(messages, consumers)), "q", "")
    assert await alone.has_nothing_ready() is nothing


class Source:
    """A connection and its channel; a quorum queue that has no leader for some looks, and then one that knows
    of these messages and consumers."""

    def __init__(self, without_leader: int, messages: int, consumers: int) -> None:
        self._without_leader = without_leader
        self._said = QueueInfo("q", messages, consumers)
        self.consumed = False

    async def open_channel(self, _number: int | None) -> "Source":
        return self

    async def declare_queue(self, name: str, *, passive: bool) -> QueueInfo:
        self._without_leader -= 1
        return QueueInfo(name, 0, 0) if self._without_leader >= 0 else self._said

    async def qos(self, _prefetch: int) -> None: ...

    async def consume(self, *_: object, **__: object) -> str:
        self.consumed = True
        return "tag"

    def shut(self) -> None: ...

    async def close(self) -> None: ...


async def alone(source: Source, doubt: float) -> Alone:
    connection = cast("Connection", source)
    return await consume_alone(connection, None, "q", 10, lambda _b, _s: None, lambda: None, doubt=doubt)


async def test_a_source_without_a_leader_is_not_consumed_beside_who_has_its_messages_in_hand() -> None:
    source = Source(3, 200, 1)
    with pytest.raises(ChannelClosed, match="has a consumer"):
        await alone(source, 60.0)
    assert not source.consumed


async def test_a_source_that_has_messages_and_no_consumer_is_consumed_at_once() -> None:
    source = Source(3, 200, 0)
    async with asyncio.timeout(30):
        await alone(source, 60.0)
    assert source.consumed


async def test_an_empty_source_is_consumed_in_the_end() -> None:
    source = Source(0, 0, 0)
    await alone(source, 0.1)
    assert source.consumed
