"""Which message a member handles next, and which it may acknowledge. Pure: no IO, no clock, no asyncio.

Theory. A *stream* is what one partition delivers on one channel; its messages are *items*. Items of one key
form a *lane*: only the lane's first is ever handled, the others wait, so that a key's messages are handled
one at a time and in order, whatever happens to the first. Lanes are the member's, not a stream's: a handler
of a stream that is gone holds its key until it has really ended. An item without a key is in no lane.

Life of an item:

    state      event            next state
    WAITING    lane's turn      READY      behind another one of its key
    READY      `start`          RUNNING    waits for one of `limit` places
    RUNNING    `finish`         DONE       is acknowledged; the lane goes on
    RUNNING    `hold`           HELD       tried again later: gives its place back, keeps its lane
    HELD       `resume`         READY
    RUNNING    `leave`          LEFT       ended, never acknowledged (goes back to the broker)
    WAITING, READY, HELD  `drop` of its stream  LEFT

An event that the table does not know raises AssertionError and changes nothing. Memory: items that are not
acknowledged yet, which the prefetch of their streams bounds; nothing is kept of a key without items.
"""

from collections import deque
from enum import IntEnum
from typing import Any


class State(IntEnum):
    """Where an item is in its life."""

    WAITING = 0
    READY = 1
    RUNNING = 2
    HELD = 3
    DONE = 4
    LEFT = 5


# As plain numbers, which are compared faster.
_WAITING, _READY, _RUNNING, _HELD, _DONE, _LEFT = (int(state) for state in State)


class Stream:
    """What one partition delivers on one channel.

    Attributes:
        owner: whatever it belongs to.
        running: items that are being handled.
        dropped: nothing more of it is started.
    """

    __slots__ = ("_done", "_seen", "_unacked", "dropped", "owner", "running")

    def __init__(self, owner: Any = None) -> None:
        self.owner = owner
        self.running = 0
        self.dropped = False
        self._unacked: dict[int, Item] = {}
        self._done: list[Item] = []
        self._seen: list[Item] = []

    def __repr__(self) -> str:
        return f"<Stream: {len(self._unacked)} not acknowledged, {self.running} running>"

    def __len__(self) -> int:
        """Items that are not acknowledged yet."""
        return len(self._unacked)

    @property
    def done(self) -> bool:
        """Whether there may be something to acknowledge."""
        return bool(self._done or self._seen)

    def items(self) -> "list[Item]":
        """Items that are not acknowledged yet, in the order of their delivery."""
        return list(self._unacked.values())

    def acks(self, *, all_now: bool = False) -> tuple[int, list[int]]:
        """What may be acknowledged now: all up to a delivery tag (0: none), then single tags.

        An item behind one that is not done yet is acknowledged singly, so that a slow key holds back only
        itself; it has time for that until the call after the next, as it will often be part of a run then.
        With `all_now` it has not.
        """
        unacked = self._unacked
        upto = 0
        passed: list[int] = []
        for tag, item in unacked.items():
            if item.state != _DONE:
                break
            passed.append(tag)
        if passed:
            upto = passed[-1]
            for tag in passed:
                del unacked[tag]
        due = self._seen
        if all_now:
            due = due + self._done
            self._seen = []
        else:
            self._seen = [item for item in self._done if item.tag > upto] if unacked else []
        self._done = []
        alone = [item.tag for item in due if item.tag in unacked]
        for tag in alone:
            del unacked[tag]
        return upto, alone


class Item:
    """One delivery.

    Attributes:
        tag: its delivery tag; tags of a stream grow.
        key: what it is ordered by, None = nothing.
        attempt: how often it was started.
        payload: whatever belongs to it.
        run: whatever stands for its handler, when that has begun.
    """

    __slots__ = ("attempt", "key", "payload", "run", "state", "stream", "tag")

    def __init__(self, stream: Stream, tag: int, key: bytes | None, payload: Any) -> None:
        self.stream = stream
        self.tag = tag
        self.key = key
        self.payload = payload
        self.state: int = _READY
        self.attempt = 0
        self.run: Any = None

    def __repr__(self) -> str:
        return f"<Item {self.tag} of {self.key!r}: {State(self.state).name}>"


