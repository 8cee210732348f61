#!/usr/bin/env python3
"""A member of a pull group that does nothing with its messages but note when it had each.

The notes are records in a file: STARTED when the process is up and the consumer begins, GAINED and REVOKED
for each partition, HANDLED for each message, when its handler ends.
"""

import argparse
import json
import os
import struct
import sys
import time

from partymq import Consumer, Message

STARTED, GAINED, REVOKED, HANDLED = 1, 2, 3, 4
RECORD = struct.Struct("<BxHIq")
"""Kind, partition, message number, nanoseconds of CLOCK_MONOTONIC."""


def main(options: argparse.Namespace) -> None:
    notes = os.open(options.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(kind: int, partition: int = 0, number: int = 0) -> None:
        os.write(notes, RECORD.pack(kind, partition, number, time.monotonic_ns()))

    consumer = Consumer(options.amqp, group=options.group, name=options.name, **options.settings)

    @consumer.on_assigned
    async def assigned(partitions: list[int]) -> None:
        for partition in partitions:
            note(GAINED, partition)

    @consumer.on_revoked
    async def revoked(partitions: list[int]) -> None:
        for partition in partitions:
            note(REVOKED, partition)

    @consumer.handler
    async def handle(message: Message) -> None:
        note(HANDLED, message.partition, int.from_bytes(message.body[:4]))

    note(STARTED)
    consumer.run()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="a member of a pull group")
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--group", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--notes", required=True, help="file for the notes on what is done")
    parser.add_argument("--settings", type=json.loads, default={}, help="more settings of the consumer, JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(parse(sys.argv[1:]))
