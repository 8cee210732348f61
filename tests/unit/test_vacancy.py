"""Whether a queue is empty: not believed of a quorum queue that has no leader."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import pytest

from partymq.amqp.connection import Connection
from partymq.amqp.topology import QueueInfo
from partymq.coordinator.resize import Resize
from partymq.coordinator.vacancy import Vacancy
from partymq.errors import BrokerError, CallTimeout, ChannelClosed, ConnectionLost
from partymq.group import events as ev
from partymq.group.coordinator import Coordinator
from partymq.group.layout import GroupLayout
from partymq.group.membership import Timing
from partymq.group.state import GroupState

_LOOK = 0.25


class Broker:
    """A connection, a channel, a queue."""

    def __init__(self) -> None:
        self.messages = 0
        self.theirs = 0
        """Consumers before ours."""
        self.leader = True
        self.gone = False
        self.unanswered = 0
        """Questions that are not answered."""
        self.consumed: Callable[[bytes, list[Any]], None] | None = None
        self.error: BrokerError | None = None
        self.channel_max = 2047
        self.now = 0.0

    async def open_channel(self) -> "Broker":
        return self

    async def declare_queue(self, name: str, *, passive: bool) -> QueueInfo:
        if self.unanswered:
            self.unanswered -= 1
            raise CallTimeout("no answer")
        if self.gone:
            raise ChannelClosed(404, "no queue")
        if not self.leader:
            return QueueInfo(name, 0, 0)
        return QueueInfo(name, self.messages, min(1, self.theirs + (self.consumed is not None)))

    async def qos(self, prefetch: int) -> None: ...

    async def consume(self, queue: str, on_deliveries: Any, *, on_cancel: object) -> None:
        self.consumed = on_deliveries

    def deliver(self) -> None:
        assert self.consumed is not None
        self.consumed(b"", [])

    def shut(self) -> None:
        self.consumed = None

    async def close(self) -> None:
        self.consumed = None

    async def looks(self, vacancy: Vacancy, seconds: float) -> bool | None:
        """What is known within these seconds."""
        end = self.now + seconds
        while self.now < end:
            known = await vacancy.look()
            if known is not None:
                return known
            self.now += _LOOK
        return None


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def vacancy(broker: Broker) -> Vacancy:
    return Vacancy(cast("Connection", broker), "q", 100, lambda: broker.now)


async def test_a_queue_is_empty_of_which_its_leader_says_so(broker: Broker, vacancy: Vacancy) -> None:
    assert await broker.looks(vacancy, 5.0) is True
    assert broker.now >= 1.0
    assert broker.consumed is None


async def test_a_queue_without_a_leader_is_not_taken_for_empty(broker: Broker, vacancy: Vacancy) -> None:
    broker.leader, broker.messages = False, 5
    assert await broker.looks(vacancy, 60.0) is None
    broker.leader = True
    assert await broker.looks(vacancy, 5.0) is False
    assert broker.consumed is None


async def test_one_that_loses_its_leader_in_between_is_looked_at_anew(
    broker: Broker, vacancy: Vacancy
) -> None:
    await broker.looks(vacancy, 0.75)
    broker.leader = False
    assert await broker.looks(vacancy, 60.0) is None
    broker.leader = True
    began = broker.now
    assert await broker.looks(vacancy, 5.0) is True
    assert broker.now - began >= 1.0


async def test_a_message_that_comes_is_something(broker: Broker, vacancy: Vacancy) -> None:
    await broker.looks(vacancy, 0.75)
    broker.deliver()
    assert await vacancy.look() is False
    assert broker.consumed is None


async def test_messages_that_somebody_has_in_hand_are_waited_for(broker: Broker, vacancy: Vacancy) -> None:
    """Ours waits behind a consumer that was not seen when the queue had no leader."""
    broker.leader = False
    await broker.looks(vacancy, 0.5)
    broker.leader, broker.theirs = True, 1
    assert await broker.looks(vacancy, 60.0) is None
    broker.theirs, broker.messages = 0, 1
    assert await broker.looks(vacancy, 5.0) is False


async def test_a_queue_that_is_not_there_is_empty(broker: Broker, vacancy: Vacancy) -> None:
    broker.gone = True
    assert await vacancy.look() is True


async def test_a_channel_that_ends_is_another_beginning(broker: Broker, vacancy: Vacancy) -> None:
    await broker.looks(vacancy, 0.75)
    broker.error = ChannelClosed(404, "the queue was deleted")
    assert await vacancy.look() is None
    broker.error, broker.gone = None, True
    assert await vacancy.look() is True


async def test_a_resize_leaves_channels_for_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of partitions not all are looked at at the same time."""
    broker = Broker()
    broker.channel_max = 10
    state = GroupState.new(8)
    state.resize(9, 1)
    coordinator = Coordinator(state, Timing(10.0, 10.0))
    for number in range(8):
        coordinator.handle(ev.Idle(number), 0.0)
    looked: set[str] = set()

    async def look(self: Vacancy) -> None:
        looked.add(self._queue)

    monkeypatch.setattr(Vacancy, "look", look)
    resize = Resize("g", cast("Connection", broker), coordinator, list[ev.Event]().append, lambda: 0.0)
    await resize._look(GroupLayout(8).resized(9))
    assert len(looked) == 5


async def test_a_resize_waits_while_a_queue_cannot_be_reached_and_the_term_goes_on(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = GroupLayout(1).resized(2)
    state = GroupState.new(1)
    state.resize(2, 1)
    coordinator = Coordinator(state, Timing(10.0, 10.0))
    coordinator.handle(ev.Idle(0), 0.0)
    events: list[ev.Event] = []
    connection: Any = broker
    connection.blocked = None

    async def settings(*_: object) -> GroupLayout:
        return layout

    async def unbind(*_: object) -> None: ...

    async def sleep(seconds: float) -> None:
        broker.now += seconds
        if events:
            broker.error = ConnectionLost("the end")

    async def unanswered(*_: object) -> None:
        raise CallTimeout("no answer")

    monkeypatch.setattr("partymq.coordinator.resize.locked", lambda *_: nullcontext())
    monkeypatch.setattr("partymq.coordinator.resize.unbind", unbind)
    monkeypatch.setattr("partymq.coordinator.resize.read_layout", settings)
    monkeypatch.setattr("partymq.coordinator.resize.asyncio.sleep", sleep)
    broker.unanswered = 3

    def happened(event: ev.Event) -> None:
        events.append(event)
        monkeypatch.setattr("partymq.coordinator.resize.read_layout", unanswered)

    resize = Resize("g", connection, coordinator, happened, lambda: broker.now)
    with pytest.raises(CallTimeout):
        await resize.run()
    assert events == [ev.Retired(0)]
