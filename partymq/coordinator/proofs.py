"""Proof that a member has finished what it has, so that its partitions may change hands.

The member is paused, every publish to it is confirmed, and the broker counts nothing in its queue and nothing
with its consumer: then nothing of its partitions is in anybody's hands. A proof holds for one router session:
one that ended in between may have left publishes that nobody knew of.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final, Protocol

from partymq.coordinator.depths import QueueDepth, QueueDepths
from partymq.group.events import Drain, PutOff, Reclaim, Released

_FIRST_POLL: Final = 0.015
_LONGEST_POLL: Final = 0.25
_LONGEST_PAUSE: Final = 2.0
"""Seconds between two looks at a queue for which it is taken not to have been consumed."""
_LAG: Final = 10.5
"""Seconds after which a lagging count (quorum queues: two ticks of five seconds) is about the present."""


class Lanes(Protocol):
    """What is asked of the router."""

    @property
    def session(self) -> int:
        """Number of the session; another number means that it was begun anew. 0: none."""

    def settled(self, hostname: str) -> bool:
        """Whether every publish to the member is confirmed and nothing more can be sent to it."""

    def published(self, hostname: str) -> int:
        """Messages sent to the member in this session."""

    def idle_since(self, partition: int) -> float:
        """Monotonic seconds at which the last message of a partition was sent."""

    def lock(self, partitions: Sequence[int]) -> None:
        """Hold what comes for these partitions until they are assigned or unlocked."""


class Proofs:
    """Finds proofs. Each of its coroutines ends with the event that the coordinator gets.

    Args:
        lanes: the router.
        depths: the broker's counts.
        drain_timeout: seconds after which a living member's hand-over is put off.
        idle_handover: seconds without a message after which a partition of a member whose queue can't be
            seen is taken to be finished.
        queue_of: the name of a member's queue where it is known.
        moved_on: whether a member has another queue than this one, which is gone: clients that recover by
            themselves come back with a new one, without a word. Then its end proves nothing.
        is_unbound: whether it is certain that no queue at all is bound for a member.
    """

    def __init__(
        self,
        lanes: Lanes,
        depths: QueueDepths,
        *,
        drain_timeout: float,
        idle_handover: float,
        queue_of: Callable[[str], str | None],
        moved_on: Callable[[str, str], Awaitable[bool]],
        is_unbound: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._lanes = lanes
        self._depths = depths
        self._drain_timeout = drain_timeout
        self._idle_handover = idle_handover
        self._queue_of = queue_of
        self._moved_on = moved_on
        self._is_unbound = is_unbound
        self._alone: dict[str, tuple[float, float]] = {}
        """Queues without a consumer: since when, and when that was last seen; over several tries."""

    async def drained(self, drain: Drain) -> Released | PutOff:
        """A living member has finished, or not in time. Raises BrokerError when the broker can't be asked."""
        if drain.queue is None:
            return await self._idle(drain)
        rest = _Rest(self._lanes, drain.hostname)
        deadline = monotonic() + self._drain_timeout
        lagging = False
        poll = _FIRST_POLL
        while monotonic() < deadline:
            depth = await self._at_rest(rest, drain.queue)
            if depth is not None:
                if depth.exists and depth.unacked is None:
                    break
                if _proven(depth, rest) and not await self._lives_on(depth, drain.hostname, drain.queue):
                    return Released(drain.handover)
                if depth.lagging and not lagging:
                    # The counts say nothing for so long; the time for draining begins after that.
                    lagging = True
                    deadline += _LAG
            await asyncio.sleep(poll)
            poll = min(1.5 * poll, _LONGEST_POLL)
        return PutOff(drain.handover)

    async def reclaimed(self, reclaim: Reclaim) -> Released:
        """A member that left, died or can't receive has finished, or its queue is in nobody's hands.

        Waits as long as it takes. Raises BrokerError when the broker can't be asked.
        """
        if reclaim.queue is None:
            while not all(map(self._is_idle, reclaim.partitions)):
                if self._lanes.settled(reclaim.hostname) and await self._is_unbound(reclaim.hostname):
                    break  # what was sent to it came back
                await asyncio.sleep(_LONGEST_POLL)
            return Released(reclaim.handover)
        rest = _Rest(self._lanes, reclaim.hostname)
        poll = _FIRST_POLL
        while True:
            depth = await self._at_rest(rest, reclaim.queue, consumers=True)
            if depth is not None:
                if _proven(depth, rest) and (
                    reclaim.unbind or not await self._lives_on(depth, reclaim.hostname, reclaim.queue)
                ):
                    return Released(reclaim.handover)
                if depth.unacked is None and depth.ready == 0 and rest.seconds >= self._idle_handover:
                    return Released(reclaim.handover)
                if self._in_nobodys_hands(reclaim.queue, depth):
                    return Released(reclaim.handover, leftover=reclaim.queue if depth.ready != 0 else None)
            await asyncio.sleep(poll)
            poll = min(1.5 * poll, _LONGEST_POLL)

    async def untouched(self, queue: str) -> bool:
        """Wait until a leftover's queue is in nobody's hands: True; or until it is gone or empty: False."""
        poll = _FIRST_POLL
        while True:
            depth = (await self._depths.sample([queue]))[queue]
            if depth.empty:
                return False
            if depth.consumers == 0 and not depth.unacked:
                return depth.ready != 0
            await asyncio.sleep(poll)
            poll = min(1.5 * poll, _LONGEST_POLL)

    async def _at_rest(self, rest: "_Rest", queue: str, *, consumers: bool = False) -> QueueDepth | None:
        """The queue's depth, taken while nothing was on its way to the member; None where something was."""
        if not rest.holds():
            return None
        depth = (await self._depths.sample([queue], consumers=consumers))[queue]
        return depth if rest.holds() else None

    async def _has_nothing_ready(self, hostname: str) -> bool:
        queue = self._queue_of(hostname)
        return queue is None or not (await self._depths.sample([queue]))[queue].ready

    async def _lives_on(self, depth: QueueDepth, hostname: str, queue: str) -> bool:
        return not depth.exists and await self._moved_on(hostname, queue)

    def _in_nobodys_hands(self, queue: str, depth: QueueDepth) -> bool:
        now = monotonic()
        self._alone = {q: seen for q, seen in self._alone.items() if now - seen[1] <= _LONGEST_PAUSE}
        if depth.consumers != 0:
            self._alone.pop(queue, None)
            return False
        since, _ = self._alone.get(queue, (now, now))
        self._alone[queue] = since, now
        # A consumer that was cancelled may still be at work on what it has.
        if depth.unacked is None:
            return now - since >= self._idle_handover
        # Nobody can have taken anything since, whatever else came in.
        return depth.unacked == 0 and not (depth.lagging and now - since < _LAG)

    def _is_idle(self, partition: int) -> bool:
        return monotonic() - self._lanes.idle_since(partition) >= self._idle_handover

    async def _idle(self, drain: Drain) -> Released:
        while True:
            idle = tuple(partition for partition in drain.partitions if self._is_idle(partition))
            if idle and await self._has_nothing_ready(drain.hostname):
                self._lanes.lock(idle)
                return Released(drain.handover, partitions=idle)
            await asyncio.sleep(_LONGEST_POLL)


class _Rest:
    """For how long nothing has been on its way to a member, in one session of the router."""

    def __init__(self, lanes: Lanes, hostname: str) -> None:
        self._lanes = lanes
        self._hostname = hostname
        self._mark: tuple[int, int] | None = None
        self._since = 0.0

    @property
    def seconds(self) -> float:
        return monotonic() - self._since

    def holds(self) -> bool:
        """Look; False when something was sent since the last look, or may still be on its way."""
        if not self._lanes.settled(self._hostname):
            self._mark = None
            return False
        mark = (self._lanes.session, self._lanes.published(self._hostname))
        if mark == self._mark:
            return True
        self._mark, self._since = mark, monotonic()
        return False


def _proven(depth: QueueDepth, rest: _Rest) -> bool:
    return depth.empty and not (depth.exists and depth.lagging and rest.seconds < _LAG)
