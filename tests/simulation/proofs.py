"""Proofs of having finished, as `partymq.coordinator.proofs` finds them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partymq.group import events as ev

if TYPE_CHECKING:
    from tests.simulation.term import Term

DRAIN_TIMEOUT = 3.0
IDLE_HANDOVER = 10.0

Counts = tuple[bool, int, int, int]
"""Whether a queue exists, its ready and unacked messages, its consumers."""


@dataclass(slots=True)
class Handover:
    """A proof being looked for."""

    number: int
    deadline: float
    locked: tuple[int, ...] = ()
    over: bool = False


class Proofs:
    """The hand-overs of a term."""

    def __init__(self, term: "Term") -> None:
        self._term = term
        self._world = term.world
        self._broker = term.broker
        self._management = term.management
        self._timer = term.instance.timer
        self._handovers: dict[int, Handover] = {}
        self._cancelled: set[int] = set()

    def drain(self, drain: ev.Drain) -> None:
        """See `Drain`."""
        self._begin(drain, drain.queue, self._drained, self._idle)

    def reclaim(self, reclaim: ev.Reclaim) -> None:
        """See `Reclaim`."""
        self._begin(reclaim, reclaim.queue, self._reclaimed, self._rested)

    def cancel(self, number: int) -> None:
        """See `Cancel`."""
        self._cancelled.add(number)
        handover = self._handovers.pop(number, None)
        if handover is not None:
            handover.over = True
            self._term.router.unlock(handover.locked)

    def _begin(
        self,
        effect: ev.Drain | ev.Reclaim,
        queue: str | None,
        known: Callable[..., None],
        unknown: Callable[..., None],
    ) -> None:
        handover = Handover(effect.handover, self._world.now + DRAIN_TIMEOUT)
        if effect.handover in self._cancelled or self._term.over:
            return
        self._handovers[effect.handover] = handover
        self._timer(self._world.lag(), known if queue is not None else unknown, handover, effect)

    def _mark(self, hostname: str) -> tuple[int, int] | None:
        router = self._term.router
        return (router.session, router.published(hostname)) if router.settled(hostname) else None

    def _drained(self, handover: Handover, drain: ev.Drain) -> None:
        if handover.over or self._term.over:
            return
        if self._world.now >= handover.deadline:
            self._end(handover, ev.PutOff(drain.handover))
            return
        assert drain.queue is not None
        self._ask(handover, drain.hostname, drain.queue, lambda seen: self._saw_drain(handover, drain, seen))

    def _saw_drain(self, handover: Handover, drain: ev.Drain, seen: Counts | None) -> None:
        if seen is not None and seen[1] + seen[2] == 0:
            self._end(handover, ev.Released(drain.handover))
        else:
            self._timer(0.1, self._drained, handover, drain)

    def _reclaimed(self, handover: Handover, reclaim: ev.Reclaim) -> None:
        if handover.over or self._term.over:
            return
        assert reclaim.queue is not None
        self._ask(
            handover, reclaim.hostname, reclaim.queue, lambda seen: self._saw_reclaim(handover, reclaim, seen)
        )

    def _saw_reclaim(self, handover: Handover, reclaim: ev.Reclaim, seen: Counts | None) -> None:
        if seen is not None:
            exists, ready, unacked, consumers = seen
            if not exists or ready + unacked == 0:
                self._end(handover, ev.Released(reclaim.handover))
                return
            if consumers == 0 and unacked == 0:
                self._end(handover, ev.Released(reclaim.handover, leftover=reclaim.queue))
                return
        self._timer(0.1, self._reclaimed, handover, reclaim)

    def _ask(
        self,
        handover: Handover,
        hostname: str,
        queue: str,
        then: Callable[[Counts | None], None],
    ) -> None:
        """The queue's depth, sampled while nothing was on its way to the member."""
        before = self._mark(hostname)
        if before is None or not self._management.sighted:
            self._timer(self._world.lag(), self._answered, handover, None, then)
            return
        self._timer(self._world.lag(), self._sample, handover, hostname, queue, before, then)

    def _sample(
        self,
        handover: Handover,
        hostname: str,
        queue: str,
        before: tuple[int, int],
        then: Callable[[Counts | None], None],
    ) -> None:
        seen = self._broker.look(queue)
        counts = (seen.exists, seen.ready, seen.unacked, seen.consumers)
        member = self._term.coordinator.state.members.get(hostname)
        if not seen.exists and member is not None and member.queue == queue:
            other = self._term.successor_of(hostname)
            if other is not None:
                self._term.later(ev.Learned(hostname, member.incarnation, other))
                counts = (True, 0, 1, 1)
        delay = self._world.lag() + self._management.slow
        self._timer(delay, self._compare, handover, hostname, before, counts, then)

    def _compare(
        self,
        handover: Handover,
        hostname: str,
        before: tuple[int, int],
        counts: Counts,
        then: Callable[[Counts | None], None],
    ) -> None:
        self._answered(handover, counts if self._mark(hostname) == before else None, then)

    def _answered(
        self,
        handover: Handover,
        seen: Counts | None,
        then: Callable[[Counts | None], None],
    ) -> None:
        if not handover.over and not self._term.over:
            then(seen)

    def _idle(self, handover: Handover, drain: ev.Drain) -> None:
        if handover.over or self._term.over:
            return
        now = self._world.now
        idle = tuple(p for p in drain.partitions if now - self._term.router.idle_since(p) >= IDLE_HANDOVER)
        if not idle:
            self._timer(0.25, self._idle, handover, drain)
            return
        self._term.router.lock(idle)
        handover.locked = idle
        self._term.happened(ev.Released(drain.handover, partitions=idle))

    def _rested(self, handover: Handover, reclaim: ev.Reclaim) -> None:
        if handover.over or self._term.over:
            return
        last = max((self._term.router.idle_since(p) for p in reclaim.partitions), default=0.0)
        if self._world.now - last >= IDLE_HANDOVER:
            self._end(handover, ev.Released(reclaim.handover))
        else:
            self._timer(0.25, self._rested, handover, reclaim)

    def _end(self, handover: Handover, event: ev.Event) -> None:
        handover.over = True
        self._handovers.pop(handover.number, None)
        self._term.happened(event)
