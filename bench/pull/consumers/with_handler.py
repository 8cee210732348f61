#!/usr/bin/env python3
"""Plain basic.consume with a handler: PartyMQ's own AMQP layer, each message's body to an async function, one
after the other, one ack a read and queue. No keys, no lanes, nobody to share the queues with."""

import argparse
import asyncio
import signal
import sys

import uvloop

from bench.pull.consumers.tally import Tally, plain_parser
from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Span, body_of
from partymq.amqp.url import BrokerUrl

COALESCE = 0.003
"""What a member sets."""


class Plain:
    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.gate = asyncio.Event()
        self.reads: asyncio.Queue[tuple[Channel, bytes, list[Span]]] = asyncio.Queue()

    async def consume(self, connection: Connection, queue: str, prefetch: int) -> None:
        channel = await connection.open_channel()
        await channel.qos(prefetch)
        await channel.consume(queue, lambda buf, spans: self.reads.put_nowait((channel, buf, spans)))
        self.tally.partitions += 1

    async def handle(self, _body: bytes) -> None:
        if not self.tally.is_open:
            await self.gate.wait()
        self.tally.count += 1

    async def work(self) -> None:
        while True:
            channel, buf, spans = await self.reads.get()
            for _tag, _method_at, header_at, end in spans:
                await self.handle(body_of(buf, header_at, end))
            channel.ack(spans[-1][0], multiple=True)


async def main(options: argparse.Namespace) -> None:
    tally = Tally(options.tally, options.gate)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    plain = Plain(tally)
    connection = await connect(BrokerUrl.parse(options.amqp), name="bench handler", coalesce=COALESCE)
    for queue in options.queues:
        await plain.consume(connection, queue, options.prefetch)
    ticking = asyncio.create_task(tally.ticking(plain.gate.set))
    working = asyncio.create_task(plain.work())
    await stop.wait()
    working.cancel()
    ticking.cancel()
    await connection.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(plain_parser("consume queues, call a handler, and count").parse_args(sys.argv[1:])))
