"""What members left in their queues, and its way to the new owners of the partitions.

    add ─► Move ─► moved ─► Fetch ─► fetched ─► Unlock, Discard

It goes by a queue of our own, because its member may come back and consume its queue again, at once and
without asking: `Move` takes it out of there whether or not anybody can receive it, and until that is done the
member gets nothing. `Fetch` waits for the owners. The newest leftover of a partition goes first: it was being
filled from the older one, so it holds the older messages.
"""

from collections.abc import Callable

from partymq.group.events import CancelFetch, Discard, Effect, Fetch, Move, Unlock
from partymq.group.state import GroupState, Leftover, Member


class Leftovers:
    """The leftovers of a group, in one term. Sets `changed` whenever there is something to save."""

    def __init__(self, state: GroupState) -> None:
        self._state = state
        self._moving: dict[int, bool] = {}
        """Those being moved, and whether their queues are unbound first."""
        self._fetching: int | None = None
        self.changed = False

    def add(self, hostname: str, queue: str, partitions: list[int]) -> None:
        """A member has left something in its queue, of these partitions at most."""
        self.changed = True
        for leftover in self._state.leftovers:
            if leftover.queue == queue and not leftover.moved:
                # Still the same one: nothing was sent there since.
                leftover.partitions = sorted({*leftover.partitions, *partitions})
                return
        self._state.generation += 1
        self._state.leftovers.append(Leftover(self._state.generation, hostname, queue, partitions))

    def moved(self, number: int) -> bool:
        """Nothing of it is in the member's queue any more; False where that is no news."""
        leftover = self._find(number)
        if leftover is None or number not in self._moving:
            return False
        del self._moving[number]
        leftover.moved = self.changed = True
        return True

    def fetched(self, number: int) -> list[Effect]:
        """All of it is with its new owners. Nothing follows where that is no news."""
        done = self._find(number)
        if done is None or self._fetching != number:
            return []
        self._state.leftovers.remove(done)
        self._fetching = None
        self.changed = True
        still_locked = self.locked()
        freed = [partition for partition in done.partitions if partition not in still_locked]
        return [*([Unlock(freed)] if freed else []), Discard(number)]

    def locked(self) -> set[int]:
        """Partitions of which something older has to come first."""
        return {number for leftover in self._state.leftovers for number in leftover.partitions}

    def hinder(self, member: Member) -> bool:
        """Whether one may lie in the member's own queue: what it got now would be moved away with it."""
        return any(
            not left.moved and (left.hostname == member.hostname or left.queue == member.queue)
            for left in self._state.leftovers
        )

    def work(self, fetch: bool, receives: Callable[[Member], bool]) -> list[Effect]:
        """Move and fetch them, and give up what can't be gone on with.

        Args:
            fetch: whether anything may be fetched.
            receives: whether something can be sent to a member now.
        """
        return [*self._move(), *self._fetch(self._next(receives) if fetch else None)]

    def _find(self, number: int) -> Leftover | None:
        return next((left for left in self._state.leftovers if left.number == number), None)

    def _move(self) -> list[Effect]:
        effects: list[Effect] = []
        unmoved = [left for left in self._state.leftovers if not left.moved]
        unbind = {left.number: self._has_other_queue(left) for left in unmoved}
        for number in [number for number, done in self._moving.items() if unbind.get(number) != done]:
            del self._moving[number]
            effects.append(CancelFetch(number))
        for left in unmoved:
            if left.number not in self._moving:
                self._moving[left.number] = unbind[left.number]
                effects.append(Move(left.number, left.queue, left.hostname, unbind[left.number]))
        return effects

    def _has_other_queue(self, leftover: Leftover) -> bool:
        """Whether the member that left it is here again, with another queue."""
        member = self._state.members.get(leftover.hostname)
        return member is not None and member.queue not in (None, leftover.queue)

    def _fetch(self, wanted: int | None) -> list[Effect]:
        effects: list[Effect] = []
        if self._fetching is not None and wanted != self._fetching:
            effects.append(CancelFetch(self._fetching))
            self._fetching = None
        if wanted is not None and self._fetching is None:
            self._fetching = wanted
            effects.append(Fetch(wanted))
        return effects

    def _next(self, receives: Callable[[Member], bool]) -> int | None:
        """One that its owners can receive now, and with nothing newer for the same partitions."""
        waiting: set[int] = set()
        possible: list[int] = []
        members, partitions = self._state.members, self._state.partitions
        for leftover in reversed(self._state.leftovers):
            owners = [partitions[number].owner for number in leftover.partitions]
            if (
                leftover.moved
                and waiting.isdisjoint(leftover.partitions)
                and all(owner is not None and receives(members[owner]) for owner in owners)
            ):
                possible.append(leftover.number)
            waiting.update(leftover.partitions)
        if self._fetching in possible:
            return self._fetching
        return possible[0] if possible else None
