#!/usr/bin/env python3
"""Plain basic.consume at its cheapest: PartyMQ's own AMQP layer, no handler, one ack a read and queue."""

import argparse
import asyncio
import signal
import sys

import uvloop

from bench.pull.consumers.tally import Tally, plain_parser
from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Span
from partymq.amqp.url import BrokerUrl

COALESCE = 0.003
"""What a member sets; the broker and it have less to do than with 0.001, and no less comes through."""


class Plain:
    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.held: list[tuple[Channel, list[Span]]] = []

    async def consume(self, connection: Connection, queue: str, prefetch: int) -> None:
        channel = await connection.open_channel()
        await channel.qos(prefetch)
        await channel.consume(queue, lambda _buf, spans: self.take(channel, spans))
        self.tally.partitions += 1

    def take(self, channel: Channel, spans: list[Span]) -> None:
        if not self.tally.is_open:
            self.held.append((channel, spans))
            return
        self.tally.count += len(spans)
        channel.ack(spans[-1][0], multiple=True)

    def let_go(self) -> None:
        for channel, spans in self.held:
            self.take(channel, spans)
        self.held.clear()


async def main(options: argparse.Namespace) -> None:
    tally = Tally(options.tally, options.gate)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    plain = Plain(tally)
    connection = await connect(BrokerUrl.parse(options.amqp), name="bench plain", coalesce=COALESCE)
    for queue in options.queues:
        await plain.consume(connection, queue, options.prefetch)
    ticking = asyncio.create_task(tally.ticking(plain.let_go))
    await stop.wait()
    ticking.cancel()
    await connection.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(plain_parser("consume queues, and count").parse_args(sys.argv[1:])))
