"""One run: set up, disturb for so long, let it settle, check."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from verify.faults import Faults
from verify.promises import Verdict, check
from verify.schedule import Schedule
from verify.stage import Stage
from verify.world import World

_NO_PROGRESS: Final = 90.0
"""Seconds without any new message finished after which a run is taken to be stuck."""
_MEMBERS: Final = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `seconds` of disturbance; `pause` between faults on average; `rate` messages a second."""

    seconds: float
    seed: int
    pause: float = 3.0
    rate: float = 250.0
    planned: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of it. `stuck`: what the group looked like when nothing went on any more."""

    verdict: Verdict
    faults: dict[str, int]
    seconds: float
    settled_after: float
    failed: list[str]
    stuck: Any = None

    @property
    def held(self) -> bool:
        return self.verdict.held and self.stuck is None and not self.failed


def run(plan: Plan, folder: Path, log: Callable[[str], None]) -> Outcome:
    """Runs it. Logs and notes stay in the folder."""
    chooser = random.Random(plan.seed)
    began = time.monotonic()
    settings = {
        "PARTYMQ_HEART_BEAT_CONFIG_CHECK_INTERVAL": "500ms",
        "PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER": "8s",
        "PARTYMQ_DRAIN_TIMEOUT": "4s",
        "PARTYMQ_IDLE_HANDOVER": "15s",
        "PARTYMQ_PARTITIONS": str(chooser.choice((8, 64))),
        "PARTYMQ_PREFETCH": str(chooser.choice((20, 300, 2000))),
    }
    log(" ".join(f"{name}={value}" for name, value in settings.items()))
    with World(folder, chooser, log) as world:
        for _ in range(2):
            world.serve(settings)
        faults = Faults(world, chooser, planned=plan.planned)
        for _ in range(_MEMBERS):
            faults.join()
        world.publish(f"--seed={plan.seed}", f"--rate={plan.rate}")
        ends = time.monotonic() + plan.seconds
        following = time.monotonic() + 5.0
        while time.monotonic() < ends:
            faults.tick()
            if time.monotonic() >= following:
                faults.begin()
                following = time.monotonic() + chooser.expovariate(1 / plan.pause)
            time.sleep(0.02)
        log("the faults end")
        faults.end_all()
        for _ in range(_MEMBERS - sum(pod.is_well for pod in world.pods)):
            faults.join()
        counts = world.counts()
        settling = time.monotonic()
        stuck = settle(world, sum(counts), faults, log)
        settled_after = time.monotonic() - settling
        works = [work for pod in world.pods for work in pod.work()]
        failed = [
            f"{server.name} ended with {server.process.status}"
            for server in world.servers
            if server.process is not None and server.process.status not in (None, 0)
        ]
    verdict = check(counts, works)
    return Outcome(verdict, faults.done, time.monotonic() - began, settled_after, failed, stuck)


def settle(world: Stage, messages: int, faults: Schedule, log: Callable[[str], None]) -> Any:
    """Wait until every message is finished; what the group looks like if that does not come."""
    done, since = 0, time.monotonic()
    told = since
    while True:
        faults.tick()
        now = world.done()
        if now != done:
            done, since = now, time.monotonic()
        if done >= messages:
            log(f"{done} messages are finished")
            return None
        if time.monotonic() - told > 5.0:
            told = time.monotonic()
            log(f"{done} of {messages} messages are finished")
        if time.monotonic() - since > _NO_PROGRESS:
            return world.group() or "no server answers"
        time.sleep(0.3)


def summary(plan: Plan, outcome: Outcome) -> str:
    """For people."""
    verdict = outcome.verdict
    lines = [
        f"seed {plan.seed}, {outcome.seconds:.0f} s; all was finished {outcome.settled_after:.0f} s after the"
        " last fault",
        "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(outcome.faults.items())),
        f"messages {verdict.messages}, handled {verdict.handled}, repeats {verdict.repeats},"
        f" members {len(verdict.by_member)}, in the hands of members held for dead {verdict.by_zombies}",
    ]
    for what, found in (
        ("lost", verdict.lost),
        ("out of order", verdict.disorder),
        ("repeated with a gap", verdict.gaps),
        ("two members at one key", verdict.overlaps),
        ("failed", outcome.failed),
    ):
        lines.append(f"{what}: {len(found)}")
        lines += [f"    {each}" for each in found[:10]]
    if outcome.stuck is not None:
        lines.append("stuck: " + json.dumps(outcome.stuck, default=str)[:6000])
    if plan.planned and verdict.repeats:
        lines.append("a planned change repeats nothing, but something was repeated")
    lines.append("the promises were " + ("kept" if is_good(plan, outcome) else "BROKEN"))
    return "\n".join(lines)


def is_good(plan: Plan, outcome: Outcome) -> bool:
    """Whether all promises held: with nothing but planned changes nothing may be repeated either."""
    return outcome.held and not (plan.planned and outcome.verdict.repeats)
