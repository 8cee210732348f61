"""One run of a push group: set up, disturb, check."""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

from verify.course import Outcome, Plan, disturb
from verify.faults import Faults
from verify.promises import check
from verify.servers import failed_servers
from verify.world import World


def run(plan: Plan, _options: argparse.Namespace, folder: Path, log: Callable[[str], None]) -> Outcome:
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
        world.publish(f"--seed={plan.seed}", f"--rate={plan.rate}")
        ending = disturb(plan, world, faults, chooser, log)
        works = [work for pod in world.pods for work in pod.work()]
        failed = failed_servers(world.servers)
    verdict = check(world.counts, works)
    about = [
        f"messages {verdict.messages}, handled {verdict.handled}, repeats {verdict.repeats},"
        f" members {len(verdict.by_member)}, in the hands of members held for dead {verdict.by_zombies}"
    ]
    return Outcome(plan, verdict, faults.done, time.monotonic() - began, ending, failed, about)
