"""When acknowledgements go out: some time after the handler has ended, so that one stands for many messages.

Each one costs the broker about as much as a message (in a quorum queue it is an entry of the Raft log), and
it delivers as many messages as were acknowledged: in a few large segments, if they are many. So a
partition's are put together until so much of its prefetch is done that the broker still has half a prefetch
to deliver: of this partition, or, where messages of several are handled, of all of them. What is less than
that waits for `interval`, or, while many messages are handled, for some intervals more. All that are due go
out in one write.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from partymq.client.partition import Partition

_LONGER: Final = 4
"""Intervals between two looks at what waits, and that it has to have waited, while the consumer is busy: so
nothing waits for more than twice as many."""
_MANY: Final = 4
"""Partitions from which it makes no difference any more how many they are."""
_BUSY: Final = 4_000
_NOT_BUSY: Final = 2_000
"""Messages a second from which the consumer is busy, or not any more."""


class Acks:
    """The acknowledgements of one consumer.

    Args:
        interval: seconds that one waits at most while the consumer is not busy.
        one_write: everything that is written in this context goes out at once.
    """

    def __init__(self, interval: float, one_write: Callable[[], AbstractContextManager[None]]) -> None:
        self._interval = interval
        self._one_write = one_write
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Partition] = []
        self._full: list[Partition] = []
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._looked = 0.0
        self._count = 0

    def done(self, partition: Partition) -> None:
        """To be called when a message of a partition is settled."""
        pending = partition.pending = partition.pending + 1
        self.reached(partition, pending)

    def reached(self, partition: Partition, pending: int) -> None:
        """What `done` does besides counting: only for the first message that is pending, and for the last of
        enough, so that whoever counts himself need not call it for others."""
        if pending == 1:
            self._begin(partition)
        if pending == partition.enough:
            self._full.append(partition)
            if len(self._full) == 1:
                self._loop.call_soon(self._flush_full)

    # Inside ---------------------------------------------------------------------------------------

    def _begin(self, partition: Partition) -> None:
        partition.since = self._loop.time()
        if not partition.dirty:
            partition.dirty = True
            self._waiting.append(partition)
            if self._timer is None:
                self._look_after(self._interval * _LONGER if self._busy else self._interval)
        rest = partition.prefetch // (2 * min(len(self._waiting), _MANY))
        partition.enough = partition.prefetch - rest

    def _look_after(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _flush_full(self) -> None:
        full, self._full = self._full, []
        with self._one_write():
            for partition in full:
                self._count += partition.pending
                partition.flush()

    def _look(self) -> None:
        now = self._loop.time()
        self._count_rate(now)
        # A partition with something done behind something slow has less that may be delivered: it is not
        # to wait any longer.
        latest = now - self._interval * _LONGER if self._busy else now
        waiting, self._waiting = self._waiting, []
        some_behind = False
        with self._one_write():
            for partition in waiting:
                if partition.since <= latest or partition.stream.behind:
                    self._count += partition.pending
                    partition.dirty = partition.flush()
                    some_behind = some_behind or partition.dirty
                if partition.dirty:
                    self._waiting.append(partition)
        self._timer = None
        if self._waiting:
            self._look_after(self._interval * _LONGER if self._busy and not some_behind else self._interval)

    def _count_rate(self, now: float) -> None:
        elapsed = now - self._looked
        self._busy = self._count > (_NOT_BUSY if self._busy else _BUSY) * elapsed
        self._looked = now
        self._count = 0
