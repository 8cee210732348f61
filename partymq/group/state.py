"""The state of a group that is saved in the broker, and the life of a member as a table.

A member's life (`TRANSITIONS`):

    bind ─► pending ─ready─► ready ─unbind─► leaving ─┐
                              │ ▲ └─expire─► lost ────┤ its partitions are
                        bind  ▼ │ ready               │ handed over, then
                            rebinding      set_aside ─┘ it is forgotten

`rebinding` is a member whose pod restarted under the same name: it keeps its partitions, gets nothing until
it is ready again. `set_aside` is one that cannot receive now (queue missing, no consumer): its partitions go
to others, it becomes ready again when the cause is gone.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from partymq.group.names import layout_and_number, partition_id


class MemberState(StrEnum):
    """Where a member is in its life."""

    PENDING = "pending"
    READY = "ready"
    REBINDING = "rebinding"
    SET_ASIDE = "set_aside"
    LEAVING = "leaving"
    LOST = "lost"


class Step(StrEnum):
    """What can happen to a member."""

    BIND = "bind"
    READY = "ready"
    UNBIND = "unbind"
    EXPIRE = "expire"
    SET_ASIDE = "set_aside"
    RECOVER = "recover"


_S, _T = MemberState, Step

TRANSITIONS: dict[tuple[MemberState, Step], MemberState] = {
    (_S.PENDING, _T.READY): _S.READY,
    (_S.PENDING, _T.UNBIND): _S.LEAVING,
    (_S.PENDING, _T.EXPIRE): _S.LOST,
    (_S.READY, _T.BIND): _S.REBINDING,
    (_S.READY, _T.UNBIND): _S.LEAVING,
    (_S.READY, _T.EXPIRE): _S.LOST,
    (_S.READY, _T.SET_ASIDE): _S.SET_ASIDE,
    (_S.REBINDING, _T.READY): _S.READY,
    (_S.REBINDING, _T.UNBIND): _S.LEAVING,
    (_S.REBINDING, _T.EXPIRE): _S.LOST,
    (_S.SET_ASIDE, _T.RECOVER): _S.READY,
    (_S.SET_ASIDE, _T.READY): _S.READY,
    (_S.SET_ASIDE, _T.BIND): _S.REBINDING,
    (_S.SET_ASIDE, _T.UNBIND): _S.LEAVING,
    (_S.SET_ASIDE, _T.EXPIRE): _S.LOST,
    (_S.LEAVING, _T.BIND): _S.REBINDING,
    (_S.LEAVING, _T.UNBIND): _S.LEAVING,
    (_S.LOST, _T.BIND): _S.REBINDING,
    (_S.LOST, _T.UNBIND): _S.LEAVING,
}
"""A pair that is not in the table is not allowed, and leaves the member as it was."""

GONE = frozenset({MemberState.LEAVING, MemberState.LOST})
"""States of members that are forgotten as soon as they own nothing."""

OWNING = frozenset({MemberState.READY, MemberState.REBINDING})
"""States of members that keep what they own."""


class SetAside(StrEnum):
    """Why a member was set aside."""

    NONE = ""
    RETURNED = "its queue is missing or not bound to the exchange"
    REJECTED = "its queue refused a message"
    NO_CONSUMER = "its queue has no consumer"


class Member(msgspec.Struct, omit_defaults=True):
    """One consumer process, named by its hostname."""

    hostname: str
    state: MemberState
    since: float
    """Wall-clock seconds (Unix) at which it entered the state."""
    incarnation: int = 1
    queue: str | None = None
    """Its queue's name, where it is known."""
    old_queues: list[str] = msgspec.field(default_factory=list)
    """Queues that were its before and have not been proven empty yet, the newest last.

    While `queue` is not known it may be one of them."""
    reason: SetAside = SetAside.NONE
    session_timeout: float = 0.0
    """Seconds without a word after which it is dead; 0 = it did not say."""
    rejoin_grace: float = 0.0
    """Seconds that it may take to come back under its name; counts where it has said its timeout."""
    bind_request: str = ""
    ready_request: str = ""
    unbind_request: str = ""


