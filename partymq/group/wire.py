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
    """A member announces itself."""

    hostname: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A bound member can receive from now on. `queue`: the name of its queue, where it says so."""

    hostname: str
    queue: str | None = None


class Unbind(msgspec.Struct, frozen=True, tag="unbind"):
    """A member leaves."""

    hostname: str


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """A member is alive."""

    hostname: str


class Describe(msgspec.Struct, frozen=True, tag="describe"):
    """Somebody wants to see the group."""


MemberCall = Bind | Ready | Unbind | Heartbeat
Call = MemberCall | Describe


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


_COMMAND = msgspec.json.Decoder(Command)
_REPLY = msgspec.json.Decoder(Reply)


def encode(message: Command | Reply) -> bytes:
    """A message as JSON."""
    return msgspec.json.encode(message)


def decode_command(payload: bytes) -> Command:
    """Raises msgspec.DecodeError (of which ValidationError is one) where it is no command."""
    return _COMMAND.decode(payload)


def decode_reply(payload: bytes) -> Reply:
    """Raises msgspec.DecodeError (of which ValidationError is one) where it is no reply."""
    return _REPLY.decode(payload)
