"""How a run of the demo goes: how much, how fast, when workers come and go. Settings only."""

from dataclasses import dataclass
from enum import StrEnum

from partymq.demo.flights import ALL_FLIGHTS

EXCHANGE = "flights"
SOURCE_QUEUE = "flights.source"
PLAIN_QUEUE = "flights.plain"
PARTITIONS = 64
GROUP = "flights"
"""The pull group."""
CONCURRENCY = 16
"""Flights that a pull worker has in hand at a time; each takes so many times as long, so that a worker gets
through as much as one of the others."""


class Mode(StrEnum):
    """How PartyMQ delivers: through a server, or as a pull group."""

    PUSH = "push"
    PULL = "pull"


@dataclass(frozen=True, slots=True)
class Plan:
    """One demo. Shares are of the messages published: what is to happen happens while messages flow."""

    messages: int = ALL_FLIGHTS
    rate: float = 2_000.0
    """Messages published per second."""
    work_ms: float = 0.8
    """Work per message, on average; a few take 40 times as long."""
    prefetch: int = 50
    heartbeat: float = 0.4
    """Seconds between a worker's heartbeats."""
    expires_after: float = 2.0
    """Seconds after which a silent worker is taken for dead."""
    session_timeout: float = 4.0
    """The same in a pull group, where a death is noticed by the connection as a rule."""
    server_away: float = 0.5
    """Seconds between the server's death and its restart."""
    many: int = 4
    few: int = 2
    grow_at: float = 0.10
    kill_worker_at: float = 0.30
    replace_worker_at: float = 0.50
    kill_server_at: float = 0.60
    shrink_at: float = 0.82

    @property
    def seconds(self) -> float:
        """How long the publisher takes at least."""
        return self.messages / self.rate


def quick_plan(messages: int = 11_000) -> Plan:
    """A plan of well under a minute, both runs and the broker's start included."""
    return Plan(messages=messages, rate=900.0, work_ms=1.6)
