"""The course of every run: members join, faults for so long, then it settles; and what is told of it."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from verify.schedule import Schedule
from verify.stage import Stage

_QUIET: Final = 5.0
"""Seconds until the first fault."""
_NO_PROGRESS: Final = 90.0
"""Seconds without any new message finished after which a run is taken to be stuck."""
_MEMBERS: Final = 3
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `seconds` of disturbance; `pause` between faults on average; `rate` messages a second."""

    seconds: float
    seed: int
    pause: float = 3.0
    rate: float = 250.0
    planned: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """How it settled. `after` the last fault, in seconds; `stuck`: what the group looked like when nothing
    went on any more, else None."""

    after: float
    stuck: Any = None


class Judgement(Protocol):
    """What was found."""

    @property
    def repeats(self) -> int:
        """Messages that were handled again."""

    def violations(self) -> dict[str, list[str]]:
        """By promise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. `failed`: processes that ended otherwise than told; `about`: more to be told."""

    plan: Plan
    verdict: Judgement
    faults: dict[str, int]
    seconds: float
    ending: Ending
    failed: list[str]
    about: list[str]

    @property
    def held(self) -> bool:
        """Whether all promises were kept: planned changes alone repeat nothing."""
        broken = any(self.verdict.violations().values()) or (self.plan.planned and self.verdict.repeats)
        return not broken and self.ending.stuck is None and not self.failed

    def __str__(self) -> str:
        lines = [
            f"seed {self.plan.seed}, {self.seconds:.0f} s;"
            f" all was finished {self.ending.after:.0f} s after the last fault",
            "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())),
            *self.about,
        ]
        for what, found in {**self.verdict.violations(), "failed": self.failed}.items():
            lines.append(f"{what}: {len(found)}")
            lines += [f"    {each}" for each in found[:_SHOWN]]
        if self.ending.stuck is not None:
            lines.append("stuck: " + json.dumps(self.ending.stuck, default=str)[:6000])
        if self.plan.planned and self.verdict.repeats:
            lines.append("a planned change repeats nothing, but something was repeated")
        lines.append("the promises were " + ("kept" if self.held else "BROKEN"))
        return "\n".join(lines)


def disturb(
    plan: Plan, stage: Stage, faults: Schedule, chooser: random.Random, log: Callable[[str], None]
) -> Ending:
    """Members join, faults come and go, publishing ends, and all that was published is waited for."""
    for _ in range(_MEMBERS):
        faults.join()
    ends = time.monotonic() + plan.seconds
    following = time.monotonic() + _QUIET
    while time.monotonic() < ends:
        faults.tick()
        if time.monotonic() >= following:
            faults.begin()
            following = time.monotonic() + chooser.expovariate(1 / plan.pause)
        time.sleep(0.02)
    log("the faults end")
    faults.end_all()
    for _ in range(_MEMBERS - sum(pod.is_well for pod in stage.pods)):
        faults.join()
    stage.end_publishing()
    began = time.monotonic()
    stuck = _settle(stage, faults, log)
    return Ending(time.monotonic() - began, stuck)


def _settle(stage: Stage, faults: Schedule, log: Callable[[str], None]) -> Any:
    """Wait until every message is finished; what the group looks like if that does not come."""
    left, since = -1, time.monotonic()
    told = since
    while True:
        faults.tick()
        now = stage.left()
        if not now:
            log("all messages are finished")
            return None
        if now != left:
            left, since = now, time.monotonic()
        if time.monotonic() - told > 5.0:
            told = time.monotonic()
            log(f"{left} messages are not finished")
        if time.monotonic() - since > _NO_PROGRESS:
            return stage.group() or "nobody answers"
        time.sleep(0.3)
