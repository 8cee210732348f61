"""The partitions that a consumer has now: opened when they are gained, emptied when they are revoked, dropped
when they are lost. This is the `Owner` that an `Ownership` drives."""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from partymq.amqp.connection import Connection
from partymq.client.guard import Guard
from partymq.client.hooks import Hooks
from partymq.client.outlet import Outlet
from partymq.client.ownership import Ended, Gain, Owned
from partymq.client.parking import Parking
from partymq.client.partition import Partition
from partymq.client.runner import Runner
from partymq.errors import BrokerError
from partymq.group.key import KeyFinder
from partymq.log import get_logger

_FIRST_RETRY: Final = 0.1
_LAST_RETRY: Final = 5.0
"""Seconds until a queue that can't be consumed is tried again; doubled each time."""
_IDLE: Final = 0.5
"""Seconds for which there has to be nothing of a partition until it counts as idle."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Terms:
    """How a partition is consumed."""

    connection: Connection
    finder: KeyFinder
    prefetch: int
    guard: Guard | None


class Holdings:
    """See `Owner` for its promises."""

    def __init__(self, runner: Runner, group: str, hooks: Hooks) -> None:
        self._runner = runner
        self._group = group
        self._hooks = hooks
        self._partitions: dict[int, Partition] = {}
        self._unproven: dict[Partition, float] = {}
        """Since when the broker knows the consumers of these."""
        self._guard: Guard | None = None
        self._connection: Connection | None = None
        self._watching: asyncio.Task[None] | None = None
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_since: dict[int, float] = {}
        self._hooking = asyncio.Lock()
        """Held while a hook is awaited: a user's hooks do not overlap."""
        self._clock = asyncio.get_running_loop().time

    def __repr__(self) -> str:
        return f"<Holdings of group {self._group}: partitions {sorted(self._partitions)}>"

    @property
    def numbers(self) -> list[int]:
        """The partitions that are ours."""
        return sorted({partition.owned.number for partition in tuple(self._partitions.values())})

    # Called by the ownership ----------------------------------------------------------------------

    async def gained(self, gain: Gain) -> None:
        """See `Owner`. Raises what the hook raises, too."""
        if self._connection is not gain.connection:
            self.lost(BrokerError("another connection has taken its place"))
            self._connection = self._runner.connection = gain.connection
            self._guard = gain.guard
            self._runner.guarded(gain.guard)
            outlet = self._runner.outlet = Outlet(gain.connection, self._group, gain.speak_on)
            parking = self._runner.parking = Parking(gain.connection, self._group, outlet)
            self._watching = self._task(self._watch(parking))
        else:
            assert self._runner.parking is not None
            parking = self._runner.parking
        await parking.learn(gain.partitions, gain.total if gain.computed else None, gain.places)
        async with self._hooking:
            await self._hooks.call_assigned([owned.number for owned in gain.partitions])
        terms = _Terms(gain.connection, gain.key, gain.prefetch, gain.guard)
        opened = await asyncio.gather(
            *(self._first_open(owned, terms) for owned in gain.partitions), return_exceptions=True
        )
        for error in opened:
            if error is not None:
                raise error

    def idle(self, partitions: Collection[int]) -> list[int]:
        """See `Owner`."""
        now = self._clock()
        empty = {
            identity: self._idle_since.get(identity, now)
            for identity in partitions
            if (partition := self._partitions.get(identity)) is not None and partition.empty
        }
        self._idle_since = empty
        return [identity for identity, since in empty.items() if now - since >= _IDLE]

    async def revoke(self, partitions: Collection[int], ended: Ended | None = None) -> None:
        """See `Owner`."""
        tell: Ended = ended or (lambda _: None)
        opening = [self._opening.pop(number) for number in partitions if number in self._opening]
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        leaving = [self._partitions[number] for number in partitions if number in self._partitions]
        for partition in leaving:
            partition.drop()
        self._runner.pump()
        tell(set(partitions).difference(partition.owned.id for partition in leaving))
        running = {self._task(partition.quiesce()): partition for partition in leaving}
        try:
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                quiet = [running.pop(task) for task in done]
                await self._give_back(quiet)
                tell([partition.owned.id for partition in quiet])
        finally:
            for task in running:
                task.cancel()

    async def _give_back(self, quiet: Sequence[Partition]) -> None:
        """Of these nothing runs any more."""
        kept = [partition for partition in quiet if not partition.gone]
        async with self._hooking:
            await self._hooks.call_revoked([partition.owned.number for partition in kept])
        await asyncio.gather(*(partition.close() for partition in kept))
        if self._runner.parking is not None:
            self._runner.parking.forget([partition.owned.id for partition in quiet])
        for partition in quiet:
            self._unproven.pop(partition, None)
            if self._partitions.get(partition.owned.id) is partition:
                del self._partitions[partition.owned.id]

    def heed(self) -> None:
        """See `Owner`."""
        guard = self._guard
        if guard is None:
            return
        for partition in [one for one, since in self._unproven.items() if guard.prove(since)]:
            del self._unproven[partition]
            partition.prove()
        self._runner.heed()

    def lost(self, error: BrokerError) -> None:
        """See `Owner`."""
        for task in self._opening.values():
            task.cancel()
        self._opening.clear()
        self._connection = self._runner.connection = self._runner.outlet = self._runner.parking = None
        if self._watching is not None:
            self._watching.cancel()
        partitions, self._partitions = self._partitions, {}
        self._lose(list(partitions.values()))
        self._guard = None
        self._runner.guarded(None)

    # Called by the consumer -----------------------------------------------------------------------

    def start_nothing(self) -> None:
        """No handler is started any more; what runs may end."""
        for partition in self._partitions.values():
            partition.drop()

    def cancel_handlers(self) -> None:
        """What still runs has had its time: it is cancelled, and its messages go back when it has ended."""
        for partition in self._partitions.values():
            self._runner.cut_short(partition)

    async def close(self) -> None:
        """Waits for the hooks that are still running."""
        if self._watching is not None:
            self._watching.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # Inside ---------------------------------------------------------------------------------------

    async def _first_open(self, owned: Owned, terms: _Terms) -> None:
        try:
            await self._open(owned, terms)
        except BrokerError as error:
            if terms.connection.error is not None:
                raise
            self._retry(owned, error, terms)

    async def _open(self, owned: Owned, terms: _Terms) -> None:
        partition = Partition(
            owned,
            self._runner.lanes,
            terms.finder,
            terms.prefetch,
            self._runner.pump,
            lambda broken, error: self._broken(broken, error, terms),
        )
        self._partitions[owned.id] = partition
        try:
            await partition.open(terms.connection)
        except BaseException:
            self._lose([partition])
            raise
        if terms.guard is None:
            partition.prove()
        elif not partition.gone:
            self._unproven[partition] = monotonic()
            self.heed()

    def _broken(self, partition: Partition, error: BrokerError, terms: _Terms) -> None:
        """The broker does not let us consume its queue any more."""
        if self._partitions.get(partition.owned.id) is partition and not partition.gone:
            self._lose([partition])
            self._retry(partition.owned, error, terms)

    def _retry(self, owned: Owned, error: BrokerError, terms: _Terms) -> None:
        _log.error("a partition can't be consumed", partition=owned.number, error=str(error))
        self._opening[owned.id] = self._task(self._reopen(owned, terms))

    async def _reopen(self, owned: Owned, terms: _Terms) -> None:
        delay = _FIRST_RETRY
        while terms.connection.error is None:
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LAST_RETRY)
            try:
                async with self._hooking:
                    await self._hooks.call_assigned([owned.number])
                await self._open(owned, terms)
            except Exception as error:
                _log.warning("a partition still can't be consumed", partition=owned.number, error=str(error))
            else:
                del self._opening[owned.id]
                return

    async def _watch(self, parking: Parking) -> None:
        """Lets parked keys go on when that is asked for."""
        while True:
            try:
                keys = await parking.requests()
            except BrokerError as error:
                if self._connection is None or self._connection.error is not None:
                    return
                _log.warning("could not look for keys to be released", error=str(error))
                await asyncio.sleep(_LAST_RETRY)
                continue
            for key in keys:
                partition = self._partitions.get(parking.partition(key))
                if partition is not None and not partition.stream.dropped:
                    self._runner.release(partition, key)

    def _lose(self, partitions: Sequence[Partition]) -> None:
        had = [partition for partition in partitions if not partition.gone]
        for partition in had:
            self._unproven.pop(partition, None)
            self._runner.lose(partition)
        if had:
            self._task(self._tell_lost([partition.owned.number for partition in had]))

    async def _tell_lost(self, numbers: Sequence[int]) -> None:
        async with self._hooking:
            await self._hooks.call_lost(numbers)

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
