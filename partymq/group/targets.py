"""Which members can be given partitions now, and which partition each should have.

Pure; it changes nothing. That a partition moves to its target is a matter of hand-overs.
"""

from collections.abc import Collection

from partymq.group.assignor import assign
from partymq.group.leftovers import Leftovers
from partymq.group.membership import Membership
from partymq.group.state import OWNING, GroupState, Member, MemberState


class Targets:
    """Who should own what in a group.

    Attributes:
        sighted: whether it can be seen what a member has not acked.
    """

    def __init__(self, state: GroupState, membership: Membership, leftovers: Leftovers) -> None:
        self._state = state
        self._membership = membership
        self._leftovers = leftovers
        self.sighted = True

    def receives(self, member: Member, now: float) -> bool:
        """Whether something can be sent to the member now."""
        return (
            member.state is MemberState.READY
            and not member.old_queues
            and not self._leftovers.hinder(member)
            and self._knows_queue(member, now)
        )

    def _knows_queue(self, member: Member, now: float) -> bool:
        """Whether the name of its queue is known, or is not to be had.

        What is sent to a queue of unknown name can't be followed up, so it is worth waiting a little for.
        """
        return (
            member.queue is not None or not self.sighted or not self._membership.may_become_known(member, now)
        )

    def eligible(self, now: float) -> set[str]:
        """Members that can be given partitions now."""
        return {name for name, member in self._state.members.items() if self.receives(member, now)}

    def plan(self, now: float, emptied: Collection[int]) -> list[str | None]:
        """The owner that each partition should have, None where nobody can have it.

        A member that restarts, or that can't be sent anything before an older queue is done with, keeps what
        it has; all others share the rest.

        Args:
            emptied: partitions of the layout before that nobody is to consume for the time being.
        """
        state, partitions = self._state, self._state.partitions
        eligible = self.eligible(now)
        keeps = {
            name for name, member in state.members.items() if name not in eligible and member.state in OWNING
        }
        plan: list[str | None] = [p.owner if p.owner in keeps else None for p in partitions]
        retiring = state.retiring
        for number in range(retiring):
            # Soon empty: balancing them is not worth a move.
            if partitions[number].owner in eligible:
                plan[number] = partitions[number].owner
        for some in (range(retiring), range(retiring, len(partitions))):
            # What has moved last moves first, so that not always the same ones do.
            free = sorted(
                (number for number in some if plan[number] is None and not partitions[number].retired),
                key=lambda number: partitions[number].fencing_token,
            )
            shared = assign(len(free), [partitions[number].owner for number in free], eligible)
            for number, owner in zip(free, shared, strict=True):
                plan[number] = owner
        if retiring:
            for number in (*emptied, *state.waiting()):
                plan[number] = None
        return plan
