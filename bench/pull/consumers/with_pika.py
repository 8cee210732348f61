#!/usr/bin/env python3
"""pika: SelectConnection, all queues on one channel, a callback a message, acks in batches."""

import argparse
import signal
import sys
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop

from bench.pull.consumers.tally import TICK_SECONDS, Tally, plain_parser

ACK_EVERY = 100
ACK_SECONDS = 0.01


class Plain:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tally = Tally(options.tally, options.gate)
        self.held = self.last = self.acked = 0
        self.timer: object = None
        self.stopping = False
        self.loop = IOLoop()
        self.connection = pika.SelectConnection(
            pika.URLParameters(options.amqp),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_open_error_callback=self.lost,
            on_close_callback=self.lost,
            custom_ioloop=self.loop,
        )

    def run(self) -> int:
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.loop.add_callback_threadsafe(self.stop))
        self.tick()
        self.loop.start()
        return 0 if self.stopping else 1

    def opened(self, channel: Any) -> None:
        self.channel = channel
        channel.basic_qos(prefetch_count=self.options.prefetch, callback=lambda _frame: self.consume())

    def consume(self) -> None:
        for queue in self.options.queues:
            self.channel.basic_consume(queue, self.take, callback=lambda _frame: self.consumes())

    def consumes(self) -> None:
        self.tally.partitions += 1

    def take(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self.last = method.delivery_tag
        if not self.tally.is_open:
            self.held += 1
            return
        self.tally.count += 1
        if self.last - self.acked >= ACK_EVERY:
            self.ack()
        elif self.timer is None:
            self.timer = self.loop.call_later(ACK_SECONDS, self.ack_late)

    def ack_late(self) -> None:
        self.timer = None
        self.ack()

    def ack(self) -> None:
        if self.last > self.acked:
            self.acked = self.last
            self.channel.basic_ack(self.acked, multiple=True)

    def tick(self) -> None:
        if self.tally.tick():
            self.tally.count = self.held
            self.ack()
        self.loop.call_later(TICK_SECONDS, self.tick)

    def stop(self) -> None:
        self.stopping = True
        self.connection.close()

    def lost(self, _connection: Any, reason: Exception) -> None:
        if not self.stopping:
            print(f"consumer: {reason}", file=sys.stderr)
        self.loop.stop()


if __name__ == "__main__":
    sys.exit(Plain(plain_parser("consume queues, and count").parse_args(sys.argv[1:])).run())
