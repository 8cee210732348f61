#!/usr/bin/env python3
"""A worker as somebody would write it who uses the library: all of PartyMQ that it knows is `Consumer`.

It keeps a state for each aircraft and notes what it does in a file, records as those of worker.py: READY when
it has its first partitions, BEGIN before a flight is worked on, END after that and before the ack (which is
given when the handler returns), LEFT when it has left the group after SIGTERM. Several flights are in work at
the same time, never two of one aircraft.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

from partymq import Consumer, Message

READY, BEGIN, END, LEFT = 1, 2, 3, 4
REDELIVERED, STALE = 1, 2
RECORD = struct.Struct("<BBHIq")


class Worker:
    def __init__(self, options: argparse.Namespace) -> None:
        self.work_seconds: float = options.work_ms / 1000
        self.notes = os.open(options.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.latest: dict[str, int] = {}  # of each aircraft, the newest flight seen
        self.is_member = False

    def joined(self, _partitions: Sequence[int]) -> None:
        if not self.is_member:
            self.is_member = True
            self.note(READY)

    async def handle(self, message: Message, flight: dict[str, Any]) -> None:
        number, aircraft = flight["number"], flight["aircraft"]
        flags = REDELIVERED if message.redelivered else 0
        self.note(BEGIN, number, flags)
        if number <= self.latest.get(aircraft, -1):
            flags |= STALE
        self.latest[aircraft] = max(number, self.latest.get(aircraft, -1))
        await asyncio.sleep(self.work_seconds * effort(number))
        self.note(END, number, flags)

    def note(self, kind: int, number: int = 0, flags: int = 0) -> None:
        os.write(self.notes, RECORD.pack(kind, flags, 0, number, time.monotonic_ns()))


def effort(number: int) -> float:
    """How much work a flight is, 1 on average: mostly little, now and then a lot, the same anywhere."""
    if number % 400 == 399:
        return 40.0
    share = ((number * 2_654_435_761) % 2**32 + 0.5) / 2**32
    return -math.log(share) * 0.9


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="work on flights as a member of a pull group")
    parser.add_argument("--name", required=True, help="of this worker in the group")
    parser.add_argument("--group", required=True)
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--notes", default=os.devnull, help="file for the notes on what is done")
    parser.add_argument("--concurrency", type=int, default=16, help="flights in work at the same time")
    parser.add_argument("--work-ms", type=float, default=10, help="work per message, on average")
    parser.add_argument("--settings", type=json.loads, default={}, help="more settings of the consumer, JSON")
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    worker = Worker(options)
    consumer = Consumer(
        options.amqp,
        group=options.group,
        name=options.name,
        concurrency=options.concurrency,
        on_assigned=worker.joined,
        **options.settings,
    )
    consumer.run(worker.handle)
    worker.note(LEFT)


if __name__ == "__main__":
    main(parse(sys.argv[1:]))
