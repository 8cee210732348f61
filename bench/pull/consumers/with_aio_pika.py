#!/usr/bin/env python3
"""aio-pika on uvloop: the queues' iterators on one channel, each message acked when it is done."""

import argparse
import asyncio
import signal
import sys

import aio_pika
import uvloop
from aio_pika.abc import AbstractQueue

from bench.pull.consumers.tally import Tally, plain_parser


async def iterate(queue: AbstractQueue, tally: Tally, gate: asyncio.Event) -> None:
    async with queue.iterator() as messages:
        tally.partitions += 1
        async for message in messages:
            if not tally.is_open:
                await gate.wait()
            tally.count += 1
            await message.ack()


async def main(options: argparse.Namespace) -> None:
    tally = Tally(options.tally, options.gate)
    gate, stop = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = await aio_pika.connect(options.amqp)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=options.prefetch)
    working = [asyncio.create_task(tally.ticking(gate.set))]
    for name in options.queues:
        queue = await channel.get_queue(name, ensure=False)
        working.append(asyncio.create_task(iterate(queue, tally, gate)))
    ended = asyncio.create_task(stop.wait())
    await asyncio.wait([ended, *working], return_when=asyncio.FIRST_COMPLETED)
    for task in working:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.wait(working)
    await connection.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(plain_parser("consume queues, and count").parse_args(sys.argv[1:])))
