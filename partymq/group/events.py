"""What goes into the coordinator (events) and what comes out of it (effects).

The order of the effects is binding. `Save` comes first where it is present: nothing may be told to a member
or done to a routing table before the state that says so is safe in the broker.
"""

from dataclasses import dataclass

from partymq.group.state import SetAside
from partymq.group.wire import MemberCall, Status


@dataclass(frozen=True, slots=True)
class Called:
    """A member calls."""

    request_id: str
    call: MemberCall


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. Comes several times a second; a long gap between two means that we were held up."""


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Heartbeats could not reach us until now: nobody is to be held for dead because of that."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the broker says about a member's queue. None: not known.

    `incarnation` is the member's when the question was asked; the answer about an earlier one is void.
    """

    hostname: str
    incarnation: int
    exists: bool
    consumers: int | None = None
    bound: bool | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """The name of a member's queue became known by its binding, or it turned out to be another one."""

    hostname: str
    incarnation: int
    queue: str


@dataclass(frozen=True, slots=True)
class Unroutable:
    """A message for the member came back from the broker."""

    hostname: str
    reason: SetAside


@dataclass(frozen=True, slots=True)
class HoldExhausted:
    """The router can hold no more of what is meant for these members, and others would starve."""

    hostnames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """A hand-over may be completed: the old owner is proven to have finished what it has.

    `leftover` names the queue that still holds messages and has no consumer any more: they are to be
    fetched back; only a `Reclaim` can end like that. `partitions` says for which the proof holds where it
    does not hold for all that the member owns.
    """

    handover: int
    leftover: str | None = None
    partitions: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class PutOff:
    """No proof of draining came in time; the old owner goes on."""

    handover: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Nothing of a leftover is in the member's queue any more."""

    leftover: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """All of a leftover has been routed to its new owners, confirmed."""

    leftover: int


@dataclass(frozen=True, slots=True)
class Resized:
    """The group has another number of partitions; `common`: see `GroupState`."""

    partitions: int
    common: int


@dataclass(frozen=True, slots=True)
class Idle:
    """The owner of a partition of the layout before has nothing of it. Numbers are indices."""

    partition: int


@dataclass(frozen=True, slots=True)
class Occupied:
    """A partition of the layout before that was idle has messages."""

    partition: int


@dataclass(frozen=True, slots=True)
class Retired:
    """A partition of the layout before has no consumer and no message, and none can come."""

    partition: int


@dataclass(frozen=True, slots=True)
class ResizeOver:
    """What was of the layout before is no more."""


Event = (
    Called
    | Tick
    | HeldUp
    | Observed
    | Learned
    | Unroutable
    | HoldExhausted
    | Released
    | PutOff
    | Moved
    | Fetched
    | Resized
    | Idle
    | Occupied
    | Retired
    | ResizeOver
)


@dataclass(frozen=True, slots=True)
class Save:
    """Save the coordinator's state, and wait for the broker's confirm."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a member's call."""

    request_id: str
    status: Status


@dataclass(frozen=True, slots=True)
class Pause:
    """Send the member nothing more; hold what is meant for it."""

    hostname: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Send the member what is held for it, and go on."""

    hostname: str


@dataclass(frozen=True, slots=True)
class GiveWay:
    """Send a paused member what is held for it now; it stays paused. Locked partitions stay held."""

    hostname: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Route partitions to their owners from now on, with what is held for them.

    `locked`: hold them until `Unlock`, a leftover has to be fetched before.
    """

    owners: dict[int, str]
    locked: bool = False


@dataclass(frozen=True, slots=True)
class Unlock:
    """What was held for a leftover may go on."""

    partitions: list[int]


@dataclass(frozen=True, slots=True)
class Drain:
    """Prove that a living member has finished all it has. Ends in `Released` or `PutOff`.

    A queue that is gone is proof only while no other one is bound with the member's key: see `Learned`.

    A member whose queue is known is paused. Where it is not known (`queue` None) nothing can be asked of
    the broker: those of `partitions` that had no message for long enough are released, one by one.
    """

    handover: int
    hostname: str
    queue: str | None
    partitions: list[int]


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Wait until a paused member that left, died or cannot receive has finished, or its queue has no
    consumer. Ends in `Released`.

    `unbind`: the queue is an earlier incarnation's, its binding with the member's key is removed before the
    proof. Otherwise the old queue would go on to get a copy of all that the new one gets.
    """

    handover: int
    hostname: str
    queue: str | None
    partitions: list[int]
    unbind: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up a hand-over: things stay as they are."""

    handover: int


@dataclass(frozen=True, slots=True)
class Move:
    """Move a leftover, in order, from the member's queue to a queue of our own. Ends in `Moved`.

    The queue is consumed exclusively; while somebody else consumes it, wait until it is empty or alone.
    Several may be under way. `unbind`: see `Reclaim`; before anything is moved.
    """

    leftover: int
    queue: str
    hostname: str
    unbind: bool = False


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch a leftover from our own queue, in order, to the owners. Ends in `Fetched`. One at a time."""

    leftover: int


@dataclass(frozen=True, slots=True)
class CancelFetch:
    """Give up moving or fetching: send nothing more; what is on its way is confirmed and acked, the rest
    stays in its queue."""

    leftover: int


@dataclass(frozen=True, slots=True)
class Discard:
    """A leftover's queue of our own is empty and not needed any more."""

    leftover: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The member is no more; partitions that it still has in the routing table have no owner."""

    hostname: str


@dataclass(frozen=True, slots=True)
class Start:
    """There is somebody to route to: consume the source."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Nobody to route to: consume nothing."""


@dataclass(frozen=True, slots=True)
class Remove:
    """All of the layout before is retired: its queues can be removed. Ends in `ResizeOver`."""


Effect = (
    Save
    | Answer
    | Pause
    | Resume
    | GiveWay
    | Assign
    | Unlock
    | Drain
    | Reclaim
    | Cancel
    | Move
    | Fetch
    | CancelFetch
    | Discard
    | Forget
    | Start
    | Stop
    | Remove
)
