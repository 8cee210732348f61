"""How much is measured: sizes and counts, nothing else."""

from dataclasses import dataclass, field, replace
from typing import Literal

Part = Literal["forwarding", "latency", "memory", "rebalance"]
PARTS: tuple[Part, ...] = ("forwarding", "latency", "memory", "rebalance")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the benchmark.

    Attributes:
        repeat: runs of each forwarder, in turn; their medians count.
        messages: preloaded for a run of a fast forwarder; `slow_messages` for aio-pika.
        keys: distinct ones in the forwarding runs.
        latency_rounds: how often the two ways are measured in turn, each for `latency_seconds`.
        memory_keys: distinct keys of each server whose memory is looked at; each gets `memory_messages`.
        joins: of one member, without a backlog and with one of `backlog` messages.
        kills: of one member, by either way of noticing.
    """

    repeat: int = 3
    messages: int = 200_000
    slow_messages: int = 30_000
    keys: int = 25_000
    latency_rounds: int = 3
    latency_seconds: float = 10.0
    latency_rate: float = 1_000.0
    memory_keys: tuple[int, ...] = (100, 100_000, 1_000_000)
    memory_messages: int = 1_000_000
    joins: int = 20
    backlog: int = 30_000
    kills: int = 10
    rebalance_rate: float = 300.0
    work_ms: float = 2.0
    quick: bool = False
    parts: tuple[Part, ...] = field(default=PARTS)


FULL = Plan()
QUICK = replace(
    FULL,
    repeat=1,
    messages=10_000,
    slow_messages=2_000,
    latency_rounds=1,
    latency_seconds=3.0,
    memory_keys=(100, 20_000),
    memory_messages=20_000,
    joins=1,
    backlog=3_000,
    kills=1,
    quick=True,
)
