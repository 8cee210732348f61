"""One run: set up, disturb for so long, let it settle, check; and the report."""

import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from verify.pull.faults import PullFaults
from verify.pull.group import PullGroup, Setting
from verify.pull.promises import PullVerdict, check_pull
from verify.run import settle

_MEMBERS: Final = 3
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What to do. `seconds` of disturbance; `pause` between faults on average; `rate` messages a second."""

    seconds: float
    seed: int
    pause: float = 2.0
    rate: float = 250.0
    planned: bool = False
    queue_type: str | None = None


@dataclass(slots=True)
class PullOutcome:
    """What came of it. `stuck`: what the group looked like when nothing went on any more."""

    verdict: PullVerdict
    faults: dict[str, int]
    setting: Setting
    seconds: float
    settled_after: float
    failed: list[str]
    planned: bool
    stuck: Any = None

    @property
    def held(self) -> bool:
        """Whether all promises were kept: planned changes alone repeat nothing."""
        repeats = self.planned and self.verdict.general.repeats
        return self.verdict.held and self.stuck is None and not self.failed and not repeats


def run_pull(plan: PullPlan, folder: Path, log: Callable[[str], None]) -> PullOutcome:
    """Runs it. Logs, notes, and the histories of keys with something wrong stay in the folder."""
    chooser = random.Random(plan.seed)
    setting = Setting.chosen(chooser, plan.queue_type)
    log(str(setting))
    began = time.monotonic()
    with PullGroup(folder, chooser, log, setting) as group:
        faults = PullFaults(group, chooser, planned=plan.planned)
        group.publish(plan.seed, plan.rate)
        for _ in range(_MEMBERS):
            faults.join()
        ends = time.monotonic() + plan.seconds
        following = time.monotonic() + 4.0
        while time.monotonic() < ends:
            faults.tick()
            if time.monotonic() >= following:
                faults.begin()
                following = time.monotonic() + chooser.expovariate(1 / plan.pause)
            time.sleep(0.02)
        log("the faults end")
        faults.end_all()
        for _ in range(_MEMBERS - sum(pod.is_well for pod in group.pods)):
            faults.join()
        counts = group.counts()
        settling = time.monotonic()
        stuck = settle(group, sum(counts), faults, log)
        settled_after = time.monotonic() - settling
        failed = _failed(group)
        works = group.works()
        group.look_at_publisher()
        given_up = {(note.key, note.seq) for pod in group.pods for note in pod.read if note.kind == "X"}
        dead = group.dead_letters()
    verdict = check_pull(counts, works, group.published, faults.disturbed, given_up, dead)
    outcome = PullOutcome(
        verdict,
        faults.done,
        setting,
        time.monotonic() - began,
        settled_after,
        failed,
        plan.planned,
        stuck,
    )
    _save_histories(outcome, group, folder)
    return outcome


def _failed(group: PullGroup) -> list[str]:
    """Processes that ended otherwise than told. One that had hardly started may end by the signal itself."""
    return [
        f"{pod.label} ended with {pod.process.status}"
        for pod in group.members
        if pod.process.status not in (None, 0, -signal.SIGTERM) and pod.died == float("inf")
    ]


def _save_histories(outcome: PullOutcome, group: PullGroup, folder: Path) -> None:
    """All notes on each key that is named in a violation."""
    texts = [text for found in outcome.verdict.violations().values() for text in found]
    keys = {
        int(word.split("/")[0]) for text in texts for word in text.split() if word.split("/")[0].isdigit()
    }
    for key in sorted(keys)[:100]:
        notes = [(note.at, "publisher", note) for note in group.published if note.key == key]
        for pod in group.members:
            notes += [(note.at, pod.label, note) for note in pod.read if note.key == key]
        lines = [
            f"{at:.4f} {who} {note.kind} {note.key}/{note.seq} token {note.token}"
            for at, who, note in sorted(notes)
        ]
        (folder / f"history-of-key-{key}").write_text("\n".join(lines) + "\n")


def pull_summary(plan: PullPlan, outcome: PullOutcome) -> str:
    """For people."""
    verdict = outcome.verdict
    general = verdict.general
    lines = [
        f"seed {plan.seed}, {outcome.setting.queue_type} queues, {outcome.seconds:.0f} s; all was finished"
        f" {outcome.settled_after:.0f} s after the last fault",
        "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(outcome.faults.items())),
        f"messages {general.messages}, repeats {general.repeats}, dead-lettered {verdict.dead_letters},"
        f" processes {len(general.by_member)}, in the hands of members held for dead {general.by_zombies}"
        f" (writes refused by their token: {verdict.refused})",
        f"longest wait of a message for its handler: {verdict.longest_wait:.1f} s ({verdict.longest_of})",
    ]
    for what, found in {**verdict.violations(), "failed": outcome.failed}.items():
        lines.append(f"{what}: {len(found)}")
        lines += [f"    {each}" for each in found[:_SHOWN]]
    if outcome.stuck is not None:
        lines.append("stuck: " + json.dumps(outcome.stuck, default=str)[:6000])
    if plan.planned and general.repeats:
        lines.append("a planned change repeats nothing, but something was repeated")
    lines.append("the promises were " + ("kept" if outcome.held else "BROKEN"))
    return "\n".join(lines)
