"""What the router of one group is told: where messages come from, where they go, and its limits."""

from collections.abc import Callable
from dataclasses import dataclass, field

from partymq.group.key import KeyRule
from partymq.group.names import member_key


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """Settings of one group's router. Times in seconds, sizes in bytes.

    Raises ValueError where a value is not possible, naming what is allowed.
    """

    group: str
    source_queue: str
    exchange: str
    """Where messages are published, with the routing key of their lane."""
    dead_letter_queue: str
    """Where messages go that the key rule rejects; declared (durable) by the router if the rule rejects."""
    dead_letter_exchange: str = ""
    """Where they are published, with the queue's name as routing key. It has to stand."""
    partitions: int = 64
    key: KeyRule = field(default_factory=KeyRule)
    prefetch: int = 2000
    """Messages taken from the source and not yet acked, at most: in memory, or on their way."""
    hold_messages: int = 1000
    """Held messages from which on the others' flow counts for more than balance. Below `prefetch`."""
    hold_bytes: int = 64 * 2**20
    """Bytes held from which on nothing more is read."""
    fetch_prefetch: int = 500
    """Messages of a leftover fetched and not yet acked, at most."""
    routing_key: Callable[[str], str] = member_key
    """The routing key of a lane, by its name (the member's hostname)."""
    lane: str = "member"
    """What a lane leads to, for people."""
    window: float = 0.5
    """Work in a member's queue, in time that the member needs for it; 0 = no limit."""
    minimum_window: int = 2
    """Messages that a member's queue may always hold."""
    max_hold: float = 1200.0
    """A message stays unacked no longer; then the session ends, which gives it back in order."""
    settle_timeout: float = 10.0
    """How long the end of a session waits for outstanding confirms."""
    backoff: float = 0.1
    """Pause before the next session after one that died young; doubles up to `longest_backoff`."""
    longest_backoff: float = 10.0

    def __post_init__(self) -> None:
        if self.partitions < 1:
            raise ValueError(f"partitions {self.partitions}: allowed are numbers from 1")
        if not 1 <= self.prefetch <= 65_535:
            raise ValueError(f"prefetch {self.prefetch}: allowed are numbers from 1 to 65535")
        if not 1 <= self.fetch_prefetch <= 65_535:
            raise ValueError(f"fetch_prefetch {self.fetch_prefetch}: allowed are numbers from 1 to 65535")
        if self.hold_messages < 1 or self.hold_bytes < 1:
            raise ValueError("hold_messages and hold_bytes: allowed are numbers from 1")
        if self.window < 0 or self.minimum_window < 1:
            raise ValueError("window: allowed are 0 (no limit) or more; minimum_window: numbers from 1")
