"""A steady flow of messages through a server to worker processes, and what the workers note of it."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from pamqp.commands import Basic

from bench.broker import Vhost
from bench.errors import InvalidRun
from bench.messages import KEY_HEADER, Writer, keys
from bench.plan import Plan
from bench.server import SOURCE, Server, served
from bench.waiting import beside, until
from partymq.amqp.content import encode_content, publish_frame
from partymq.demo.children import Child
from partymq.demo.notes import BEGIN, END, WorkerNotes
from partymq.demo.run import OUTSIDER

PARTITIONS = 64
_KEYS = 5_000
_TICK = 0.005
_CHUNK = 200
_JOIN_WITHIN = 20.0
_LEAVE_WITHIN = 20.0
_DONE_WITHIN = 240.0
_HEARTBEAT = 0.4


_ALL_KEYS = keys(_KEYS)


def partition_of(number: int) -> int:
    """Of the message of this number, by the rule that PartyMQ has for its key."""
    return crc32(_key(number).encode()) % PARTITIONS


class Worker:
    """A worker process: the demo's, a plain client with pika."""

    def __init__(self, child: Child, notes: WorkerNotes) -> None:
        self.child = child
        self.notes = notes

    @property
    def name(self) -> str:
        """Its hostname in the group; its queue is `flights.` and that."""
        return self.child.name

    @property
    def queue(self) -> str:
        """Its queue."""
        return f"flights.{self.name}"

    def begun(self, since: int, until: int | None = None) -> list[tuple[int, int]]:
        """When (ns of CLOCK_MONOTONIC) it began which message, within a time."""
        return [
            (note.at, note.number)
            for note in self.notes.notes
            if note.kind == BEGIN and since <= note.at and (until is None or note.at < until)
        ]

    def began_at(self) -> int | None:
        """When it began its first message (ns of CLOCK_MONOTONIC), None before."""
        return next((note.at for note in self.notes.notes if note.kind == BEGIN), None)


class Flow:
    """Messages at a steady rate into the source, from its making on; workers that take care of them."""

    def __init__(self, vhost: Vhost, server: Server, writer: Writer, plan: Plan, folder: Path) -> None:
        self.vhost = vhost
        self.server = server
        self.workers: list[Worker] = []
        self._writer = writer
        self._plan = plan
        self._folder = folder
        self._published = 0
        self._gone: list[Worker] = []

    async def publish(self) -> None:
        """Publish at the plan's rate until cancelled."""
        began, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * self._plan.rebalance_rate)
            if due > sent:
                count, sent = due - sent, due
                await self._write(count)
            await asyncio.sleep(_TICK)

    async def top_up(self, depth: int) -> None:
        """Publish as many more as make the source so deep."""
        missing = depth - await self.vhost.depth(SOURCE)
        while missing > 0:
            await self._write(min(missing, _CHUNK))
            missing -= _CHUNK

    async def _write(self, count: int) -> None:
        numbers = range(self._published, self._published + count)
        self._published += count
        await self._writer.write(b"".join([_message(number) for number in numbers]))

    async def join(self, name: str) -> Worker:
        """A worker, when it has said `ready`."""
        notes = self._folder / f"{self.vhost.name}-{name}.notes"
        command = [
            sys.executable,
            str(OUTSIDER / "worker.py"),
            f"--name={name}",
            f"--api={self.server.url}",
            f"--amqp={self.vhost.url}",
            f"--notes={notes}",
            f"--work-ms={self._plan.work_ms}",
            f"--heartbeat-s={_HEARTBEAT}",
        ]
        child = Child(name, command, self._folder / f"{self.vhost.name}-{name}.log")
        worker = Worker(child, WorkerNotes(notes))
        self.workers.append(worker)

        async def is_ready() -> bool:
            self._check(worker)
            worker.notes.refresh()
            return worker.notes.ready_at is not None

        await until(is_ready, f"{name} ready", _JOIN_WITHIN, 0.02)
        return worker

    async def leave(self, worker: Worker) -> None:
        """Have a worker leave in an orderly way; returns when it has."""
        self.workers.remove(worker)
        self._gone.append(worker)
        worker.child.terminate()

        async def ended() -> bool:
            return worker.child.status is not None

        await until(ended, f"{worker.name} left", _LEAVE_WITHIN)
        if worker.child.status != 0:
            raise InvalidRun(f"{worker.name} ended with {worker.child.status}:\n{worker.child.last_words()}")

    def kill(self, worker: Worker) -> int:
        """SIGKILL a worker; when it was gone (ns of CLOCK_MONOTONIC)."""
        self.workers.remove(worker)
        self._gone.append(worker)
        return worker.child.kill()[1]

    def refresh(self) -> None:
        """Read what the workers have noted. Raises InvalidRun where one has ended by itself."""
        for worker in self.workers:
            self._check(worker)
            worker.notes.refresh()

    async def settle(self) -> dict[str, Any]:
        """Wait until the workers that are there share the partitions evenly; the group then."""
        return await self.server.balanced(len(self.workers))

    async def finish(self) -> None:
        """When nothing is published any more: wait for the end of it all.

        Raises InvalidRun where a message was lost.
        """

        async def all_done() -> bool:
            self.refresh()
            return len(self._done()) >= self._published

        try:
            await until(all_done, "all messages worked on", _DONE_WITHIN, 0.25)
        except InvalidRun as error:
            raise InvalidRun(f"{error}: {self._published - len(self._done())} lost") from None

    def close(self) -> None:
        """Leave no process behind."""
        for worker in self.workers:
            worker.child.kill()

    def _done(self) -> set[int]:
        for worker in self._gone:
            worker.notes.refresh()
        everybody = self.workers + self._gone
        return {note.number for worker in everybody for note in worker.notes.notes if note.kind == END}

    @staticmethod
    def _check(worker: Worker) -> None:
        if worker.child.status is not None:
            raise InvalidRun(f"{worker.name} ended with {worker.child.status}:\n{worker.child.last_words()}")


@asynccontextmanager
async def flowing(
    vhost: Vhost, plan: Plan, folder: Path, workers: int, **settings: str
) -> AsyncIterator[Flow]:
    """A server, so many workers that share the partitions, and messages on their way.

    At the end of the block all messages have been worked on. `settings`: of the server, as for `Server`.
    """
    async with served(vhost, folder, **settings) as server:
        flow = Flow(vhost, server, await Writer.open(vhost), plan, folder)
        try:
            for number in range(workers):
                await flow.join(f"worker-{number + 1}")
            await flow.settle()
            async with beside(flow.publish()):
                yield flow
            await flow.finish()
        finally:
            flow.close()


def _key(number: int) -> str:
    return _ALL_KEYS[number % _KEYS]


def _message(number: int) -> bytes:
    """As the demo's workers expect it: a flight."""
    body = {"number": number, "aircraft": _key(number), "dest": "", "delay": 0}
    properties = Basic.Properties(
        content_type="application/json", delivery_mode=2, headers={KEY_HEADER: _key(number)}
    )
    return publish_frame(1, "", SOURCE) + encode_content(1, json.dumps(body).encode(), properties)
