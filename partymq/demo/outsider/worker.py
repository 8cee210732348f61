#!/usr/bin/env python3
"""A worker as somebody would write it who knows PartyMQ's four HTTP calls: pika, urllib, nothing of PartyMQ.

    bind -> declare a queue and bind it to the exchange -> ready -> heartbeats in a thread -> consume and ack
    SIGTERM: finish the message in hand, close the connection, unbind

With `--queue` instead of `--api` it is one of several consumers that compete for one plain queue; all else is
the same.

It keeps a state for each aircraft and notes what it does in a file, a record of 16 bytes each, little-endian:
kind (u8), flags (u8), nothing (u16), number of the flight (u32), CLOCK_MONOTONIC in nanoseconds (i64), which
is one clock for all processes of a machine. BEGIN is written before a flight is worked on, END after that and
before the ack; each is one write(2), so a kill loses nothing that was written.
"""

import argparse
import json
import math
import os
import signal
import struct
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import pika
import pika.exceptions

READY, BEGIN, END, LEFT = 1, 2, 3, 4
REDELIVERED, STALE = 1, 2
RECORD = struct.Struct("<BBHIq")
RETRY_SECONDS = 0.2
LEAVE_SECONDS = 10.0


class RefusedError(Exception):
    """The API answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Aircraft:
    """What is known of an aircraft. Right only if flights come in order and nobody else has it meanwhile."""

    def __init__(self) -> None:
        self.latest = -1
        self.flights = 0
        self.minutes_late = 0
        self.at = ""

    def fly(self, flight: dict[str, Any]) -> bool:
        """Take a flight into account. False: this one, or a later one, of the aircraft was here before."""
        in_order = bool(flight["number"] > self.latest)
        if in_order:
            self.latest = flight["number"]
            self.at = flight["dest"]
        self.flights += 1
        self.minutes_late += flight["delay"] or 0
        return in_order


class Worker:
    def __init__(self, options: argparse.Namespace) -> None:
        self.name: str = options.name
        self.api: str | None = options.api
        self.plain_queue: str | None = options.queue
        self.amqp: str = options.amqp
        self.prefetch: int = options.prefetch
        self.work_seconds: float = options.work_ms / 1000
        self.heartbeat_seconds: float = options.heartbeat_s
        self.show: bool = options.show
        self.notes = os.open(options.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.aircraft: dict[str, Aircraft] = {}
        self.is_member = False
        self.stopping = False
        self.forgotten = threading.Event()

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self.told_to_stop)
        if self.api:
            threading.Thread(target=self.beat, daemon=True).start()
        while not self.stopping:
            try:
                self.consume()
            except (pika.exceptions.AMQPError, OSError, RefusedError) as failure:
                print(f"{self.name}: {type(failure).__name__}: {failure}; trying again", file=sys.stderr)
                time.sleep(RETRY_SECONDS)
        left = not self.is_member or self.leave()
        self.note(LEFT)
        return 0 if left else 1

    def told_to_stop(self, _number: int, _frame: object) -> None:
        self.stopping = True

    def consume(self) -> None:
        """One connection to the broker: join unless we are a member still, then work until told otherwise."""
        connection = pika.BlockingConnection(pika.URLParameters(self.amqp))
        try:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=self.prefetch)
            if self.plain_queue:
                queue = self.plain_queue
                self.note(READY)
            else:
                queue = f"flights.{self.name}"
                if not self.is_member:
                    self.join(channel, queue)
            channel.basic_consume(queue, self.handle)
            while not self.stopping and not self.forgotten.is_set():
                connection.process_data_events(time_limit=0.1)
        finally:
            if connection.is_open:
                connection.close()
            if self.forgotten.is_set():
                self.is_member = False
                self.forgotten.clear()

    def join(self, channel: Any, queue: str) -> None:
        answer = self.call("bind")
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, answer["exchange"], answer["routingKey"])
        self.call("ready", {"queue": queue})
        self.is_member = True
        self.note(READY)

    def handle(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        if self.stopping or self.forgotten.is_set():
            return  # not acked: the broker keeps it
        flight = json.loads(body)
        number = flight["number"]
        flags = REDELIVERED if method.redelivered else 0
        self.note(BEGIN, number, flags)
        aircraft = self.aircraft.setdefault(flight["aircraft"], Aircraft())
        if not aircraft.fly(flight):
            flags |= STALE
        time.sleep(self.work_seconds * effort(number))
        if self.show:
            print(flight["aircraft"], flight["flight"], flight["origin"], "->", flight["dest"], flush=True)
        self.note(END, number, flags)
        channel.basic_ack(method.delivery_tag)

    def note(self, kind: int, number: int = 0, flags: int = 0) -> None:
        os.write(self.notes, RECORD.pack(kind, flags, 0, number, time.monotonic_ns()))

    def beat(self) -> None:
        while True:
            time.sleep(self.heartbeat_seconds)
            if not self.is_member:
                continue
            try:
                self.call("heartbeat")
            except RefusedError as refusal:
                print(f"{self.name}: heartbeat: {refusal}", file=sys.stderr)
                if refusal.status == 404:
                    self.forgotten.set()
            except OSError as failure:
                print(f"{self.name}: heartbeat: {failure}", file=sys.stderr)

    def leave(self) -> bool:
        """Unbind; the server may be away for the moment, so again and again for a while."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while True:
            try:
                self.call("unbind")
                return True
            except (OSError, RefusedError) as failure:
                if time.monotonic() >= deadline:
                    print(f"{self.name}: unbind: {failure}; given up", file=sys.stderr)
                    return False
                time.sleep(RETRY_SECONDS)

    def call(self, what: str, body: dict[str, str] | None = None) -> Any:
        """One of the four calls. Raises RefusedError, or OSError when there is no answer."""
        request = urllib.request.Request(
            f"{self.api}/clients/{urllib.parse.quote(self.name, safe='')}/{what}",
            data=json.dumps(body).encode() if body else b"",
            headers={"Content-Type": "application/json"} if body else {},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            raise RefusedError(error.code, error.read().decode(errors="replace")) from None


def effort(number: int) -> float:
    """How much work a flight is, 1 on average: mostly little, now and then a lot, the same anywhere."""
    if number % 400 == 399:
        return 40.0
    share = ((number * 2_654_435_761) % 2**32 + 0.5) / 2**32
    return -math.log(share) * 0.9


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="work on flights")
    parser.add_argument("--name", required=True, help="hostname of this worker")
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("--api", help="URL of PartyMQ's HTTP API: be a member of its group")
    role.add_argument("--queue", help="name of a plain queue: compete for its messages")
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--notes", default=os.devnull, help="file for the notes on what is done")
    parser.add_argument("--prefetch", type=int, default=50)
    parser.add_argument("--work-ms", type=float, default=0.5, help="work per message, on average")
    parser.add_argument("--heartbeat-s", type=float, default=0.5)
    parser.add_argument("--show", action="store_true", help="print a line for each flight")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(Worker(parse(sys.argv[1:])).run())
