"""The settings are read while their queue has no leader."""

from typing import Any, cast

import pytest

from partymq.amqp.connection import Connection
from partymq.amqp.topology import QueueInfo
from partymq.coordinator.layout_store import read_layout
from partymq.errors import CallTimeout, ConnectionLost
from partymq.group.layout import GroupLayout


class Message:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.tag = 1
        self.properties = self
        self.headers: dict[str, Any] = {}


class Broker:
    """A connection and its channel; the queue has the settings, and no leader for some looks."""

    def __init__(self, without_leader: int, *, settings: bool = True) -> None:
        self.without_leader = without_leader
        self.settings = settings
        self.looks = 0

    async def open_channel(self) -> "Broker":
        self._left = [Message(GroupLayout(7).encode())] if self.settings else []
        return self

    async def declare_queue(self, name: str, *, passive: bool) -> QueueInfo:
        self.looks += 1
        return QueueInfo(name, 0 if self.looks <= self.without_leader else len(self._left), 0)

    async def get(self, queue: str) -> Message | None:
        if self.looks <= self.without_leader:
            raise ConnectionLost("541 INTERNAL_ERROR - Cannot get a message from queue: nodedown")
        return self._left.pop() if self._left else None

    async def close(self) -> None: ...


async def test_settings_whose_queue_has_no_leader_are_waited_for() -> None:
    layout = await read_layout(cast("Connection", Broker(5)), "g")
    assert layout is not None
    assert layout.partitions == 7


@pytest.mark.parametrize(
    ("broker", "error"),
    [(Broker(1000), ConnectionLost), (Broker(0, settings=False), CallTimeout)],
)
async def test_they_are_missing_only_where_the_leader_says_so(
    broker: Broker, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has no leader for long is not taken for a group that was never quite made."""
    monkeypatch.setattr("partymq.coordinator.layout_store._READ_WITHIN", 0.05)
    with pytest.raises(error):
        await read_layout(cast("Connection", broker), "g")
