#!/usr/bin/env python3
"""Publishes numbered messages of many keys to a pull group, singly and many at once, and notes when each was
confirmed.

Each process goes on with the numbers where the one before it, which may have been killed, has left off. At
SIGTERM it ends when everything is confirmed.
"""

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from partymq import Publisher
from partymq.errors import BrokerError
from verify.notes import Notebook, Reader
from verify.pull.published import numbered
from verify.pull.source import SourcePublisher

_PATIENCE = 600.0
_RETRY = 0.2
_FLAKY, _POISON = 0.004, 0.002
_BATCHES = 0.003
"""Of what is begun."""
_LARGEST_BATCH = 400


class Messages:
    """Numbers messages, and notes each as put at that moment: it has to be put before anybody else has a
    turn, for that is the order that is promised."""

    def __init__(self, options: argparse.Namespace) -> None:
        earlier = numbered({(note.key, note.seq) for note in Reader(Path(options.notes)).more()})
        self._next = [*earlier, *[0] * (options.keys - len(earlier))]
        self._random = random.Random(f"{options.seed} {sum(self._next)}")
        self._notes = Notebook(options.notes)

    def next(self) -> tuple[int, int, str]:
        """Key, number of that key, body."""
        keys = len(self._next)
        key = min(int(self._random.expovariate(8 / keys)), keys - 1)
        seq = self._next[key]
        self._next[key] += 1
        chance = self._random.random()
        kind = "p" if chance < _POISON else "f" if chance < _POISON + _FLAKY else "-"
        self._notes.write("P", key, seq)
        return key, seq, f"{key} {seq} {kind} " + "x" * self._random.choice((0, 100, 700))

    def confirmed(self, key: int, seq: int) -> None:
        """The broker has it."""
        self._notes.write("Q", key, seq)


async def publish_one(publisher: Publisher | SourcePublisher, messages: Messages) -> None:
    key, seq, body = messages.next()
    await publisher.publish(body, key=f"key-{key}")
    messages.confirmed(key, seq)


async def publish_many(publisher: Publisher | SourcePublisher, messages: Messages, count: int) -> None:
    put: list[tuple[int, int]] = []

    def some() -> Iterator[tuple[str, str]]:
        for _ in range(count):
            key, seq, body = messages.next()
            put.append((key, seq))
            yield body, f"key-{key}"

    async def slowly() -> AsyncIterator[tuple[str, str]]:
        for message in some():
            yield message
            await asyncio.sleep(0)

    await publisher.publish_many(some() if count % 2 else slowly())
    for key, seq in put:
        messages.confirmed(key, seq)


async def opened(
    options: argparse.Namespace, stack: AsyncExitStack, stopping: asyncio.Event
) -> Publisher | SourcePublisher | None:
    """A publisher's first connection is not tried again by itself, but the broker may be away; None: told to
    stop meanwhile."""
    while not stopping.is_set():
        try:
            if options.source:
                return await stack.enter_async_context(SourcePublisher(options.amqp, options.source))
            publisher = Publisher(options.amqp, group=options.group, timeout=_PATIENCE)
            return await stack.enter_async_context(publisher)
        except BrokerError as error:
            print(f"{time.monotonic():.3f} {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(_RETRY)
    return None


async def run(options: argparse.Namespace) -> None:
    """Publish until told to stop; then everything is confirmed."""
    chooser = random.Random()
    messages = Messages(options)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with AsyncExitStack() as stack:
        publisher = await opened(options, stack, stopping)
        if publisher is None:
            return
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        due = time.monotonic()
        while not stopping.is_set():
            count = chooser.randint(1, _LARGEST_BATCH) if chooser.random() < _BATCHES else 1
            if count > 1:
                tasks.create_task(publish_many(publisher, messages, count))
            else:
                tasks.create_task(publish_one(publisher, messages))
            due = max(due + chooser.expovariate(options.rate) * count, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="publish to a pull group")
    parser.add_argument("--group", required=True)
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--source", help="the queue to publish to; else it goes to the partitions")
    parser.add_argument("--notes", required=True, help="file for the notes")
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--rate", type=float, default=250.0, help="messages a second, on average")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(run(parse(sys.argv[1:])))
