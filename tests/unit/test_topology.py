"""What stands in the broker is taken as it is, also while it is out of reach."""

from typing import Any, cast

import pytest

from partymq.amqp.connection import Connection
from partymq.amqp.topology import QueueInfo
from partymq.config import GroupSettings
from partymq.coordinator.topology import prepare
from partymq.errors import ChannelClosed


class Broker:
    """A connection and its channel. `code`: what it says of the dead-letter queue."""

    def __init__(self, code: int) -> None:
        self._code = code
        self.declared: list[tuple[str, object]] = []

    async def open_channel(self) -> "Broker":
        return self

    async def declare_exchange(self, name: str, kind: str, *, durable: bool) -> None: ...

    async def declare_queue(
        self, name: str, *, passive: bool = False, durable: bool = False, arguments: object = None
    ) -> QueueInfo:
        if passive:
            raise ChannelClosed(self._code, "what the broker says")
        self.declared.append((name, arguments))
        return QueueInfo(name, 0, 0)

    async def bind_queue(self, queue: str, exchange: str, routing_key: str) -> None:
        if not self.declared:
            raise ChannelClosed(self._code, "what the broker says")

    async def close(self) -> None: ...


async def prepared(code: int, **settings: Any) -> list[tuple[str, object]]:
    broker = Broker(code)
    await prepare(cast("Connection", broker), GroupSettings("g", source_queue="source", **settings))
    return broker.declared


async def test_a_group_routes_while_the_node_of_its_dead_letter_queue_is_away() -> None:
    assert await prepared(506) == []


async def test_the_dead_letter_queue_is_of_the_type_of_the_groups_state() -> None:
    ((queue, arguments),) = await prepared(404)
    assert queue == "partymq.g.q.dead-letter"
    assert arguments == {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
    ((_, arguments),) = await prepared(404, state_queue_type="classic")
    assert arguments == {"x-queue-type": "classic"}


async def test_other_refusals_are_told() -> None:
    with pytest.raises(ChannelClosed):
        await prepared(403)


async def test_a_quorum_source_of_ours_has_a_single_active_consumer() -> None:
    """The consumer of a router whose node has died then does not keep the next one out."""
    wanted = {"source_declare": True, "source_queue_type": "quorum"}
    arguments = dict(await prepared(404, **wanted))["source"]
    assert arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 1_000_000,
        "x-single-active-consumer": True,
    }
    assert dict(await prepared(404, source_declare=True))["source"] == {"x-queue-type": "classic"}
