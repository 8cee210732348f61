"""What members ask the coordinator, and what it answers: the messages on the coordinator queue.

JSON, so that they can be read in the broker's management pages. Unknown fields are ignored, so that instances
of neighbouring versions can work side by side.
"""

from enum import StrEnum
from typing import Any

import msgspec


class Status(StrEnum):
    """Outcome of a call."""

    OK = "ok"
    ALREADY_PENDING = "already_pending"
    NOT_BOUND = "not_bound"
    ALREADY_READY = "already_ready"
    UNKNOWN_MEMBER = "unknown_member"
    GROUP_FULL = "group_full"


class Bind(msgspec.Struct, frozen=True, tag="bind"):
    """A member announces itself.

    With `queue`, its control queue, a member of a pull group says farewell and that it will come back; the
    next process of its name may have joined already when that arrives, and is not meant.
    """

    hostname: str
    queue: str | None = None


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A bound member can receive from now on. `queue`: the name of its queue, where it says so.

    A member of a pull group says, too, after how many seconds without a word it is to be taken for dead, and
    how many it may take to come back under its name before others get its partitions.
    """

    hostname: str
    queue: str | None = None
    session_timeout: float = 0.0
    rejoin_grace: float = 0.0


class Unbind(msgspec.Struct, frozen=True, tag="unbind"):
    """A member leaves. `queue`: the control queue of a member of a pull group, as in `Bind`."""

    hostname: str
    queue: str | None = None


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """A member is alive.

    Of a pull group it says, too, the last assignment that it knows, and its control queue: that tells it from
    another process of the same name; and which of the partitions that are retiring it has nothing of.

    `asked`: when it said so, in seconds of its own clock: the answer repeats it (`Assignment.answers`).
    """

    hostname: str
    epoch: int = 0
    generation: int = 0
    queue: str | None = None
    idle: tuple[int, ...] = ()
    asked: float = 0.0


class Released(msgspec.Struct, frozen=True, tag="released"):
    """A member of a pull group does not consume these partitions any more, and all it had is settled.

    `handover`: which one that completes, or a part of, where the assignment was `piecewise`; 0 for whichever
    it is in, whole. `epoch`: of the coordinator that asked for it, as the next one counts its hand-overs from
    1 again.
    """

    hostname: str
    queue: str
    handover: int
    partitions: tuple[int, ...]
    epoch: int = 0


class Describe(msgspec.Struct, frozen=True, tag="describe"):
    """Somebody wants to see the group."""


MemberCall = Bind | Ready | Unbind | Heartbeat


def is_farewell(call: MemberCall) -> bool:
    """Whether a member says with it that it goes."""
    return isinstance(call, Unbind) or (isinstance(call, Bind) and call.queue is not None)


Call = MemberCall | Released | Describe


class Command(msgspec.Struct, frozen=True):
    """A call on its way to the coordinator.

    `request_id` is the same when a call is sent again, so that its first answer can be given again.
    """

    request_id: str
    call: Call


class Reply(msgspec.Struct, frozen=True):
    """The answer. `description` only for `Describe`."""

    request_id: str
    status: Status
    description: dict[str, Any] | None = None


class Standing(StrEnum):
    """What the coordinator takes the recipient of an assignment for."""

    MEMBER = "member"
    UNKNOWN = "unknown"
    """No member (any more): it has to bind again."""
    REPLACED = "replaced"
    """Another process has joined under its name."""


class Assignment(msgspec.Struct, frozen=True, tag="assignment"):
    """What a member of a pull group has to consume: always the whole truth, to its control queue.

    Sent with every change, as answer to each heartbeat, and to find out whether the member is there at all.

    Attributes:
        standing: other than `member`, nothing is the recipient's own.
        epoch: the coordinator's term; what has a lower one than was seen before is void.
        generation: of the group's state, for people.
        partitions: fencing tokens by number.
        revoke: partitions to give up, by hand-over; each is answered with `Released`.
        retiring: those of `partitions` that are of the layout before: the coordinator is to be told when
            there is nothing of them. All partitions go by their ids, see `group.names.partition_id`.
        piecewise: the coordinator understands a `Released` of some of a hand-over's partitions.
        answers: `asked` of the heartbeat that this answers, 0 where it answers none; None from a coordinator
            that does not say.
    """

    epoch: int
    generation: int
    standing: Standing = Standing.MEMBER
    partitions: dict[int, int] = {}
    revoke: dict[int, list[int]] = {}
    retiring: list[int] = []
    piecewise: bool = False
    answers: float | None = None


_COMMAND = msgspec.json.Decoder(Command)
_REPLY = msgspec.json.Decoder(Reply)


_ASSIGNMENT = msgspec.json.Decoder(Assignment)


def encode(message: Command | Reply | Assignment) -> bytes:
    """A message as JSON."""
    return msgspec.json.encode(message)


def decode_command(payload: bytes) -> Command:
    """Raises msgspec.DecodeError (of which ValidationError is one) where it is no command."""
    return _COMMAND.decode(payload)


def decode_reply(payload: bytes) -> Reply:
    """Raises msgspec.DecodeError (of which ValidationError is one) where it is no reply."""
    return _REPLY.decode(payload)


def decode_assignment(payload: bytes) -> Assignment:
    """Raises msgspec.DecodeError (of which ValidationError is one) where it is no assignment."""
    return _ASSIGNMENT.decode(payload)
