"""What every term of coordinating a group has in common, whatever the decisions mean for the broker.

Everything that happens becomes an event in one queue; one task takes them out, asks the pure coordinator,
saves the state where it changed, and has the effects carried out in the order they came. Events that are
waiting together share one save.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Final

from partymq.amqp.connection import Connection
from partymq.coordinator.commands import AnswerTo, probe, serve_commands
from partymq.coordinator.lease import Lease
from partymq.errors import BrokerError
from partymq.group import events as ev
from partymq.group.coordinator import Coordinator
from partymq.group.wire import Command, MemberCall, Reply, Status

_PROBE: Final = 1.0
"""Seconds between two messages to ourselves, so that we hear that the broker takes none."""
_MOST_AT_ONCE: Final = 500
_MOST_WAITING: Final = 20_000
"""Events in the queue from which on commands are not taken: their senders try again."""


class Office(ABC):
    """The loop of one term.

    Args:
        group: the group's name.
        lease: held; lost, the term ends.
        connection: the one that the lease is held on.
        coordinator: decides.
        tick: seconds between two ticks.
        renew_after: seconds after which the state is saved again at the latest: the broker must not find it
            unacked for longer than its `consumer_timeout`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        group: str,
        lease: Lease,
        connection: Connection,
        coordinator: Coordinator,
        *,
        tick: float,
        renew_after: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._group = group
        self._lease = lease
        self._connection = connection
        self.coordinator = coordinator
        self._tick_interval = tick
        self._renew_after = renew_after
        self._clock = clock
        self._events: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._answers: dict[str, list[AnswerTo]] = {}
        self._renewal_due = False
        self._began = time.time()

    @property
    def blocked(self) -> str | None:
        """The broker's reason for taking no messages now; None where it does."""
        return self._connection.blocked

    def unready(self) -> str | None:
        """Why what is decided can't be carried out now, in words; None where it can."""
        blocked = self.blocked
        return None if blocked is None else f"the broker takes no messages at the moment: {blocked}"

    @abstractmethod
    def submit(self, command: Command, answer: AnswerTo) -> None:
        """A command, from wherever it came; `answer` is called when it has been carried out and saved."""

    @abstractmethod
    def perform(self, effects: list[ev.Effect]) -> None:
        """Carry out effects in their order; what they follow from is saved. Must not block."""

    def decided(self, events: list[ev.Event]) -> None:  # noqa: B027
        """Called when these events have been handled, before what follows from them is performed."""

    def decide(self, events: list[ev.Event]) -> list[ev.Effect]:
        """What follows from these events."""
        now = self._clock()
        return [effect for event in events for effect in self.coordinator.handle(event, now)]

    def begin(self) -> list[ev.Effect]:
        """Take up the state; what follows from it, to be saved and carried out like all else."""
        return self.coordinator.start(self._clock(), time.time())

    def start_tasks(self, tasks: asyncio.TaskGroup) -> None:
        """Take up the state and begin to work in these tasks, which end with BrokerError.

        That the lease is lost has to be watched besides."""
        for work in (self._serve(), self._take_events(self.begin()), self._tick(), self._renew()):
            tasks.create_task(work)

    def happened(self, event: ev.Event) -> None:
        """Put an event in the queue."""
        self._events.put_nowait(event)

    def submitted(self, request_id: str, call: MemberCall, answer: AnswerTo) -> None:
        """Put a member's call in the queue."""
        if self._events.qsize() >= _MOST_WAITING:
            return  # the caller asks again, or gives up
        self._answers.setdefault(request_id, []).append(answer)
        self.happened(ev.Called(request_id, call))

    def answered(self, request_id: str, status: Status) -> None:
        """Answer whoever waits for this call."""
        for answer in self._answers.pop(request_id, ()):
            answer(Reply(request_id, status))

    async def _serve(self) -> None:
        channel = await serve_commands(
            self._connection, self._group, self.submit, queue_type=self._lease.queue_type
        )
        closed = asyncio.ensure_future(channel.wait_closed())
        try:
            while not closed.done():
                if self._connection.blocked is None:
                    probe(self._connection, channel, self._group)
                await asyncio.wait([closed], timeout=_PROBE)
            raise closed.result()
        finally:
            closed.cancel()

    async def _tick(self) -> None:
        blocked = False
        while True:
            await asyncio.sleep(self._tick_interval)
            # While the broker takes no messages, no heartbeat gets here.
            if blocked and self._connection.blocked is None:
                self.happened(ev.HeldUp())
            blocked = self._connection.blocked is not None
            if not blocked:
                self.happened(ev.Tick())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_after)
            self._renewal_due = True
            self.happened(ev.Tick())

    def waiting(self) -> list[ev.Event]:
        """The events that are waiting, as many as are handled at once."""
        batch: list[ev.Event] = []
        while len(batch) < _MOST_AT_ONCE and not self._events.empty():
            batch.append(self._events.get_nowait())
        return batch

    async def _take_events(self, effects: list[ev.Effect]) -> None:
        batch: list[ev.Event] = []
        while True:
            if self._renewal_due or any(isinstance(effect, ev.Save) for effect in effects):
                self._renewal_due = False
                await self._lease.save(self.coordinator.state)
            self.decided(batch)
            self.perform(effects)
            batch = [await self._events.get(), *self.waiting()]
            effects = self.decide(batch)


def first_error(errors: BaseExceptionGroup[BrokerError]) -> BrokerError:
    """The first of several errors, which usually have one cause."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, BrokerError)
    return error
