"""Hand-overs: which ones there should be, and those under way.

Pure. A member is in one at most. It is for a purpose, and goes on for as long as that is the same: another
purpose needs another proof, so a new hand-over.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from partymq.group.events import Cancel, Drain, Effect, Reclaim
from partymq.group.membership import Membership
from partymq.group.state import OWNING, GroupState, Member, MemberState


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a hand-over is for. `queue` is the one whose emptiness is to be proven.

    `old_incarnation`: of the member's own earlier self, whose queue it is.
    """

    queue: str | None
    reclaim: bool
    old_incarnation: bool = False
    unbind: bool = False


@dataclass(frozen=True, slots=True)
class Handover:
    """A hand-over under way."""

    number: int
    hostname: str
    purpose: Purpose
    partitions: frozenset[int]

    @property
    def reclaim(self) -> bool:
        """Whether its owner is not one to go on."""
        return self.purpose.reclaim


class Handovers:
    """The hand-overs of a group, in one term.

    Attributes:
        piecewise: whether each partition of a hand-over is given up by itself. Else all that its owner has
            stands still until it is over.
    """

    def __init__(self, state: GroupState, membership: Membership) -> None:
        self._state = state
        self._membership = membership
        self._under_way: dict[str, Handover] = {}
        self._count = 0
        self.piecewise = False

    def __iter__(self) -> Iterator[Handover]:
        return iter(self._under_way.values())

    def __len__(self) -> int:
        return len(self._under_way)

    def of(self, hostname: str) -> Handover | None:
        """The one that a member is in."""
        return self._under_way.get(hostname)

    def numbered(self, number: int) -> Handover | None:
        """The one with this number."""
        return next((handover for handover in self if handover.number == number), None)

    def completed(self, handover: Handover) -> None:
        """Its proof is there."""
        del self._under_way[handover.hostname]

    def cancel(self, hostname: str) -> list[Effect]:
        """Give up the one that a member is in, if it is in one."""
        handover = self._under_way.pop(hostname, None)
        return [] if handover is None else [Cancel(handover.number)]

    def cancel_all(self) -> list[Effect]:
        """Give up every one."""
        return [effect for hostname in list(self._under_way) for effect in self.cancel(hostname)]

    def plan(
        self,
        targets: Sequence[str | None],
        locked: Collection[int],
        now: float,
        *,
        sighted: bool,
        settled: bool,
    ) -> tuple[list[Effect], list[Effect]]:
        """Give up those that are not wanted any more, and begin those that are.

        Args:
            targets: the owner that each partition should have.
            locked: partitions that do not move while their owner is well.
            sighted: whether it can be seen what a member has not acked.
            settled: whether no further members are waited for.

        Returns what gives up and what begins; in between, members that are to have nothing more are paused.
        """
        owned: dict[str, list[int]] = {}
        moving: dict[str, list[int]] = {}
        for number, (partition, target) in enumerate(zip(self._state.partitions, targets, strict=True)):
            if partition.owner is None:
                continue
            owned.setdefault(partition.owner, []).append(number)
            if target != partition.owner and number not in locked:
                moving.setdefault(partition.owner, []).append(number)

        given_up: list[Effect] = []
        begun: list[Effect] = []
        old = [name for name, member in self._state.members.items() if member.old_queues]
        for hostname in dict.fromkeys([*owned, *old, *self._under_way]):
            member = self._state.members[hostname]
            mine, to_move = owned.get(hostname, []), moving.get(hostname, [])
            wanted = self._wanted(member, mine, to_move, now, sighted)
            current = self._under_way.get(hostname)
            if current is not None:
                if wanted == current.purpose and not (settled and self._has_grown(current, to_move)):
                    continue
                given_up += self.cancel(hostname)
            if wanted is None or now < self._membership.watches[hostname].drain_at:
                continue
            if wanted.reclaim or settled:
                begun.append(self._begin(hostname, wanted, mine if wanted.reclaim else to_move))
        return given_up, begun

    def _begin(self, hostname: str, purpose: Purpose, partitions: list[int]) -> Effect:
        self._count += 1
        number = self._count
        self._under_way[hostname] = Handover(number, hostname, purpose, frozenset(partitions))
        if purpose.reclaim:
            return Reclaim(number, hostname, purpose.queue, partitions, purpose.unbind)
        return Drain(number, hostname, purpose.queue, partitions)

    def _has_grown(self, handover: Handover, to_move: Iterable[int]) -> bool:
        """Whether more is to move than was asked for, and need not wait for the rest."""
        return self.piecewise and not handover.reclaim and not handover.partitions.issuperset(to_move)

    def _wanted(
        self, member: Member, mine: list[int], to_move: list[int], now: float, sighted: bool
    ) -> Purpose | None:
        """The hand-over that a member should be in."""
        if member.old_queues and (mine or member.state in OWNING):
            if member.state is MemberState.REBINDING:
                return None  # it may be the same queue again
            if member.queue is None and self._membership.may_become_known(member, now):
                return None
            unbind = member.queue is not None
            # The newest first: leftovers are fetched the other way round.
            return Purpose(member.old_queues[-1], reclaim=True, old_incarnation=True, unbind=unbind)
        if member.state is MemberState.READY:
            # A living member is not paused for a proof that can't be had: its partitions move when idle.
            return Purpose(member.queue if sighted else None, reclaim=False) if to_move else None
        if member.state is MemberState.REBINDING or not mine:
            return None
        return Purpose(member.queue, reclaim=True)
