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
from collections.abc import Iterable
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
_WAITING, READY, RUNNING, _HELD, _DONE, _LEFT = (int(state) for state in State)


class Stream:
    """What one partition delivers on one channel.

    Attributes:
        owner: whatever it belongs to.
        running: items that are being handled.
        dropped: nothing more of it is started.
    """

    __slots__ = ("_done", "_open", "_seen", "dropped", "owner", "running")

    def __init__(self, owner: Any = None) -> None:
        self.owner = owner
        self.running = 0
        self.dropped = False
        self._open: dict[int, Item] = {}  # in the order of their tags
        self._done: list[int] = []
        self._seen: list[int] = []

    def __repr__(self) -> str:
        return f"<Stream: {len(self)} not acknowledged, {self.running} running>"

    def __len__(self) -> int:
        """Items that are not acknowledged yet."""
        return len(self._open) + len(self._done) + len(self._seen)

    @property
    def done(self) -> bool:
        """Whether there may be something to acknowledge."""
        return bool(self._done or self._seen)

    @property
    def behind(self) -> int:
        """Items that are done, and were not acknowledged by the last `acks`: in front of them is one that is
        not done yet."""
        return len(self._seen)

    def items(self) -> "list[Item]":
        """Items that are not done, in the order of their delivery."""
        return list(self._open.values())

    def acks(self, *, all_now: bool = False) -> tuple[int, list[int]]:
        """What may be acknowledged now: all up to a delivery tag (0: none), then single tags.

        An item behind one that is not done yet is acknowledged singly, so that a slow key holds back only
        itself; it has time for that until the call after the next, as it will often be part of a run then.
        With `all_now` it has not.
        """
        seen, done = self._seen, self._done
        if not (seen or done):
            return 0, []
        self._done, self._seen = [], []
        head = next(iter(self._open), None)
        if head is None:
            return max(seen + done), []
        upto = max((tag for tag in seen + done if tag < head), default=0)
        alone = [tag for tag in seen if tag > head]
        behind = [tag for tag in done if tag > head]
        if all_now:
            alone += behind
        else:
            self._seen = behind
        return upto, alone


class Item:
    """One delivery; what is delivered is a subclass's.

    Attributes:
        tag: its delivery tag; tags of a stream grow.
        key: what it is ordered by, None = nothing.
        attempt: how often it was started.
        run: whatever stands for its handler, when that has begun.
    """

    __slots__ = ("attempt", "key", "run", "state", "stream", "tag")

    def __init__(self, stream: Stream, tag: int, key: bytes | None) -> None:
        self.stream = stream
        self.tag = tag
        self.key = key
        self.state: int = READY
        self.attempt = 0
        self.run: Any = None

    def __repr__(self) -> str:
        return f"<Item {self.tag} of {self.key!r}: {State(self.state).name}>"


class Lanes:
    """All items of a member.

    Attributes:
        limit: items handled at the same time at most; 0 while it is halted.
        running: items that are being handled.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places = limit
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

    def halt(self) -> None:
        """Starts nothing until `go_on`. What is running may end, and be acknowledged. Idempotent."""
        self.limit = 0

    def go_on(self) -> None:
        """Starts items again. Idempotent."""
        self.limit = self._places

    def add(self, item: Item) -> None:
        """Takes a new delivery; its tag is higher than all of its stream before."""
        self.add_all(item.stream, (item,))

    def add_all(self, stream: Stream, items: Iterable[Item]) -> None:
        """Takes new deliveries of one stream; their tags grow, and are higher than all of it before."""
        assert not stream.dropped
        opened, lanes, ready = stream._open, self._lanes, self._ready.append
        for item in items:
            opened[item.tag] = item
            key = item.key
            if key is None:
                ready(item)
            elif key not in lanes:
                lanes[key] = None
                ready(item)
            else:
                item.state = _WAITING
                lane = lanes[key]
                if lane is None:
                    lanes[key] = deque((item,))
                else:
                    lane.append(item)

    def start(self) -> Item | None:
        """The next item to be handled, None where there is none, or no place for it."""
        ready = self._ready
        while self.running < self.limit and ready:
            item = ready.popleft()
            if item.state == READY:
                item.state = RUNNING
                item.attempt += 1
                item.stream.running += 1
                self.running += 1
                return item
        return None

    def finish(self, item: Item) -> None:
        """It is handled, for good: it is acknowledged with its stream's next `acks`."""
        assert item.state == RUNNING
        item.state = _DONE
        stream, tag, key = item.stream, item.tag, item.key
        stream.running -= 1
        self.running -= 1
        if stream._open.pop(tag, None) is not None:
            stream._done.append(tag)
        if key is not None:
            lane = self._lanes.pop(key)
            if lane:
                self._advance(key, lane)

    def leave(self, item: Item) -> None:
        """Its handler has ended, but it is not to be acknowledged. Its stream must have been dropped, as
        nothing behind it may be handled."""
        stream, key = item.stream, item.key
        assert stream.dropped
        assert item.state == RUNNING
        item.state = _LEFT
        stream.running -= 1
        self.running -= 1
        if key is not None:
            self._advance(key, self._lanes.pop(key))

    def hold(self, item: Item) -> bool:
        """It is to be tried again later: call `resume` then. It keeps its lane, and gives its place back.

        False where its stream has been dropped meanwhile: then it is as if it had been left.
        """
        if item.stream.dropped:
            self.leave(item)
            return False
        assert item.state == RUNNING
        item.state = _HELD
        item.stream.running -= 1
        self.running -= 1
        return True

    def resume(self, item: Item) -> None:
        """It may be tried again. Without effect where its stream has been dropped meanwhile."""
        if item.state != _LEFT:
            assert item.state == _HELD
            item.state = READY
            self._ready.append(item)

    def drop(self, stream: Stream) -> None:
        """Starts nothing more of a stream; what is running may end, and be acknowledged. Idempotent."""
        stream.dropped = True
        heads = []
        for item in stream._open.values():
            if item.state in (READY, _HELD):
                heads.append(item)
                item.state = _LEFT
            elif item.state == _WAITING:
                item.state = _LEFT
        for item in heads:
            if item.key is not None:
                self._advance(item.key, self._lanes.pop(item.key))

    def forget(self, stream: Stream) -> list[Item]:
        """Drops a stream of which nothing can be acknowledged any more; answers what is still running.

        For each of these, `finish`, `hold` or `leave` is still to be called when it has really ended.
        """
        self.drop(stream)
        running = [item for item in stream._open.values() if item.state == RUNNING]
        stream._open.clear()
        stream._done.clear()
        stream._seen.clear()
        return running

    # Inside ---------------------------------------------------------------------------------------

    def _advance(self, key: bytes, lane: "deque[Item] | None") -> None:
        """The head of a lane, which was taken out, is through with: the next one's turn."""
        while lane:
            item = lane.popleft()
            if item.state == _WAITING:
                item.state = READY
                self._ready.append(item)
                self._lanes[key] = lane
                return
