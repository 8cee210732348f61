#!/usr/bin/env python3
"""Publishes flights to an exchange, as any team's publisher would: plain pika, nothing of PartyMQ.

Reads lines `aircraft,departure,line,origin,dest,delay` and publishes them in their order at a steady rate:
persistent, with confirms, keyed by the header `partitionKey`. Every ten milliseconds it notes how many
messages, counted from the first, the broker has confirmed without a gap: a record of two little-endian
numbers, count (u32) and CLOCK_MONOTONIC in nanoseconds (i64). Exit status 0 when all are confirmed.
"""

import argparse
import csv
import json
import os
import signal
import struct
import sys
import time
from typing import Any

import pika

TICK_SECONDS = 0.01
MOST_UNCONFIRMED = 1000
NOTE = struct.Struct("<Iq")


class Publisher:
    def __init__(self, options: argparse.Namespace) -> None:
        self.exchange = options.exchange
        self.rate = options.rate
        with open(options.flights, newline="", encoding="ascii") as lines:
            self.flights = list(csv.reader(lines))
        self.notes = os.open(options.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.sent = 0
        self.confirmed = bytearray(len(self.flights))
        self.confirmed_up_to = 0
        self.noted = -1
        self.status = 1
        self.stopping = False
        self.ending = False
        self.connection = pika.SelectConnection(
            pika.URLParameters(options.amqp),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_open_error_callback=self.lost,
            on_close_callback=self.lost,
        )

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self.told_to_stop)
        self.connection.ioloop.start()
        return self.status

    def told_to_stop(self, _number: int, _frame: object) -> None:
        self.stopping = True

    def opened(self, channel: Any) -> None:
        self.channel = channel
        channel.add_on_return_callback(self.returned)
        channel.add_on_close_callback(self.channel_closed)
        channel.confirm_delivery(self.settled, callback=lambda _frame: self.begin())

    def begin(self) -> None:
        self.began = time.monotonic()
        self.tick()

    def tick(self) -> None:
        if self.stopping:
            self.finish(1)
        if self.ending:
            return
        due = min(len(self.flights), int((time.monotonic() - self.began) * self.rate) + 1)
        while self.sent < due and self.sent - self.confirmed_up_to < MOST_UNCONFIRMED:
            self.publish(self.sent)
            self.sent += 1
        if self.confirmed_up_to != self.noted:
            os.write(self.notes, NOTE.pack(self.confirmed_up_to, time.monotonic_ns()))
            self.noted = self.confirmed_up_to
        if self.confirmed_up_to == len(self.flights):
            self.finish(0)
        else:
            self.connection.ioloop.call_later(TICK_SECONDS, self.tick)

    def publish(self, number: int) -> None:
        aircraft, departure, line, origin, dest, delay = self.flights[number]
        body = {
            "number": number,
            "aircraft": aircraft,
            "flight": line,
            "departure": departure,
            "origin": origin,
            "dest": dest,
            "delay": int(delay) if delay else None,
        }
        self.channel.basic_publish(
            self.exchange,
            f"flight.{origin}",
            json.dumps(body, separators=(",", ":")).encode(),
            pika.BasicProperties(
                content_type="application/json", delivery_mode=2, headers={"partitionKey": aircraft}
            ),
            mandatory=True,
        )

    def settled(self, frame: Any) -> None:
        method = frame.method
        if isinstance(method, pika.spec.Basic.Nack):
            self.fail(f"the broker refused message {method.delivery_tag - 1}")
            return
        last = method.delivery_tag - 1
        if method.multiple:
            for number in range(self.confirmed_up_to, last):
                self.confirmed[number] = 1
        self.confirmed[last] = 1
        while self.confirmed_up_to < self.sent and self.confirmed[self.confirmed_up_to]:
            self.confirmed_up_to += 1

    def returned(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self.fail(f"a message came back from the exchange {method.exchange}: {method.reply_text}")

    def channel_closed(self, _channel: Any, reason: Exception) -> None:
        if not self.ending:
            self.fail(f"the channel was closed: {reason}")

    def lost(self, _connection: Any, reason: Exception) -> None:
        if not self.ending:
            print(f"publisher: the connection was lost: {reason}", file=sys.stderr)
        self.connection.ioloop.stop()

    def fail(self, reason: str) -> None:
        print(f"publisher: {reason}", file=sys.stderr)
        self.finish(1)

    def finish(self, status: int) -> None:
        if not self.ending:
            self.ending = True
            self.status = status
            self.connection.close()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="publish flights at a steady rate")
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--exchange", required=True)
    parser.add_argument("--flights", required=True, help="file with a line for each flight")
    parser.add_argument("--notes", default=os.devnull, help="file for the notes on what is confirmed")
    parser.add_argument("--rate", type=float, required=True, help="messages per second")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(Publisher(parse(sys.argv[1:])).run())
