#!/usr/bin/env python3
"""Publishes numbered messages of many keys to the source, one after the other, each until it is confirmed.

After a fault the message in hand is published again: it may then be in the source twice, one right behind the
other as far as its key is concerned. At the end (SIGTERM) it writes how many there were of each key.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pika
import pika.exceptions


class Publisher:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.counts = [0] * options.keys
        self.stopping = False
        self.parent = os.getppid()
        self.message: tuple[int, int] | None = None

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self.told_to_stop)
        while not self.stopping or self.message is not None:
            try:
                with contextlib.closing(
                    pika.BlockingConnection(pika.URLParameters(self.options.amqp))
                ) as found:
                    self.publish(found.channel())
            except (pika.exceptions.AMQPError, OSError) as failure:
                print(
                    f"{time.monotonic():.3f} {type(failure).__name__}: {failure}", file=sys.stderr, flush=True
                )
                time.sleep(0.2)
            if os.getppid() != self.parent:
                return 1
        Path(self.options.counts).write_text(json.dumps(self.counts))
        return 0

    def told_to_stop(self, _number: int, _frame: object) -> None:
        self.stopping = True

    def publish(self, channel: Any) -> None:
        channel.confirm_delivery()
        due = time.monotonic()
        while self.message is not None or not self.stopping:
            if self.message is None:
                key = min(int(self.random.expovariate(8 / self.options.keys)), self.options.keys - 1)
                self.message = key, self.counts[key]
                self.counts[key] += 1
            key, seq = self.message
            properties = pika.BasicProperties(delivery_mode=2, headers={"partitionKey": f"key-{key}"})
            body = f"{key} {seq} ".encode() + b"x" * self.random.choice((0, 100, 700))
            channel.basic_publish("", self.options.source, body, properties, mandatory=True)
            self.message = None
            due = max(due + self.random.expovariate(self.options.rate), time.monotonic() - 1.0)
            if (pause := due - time.monotonic()) > 0:
                channel.connection.sleep(pause)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="publish to the source")
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--source", default="partymq.q.source")
    parser.add_argument("--counts", required=True, help="file for the number of messages by key")
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--rate", type=float, default=300.0, help="messages a second, on average")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(Publisher(parse(sys.argv[1:])).run())
