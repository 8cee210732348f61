"""What each member of a pull group is told: the coordinator's effects, folded into one assignment a member.

Pure. The state says who owns what; the hand-overs under way say what the owner has to give up first. An
assignment is always the whole truth, so that one that is lost, late or sent twice does no harm.
"""

from collections.abc import Collection
from dataclasses import dataclass

from partymq.group.events import Cancel, Drain, Effect, Event, Reclaim, Released
from partymq.group.state import GroupState, MemberState
from partymq.group.wire import Assignment, Standing

_ANSWERED = frozenset({MemberState.READY, MemberState.LEAVING})
"""States of members that consume: one that is bound but not ready has no queue to be told in yet."""


@dataclass(frozen=True, slots=True)
class _Revoked:
    hostname: str
    partitions: tuple[int, ...]
    all: bool = False


class Assignments:
    """The hand-overs that wait for a member's word, and what follows for the assignments."""

    def __init__(self, state: GroupState, epoch: int) -> None:
        self._state = state
        self._epoch = epoch
        self._revoked: dict[int, _Revoked] = {}

    def __repr__(self) -> str:
        return f"<Assignments epoch={self._epoch} revoked={self._revoked}>"

    def take(self, effect: Effect) -> bool:
        """Note an effect; whether a hand-over is completed without a word from its member.

        That is so where the owner is dead, or where an earlier process of the same name is meant: the queues
        of the partitions have a single active consumer, so the broker keeps the next owner waiting until the
        old one's connection is gone.
        """
        match effect:
            case Drain():
                self._revoked[effect.handover] = _Revoked(effect.hostname, tuple(effect.partitions))
            case Reclaim():
                member = self._state.members[effect.hostname]
                if member.state is not MemberState.LEAVING or member.queue != effect.queue:
                    return True
                self._revoked[effect.handover] = _Revoked(effect.hostname, tuple(effect.partitions), all=True)
            case Cancel(number):
                self._revoked.pop(number, None)
        return False

    def completes(self, hostname: str, handover: int, given: Collection[int] | None = None) -> list[Released]:
        """What a member's word means that it has given up what it was to; hand-over 0 means all of it.

        `given`: the ids of what it has given up of that hand-over, None for all. The partitions stay out of
        its assignment until the coordinator has taken note (`done`); for the rest of a hand-over it begins
        another one.
        """
        completed = []
        for number, revoked in self._revoked.items():
            if revoked.hostname != hostname or handover not in (0, number):
                continue
            part = tuple(n for n in revoked.partitions if given is None or self._state.id_of(n) in given)
            if len(part) == len(revoked.partitions):
                # Of a leaving member all goes, even what it got at the very end.
                completed.append(Released(number, partitions=None if revoked.all else part))
            elif part:
                completed.append(Released(number, partitions=part))
        return completed

    def done(self, event: Event) -> None:
        """The coordinator has handled this event."""
        if isinstance(event, Released):
            self._revoked.pop(event.handover, None)

    def recipients(self) -> dict[str, str]:
        """Members that are to be told, with their control queues."""
        return {
            name: member.queue
            for name, member in self._state.members.items()
            if member.state in _ANSWERED and member.queue is not None
        }

    def all(self) -> dict[str, Assignment]:
        """The assignment of every recipient."""
        owned: dict[str, dict[int, int]] = {name: {} for name in self.recipients()}
        state = self._state
        retiring: dict[str, list[int]] = {name: [] for name in owned}
        for number, partition in enumerate(state.partitions):
            if partition.owner in owned:
                owned[partition.owner][state.id_of(number)] = partition.fencing_token
                if number < state.retiring:
                    retiring[partition.owner].append(state.id_of(number))
        revoke: dict[str, dict[int, list[int]]] = {name: {} for name in owned}
        for handover, revoked in self._revoked.items():
            if revoked.hostname in owned:
                ids = [state.id_of(number) for number in revoked.partitions]
                revoke[revoked.hostname][handover] = ids
                for identity in ids:
                    owned[revoked.hostname].pop(identity, None)
        return {name: self._made(owned[name], revoke[name], retiring=retiring[name]) for name in owned}

    def refusal(self, hostname: str, queue: str) -> Assignment:
        """The answer to a process that is not the member it says it is."""
        member = self._state.members.get(hostname)
        taken = member is not None and member.state is MemberState.READY and member.queue != queue
        return self._made({}, {}, Standing.REPLACED if taken else Standing.UNKNOWN)

    def _made(
        self,
        partitions: dict[int, int],
        revoke: dict[int, list[int]],
        standing: Standing = Standing.MEMBER,
        retiring: Collection[int] = (),
    ) -> Assignment:
        ending = [identity for identity in retiring if identity in partitions]
        return Assignment(
            self._epoch,
            self._state.generation,
            standing,
            partitions,
            revoke,
            ending,
            piecewise=True,
            answers=0.0,
        )
