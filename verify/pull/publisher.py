#!/usr/bin/env python3
"""Publishes numbered messages of many keys to a pull group, and notes when each was confirmed.

At the end (SIGTERM) it writes how many there were of each key.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from pathlib import Path

from partymq import Publisher
from verify.notes import Notebook

_PATIENCE = 600.0
_FLAKY, _POISON = 0.004, 0.002


async def run(options: argparse.Namespace) -> list[int]:
    """Publish until told to stop; how many there were of each key, all confirmed."""
    chooser = random.Random(options.seed)
    notes = Notebook(options.notes)
    counts = [0] * options.keys
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)

    async with (
        Publisher(
            options.amqp,
            group=options.group,
            timeout=_PATIENCE,
        ) as publisher,
        asyncio.TaskGroup() as tasks,
    ):

        async def publish(key: int, seq: int, body: str) -> None:
            await publisher.publish(body, key=f"key-{key}")
            notes.write("Q", key, seq)

        due = time.monotonic()
        while not stopping.is_set():
            key = min(int(chooser.expovariate(8 / options.keys)), options.keys - 1)
            seq = counts[key]
            counts[key] += 1
            chance = chooser.random()
            kind = "p" if chance < _POISON else "f" if chance < _POISON + _FLAKY else "-"
            notes.write("P", key, seq)
            tasks.create_task(publish(key, seq, f"{key} {seq} {kind} " + "x" * chooser.choice((0, 100, 700))))
            due = max(due + chooser.expovariate(options.rate), time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    return counts


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="publish to a pull group")
    parser.add_argument("--group", required=True)
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--notes", required=True, help="file for the notes")
    parser.add_argument("--counts", required=True, help="file for the number of messages by key")
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--rate", type=float, default=250.0, help="messages a second, on average")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = parse(sys.argv[1:])
    Path(given.counts).write_text(json.dumps(asyncio.run(run(given))))