class Partition(msgspec.Struct, omit_defaults=True):
    """Who owns a partition, and since which generation (the fencing token)."""

    owner: str | None = None
    fencing_token: int = 0
    incarnation: int = 0
    """The owner's when it got the token."""
    retired: bool = False
    """It is of an earlier layout, empty, and nothing comes there any more."""


class Leftover(msgspec.Struct, omit_defaults=True):
    """What a member left in its queue; it goes to the new owners ahead of everything newer of `partitions`.

    First it is moved to a queue of our own, which nobody else consumes (`moved`), then fetched from there.
    """

    number: int
    hostname: str
    queue: str
    """The member's."""
    partitions: list[int]
    moved: bool = False


class GroupState(msgspec.Struct):
    """All that a new coordinator has to know."""

    partitions: list[Partition]
    members: dict[str, Member] = msgspec.field(default_factory=dict)
    leftovers: list[Leftover] = msgspec.field(default_factory=list)
    """In the order in which they arose. They are fetched newest first: where two hold messages of one
    partition, the newer one was being filled from the older one and so holds the older messages."""
    generation: int = 0
    layout: int = 1
    """Number of the set of queues that the partitions are; of pull groups."""
    retiring: int = 0
    """So many of `partitions`, the first ones, are those of the layout before: the group is being resized."""
    common: int = 1
    """A partition waits for those of the layout before that are the same as it modulo this."""

    @classmethod
    def new(cls, partitions: int, layout: int = 1) -> "GroupState":
        """The state of a group that never had a member."""
        return cls(partitions=[Partition() for _ in range(partitions)], layout=layout)

    def resize(self, partitions: int, common: int) -> None:
        """Begin with the next layout; the partitions of the present one are to be emptied first."""
        self.retiring = len(self.partitions)
        self.common = common
        self.layout += 1
        self.partitions += [Partition() for _ in range(partitions)]

    def resized(self) -> None:
        """All of the layout before is retired: it is forgotten."""
        del self.partitions[: self.retiring]
        self.retiring, self.common = 0, 1

    @property
    def all_retired(self) -> bool:
        """Whether there is a layout before, and all of it is retired."""
        return self.retiring > 0 and all(one.retired for one in self.partitions[: self.retiring])

    def waiting(self) -> list[int]:
        """Indices of partitions that wait for some of the layout before."""
        open_ones = {
            number % self.common for number in range(self.retiring) if not self.partitions[number].retired
        }
        return [
            number
            for number in range(self.retiring, len(self.partitions))
            if (number - self.retiring) % self.common in open_ones
        ]

    def id_of(self, number: int) -> int:
        """Of the partition with this index: what it is called in assignments, over all layouts."""
        if number < self.retiring:
            return partition_id(self.layout - 1, number)
        return partition_id(self.layout, number - self.retiring)

    def index_of(self, identity: int) -> int | None:
        """Inverse of `id_of`; None where it is of no present layout."""
        layout, number = layout_and_number(identity)
        if layout == self.layout and number < len(self.partitions) - self.retiring:
            return self.retiring + number
        if layout == self.layout - 1 and number < self.retiring:
            return number
        return None

    def give(self, owners: Mapping[int, str | None]) -> None:
        """Partitions have other owners from now on, in a new generation."""
        self.generation += 1
        for number, owner in owners.items():
            partition = self.partitions[number]
            partition.owner = owner
            partition.fencing_token = self.generation
            partition.incarnation = self.members[owner].incarnation if owner is not None else 0

    def renew_tokens(self, hostname: str) -> None:
        """A new incarnation is another process: what the old one still does must be told from it."""
        member = self.members.get(hostname)
        if member is None or member.state is not MemberState.READY:
            return
        owned = self.owned_by(hostname)
        stale = [number for number in owned if self.partitions[number].incarnation != member.incarnation]
        if stale:
            self.give(dict.fromkeys(stale, hostname))

    def owned_by(self, hostname: str) -> list[int]:
        """Numbers of the partitions that the member owns."""
        return [number for number, partition in enumerate(self.partitions) if partition.owner == hostname]
