"""One run of a pull group: set up, disturb, check."""

import argparse
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from verify.course import Outcome, Plan, disturb
from verify.pull.faults import PullFaults
from verify.pull.group import PullGroup, Setting
from verify.pull.promises import PullVerdict, check_pull
from verify.servers import failed_servers

_LONG: Final = 15.0
"""Seconds of a wait that wants to be explained."""
_EARLIER: Final = 5.0
"""Seconds before it in which its cause may lie."""


def run(plan: Plan, options: argparse.Namespace, folder: Path, log: Callable[[str], None]) -> Outcome:
    """Runs it. Logs, notes, and the histories of keys with something wrong stay in the folder."""
    chooser = random.Random(plan.seed)
    setting = Setting.chosen(chooser, options)
    log(str(setting))
    began = time.monotonic()
    with PullGroup(folder, chooser, log, setting) as group:
        group.create()
        faults = PullFaults(group, chooser, planned=plan.planned)
        group.publish(plan.seed, plan.rate)
        ending = disturb(plan, group, faults, chooser, log)
        failed = group.failed + failed_servers(group.servers) + _failed(group)
        works = group.works()
        given_up = {(note.key, note.seq) for pod in group.pods for note in pod.read if note.kind == "X"}
        dead = group.dead_letters()
    verdict = check_pull(group.published, works, faults.disturbed, given_up, dead, routed=setting.routed)
    _save_histories(verdict, group, folder)
    about = [*_about(setting, verdict), *_long_waits(verdict, faults.told)]
    return Outcome(plan, verdict, faults.done, time.monotonic() - began, ending, failed, about)


def _failed(group: PullGroup) -> list[str]:
    """Processes that ended otherwise than told. One that had hardly started may end by the signal itself."""
    return [
        f"{pod.label} ended with {pod.process.status}"
        for pod in group.members
        if pod.process.status not in (None, 0, -signal.SIGTERM) and pod.died == float("inf")
    ]


def _about(setting: Setting, verdict: PullVerdict) -> list[str]:
    general = verdict.general
    return [
        str(setting),
        f"messages {general.messages}, never confirmed and never arrived {verdict.absent},"
        f" repeats {verdict.repeats}, dead-lettered {verdict.dead_letters}",
        f"processes {len(general.by_member)}, in the hands of members held for dead {general.by_zombies}"
        f" (writes refused by their token: {verdict.refused})",
        "longest waits of a message for its handler: " + ", ".join(str(wait) for wait in verdict.longest),
    ]


def _long_waits(verdict: PullVerdict, told: list[tuple[float, str]]) -> list[str]:
    """What happened in each: several faults, one after the other, add up."""
    lines = []
    for wait in verdict.longest:
        if wait.seconds >= _LONG:
            until = wait.since + wait.seconds
            lines.append(f"in the {wait.seconds:.1f} s from {wait.since:.1f}:")
            lines += [
                f"    {at:.1f} {text.strip()}" for at, text in told if wait.since - _EARLIER <= at <= until
            ]
    return lines


def _save_histories(verdict: PullVerdict, group: PullGroup, folder: Path) -> None:
    """All notes on each key that is named in a violation, or has waited for long."""
    texts = [text for found in verdict.violations().values() for text in found]
    words = [word.split("/")[0] for text in texts for word in text.split()]
    keys = {int(word) for word in words if word.isdigit()} | {wait.key for wait in verdict.longest}
    for key in sorted(keys)[:100]:
        notes = [(note.at, "publisher", note) for note in group.notes if note.key == key]
        for pod in group.members:
            notes += [(note.at, pod.label, note) for note in pod.read if note.key == key]
        lines = [
            f"{at:.4f} {who} {note.kind} {note.key}/{note.seq} token {note.token}"
            for at, who, note in sorted(notes)
        ]
        (folder / f"history-of-key-{key}").write_text("\n".join(lines) + "\n")
