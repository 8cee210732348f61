#!/usr/bin/env python3
"""Forwards with aio-pika on uvloop: a task a message (the library's way), acks in batches.

The prefetch is small because that is kindest to it: it looks at all unconfirmed messages for each confirm of
several.
"""

import argparse
import asyncio
import signal
import sys
from collections import deque
from zlib import crc32

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

PARTITIONS = 64
PREFETCH = 300
ACK_EVERY = 100
ACK_SECONDS = 0.01


class Forwarder:
    def __init__(
        self, exchange: aio_pika.abc.AbstractExchange, routing_keys: list[str], stop: asyncio.Event
    ) -> None:
        self.exchange = exchange
        self.keys = [routing_keys[number % len(routing_keys)] for number in range(PARTITIONS)]
        self.waiting: deque[AbstractIncomingMessage] = deque()
        self.confirmed: set[AbstractIncomingMessage] = set()
        self.to_ack: AbstractIncomingMessage | None = None
        self.ready = 0
        self.timer: asyncio.TimerHandle | None = None
        self.acks: set[asyncio.Task[object]] = set()
        self.stop = stop
        self.failure: Exception | None = None

    async def forward(self, message: AbstractIncomingMessage) -> None:
        key = str(message.headers["partitionKey"])
        routing_key = self.keys[crc32(key.encode()) % PARTITIONS]
        self.waiting.append(message)
        try:
            await self.exchange.publish(message, routing_key, mandatory=True)
        except (aio_pika.exceptions.AMQPError, OSError) as failure:
            self.failure = failure
            self.stop.set()
            return
        self.settle(message)

    def settle(self, message: AbstractIncomingMessage) -> None:
        self.confirmed.add(message)
        while self.waiting and self.waiting[0] in self.confirmed:
            self.to_ack = self.waiting.popleft()
            self.confirmed.discard(self.to_ack)
            self.ready += 1
        if self.ready >= ACK_EVERY:
            self.ack()
        elif self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self.ack_late)

    def ack_late(self) -> None:
        self.timer = None
        self.ack()

    def ack(self) -> None:
        if self.to_ack is not None:
            task: asyncio.Task[object] = asyncio.ensure_future(self.to_ack.ack(multiple=True))
            self.acks.add(task)
            task.add_done_callback(self.acks.discard)
            self.to_ack = None
            self.ready = 0


async def main(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    source = await aio_pika.connect(options.amqp)
    target = await aio_pika.connect(options.amqp)
    async with source, target:
        out = await target.channel(publisher_confirms=True, on_return_raises=True)
        forwarder = Forwarder(await out.get_exchange(options.exchange), options.routing_keys, stop)
        channel = await source.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue(options.queue)
        await queue.consume(forwarder.forward, exclusive=True)
        await stop.wait()
        if forwarder.failure is not None:
            print(f"forwarder: {forwarder.failure!r}", file=sys.stderr)
            return 1
        forwarder.ack()
        await asyncio.gather(*forwarder.acks)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="forward messages by their key")
    parser.add_argument("--amqp", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--exchange", required=True)
    parser.add_argument("--routing-keys", required=True, nargs="+")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main(parse(sys.argv[1:]))))