class Lanes:
    """All items of a member.

    Attributes:
        limit: items handled at the same time at most.
        running: items that are being handled.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self._lanes: dict[bytes, deque[Item] | None] = {}
        self._ready: deque[Item] = deque()

    def __repr__(self) -> str:
        return (
            f"<Lanes: {len(self._lanes)} keys, {len(self._ready)} ready, {self.running}/{self.limit} running>"
        )

    def __len__(self) -> int:
        """Keys that have items."""
        return len(self._lanes)

    @property
    def startable(self) -> bool:
        """Whether `start` may have an item."""
        return bool(self._ready) and self.running < self.limit

    def add(self, item: Item) -> None:
        """Takes a new delivery; its tag is higher than all of its stream before."""
        stream = item.stream
        assert not stream.dropped
        stream._unacked[item.tag] = item
        key = item.key
        if key is not None:
            lanes = self._lanes
            if key in lanes:
                item.state = _WAITING
                lane = lanes[key]
                if lane is None:
                    lanes[key] = deque((item,))
                else:
                    lane.append(item)
                return
            lanes[key] = None
        self._ready.append(item)

    def start(self) -> Item | None:
        """The next item to be handled, None where there is none, or no place for it."""
        ready = self._ready
        while self.running < self.limit and ready:
            item = ready.popleft()
            if item.state == _READY:
                item.state = _RUNNING
                item.attempt += 1
                item.stream.running += 1
                self.running += 1
                return item
        return None

    def finish(self, item: Item) -> None:
        """It is handled, for good: it is acknowledged with its stream's next `acks`."""
        stream = item.stream
        self._end(item, stream, _DONE)
        if item.tag in stream._unacked:
            stream._done.append(item)

    def leave(self, item: Item) -> None:
        """Its handler has ended, but it is not to be acknowledged. Its stream must have been dropped, as
        nothing behind it may be handled."""
        assert item.stream.dropped
        self._end(item, item.stream, _LEFT)

    def hold(self, item: Item) -> bool:
        """It is to be tried again later: call `resume` then. It keeps its lane, and gives its place back.

        False where its stream has been dropped meanwhile: then it is as if it had been left.
        """
        if item.stream.dropped:
            self.leave(item)
            return False
        assert item.state == _RUNNING
        item.state = _HELD
        item.stream.running -= 1
        self.running -= 1
        return True

    def resume(self, item: Item) -> None:
        """It may be tried again. Without effect where its stream has been dropped meanwhile."""
        if item.state != _LEFT:
            assert item.state == _HELD
            item.state = _READY
            self._ready.append(item)

    def drop(self, stream: Stream) -> None:
        """Starts nothing more of a stream; what is running may end, and be acknowledged. Idempotent."""
        stream.dropped = True
        heads = []
        for item in stream._unacked.values():
            if item.state in (_READY, _HELD):
                heads.append(item)
                item.state = _LEFT
            elif item.state == _WAITING:
                item.state = _LEFT
        for item in heads:
            if item.key is not None:
                self._advance(item.key)

    def forget(self, stream: Stream) -> list[Item]:
        """Drops a stream of which nothing can be acknowledged any more; answers what is still running.

        For each of these, `finish`, `hold` or `leave` is still to be called when it has really ended.
        """
        self.drop(stream)
        running = [item for item in stream._unacked.values() if item.state == _RUNNING]
        stream._unacked.clear()
        stream._done.clear()
        stream._seen.clear()
        return running

    # Inside ---------------------------------------------------------------------------------------

    def _end(self, item: Item, stream: Stream, state: int) -> None:
        assert item.state == _RUNNING
        item.state = state
        stream.running -= 1
        self.running -= 1
        if item.key is not None:
            self._advance(item.key)

    def _advance(self, key: bytes) -> None:
        """The head of a lane is through with: the next one's turn."""
        lane = self._lanes[key]
        while lane:
            item = lane.popleft()
            if item.state == _WAITING:
                item.state = _READY
                self._ready.append(item)
                return
        del self._lanes[key]
