"""What the router tells its coordinator, and what the coordinator tells it about members' queues.

Events are handed to the `on_event` function synchronously, from the event loop, in the order in which things
happened. A router's commands may be called from there.
"""

from dataclasses import dataclass

from partymq.group.state import SetAside


@dataclass(frozen=True, slots=True)
class Depth:
    """What the broker says about a member's queue. None: not known."""

    ready: int
    unacked: int | None = None
    consumers: int | None = None


@dataclass(frozen=True, slots=True)
class Unroutable:
    """A message for the member came back or was refused. The router has paused the member by itself."""

    hostname: str
    reason: SetAside
    text: str = ""
    """The broker's words."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A leftover's queue is empty (or gone), and all of it is confirmed where it went, and acked."""

    number: int


@dataclass(frozen=True, slots=True)
class FetchBlocked:
    """A leftover can't be consumed at the moment, and is tried again; the first time of each fetch only.

    Typically somebody else consumes the queue: only alone can it be fetched in order.
    """

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """The source is being consumed."""

    session: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session is over: what was not acked goes back to the source, in order.

    `expected`: nothing went wrong (stop, or a message had been held for the longest time allowed).
    """

    session: int
    why: str
    expected: bool


@dataclass(frozen=True, slots=True)
class HoldExhausted:
    """No more can be held, and members with nothing to do would starve. Told again every second.

    `hostnames`: paused members that messages are held for, the one with the most first.
    """

    hostnames: tuple[str, ...]


RouterEvent = Unroutable | Fetched | FetchBlocked | SessionStarted | SessionEnded | HoldExhausted
