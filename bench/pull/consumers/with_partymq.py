#!/usr/bin/env python3
"""A member of a pull group with an async handler that does nothing."""

import argparse
import asyncio
import json
import signal
import sys

import uvloop

from bench.pull.consumers.tally import Tally, parser
from partymq import Consumer, Message


async def main(options: argparse.Namespace) -> None:
    tally = Tally(options.tally, options.gate)
    gate, stop = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    consumer = Consumer(options.amqp, group=options.group, name=options.name, **options.settings)

    @consumer.handler
    async def handle(_message: Message) -> None:
        if not tally.is_open:
            await gate.wait()
        tally.count += 1

    @consumer.on_assigned
    async def assigned(partitions: list[int]) -> None:
        tally.partitions += len(partitions)

    @consumer.on_revoked
    async def revoked(partitions: list[int]) -> None:
        tally.partitions -= len(partitions)

    ticking = asyncio.create_task(tally.ticking(gate.set))
    async with consumer:
        await stop.wait()
    ticking.cancel()


def parse(arguments: list[str]) -> argparse.Namespace:
    made = parser("consume as a member of a group, and count")
    made.add_argument("--group", required=True)
    made.add_argument("--name", required=True)
    made.add_argument("--settings", type=json.loads, default={}, help="more settings of the consumer, JSON")
    return made.parse_args(arguments)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parse(sys.argv[1:])))
