"""What consuming costs in one process, and how fast several are together."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.broker import Broker
from bench.pull.counted import CANDIDATES, OURS, PLAIN, Counts, partition_queues
from bench.pull.plan import Plan

PIKA = next(candidate for candidate in CANDIDATES if candidate.name == "pika")
_IN_GROUPS = (PLAIN, OURS, PIKA)


@dataclass(frozen=True, slots=True)
class Cost:
    """The medians of a candidate's runs on one type of queue, and all CPU figures."""

    candidate: str
    queue_type: str
    cpu: float
    cpus: tuple[float, ...]
    broker_cpu: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one size of group on one type of queue: messages a second by candidate."""

    queue_type: str
    members: int
    per_second: dict[str, float]
    load: float
    """The machine's when it began: more than what was measured before it may be at work."""


Tell = Callable[[str], None]


async def costs(broker: Broker, plan: Plan, folder: Path, tell: Tell) -> list[Cost]:
    """One process of each candidate in turn, on the same queues."""
    found = []
    for queue_type in plan.queue_types:
        runs: dict[str, list[Counts]] = {}
        async with (
            broker.vhost() as vhost,
            partition_queues(vhost, queue_type, plan.partitions, plan.keys, folder) as queues,
        ):
            for number in range(plan.repeat):
                for candidate in CANDIDATES:
                    run = await queues.run(candidate, 1, plan.messages)
                    runs.setdefault(candidate.name, []).append(run)
                    tell(
                        f"{queue_type} {number + 1}/{plan.repeat}: {candidate.name}: {run.cpu:.2f} CPU s"
                        f" / 100k, {run.per_second:,.0f} messages/s"
                    )
        found += [_cost(name, queue_type, all_of_it) for name, all_of_it in runs.items()]
    return found


def _cost(candidate: str, queue_type: str, runs: list[Counts]) -> Cost:
    cpus = tuple(run.cpu for run in runs)
    return Cost(
        candidate,
        queue_type,
        median(cpus),
        cpus,
        median(run.broker_cpu for run in runs),
        median(run.per_second for run in runs),
    )


async def rounds(broker: Broker, plan: Plan, folder: Path, tell: Tell) -> list[Round]:
    """Groups of our members and as many plain consumers, in turn, each round beginning with another one."""
    found = []
    for queue_type in plan.queue_types:
        async with (
            broker.vhost() as vhost,
            partition_queues(vhost, queue_type, plan.partitions, plan.keys, folder) as queues,
        ):
            for members in plan.members:
                for number in range(plan.group_rounds):
                    load = os.getloadavg()[0]
                    turn = number % len(_IN_GROUPS)
                    rates = {}
                    for candidate in _IN_GROUPS[turn:] + _IN_GROUPS[:turn]:
                        run = await queues.run(candidate, members, plan.group_messages)
                        rates[candidate.name] = run.per_second
                    found.append(Round(queue_type, members, rates, load))
                    told = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
                    turns = f"{number + 1}/{plan.group_rounds}"
                    tell(f"{members} on {queue_type} queues {turns}: {told} messages/s")
    return found


def ratios(of: list[Round], beside: str) -> list[float]:
    """In each round, our rate as a multiple of another candidate's."""
    return [one.per_second[OURS.name] / one.per_second[beside] for one in of]
