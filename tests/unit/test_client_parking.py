"""Parked messages and dead letters, in a quorum queue that has no leader for a moment."""

from collections.abc import Callable
from typing import Any, cast

from partymq.amqp.connection import Connection
from partymq.amqp.topology import QueueInfo
from partymq.client.deadletters import dead_letters
from partymq.client.parking import sift
from partymq.group.names import looked_through

_MESSAGE = b"\x00" * 8


class Channel:
    """Of a broker whose queue answers as quorum queues do."""

    def __init__(self, broker: "Broker") -> None:
        self._broker = broker
        self.error = None

    async def declare_queue(self, name: str, **_: object) -> QueueInfo:
        broker = self._broker
        if broker.without_leader:
            broker.without_leader -= 1
            return QueueInfo(name, 0, 0)
        return QueueInfo(name, 0 if broker.consumers else broker.messages, len(broker.consumers))

    async def qos(self, prefetch: int) -> None: ...

    async def consume(
        self, queue: str, on_deliveries: Callable[[bytes, list[Any]], None], exclusive: bool = False
    ) -> None:
        if queue != looked_through("q"):
            self._broker.without_leader = min(self._broker.without_leader, 1)  # it may be said for a moment
            self._broker.consumers.add(self)
            at = [(number + 1, 0, 4, len(_MESSAGE)) for number in range(self._broker.messages)]
            if at:
                on_deliveries(_MESSAGE, at)

    def on_closed(self, callback: object) -> None: ...

    async def close(self) -> None:
        self._broker.consumers.discard(self)


class Broker:
    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.without_leader = 3
        """Counts that somebody else than a leader answers."""
        self.consumers: set[Channel] = set()

    async def open_channel(self) -> Channel:
        return Channel(self)


async def test_a_queue_is_not_taken_for_empty_that_has_no_leader() -> None:
    found = await sift(cast("Connection", Broker(7)), "q", lambda _: True)
    assert len(found) == 7


async def test_dead_letters_are_listed_whose_queue_has_no_leader_at_first() -> None:
    assert len(await dead_letters(cast("Connection", Broker(7)), "g")) == 7


async def test_an_empty_one_has_nothing() -> None:
    assert await sift(cast("Connection", Broker(0)), "q", lambda _: True) == []
