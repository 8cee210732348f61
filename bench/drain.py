#!/usr/bin/env python3
"""Consumes queues as fast as they fill, as members with no work to do would, and counts.

One connection a queue, prefetch 500, acks in batches. The count of all queues is written to a file, four
bytes, whenever it has changed, every 20 ms at most. Ends with SIGTERM.
"""

import argparse
import asyncio
import os
import signal
import sys

import uvloop

from partymq.amqp.channel import Channel
from partymq.amqp.connection import connect
from partymq.amqp.content import Span
from partymq.amqp.url import BrokerUrl

PREFETCH = 500
TICK_SECONDS = 0.02


class Drain:
    """The count of all queues."""

    def __init__(self, path: str) -> None:
        self.count = 0
        self._written = -1
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)

    async def consume(self, url: BrokerUrl, queue: str) -> None:
        connection = await connect(url, name=f"bench drain {queue}")
        channel = await connection.open_channel()
        await channel.qos(PREFETCH)
        await channel.consume(queue, lambda _buf, spans: self._take(channel, spans))

    def _take(self, channel: Channel, spans: list[Span]) -> None:
        self.count += len(spans)
        channel.ack(spans[-1][0], multiple=True)

    async def note(self) -> None:
        while True:
            if self.count != self._written:
                os.pwrite(self._file, self.count.to_bytes(4), 0)
                self._written = self.count
            await asyncio.sleep(TICK_SECONDS)


async def main(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    drain = Drain(options.count)
    url = BrokerUrl.parse(options.amqp)
    for queue in options.queues:
        await drain.consume(url, queue)
    noting = asyncio.create_task(drain.note())
    await stop.wait()
    noting.cancel()
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="consume queues and count")
    parser.add_argument("--amqp", required=True)
    parser.add_argument("--count", required=True, help="file for the count")
    parser.add_argument("queues", nargs="+")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main(parse(sys.argv[1:]))))
