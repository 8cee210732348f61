"""How much CPU and time it costs to forward what lies in the source, for each of the candidates."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.broker import Broker, Vhost
from bench.candidates import CANDIDATES, DESTINATIONS, Candidate, Ready
from bench.errors import InvalidRun
from bench.messages import Stock, load
from bench.plan import Plan
from bench.proc import cpu_seconds, machine_busy_seconds
from bench.server import SOURCE

_BEGINS_WITHIN = 60.0
_SLOWEST = 300.0
"""Messages a second below which a run is given up."""
_AFTER = 0.3
"""Seconds after the last message in which the last acks are made."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. Seconds are of CPU, each for 100,000 messages.

    Attributes:
        candidate: its name.
        messages: that were counted; the few before the clocks were read are not.
        router_cpu: of the forwarder's process; None where it is part of the broker.
        broker_cpu: of the broker, consumers' work included where there are any.
        per_second: messages.
        other_load: CPUs that all else on the machine used, consumers and this program included.
    """

    candidate: str
    messages: int
    router_cpu: float | None
    broker_cpu: float
    per_second: float
    other_load: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The medians of a candidate's runs."""

    name: str
    title: str
    router_cpu: float | None
    broker_cpu: float
    per_second: float
    share: float | None
    """Router's CPU as a part of the broker's, in the same run."""


async def measure(
    broker: Broker, plan: Plan, folder: Path, tell: Callable[[str], None], only: frozenset[str] = frozenset()
) -> list[Run]:
    """All runs, the candidates in turn, each round beginning with another one.

    Args:
        only: names of candidates; empty: all.

    Raises InvalidRun where one did not do its job.
    """
    stock = Stock(lambda _key: SOURCE, plan.keys)
    chosen = [one for one in CANDIDATES if not only or one.name in only]
    runs = []
    for number in range(plan.repeat):
        turn = number % len(chosen)
        for candidate in chosen[turn:] + chosen[:turn]:
            run = await _run(broker, candidate, stock, plan, folder)
            runs.append(run)
            router = "-" if run.router_cpu is None else f"{run.router_cpu:.2f}"
            tell(
                f"forwarding {number + 1}/{plan.repeat}: {candidate.name}: router {router}, broker "
                f"{run.broker_cpu:.1f} CPU s / 100k, {run.per_second:,.0f} messages/s"
            )
    return runs


def figures(runs: list[Run]) -> list[Figures]:
    """Medians by candidate, in their order."""
    found = []
    for candidate in CANDIDATES:
        mine = [run for run in runs if run.candidate == candidate.name]
        if not mine:
            continue
        routers = [run.router_cpu for run in mine if run.router_cpu is not None]
        shares = [run.router_cpu / run.broker_cpu for run in mine if run.router_cpu is not None]
        found.append(
            Figures(
                candidate.name,
                candidate.title,
                median(routers) if routers else None,
                median(run.broker_cpu for run in mine),
                median(run.per_second for run in mine),
                median(shares) if shares else None,
            )
        )
    return found


async def _run(broker: Broker, candidate: Candidate, stock: Stock, plan: Plan, folder: Path) -> Run:
    total = plan.slow_messages if candidate.slow else plan.messages
    async with broker.vhost() as vhost, candidate.set_up(vhost, folder) as ready:
        await load(vhost, SOURCE, stock, total)
        await broker.calm()
        try:
            return await _forward(vhost, candidate.name, ready, total)
        except InvalidRun as error:
            raise InvalidRun(f"{candidate.name}: {error}") from error


async def _forward(vhost: Vhost, name: str, ready: Ready, total: int) -> Run:
    """Clocks are read when the first messages have come through, so that no start counts, and at the end."""
    node = vhost.broker.node
    await ready.start()
    before = await _arrived(vhost, ready, 1, _BEGINS_WITHIN)
    pid = ready.pid()
    clocks = Clocks.read(node.pid, pid)
    await _arrived(vhost, ready, total, 60 + total / _SLOWEST)
    ended = time.monotonic()
    await asyncio.sleep(_AFTER)
    after = Clocks.read(node.pid, pid)
    await ready.stop()
    await _check(vhost, ready, total)

    messages = total - before
    router, used_by_broker = after.router - clocks.router, after.broker - clocks.broker
    scale = 100_000 / messages
    return Run(
        candidate=name,
        messages=messages,
        router_cpu=None if pid is None else router * scale,
        broker_cpu=used_by_broker * scale,
        per_second=messages / (ended - clocks.at),
        other_load=(after.machine - clocks.machine - router - used_by_broker) / (after.at - clocks.at),
    )


async def _arrived(vhost: Vhost, ready: Ready, wanted: int, seconds: float) -> int:
    """How many messages have arrived, when it is at least so many; looked at more often towards the end."""
    began = time.monotonic()
    while True:
        count = await vhost.depth(*DESTINATIONS) + ready.consumed()
        if count >= wanted:
            return count
        passed = time.monotonic() - began
        if passed > seconds:
            raise InvalidRun(f"{count:,} of {wanted:,} messages within {seconds:.0f} s")
        left = passed * (wanted - count) / count if count else 0.0
        await asyncio.sleep(min(0.5, max(0.02, left / 3)))


async def _check(vhost: Vhost, ready: Ready, total: int) -> None:
    """The source is empty, and everything has arrived, none of it twice, and not all in one queue."""
    depths = await vhost.totals([SOURCE, *DESTINATIONS])
    if depths[SOURCE] != (0, 0):
        raise InvalidRun(f"left in the source, ready and unacked: {depths[SOURCE]}")
    arrived = sum(sum(depths[queue]) for queue in DESTINATIONS) + ready.consumed()
    if arrived != total:
        raise InvalidRun(f"{arrived:,} messages arrived, not {total:,}")
    if not ready.consumed() and min(sum(depths[queue]) for queue in DESTINATIONS) < total / 10:
        raise InvalidRun(f"not spread over the destinations: {depths}")


@dataclass(frozen=True, slots=True)
class Clocks:
    """CPU seconds at a moment."""

    at: float
    router: float
    broker: float
    machine: float

    @classmethod
    def read(cls, broker: int, router: int | None) -> "Clocks":
        """The clocks now. `router`: its process, if it has one."""
        return cls(
            time.monotonic(),
            cpu_seconds(router) if router is not None else 0.0,
            cpu_seconds(broker),
            machine_busy_seconds(),
        )
