#!/usr/bin/env python3
"""Forwards with pika: SelectConnection, one connection to consume and one to publish, acks in batches."""

import argparse
import signal
import sys
from collections import deque
from typing import Any
from zlib import crc32

import pika
from pika.adapters.select_connection import IOLoop

PARTITIONS = 64
PREFETCH = 4000
ACK_EVERY = 100
ACK_SECONDS = 0.01


class Forwarder:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.keys = [options.routing_keys[number % len(options.routing_keys)] for number in range(PARTITIONS)]
        self.tags: deque[int] = deque()
        self.confirmed: set[int] = set()
        self.published = 0
        self.settled = 0
        self.last = 0
        self.acked = 0
        self.timer: object = None
        self.stopping = False
        self.loop = IOLoop()
        self.target = self.connect(self.target_opened)

    def connect(self, opened: Any) -> Any:
        return pika.SelectConnection(
            pika.URLParameters(self.options.amqp),
            on_open_callback=lambda connection: connection.channel(on_open_callback=opened),
            on_open_error_callback=self.lost,
            on_close_callback=self.lost,
            custom_ioloop=self.loop,
        )

    def run(self) -> int:
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.loop.add_callback_threadsafe(self.stop))
        self.loop.start()
        return 0 if self.stopping else 1

    def target_opened(self, channel: Any) -> None:
        self.out = channel
        channel.add_on_return_callback(lambda *_: self.lost(None, RuntimeError("a message came back")))
        channel.confirm_delivery(self.on_confirm, callback=lambda _frame: self.connect_source())

    def connect_source(self) -> None:
        self.source = self.connect(self.source_opened)

    def source_opened(self, channel: Any) -> None:
        self.input = channel
        channel.basic_qos(prefetch_count=PREFETCH, callback=lambda _frame: self.consume())

    def consume(self) -> None:
        self.input.basic_consume(self.options.queue, self.forward, exclusive=True)

    def forward(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        key = properties.headers["partitionKey"]
        routing_key = self.keys[crc32(key.encode()) % PARTITIONS]
        self.tags.append(method.delivery_tag)
        self.published += 1
        self.out.basic_publish(self.options.exchange, routing_key, body, properties, mandatory=True)

    def on_confirm(self, frame: Any) -> None:
        method = frame.method
        if isinstance(method, pika.spec.Basic.Nack):
            self.lost(None, RuntimeError("the broker refused a message"))
            return
        if method.multiple:
            self.confirmed.update(range(self.settled + 1, method.delivery_tag + 1))
        else:
            self.confirmed.add(method.delivery_tag)
        while self.settled + 1 in self.confirmed:
            self.settled += 1
            self.confirmed.discard(self.settled)
            self.last = self.tags.popleft()
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
            self.input.basic_ack(self.acked, multiple=True)

    def stop(self) -> None:
        self.stopping = True
        self.ack()
        self.source.close()

    def lost(self, _connection: Any, reason: Exception) -> None:
        if not self.stopping:
            print(f"forwarder: {reason}", file=sys.stderr)
        self.loop.stop()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="forward messages by their key")
    parser.add_argument("--amqp", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--exchange", required=True)
    parser.add_argument("--routing-keys", required=True, nargs="+")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(Forwarder(parse(sys.argv[1:])).run())
