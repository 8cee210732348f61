"""How fast a group reacts: when a member joins, is killed, hangs; and what a rolling restart costs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.broker import Broker
from bench.pull.flow import Flow, Member, flowing
from bench.pull.plan import Plan
from bench.waiting import until

_SECOND = 1_000_000_000
_FLOW_BEFORE = 0.3
_WITHIN = 60.0
_LOOK = 0.01
_RESTARTED = 4
"""Members of the group that is restarted; otherwise there are three with the one that goes, or joins."""


@dataclass(frozen=True, slots=True)
class Death:
    """When others handled messages of the partitions of a member that was killed or stopped, in seconds.

    Attributes:
        first, last: of its partitions.
        partitions: that it had.
        was: `oldest` or `newest` of the members; the oldest has the group's coordinator, as a rule.
    """

    first: float
    last: float
    partitions: int
    was: str


@dataclass(frozen=True, slots=True)
class Restart:
    """One rolling restart.

    Attributes:
        rejoin_grace: of the members, seconds.
        seconds: that it took.
        published: messages meanwhile; each was handled.
        repeated: of all messages, those that were handled more than once.
    """

    rejoin_grace: float
    seconds: float
    published: int
    repeated: int


Tell = Callable[[str], None]


async def joins(broker: Broker, plan: Plan, folder: Path, tell: Tell) -> list[float]:
    """Seconds from the start of a consumer (its process is up) to its first message, of each join.

    Two members are there; the newcomer leaves again before the next one. Raises InvalidRun where a message
    was lost.
    """
    found = []
    async with broker.vhost() as vhost, flowing(vhost, plan, folder, 2) as flow:
        for number in range(plan.joins):
            await asyncio.sleep(_FLOW_BEFORE)
            newcomer = flow.start(f"newcomer-{number + 1}")
            await flow.shared()
            await _handles(flow, newcomer)
            assert newcomer.first is not None
            assert newcomer.started is not None
            found.append((newcomer.first - newcomer.started) / _SECOND)
            await flow.leave(newcomer)
            await flow.shared()
            if (number + 1) % 10 == 0 or number + 1 == plan.joins:
                tell(f"join {number + 1}/{plan.joins}: longest until the first message {max(found):.3f} s")
    return found


async def kills(broker: Broker, plan: Plan, folder: Path, tell: Tell) -> list[Death]:
    """SIGKILL of the oldest and of the newest of three members in turn; a fresh one takes its place."""
    found = []
    async with broker.vhost() as vhost, flowing(vhost, plan, folder, 3) as flow:
        for number in range(plan.kills):
            await asyncio.sleep(_FLOW_BEFORE)
            victim, was = _victim(flow, number)
            died = flow.kill(victim)
            found.append(await _taken_over(flow, victim, died, was))
            flow.start(f"replacement-{number + 1}")
            await flow.shared()
            if (number + 1) % 10 == 0 or number + 1 == plan.kills:
                longest = max(death.last for death in found)
                tell(f"kill {number + 1}/{plan.kills}: longest until all partitions go on {longest:.2f} s")
    return found


async def stops(broker: Broker, plan: Plan, folder: Path, tell: Tell) -> dict[float, list[Death]]:
    """The same with SIGSTOP, by session timeout."""
    found: dict[float, list[Death]] = {}
    for timeout, count in plan.stops:
        async with broker.vhost() as vhost, flowing(vhost, plan, folder, 3, session_timeout=timeout) as flow:
            for number in range(count):
                await asyncio.sleep(_FLOW_BEFORE)
                victim, was = _victim(flow, number)
                stopped = flow.stop(victim)
                death = await _taken_over(flow, victim, stopped, was)
                found.setdefault(timeout, []).append(death)
                flow.kill(victim)
                flow.start(f"replacement-{number + 1}")
                await flow.shared()
                tell(
                    f"stop {number + 1}/{count} of the {was}, session timeout {timeout:g} s: all partitions"
                    f" go on after {death.last:.2f} s"
                )
    return found


async def restarts(broker: Broker, plan: Plan, folder: Path, tell: Tell) -> list[Restart]:
    """One member after the other is ended by SIGTERM and started again under its name.

    Raises InvalidRun where a message was lost.
    """
    found = []
    for grace in plan.restarts:
        async with broker.vhost() as vhost:
            async with flowing(vhost, plan, folder, _RESTARTED, rejoin_grace=grace) as flow:
                await asyncio.sleep(_FLOW_BEFORE)
                began, before = asyncio.get_running_loop().time(), flow.published
                for member in list(flow.members):
                    await flow.leave(member)
                    flow.start(member.name)
                    await flow.shared()
                seconds, published = asyncio.get_running_loop().time() - began, flow.published - before
                await asyncio.sleep(_FLOW_BEFORE)
            found.append(Restart(grace, seconds, published, flow.repeated))
            tell(
                f"rolling restart, rejoin_grace {grace:g} s: {seconds:.1f} s, {published:,} messages,"
                f" {flow.repeated} of them handled again"
            )
    return found


def _victim(flow: Flow, number: int) -> tuple[Member, str]:
    return (flow.members[0], "oldest") if number % 2 == 0 else (flow.members[-1], "newest")


async def _handles(flow: Flow, member: Member) -> None:
    async def has_handled() -> bool:
        flow.refresh()
        return member.first is not None

    await until(has_handled, f"a first message of {member.name}", _WITHIN, _LOOK)


async def _taken_over(flow: Flow, victim: Member, at: int, was: str) -> Death:
    """When others had a message of each partition of it that they did not have before."""
    victim.refresh()
    partitions = set(victim.partitions)
    again: dict[int, int] = {}

    async def all_go_on() -> bool:
        flow.refresh()
        for member in flow.members:
            if member is not victim:
                for when, partition in member.handled_since(at):
                    if partition in partitions:
                        again[partition] = min(when, again.get(partition, when))
        return again.keys() == partitions

    await until(all_go_on, f"messages of {victim.name}'s partitions handled", _WITHIN, _LOOK)
    waits = [(when - at) / _SECOND for when in again.values()]
    return Death(min(waits), max(waits), len(partitions), was)
