#!/usr/bin/env python3
"""A member as a careful outsider would write it: pika, urllib, nothing of PartyMQ.

bind -> declare a queue and bind it -> consume it alone -> ready -> heartbeats -> consume, ack
the connection breaks: connect and consume again, still a member (or, with --rebinds, bind and ready again)
a heartbeat is answered 404: stop, bind again

SIGTERM   leave: unbind, go on until the queue stays empty, go
SIGUSR1   stop consuming for a while; the heartbeats go on
SIGUSR2   hang in the next message for a while; all heartbeats go on
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import pika
import pika.exceptions

if __package__:
    from verify.notes import Notebook
else:
    from notes import Notebook  # type: ignore[import-not-found, no-redef]

_RETRY = 0.2
_QUIET = 1.0
"""Seconds without a message after which a leaving member takes its queue to be empty."""


class RefusedError(Exception):
    """The API answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Member:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.notes = Notebook(options.notes)
        self.queue: str = options.queue or f"chaos.{options.name}"
        self.is_member = False
        self.leaving = False
        self.pause_until = 0.0
        self.hang = False
        self.forgotten = threading.Event()
        self.parent = os.getppid()

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self.told_to_leave)
        signal.signal(signal.SIGUSR1, self.told_to_pause)
        signal.signal(signal.SIGUSR2, self.told_to_hang)
        threading.Thread(target=self.beat, daemon=True).start()
        done = False
        while not done:
            try:
                done = self.live()
            except (pika.exceptions.AMQPError, OSError, RefusedError) as failure:
                self.log(f"{type(failure).__name__}: {failure}; trying again")
                time.sleep(_RETRY)
        return 0

    def told_to_leave(self, _number: int, _frame: object) -> None:
        self.leaving = True

    def told_to_pause(self, _number: int, _frame: object) -> None:
        self.pause_until = time.monotonic() + self.options.pause

    def told_to_hang(self, _number: int, _frame: object) -> None:
        self.hang = True

    def live(self) -> bool:
        """One connection; True when the member has left."""
        connection = pika.BlockingConnection(pika.URLParameters(self.options.amqp))
        try:
            self.notes.write("C")
            if self.options.rebinds:
                self.is_member = False
            if self.forgotten.is_set():
                return False
            channel = self.join(connection) if not self.is_member else self.consume(connection)
            return self.work(connection, channel)
        finally:
            if self.forgotten.is_set():
                self.let_fall(connection)
                self.is_member = False
                self.forgotten.clear()
            if connection.is_open:
                connection.close()

    def join(self, connection: Any) -> Any:
        try:
            bound = self.call("bind")
        except RefusedError as refusal:
            if refusal.status != 409:  # our own earlier call, the answer to which got lost
                raise
            key = f"partymq.partition-{self.options.name}"
            bound = {"exchange": self.options.exchange, "routingKey": key}
        channel = connection.channel()
        arguments: dict[str, Any] = {"x-queue-type": "quorum"} if self.options.quorum else {}
        if self.options.max_length:
            arguments |= {"x-max-length": self.options.max_length, "x-overflow": "reject-publish"}
        channel.queue_declare(self.queue, durable=True, arguments=arguments)
        channel.queue_bind(self.queue, bound["exchange"], bound["routingKey"])
        channel.close()
        channel = self.consume(connection)
        try:
            self.call("ready", None if self.options.silent else {"queue": self.queue})
        except RefusedError as refusal:
            if refusal.status != 409:
                raise
        self.is_member = True
        self.notes.write("R")
        return channel

    def consume(self, connection: Any) -> Any:
        """Consume the queue as its only consumer: try until it can be had."""
        while True:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=self.options.prefetch)
            try:
                channel.basic_consume(self.queue, self.handle, exclusive=not self.options.quorum)
            except pika.exceptions.ChannelClosedByBroker as refusal:
                if refusal.reply_code not in (403, 405):
                    raise
                self.wait(connection, _RETRY)
            else:
                return channel

    def work(self, connection: Any, channel: Any) -> bool:
        told = False
        self.busy_at = time.monotonic()
        while not self.forgotten.is_set():
            connection.process_data_events(0.1)
            if os.getppid() != self.parent:
                sys.exit(1)
            if self.pause_until > time.monotonic():
                self.let_fall(connection)
                channel.close()  # what is unacked goes back in order
                self.wait(connection, self.pause_until - time.monotonic())
                channel = self.consume(connection)
            if not channel.is_open:
                raise pika.exceptions.ChannelClosed(0, "the channel is closed")
            if not self.leaving:
                self.busy_at = time.monotonic()
                continue
            if not told:
                self.call("unbind")
                told, self.busy_at = True, time.monotonic()
            if time.monotonic() - self.busy_at > _QUIET:
                return True
        return False

    def let_fall(self, connection: Any) -> None:
        """Take what has been received, unhandled, before a channel is closed.

        pika rejects what it has not handed over by then, and a quorum queue puts that at its end.
        """
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.process_data_events(0.1)

    def wait(self, connection: Any, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            connection.process_data_events(min(left, 0.1))

    def handle(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        if self.forgotten.is_set() or self.pause_until > time.monotonic() or not channel.is_open:
            return  # not acked: the broker keeps it
        key, seq = (int(part) for part in body.split(b" ")[:2])
        self.notes.write("B", key, seq)
        if self.hang:
            self.hang = False
            self.notes.write("H", key, seq)
            self.log(f"hangs for {self.options.pause:g} s in {key} {seq}")
            try:
                channel.connection.sleep(self.options.pause)
            except BaseException:
                self.notes.write("A", key, seq)
                raise
        time.sleep(min(0.2, random.expovariate(1000 / self.options.work_ms)))
        self.notes.write("E", key, seq)
        channel.basic_ack(method.delivery_tag)
        self.busy_at = time.monotonic()

    def beat(self) -> None:
        while True:
            time.sleep(self.options.heartbeat)
            if not self.is_member:
                continue
            try:
                self.call("heartbeat")
            except RefusedError as refusal:
                if refusal.status == 404 and self.is_member and not self.leaving:
                    self.log(f"heartbeat: {refusal}")
                    self.forgotten.set()
            except OSError as failure:
                self.log(f"heartbeat: {failure}")

    def call(self, what: str, body: dict[str, str] | None = None) -> Any:
        """One of the four calls, on any server that answers. Raises RefusedError, OSError."""
        failure: Exception = OSError("no server")
        for api in random.sample(self.options.api, len(self.options.api)):
            request = urllib.request.Request(
                f"{api}/clients/{urllib.parse.quote(self.options.name, safe='')}/{what}",
                data=json.dumps(body).encode() if body else b"",
                headers={"Content-Type": "application/json"} if body else {},
                method="POST",
            )
            try:
                with urllib.request.urlopen(request, timeout=6) as response:
                    return json.loads(response.read() or b"null")
            except urllib.error.HTTPError as error:
                failure = RefusedError(error.code, error.read().decode(errors="replace"))
                if error.code != 503:
                    break
            except OSError as error:
                failure = error
        raise failure

    def log(self, text: str) -> None:
        print(f"{time.monotonic():.3f} {self.options.name}: {text}", file=sys.stderr, flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="be a member of the group `default`")
    parser.add_argument("--name", required=True, help="hostname")
    parser.add_argument(
        "--api", required=True, action="append", help="URL of a server's API; several may be given"
    )
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--notes", required=True, help="file for the notes")
    parser.add_argument("--queue", help="its queue's name")
    parser.add_argument("--exchange", default="partymq.ex.write")
    parser.add_argument("--silent", action="store_true", help="does not say in `ready` which its queue is")
    parser.add_argument("--rebinds", action="store_true", help="binds again whenever it connects again")
    parser.add_argument("--quorum", action="store_true", help="its queue is a quorum queue")
    parser.add_argument("--max-length", type=int, help="its queue refuses more messages than this")
    parser.add_argument("--prefetch", type=int, default=10)
    parser.add_argument("--work-ms", type=float, default=2.0, help="work for a message, on average")
    parser.add_argument("--heartbeat", type=float, default=1.0, help="seconds between HTTP heartbeats")
    parser.add_argument("--pause", type=float, default=4.0, help="seconds for SIGUSR1 and SIGUSR2")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(Member(parse(sys.argv[1:])).run())
