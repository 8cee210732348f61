"""Processes that consume the partition queues of a group and count, and one run of them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.broker import Vhost
from bench.errors import InvalidRun
from bench.messages import Stock, Writer
from bench.pull.consumers.tally import RECORD
from bench.waiting import until
from partymq.client.publisher import Publisher
from partymq.demo.children import Child
from partymq.demo.notes import Growing
from partymq.group.layout import GroupLayout, QueueType
from partymq.group.partitioner import partition_of

GROUP = "bench"
_READY_WITHIN = 60.0
_LOADED_WITHIN = 120.0
_STOP_WITHIN = 20.0
_SLOWEST = 1_000.0
"""Messages a second below which a run is given up."""
_AFTER = 0.3
"""Seconds after the last message in which the last acks are made."""
_LOOK = 0.02


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program of the folder `consumers`.

    Attributes:
        name: short, for JSON and the command line; also the program's.
        title: for people.
        joins: it is told the group, not queues.
    """

    name: str
    title: str
    joins: bool = False


CANDIDATES = (
    Candidate("partymq", "PartyMQ `Consumer`, async handler, a lane a key", joins=True),
    Candidate("amqp", "raw basic.consume, PartyMQ's AMQP layer, no handler"),
    Candidate("handler", "the same, its messages' bodies to an async handler"),
    Candidate("pika", "pika, SelectConnection, a callback a message"),
    Candidate("aio_pika", "aio-pika, the queues' iterators"),
)
OURS, PLAIN, HANDLER = CANDIDATES[:3]


@dataclass(frozen=True, slots=True)
class Counts:
    """One run. Seconds are of CPU, each for 100,000 messages.

    Attributes:
        candidate: its name.
        processes: that shared the partitions.
        messages: that were consumed.
        cpu: of all the processes together.
        broker_cpu: of the broker.
        per_second: messages.
    """

    candidate: str
    processes: int
    messages: int
    cpu: float
    broker_cpu: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Note:
    """What a process had done at a moment (nanoseconds of CLOCK_MONOTONIC), with how much CPU (ns)."""

    count: int
    partitions: int
    at: int
    cpu: int


class Process:
    """One that consumes, and what it has noted."""

    def __init__(self, child: Child, tally: Path) -> None:
        self.child = child
        self.notes: list[Note] = []
        self._file = Growing(tally, RECORD.size)

    @property
    def latest(self) -> Note:
        """What it noted last. Raises InvalidRun where the process has ended."""
        if self.child.status is not None:
            raise InvalidRun(f"{self.child.name} ended: {self.child.status}\n{self.child.last_words()}")
        self.notes += [Note(*found) for found in RECORD.iter_unpack(self._file.more())]
        return self.notes[-1] if self.notes else Note(0, 0, 0, 0)

    def window(self) -> tuple[Note, Note]:
        """The last note before its first message, and the first one with its last message."""
        last = self.notes[-1].count
        before = max((note for note in self.notes if not note.count), key=lambda note: note.at)
        return before, next(note for note in self.notes if note.count == last)


