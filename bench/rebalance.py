"""How fast a group reacts: when a member joins, with and without a backlog, and when one is killed."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.broker import Broker
from bench.flow import Flow, Worker, flowing, partition_of
from bench.plan import Plan
from bench.waiting import until

_WORKERS = 2
"""That are there all the time; one more comes and goes."""
_SECOND = 1_000_000_000
_SHARE_WITHIN = 5 * _SECOND
_SHARE_FROM = 3 * _SECOND
"""The newcomer's share is taken from the last two of the five seconds that it has to get it."""
_FIRST_WITHIN = 30.0
_FLOW_BEFORE = 1.0
_EXPIRES_AFTER = 2.0
_NOTICED = 0.05

Notice = Literal["no consumer", "heartbeat"]
_SETTINGS: dict[Notice, dict[str, str]] = {
    "no consumer": {},
    "heartbeat": {
        "CONSUMER_GRACE": "1h",
        "HEART_BEAT_CONFIG_CHECK_INTERVAL": "200ms",
        "HEART_BEAT_CONFIG_EXPIRES_AFTER": f"{_EXPIRES_AFTER:g}s",
    },
}


@dataclass(frozen=True, slots=True)
class Join:
    """What a newcomer got.

    Attributes:
        first: seconds from the answer to `ready` to its first message.
        share: of the messages begun in the fourth and fifth second after `ready`, as a part of its fair
            share: 1.0 is as much as everybody else.
        share_of_all: the same for all five seconds.
    """

    first: float
    share: float
    share_of_all: float


@dataclass(frozen=True, slots=True)
class Kill:
    """When the messages of a killed member went on, in seconds from when its death could be known.

    Attributes:
        known: seconds from the death to that.
        first, last: of its partitions, until another member began a message of it.
        partitions: that it had.
    """

    known: float
    first: float
    last: float
    partitions: int


@dataclass(frozen=True, slots=True)
class Rebalances:
    """All that was measured: joins by the backlog in the source, kills by the way they are noticed."""

    per_second: float
    work_ms: float
    joins: dict[int, list[Join]]
    kills: dict[Notice, list[Kill]]


async def measure(broker: Broker, plan: Plan, folder: Path, tell: Callable[[str], None]) -> Rebalances:
    """Joins and kills, one after the other, under a steady flow of messages.

    Raises InvalidRun where a message was lost or a process died that should not.
    """
    joins = {}
    for backlog in (0, plan.backlog):
        joins[backlog] = await _joins(broker, plan, folder, backlog, tell)
    kills: dict[Notice, list[Kill]] = {}
    for notice in _SETTINGS:
        kills[notice] = await _kills(broker, plan, folder, notice, tell)
    return Rebalances(plan.rebalance_rate, plan.work_ms, joins, kills)


async def _joins(
    broker: Broker, plan: Plan, folder: Path, backlog: int, tell: Callable[[str], None]
) -> list[Join]:
    found = []
    async with broker.vhost() as vhost, flowing(vhost, plan, folder, _WORKERS) as flow:
        for number in range(plan.joins):
            await flow.settle()
            await flow.top_up(backlog)
            await asyncio.sleep(_FLOW_BEFORE)
            newcomer = await flow.join(f"newcomer-{number + 1}")
            found.append(await _join(flow, newcomer))
            await flow.leave(newcomer)
            tell(
                f"join {number + 1}/{plan.joins} with a backlog of {backlog:,}: first message after "
                f"{found[-1].first:.2f} s, {found[-1].share:.0%} of its fair share"
            )
    return found


async def _join(flow: Flow, newcomer: Worker) -> Join:
    ready_at = newcomer.notes.ready_at
    assert ready_at is not None
    end = ready_at + _SHARE_WITHIN
    await asyncio.sleep((end - time.monotonic_ns()) / _SECOND + _NOTICED)

    async def has_begun() -> bool:
        flow.refresh()
        return newcomer.began_at() is not None

    await until(has_begun, f"a first message for {newcomer.name}", _FIRST_WITHIN)
    first = newcomer.began_at()
    assert first is not None
    return Join(
        first=max(0.0, (first - ready_at) / _SECOND),
        share=_share(flow, newcomer, ready_at + _SHARE_FROM, end),
        share_of_all=_share(flow, newcomer, ready_at, end),
    )


def _share(flow: Flow, newcomer: Worker, since: int, until: int) -> float:
    counts = {worker.name: len(worker.begun(since, until)) for worker in flow.workers}
    return counts[newcomer.name] * len(counts) / max(1, sum(counts.values()))


async def _kills(
    broker: Broker, plan: Plan, folder: Path, notice: Notice, tell: Callable[[str], None]
) -> list[Kill]:
    found = []
    async with (
        broker.vhost() as vhost,
        flowing(vhost, plan, folder, _WORKERS, **_SETTINGS[notice]) as flow,
    ):
        for number in range(plan.kills):
            await flow.settle()
            victim = await flow.join(f"victim-{number + 1}")
            await flow.settle()
            await asyncio.sleep(_FLOW_BEFORE)
            found.append(await _kill(flow, victim, notice))
            tell(
                f"kill {number + 1}/{plan.kills}, known by {notice} after {found[-1].known:.2f} s: messages "
                f"go on {found[-1].first:.2f} to {found[-1].last:.2f} s after that"
            )
    return found


async def _kill(flow: Flow, victim: Worker, notice: Notice) -> Kill:
    (partitions,) = (
        set(member["partitions"])
        for member in (await flow.server.group())["members"]
        if member["hostname"] == victim.name
    )
    died = flow.kill(victim)
    known = await (_expiry(flow, victim) if notice == "heartbeat" else _consumerless(flow, victim))
    again: dict[int, int] = {}

    async def all_go_on() -> bool:
        flow.refresh()
        for worker in flow.workers:
            for at, message in worker.begun(died):
                partition = partition_of(message)
                if partition in partitions:
                    again[partition] = min(at, again.get(partition, at))
        return again.keys() == partitions

    await until(all_go_on, f"messages of {victim.name}'s partitions", _FIRST_WITHIN)
    waits = [(at - known) / _SECOND for at in again.values()]
    return Kill((known - died) / _SECOND, min(waits), max(waits), len(partitions))


async def _expiry(flow: Flow, victim: Worker) -> int:
    """When its heartbeat expires (ns of CLOCK_MONOTONIC): by the last one that the server has heard."""
    wall_offset = time.time_ns() - time.monotonic_ns()
    (last,) = (
        member["last_heartbeat"]
        for member in (await flow.server.group())["members"]
        if member["hostname"] == victim.name
    )
    return int((last + _EXPIRES_AFTER) * _SECOND) - wall_offset


async def _consumerless(flow: Flow, victim: Worker) -> int:
    """When the broker says that nobody consumes its queue (ns of CLOCK_MONOTONIC)."""

    async def no_consumer() -> bool:
        return await flow.vhost.consumers(victim.queue) == 0

    await until(no_consumer, f"no consumer of {victim.queue}", _FIRST_WITHIN, 0.005)
    return time.monotonic_ns()
