"""How much is measured of pull groups: sizes and counts, nothing else."""

from dataclasses import dataclass, field, replace
from typing import Literal

from partymq.group.layout import QueueType

Part = Literal["consume", "group", "join", "death", "restart", "publish"]
PARTS: tuple[Part, ...] = ("consume", "group", "join", "death", "restart", "publish")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the benchmark.

    Attributes:
        partitions: of the group, everywhere but where it publishes only.
        queue_types: of the partition queues where throughput is measured; elsewhere it is the default.
        repeat: rounds, in each of which everything that is compared is measured in turn.
        messages: of each run of consumers.
        keys: distinct ones in these runs.
        members: of the groups whose throughput is measured, with `group_messages`, `group_rounds` times.
        rate: messages a second while members join and go.
        joins: of one member, that joins two others.
        kills: of one of three members.
        stops: of one of three members, by the session timeout (seconds) of the group.
        restarts: rolling ones of four members, by `rejoin_grace` (seconds).
        publishes: messages of each run of our publisher that sends many at once; others send fewer.
    """

    partitions: int = 64
    queue_types: tuple[QueueType, ...] = ("classic", "quorum")
    repeat: int = 3
    messages: int = 60_000
    keys: int = 25_000
    members: tuple[int, ...] = (2, 4)
    group_messages: int = 150_000
    group_rounds: int = 3
    rate: float = 2_000.0
    joins: int = 50
    kills: int = 30
    stops: tuple[tuple[float, int], ...] = ((3.0, 4), (10.0, 1))
    restarts: tuple[float, ...] = (10.0, 0.0)
    publishes: int = 20_000
    quick: bool = False
    parts: tuple[Part, ...] = field(default=PARTS)


FULL = Plan()
QUICK = replace(
    FULL,
    repeat=1,
    messages=10_000,
    members=(2,),
    group_messages=20_000,
    group_rounds=1,
    joins=2,
    kills=2,
    stops=((3.0, 1),),
    restarts=(10.0,),
    publishes=4_000,
    quick=True,
)