class Bench:
    """A group's partition queues on a vhost; they are filled and emptied again and again."""

    def __init__(self, vhost: Vhost, layout: GroupLayout, folder: Path, keys: int) -> None:
        self.vhost = vhost
        self.layout = layout
        self.queues = [layout.queue(GROUP, number) for number in range(layout.partitions)]
        self.prefetch = layout.prefetch_of_one
        self._folder = folder
        self._stock = Stock(lambda key: self.queues[partition_of(key.encode(), layout.partitions)], keys)
        self._runs = 0

    async def run(self, candidate: Candidate, processes: int, total: int, *, live: bool = False) -> Counts:
        """Messages that lie there already, or, if it is `live`, come as fast as the broker takes them.

        Raises InvalidRun where the consumers did not do their job.
        """
        self._runs += 1
        gate = self._folder / f"{self.vhost.name}-{self._runs}.gate"
        consumers = self._start(candidate, processes, gate)
        try:
            await self._consuming(consumers)
            node = self.vhost.broker.node
            if not live:
                await self._publish(total)
                await self._filled(total)
            await self.vhost.broker.calm()
            before = node.cpu_seconds()
            gate.touch()
            if live:
                await self._publish(total)

            async def done() -> bool:
                return sum(one.latest.count for one in consumers) >= total

            await until(done, f"{total:,} messages", 60 + total / _SLOWEST, _LOOK)
            await asyncio.sleep(_AFTER)
            broker_cpu = node.cpu_seconds() - before
            await done()
            for one in consumers:
                await asyncio.to_thread(one.child.stop, _STOP_WITHIN)
            await self._check(consumers, total)
        except InvalidRun as error:
            raise InvalidRun(f"{candidate.name} ({self.layout.queue_type}): {error}") from error
        finally:
            for one in consumers:
                one.child.kill()
        return counts(candidate, consumers, total, broker_cpu)

    def _start(self, candidate: Candidate, processes: int, gate: Path) -> list[Process]:
        found = []
        for number in range(processes):
            name = f"{candidate.name}-{self._runs}-{number + 1}"
            tally = self._folder / f"{self.vhost.name}-{name}.tally"
            command = [sys.executable, "-m", f"bench.pull.consumers.with_{candidate.name}"]
            command += [f"--amqp={self.vhost.url}", f"--tally={tally}", f"--gate={gate}"]
            if candidate.joins:
                command += [f"--group={GROUP}", f"--name={name}"]
            else:
                command += [f"--prefetch={self.prefetch}", *self.queues[number::processes]]
            found.append(Process(Child(name, command, tally.with_suffix(".log")), tally))
        return found

    async def _consuming(self, consumers: Sequence[Process]) -> None:
        """Wait until they share the queues evenly, and the broker knows it."""

        async def evenly() -> bool:
            shares = [one.latest.partitions for one in consumers]
            if sum(shares) != len(self.queues) or max(shares) - min(shares) > 1:
                return False
            return all([await self.vhost.consumers(queue) == 1 for queue in self.queues])

        await until(evenly, "all queues consumed", _READY_WITHIN)

    async def _publish(self, total: int) -> None:
        writer = await Writer.open(self.vhost)
        for chunk in self._stock.chunks(total):
            await writer.write(chunk)

    async def _filled(self, total: int) -> None:
        """Wait until all is there; the consumers hold back what they are delivered."""

        async def filled() -> bool:
            return await self.vhost.depth(*self.queues) >= total - self.prefetch * len(self.queues)

        await until(filled, f"{total:,} messages in the queues", _LOADED_WITHIN)

    async def _check(self, consumers: Sequence[Process], total: int) -> None:
        """Everything was consumed, none of it twice, all of it acked."""
        for one in consumers:
            if one.child.status != 0:
                raise InvalidRun(f"{one.child.name} ended: {one.child.status}\n{one.child.last_words()}")
        counted = sum(one.notes[-1].count for one in consumers)
        if counted != total:
            raise InvalidRun(f"{counted:,} messages consumed, not {total:,}")
        if left := await self.vhost.depth(*self.queues):
            raise InvalidRun(f"{left:,} messages consumed but not acked")


@asynccontextmanager
async def partition_queues(
    vhost: Vhost, queue_type: QueueType, partitions: int, keys: int, folder: Path
) -> AsyncIterator[Bench]:
    """A new group on a vhost."""
    async with Publisher(vhost.url, group=GROUP, partitions=partitions, queue_type=queue_type) as publisher:
        layout = publisher.layout
    yield Bench(vhost, layout, folder, keys)


def counts(candidate: Candidate, consumers: Sequence[Process], total: int, broker_cpu: float) -> Counts:
    """The clock runs from just before anybody's first message to everybody's last."""
    windows = [one.window() for one in consumers]
    began = min(before.at for before, _ in windows)
    ended = max(last.at for _, last in windows)
    cpu = sum(one.notes[-1].cpu - before.cpu for one, (before, _) in zip(consumers, windows, strict=True))
    scale = 100_000 / total
    return Counts(
        candidate.name,
        len(consumers),
        total,
        cpu / 1e9 * scale,
        broker_cpu * scale,
        total / ((ended - began) / 1e9),
    )
