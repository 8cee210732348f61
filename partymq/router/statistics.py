"""Plain counters of a router: they only grow, except where it says so."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

LATENCY_BOUNDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the histogram's buckets in seconds; the last bucket is what is above."""


@dataclass(slots=True)
class Histogram:
    """Counts by bucket: `counts[i]` observations up to `LATENCY_BOUNDS[i]`, not cumulative."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    total: float = 0.0
    """Sum of all observations in seconds."""

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Statistics:
    """Of one router over all its sessions; may be handed to the next router of the same group.

    Attributes:
        messages: published to members, leftovers included.
        bytes: written for them, framing included.
        holds: messages that could not be passed on at once.
        returns, nacks: sessions that ended because the broker returned or refused a message.
        rejects: messages sent to the dead-letter queue, by reason.
        spread: messages without a usable key that were routed nevertheless.
        users_moved: messages whose `user_id` was moved to a header.
        fetched: messages of leftovers, published.
        sessions, session_failures: begun; ended for another reason than a command or `max_hold`.
        gave_way: messages sent beyond a member's window, or to a paused member, lest others starve.
        exhausted: times that holding had to give way or was told to be exhausted.
        confirm_latency: from a write until the confirm of its last message; one sample at a time.
        held_messages, held_bytes: now.
    """

    messages: int = 0
    bytes: int = 0
    holds: int = 0
    returns: int = 0
    nacks: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    spread: int = 0
    users_moved: int = 0
    fetched: int = 0
    sessions: int = 0
    session_failures: int = 0
    gave_way: int = 0
    exhausted: int = 0
    confirm_latency: Histogram = field(default_factory=Histogram)
    held_messages: int = 0
    held_bytes: int = 0
