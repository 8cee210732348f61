"""A steady flow of messages to all partitions of a group, and member processes that come and go."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.broker import Vhost
from bench.errors import InvalidRun
from bench.pull.consumers.member import GAINED, HANDLED, RECORD, REVOKED, STARTED
from bench.pull.plan import Plan
from bench.waiting import beside, until
from partymq.client.publisher import Publisher
from partymq.demo.children import Child
from partymq.demo.notes import Growing
from partymq.group.partitioner import partition_of

_GROUP = "bench"
_TICK = 0.005
_BODY = b"." * 96
_KEYS_PER_PARTITION = 16
_SHARED_WITHIN = 60.0
_LEAVE_WITHIN = 30.0
_DONE_WITHIN = 60.0
_LOOK = 0.01


class Member:
    """A member process, and what it has noted."""

    def __init__(self, child: Child, notes: Path) -> None:
        self.child = child
        self.started: int | None = None
        self.partitions: set[int] = set()
        self.first: int | None = None
        """When it had its first message (ns of CLOCK_MONOTONIC, as all times here)."""
        self.handled: list[tuple[int, int, int]] = []
        """When it had which message of which partition."""
        self._file = Growing(notes, RECORD.size)

    @property
    def name(self) -> str:
        """Its name in the group."""
        return self.child.name

    def refresh(self) -> None:
        """Read what is new."""
        for kind, partition, number, at in RECORD.iter_unpack(self._file.more()):
            if kind == HANDLED:
                self.handled.append((at, number, partition))
            elif kind == GAINED:
                self.partitions.add(partition)
            elif kind == REVOKED:
                self.partitions.discard(partition)
            elif kind == STARTED:
                self.started = at
        if self.handled:
            self.first = self.handled[0][0]

    def handled_since(self, at: int) -> Iterator[tuple[int, int]]:
        """When it had a message of which partition, from a moment on; the latest first."""
        for when, _, partition in reversed(self.handled):
            if when < at:
                return
            yield when, partition


class Flow:
    """See `flowing`."""

    def __init__(self, vhost: Vhost, plan: Plan, folder: Path, settings: dict[str, object]) -> None:
        self.members: list[Member] = []
        self._vhost = vhost
        self._plan = plan
        self._folder = folder
        self._settings = settings
        self._gone: list[Member] = []
        self._processes = 0
        self._published = 0
        self._keys = keys_in_turn(plan.partitions)

    # Messages -------------------------------------------------------------------------------------

    async def publish(self, publisher: Publisher) -> None:
        """Publish at the plan's rate, partition after partition, until cancelled."""
        began, keys = time.monotonic(), self._keys
        while True:
            first, self._published = self._published, int((time.monotonic() - began) * self._plan.rate)
            await publisher.publish_many(
                (number.to_bytes(4) + _BODY, keys[number % len(keys)])
                for number in range(first, self._published)
            )
            await asyncio.sleep(_TICK)

    async def finish(self) -> None:
        """When nothing is published any more: wait until all is handled. Raises InvalidRun otherwise."""

        async def all_handled() -> bool:
            self.refresh()
            return len(self._times_handled()) >= self._published

        try:
            await until(all_handled, "all messages handled", _DONE_WITHIN, 0.2)
        except InvalidRun as error:
            raise InvalidRun(f"{error}: {self._published - len(self._times_handled())} lost") from None

    @property
    def published(self) -> int:
        """Messages, all of them confirmed when the publishing has ended."""
        return self._published

    @property
    def repeated(self) -> int:
        """Messages that were handled more than once."""
        return sum(times > 1 for times in self._times_handled().values())

    def _times_handled(self) -> Counter[int]:
        return Counter(number for one in self.members + self._gone for _, number, _ in one.handled)

    # Members --------------------------------------------------------------------------------------

    def start(self, name: str) -> Member:
        """One more process, under a name that none has now."""
        self._processes += 1
        stem = self._folder / f"{self._vhost.name}-{name}-{self._processes}"
        notes = stem.with_suffix(".notes")
        command = [sys.executable, "-m", "bench.pull.consumers.member", f"--amqp={self._vhost.url}"]
        command += [f"--group={_GROUP}", f"--name={name}", f"--notes={notes}"]
        command += [f"--settings={json.dumps(self._settings)}"]
        member = Member(Child(name, command, stem.with_suffix(".log")), notes)
        self.members.append(member)
        return member

    async def shared(self) -> None:
        """Wait until the members that are there have all partitions, each once, evenly."""
        everything = list(range(self._plan.partitions))

        async def evenly() -> bool:
            self.refresh()
            counts = [len(member.partitions) for member in self.members]
            owned = sorted(number for member in self.members for number in member.partitions)
            return owned == everything and max(counts) - min(counts) <= 1

        await until(evenly, f"{len(self.members)} members share the partitions", _SHARED_WITHIN, _LOOK)

    async def leave(self, member: Member) -> None:
        """SIGTERM; returns when the process has ended. Raises InvalidRun where it did not end well."""
        self._remove(member)
        member.child.terminate()

        async def ended() -> bool:
            return member.child.status is not None

        await until(ended, f"{member.name} left", _LEAVE_WITHIN, _LOOK)
        member.refresh()
        if member.child.status != 0:
            raise InvalidRun(f"{member.name} ended: {member.child.status}\n{member.child.last_words()}")

    def kill(self, member: Member) -> int:
        """SIGKILL; when."""
        self._remove(member)
        return member.child.kill()[0]

    def stop(self, member: Member) -> int:
        """SIGSTOP; when. It is for `kill` later."""
        at = time.monotonic_ns()
        os.kill(member.child.pid, signal.SIGSTOP)
        return at

    def refresh(self) -> None:
        """Read what the members have noted. Raises InvalidRun where one has ended by itself."""
        for member in self.members:
            if member.child.status is not None:
                raise InvalidRun(f"{member.name} ended: {member.child.status}\n{member.child.last_words()}")
            member.refresh()

    def close(self) -> None:
        """Leave no process behind."""
        for member in self.members:
            member.child.kill()

    def _remove(self, member: Member) -> None:
        self.members.remove(member)
        self._gone.append(member)


@asynccontextmanager
async def flowing(
    vhost: Vhost, plan: Plan, folder: Path, members: int, **settings: object
) -> AsyncIterator[Flow]:
    """A new group, so many members that share its partitions, and messages on their way to all of them.

    At the end of the block every message has been handled. `settings`: of the members' consumers.
    """
    flow = Flow(vhost, plan, folder, settings)
    async with Publisher(vhost.url, group=_GROUP, partitions=plan.partitions) as publisher:
        try:
            for number in range(members):
                flow.start(f"member-{number + 1}")
            await flow.shared()
            async with beside(flow.publish(publisher)):
                yield flow
            await publisher.close()
            await flow.finish()
        finally:
            flow.close()


def keys_in_turn(partitions: int) -> list[str]:
    """Keys such that messages with one after the other of them go to one partition after the other."""
    found: list[list[str]] = [[] for _ in range(partitions)]
    number = 0
    while any(len(keys) < _KEYS_PER_PARTITION for keys in found):
        key = f"customer-{number}"
        keys = found[partition_of(key.encode(), partitions)]
        if len(keys) < _KEYS_PER_PARTITION:
            keys.append(key)
        number += 1
    return [keys[at] for at in range(_KEYS_PER_PARTITION) for keys in found]
