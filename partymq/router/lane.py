"""The way to one member, or to one partition's queue, and what is held for it."""

from collections import deque
from typing import Final, NamedTuple

from partymq.router.window import Window

UNLIMITED: Final = 1 << 29


class Held(NamedTuple):
    """A message in our hands, ready to be published."""

    tag: int
    partition: int
    content: bytes
    since: float
    """Monotonic seconds at which it came."""


class Lane:
    """What goes to one member, or into one partition.

    The hot path asks for nothing but `room`, so everything that is against sending sets it to 0: a pause, a
    full window, and messages that are held and have to go first.

    Attributes:
        hostname, routing_key: of the member; both empty for lanes of the router's own. A partition's lane has
            its routing key for a name.
        publish, publish_leftover: the Publish frames for the two publish channels of the session.
        room: messages that may be published at once.
        granted: `room` as it was when it was last set.
        before: messages ever published until then.
        confirmed: of these, messages that are not outstanding any more.
        began: messages ever published before this session.
        paused: nothing may be sent.
        window: None = no limit.
        held: messages of the source, in order.
        leftover: messages of a leftover, in order; they go first.
        owed: held messages that go out in spite of a pause or a full window.
        owned: partitions of the member.
        short: whether something had to wait for the window since it was last set.
    """

    __slots__ = (
        "before",
        "began",
        "confirmed",
        "granted",
        "held",
        "hostname",
        "leftover",
        "owed",
        "owned",
        "paused",
        "publish",
        "publish_leftover",
        "room",
        "routing_key",
        "short",
        "window",
    )

    def __init__(self, hostname: str, routing_key: str, window: Window | None = None) -> None:
        self.hostname = hostname
        self.routing_key = routing_key
        self.publish = b""
        self.publish_leftover = b""
        self.room = 0
        self.granted = 0
        self.before = 0
        self.confirmed = 0
        self.began = 0
        self.paused = False
        self.window = window
        self.held: deque[Held] = deque()
        self.leftover: deque[Held] = deque()
        self.owed = 0
        self.owned = 0
        self.short = False

    def __repr__(self) -> str:
        state = "paused" if self.paused else f"room={self.room}"
        return (
            f"<Lane {self.hostname!r} {state} held={len(self.held)} leftover={len(self.leftover)}"
            f" outstanding={self.outstanding}>"
        )

    @property
    def sent(self) -> int:
        """Messages ever published."""
        return self.before + self.granted - self.room

    @property
    def outstanding(self) -> int:
        """Messages published and not confirmed."""
        return self.before + self.granted - self.room - self.confirmed

    def grant(self, room: int) -> None:
        """Set the room."""
        self.before += self.granted - self.room
        self.granted = self.room = room

    def begin_session(self) -> None:
        """Forget what the last session had on its way, and what it held."""
        self.grant(0)
        if self.window is not None and self.outstanding:
            self.window.begin_anew()
        self.began = self.confirmed = self.sent
        self.held.clear()
        self.leftover.clear()
        self.owed = 0

    def free(self, now: float) -> int:
        """Messages that may be sent now, held ones first."""
        if self.paused:
            return 0
        return UNLIMITED if self.window is None else self.window.free(self.sent, now)

    def is_idle(self, now: float) -> bool:
        """Whether the member could be sent something and has probably nothing to do."""
        if self.paused or self.held or self.leftover or self.outstanding:
            return False
        return self.window is None or self.window.estimate(self.sent, now) < 1
