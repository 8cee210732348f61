"""What goes into the coordinator (events) and what comes out of it (effects).

The order of the effects is binding. `Save` comes first where it is present: nothing may be told to a member
or done to a routing table before the state that says so is safe in the broker.
"""

from dataclasses import dataclass
from enum import StrEnum

from partymq.group.state import SetAside


class Status(StrEnum):
    """Outcome of a member's call."""

    OK = "ok"
    ALREADY_PENDING = "already_pending"
    NOT_BOUND = "not_bound"
    ALREADY_READY = "already_ready"
    UNKNOWN_MEMBER = "unknown_member"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Bind:
    """A member announces itself."""

    hostname: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Ready:
    """A bound member can receive from now on."""

    hostname: str
    request_id: str
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Unbind:
    """A member leaves."""

    hostname: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A member is alive."""

    hostname: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the broker says about a member's queue. None: not known."""

    hostname: str
    exists: bool
    consumers: int | None = None
    bound: bool | None = None


@dataclass(frozen=True, slots=True)
class Unroutable:
    """A message for the member came back from the broker."""

    hostname: str
    reason: SetAside


@dataclass(frozen=True, slots=True)
class Released:
    """A hand-over may be completed: the old owner is proven to have finished what it has.

    `leftover` names the queue that still holds messages and has no consumer any more: they are to be
    fetched back. Only a `Reclaim` can end like that.
    """

    handover: int
    leftover: str | None = None


@dataclass(frozen=True, slots=True)
class PutOff:
    """No proof of draining came in time; the old owner goes on."""

    handover: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """All of a leftover has been routed to its new owners, confirmed."""

    leftover: int


Event = Bind | Ready | Unbind | Heartbeat | Tick | Observed | Unroutable | Released | PutOff | Fetched


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
    """Prove that a paused, living member has finished all it has. Ends in `Released` or `PutOff`."""

    handover: int
    hostname: str
    queue: str | None
    partitions: list[int]


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Wait until a paused member that left, died or cannot receive has finished, or its queue has no consumer.

    Ends in `Released`.
    """

    handover: int
    hostname: str
    queue: str | None
    partitions: list[int]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up a hand-over: things stay as they are."""

    handover: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch a leftover back, in order, to the owners. Replaces one under way. Ends in `Fetched`."""

    leftover: int
    queue: str
    hostname: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The member is no more."""

    hostname: str


@dataclass(frozen=True, slots=True)
class Start:
    """There is somebody to route to: consume the source."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Nobody to route to: consume nothing."""


Effect = (
    Save
    | Answer
    | Pause
    | Resume
    | Assign
    | Unlock
    | Drain
    | Reclaim
    | Cancel
    | Fetch
    | Forget
    | Start
    | Stop
)
