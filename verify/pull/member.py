#!/usr/bin/env python3
"""A member of a pull group that notes what it is given, and fails where a message says so.

A message's body is `key seq kind`; of kind `f` its handler fails once, of kind `p` always. Parked ones of
kind `p` fail mostly no more when they are released.
"""

import argparse
import asyncio
import logging
import random
import sys
import time
from collections.abc import Sequence

from partymq import Consumer, Message
from partymq.client.failure import RetryPolicy
from partymq.client.parking import SEQUENCE_HEADER
from verify.notes import Notebook

_ATTEMPTS = 3


class Member:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.notes = Notebook(options.notes)

    def lost(self, _partitions: Sequence[int]) -> None:
        self.notes.write("J")

    async def handle(self, message: Message) -> None:
        key, seq, kind = self.begin(message)
        try:
            await asyncio.sleep(self.work_seconds())
        except asyncio.CancelledError:
            self.notes.write("A", key, seq, message.fencing_token)
            raise
        self.end(message, key, seq, kind)

    def handle_in_thread(self, message: Message) -> None:
        key, seq, kind = self.begin(message)
        if message.lost.wait_in_thread(self.work_seconds()):
            self.notes.write("A", key, seq, message.fencing_token)
            raise RuntimeError("the partition is lost")
        self.end(message, key, seq, kind)

    def begin(self, message: Message) -> tuple[int, int, str]:
        key, seq, kind = message.body.split(b" ")[:3]
        self.notes.write("B", int(key), int(seq), message.fencing_token)
        return int(key), int(seq), kind.decode()

    def work_seconds(self) -> float:
        if random.random() < 0.002:
            return 0.5
        return min(0.2, random.expovariate(1000 / self.options.work_ms))

    def end(self, message: Message, key: int, seq: int, kind: str) -> None:
        fails = kind == "f" and message.attempt == 1
        if kind == "p":
            fails = SEQUENCE_HEADER not in message.headers or random.random() < 0.2
        if not fails:
            self.notes.write("E", key, seq, message.fencing_token)
            return
        for_good = message.attempt == _ATTEMPTS and self.options.on_failure == "dead-letter"
        self.notes.write("X" if for_good else "F", key, seq, message.fencing_token)
        raise ValueError(f"{key}/{seq} fails, as it is to")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="be a member of a pull group")
    parser.add_argument("--name", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--notes", required=True, help="file for the notes")
    parser.add_argument("--session-timeout", type=float, required=True)
    parser.add_argument("--rejoin-grace", type=float, required=True)
    parser.add_argument("--on-failure", default="dead-letter")
    parser.add_argument("--coordinator", default="embedded")
    parser.add_argument("--threads", action="store_true", help="a plain function handles the messages")
    parser.add_argument("--work-ms", type=float, default=5.0, help="work for a message, on average")
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    member = Member(options)
    consumer = Consumer(
        options.amqp,
        group=options.group,
        name=options.name,
        session_timeout=options.session_timeout,
        rejoin_grace=options.rejoin_grace,
        on_failure=options.on_failure,
        coordinator=options.coordinator,
        retry=RetryPolicy(max_attempts=_ATTEMPTS, first_delay=0.05, max_delay=0.5),
        on_lost=member.lost,
        threads=16,
    )
    print(f"{time.monotonic():.3f} begins", flush=True)
    consumer.run(member.handle_in_thread if options.threads else member.handle)
    print(f"{time.monotonic():.3f} has left", flush=True)


if __name__ == "__main__":
    main(parse(sys.argv[1:]))
