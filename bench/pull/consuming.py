"""What consuming costs in one process, and how fast several are together."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

from bench.broker import Broker
from bench.pull.counted import CANDIDATES, HANDLER, OURS, PLAIN, Bench, Counts, partition_queues
from bench.pull.plan import Plan

_IN_GROUPS = (PLAIN, OURS, HANDLER)


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
    """One round of one size of group on one type of queue, by candidate.

    Attributes:
        live: whether the messages came meanwhile, as fast as the broker took them; else they were there
            already.
        per_second: messages.
        cpu: seconds of all processes together for 100,000 messages.
        broker_cpu: the same of the broker.
        load: the machine's when it began: more than what was measured before it may be at work.
    """

    queue_type: str
    members: int
    live: bool
    per_second: dict[str, float]
    cpu: dict[str, float]
    broker_cpu: dict[str, float]
    load: float

    @property
    def messages(self) -> str:
        """Where they were when it began, in a word."""
        return "live" if self.live else "backlog"


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
            for members, live in product(plan.members, (False, True)):
                for number in range(plan.group_rounds):
                    one = await _round(queues, members, plan.group_messages, number, live=live)
                    found.append(one)
                    told = ", ".join(f"{name} {rate:,.0f}" for name, rate in one.per_second.items())
                    what = (
                        f"{members} on {queue_type} queues, {one.messages}, {number + 1}/{plan.group_rounds}"
                    )
                    tell(f"{what}: {told} messages/s")
    return found


async def _round(queues: Bench, members: int, total: int, number: int, *, live: bool) -> Round:
    load = os.getloadavg()[0]
    turn = number % len(_IN_GROUPS)
    runs = {}
    for candidate in _IN_GROUPS[turn:] + _IN_GROUPS[:turn]:
        runs[candidate.name] = await queues.run(candidate, members, total, live=live)
    return Round(
        queues.layout.queue_type,
        members,
        live,
        {name: run.per_second for name, run in runs.items()},
        {name: run.cpu for name, run in runs.items()},
        {name: run.broker_cpu for name, run in runs.items()},
        load,
    )


def ratios(of: list[Round], beside: str) -> list[float]:
    """In each round, our rate as a multiple of another candidate's."""
    return [one.per_second[OURS.name] / one.per_second[beside] for one in of]


def per_cpu(of: list[Round], beside: str) -> float:
    """Our messages for a CPU second, broker and consumers together, as a multiple of another candidate's: by
    the medians. What the ratio of the rates comes to where these keep all CPUs busy, however busy the
    machine is otherwise."""

    def all_cpu(name: str) -> float:
        return median(one.cpu[name] for one in of) + median(one.broker_cpu[name] for one in of)

    return all_cpu(beside) / all_cpu(OURS.name)
