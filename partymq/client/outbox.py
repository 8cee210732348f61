"""The messages of a publisher that are not confirmed: those that wait to be sent, and those in flight. Pure,
but for the futures of the callers.

Order: what was put first is sent first, and what has to be sent again goes in front of all that was not sent.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from partymq.amqp.codec import Confirm
from partymq.amqp.content import Returned, refit
from partymq.errors import Nacked, PartyMQError

_REFUSALS: Final = 7
"""Times that the broker may refuse a message and it is sent again: its queue may have no leader just then."""
_LOOK_AHEAD: Final = 1_000
"""Messages at most that are looked at for some that may be sent before those in front of them."""


class Batch:
    """The messages of one `publish_many`: `done` when all are settled, with the first error there was."""

    __slots__ = ("confirmed", "done", "error", "failed", "open", "sealed")

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open = self.confirmed = self.failed = 0
        self.error: Exception | None = None
        self.sealed = False

    def seal(self) -> None:
        """No more messages will come."""
        self.sealed = True
        self._check()

    def settle(self, error: Exception | None) -> None:
        """One of them is settled."""
        self.open -= 1
        if error is None:
            self.confirmed += 1
        else:
            self.failed += 1
            self.error = self.error or error
        if not self.open:
            self._check()

    def _check(self) -> None:
        if self.sealed and not self.open and not self.done.done():
            self.done.set_result(None)


class Item:
    """One message. `at`: when it was put (seconds of the loop's clock); `seq`: the number of its publish;
    `refusals`: how often the broker has refused it."""

    __slots__ = ("at", "batch", "content", "future", "key", "refusals", "returned", "seq", "settled")

    def __init__(
        self,
        content: bytes,
        key: bytes | None,
        at: float,
        future: "asyncio.Future[None] | None",
        batch: Batch | None,
    ) -> None:
        self.content = content
        self.key = key
        self.at = at
        self.future = future
        self.batch = batch
        self.seq = self.refusals = 0
        self.returned: Returned | None = None
        self.settled = False

    @property
    def given_up(self) -> bool:
        """Nobody waits for it any more."""
        return self.settled or (self.future.done() if self.future is not None else self._batch_over())

    def _batch_over(self) -> bool:
        return self.batch is not None and self.batch.done.done()

    def settle(self, error: Exception | None) -> None:
        """Tells the caller. Idempotent."""
        if self.settled:
            return
        self.settled = True
        if self.batch is not None:
            self.batch.settle(error)
        elif self.future is not None and not self.future.done():
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)


class Outbox:
    """Attributes:
        waiting: not sent, in order.
        flight: sent and not confirmed, by sequence number of the channel.
        flight_bytes: the size of those.
        bytes: the size of all.
        back: came back as unroutable, and confirmed.
        refused: not taken over by the broker; to be sent again on another channel.
        careful: messages that are to be sent one at a time, because one of them closed the channel.
        confirmed: how many have been, since the start.

    Args:
        most, most_bytes: in flight at most; one message may always be.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.waiting: deque[Item] = deque()
        self.flight: dict[int, Item] = {}
        self.flight_bytes = self.bytes = 0
        self.back: list[Item] = []
        self.refused: list[Item] = []
        self.careful = 0
        self.confirmed = 0
        self._most = most
        self._most_bytes = most_bytes
        self._seq = 0
        self._oldest = 1
        self._match_from = 1

    def __len__(self) -> int:
        return len(self.waiting) + len(self.flight) + len(self.back) + len(self.refused)

    @property
    def settled(self) -> bool:
        """Whether nobody waits for anything."""
        parts = (self.flight.values(), self.back, self.refused, self.waiting)
        return all(item.given_up for items in parts for item in items)

    def put(self, item: Item) -> None:
        """One more to be sent."""
        if item.batch is not None:
            item.batch.open += 1
        self.waiting.append(item)
        self.bytes += len(item.content)

    def take(self, may_go: Callable[[Item], bool] | None = None) -> list[Item]:
        """What is to be sent now; it counts as sent. What may not go now is passed over, and so must be all
        that has to keep its order with it."""
        waiting, flight = self.waiting, self.flight
        room = (1 if self.careful else self._most) - len(flight)
        room_bytes = self._most_bytes - self.flight_bytes
        taken: list[Item] = []
        passed: list[Item] = []
        seq = self._seq
        while waiting and room > 0 and (room_bytes > 0 or not flight):
            item = waiting.popleft()
            if item.given_up:
                self._drop(item, None)
                continue
            if may_go is not None and not may_go(item):
                passed.append(item)
                if len(passed) == _LOOK_AHEAD:
                    break
                continue
            seq += 1
            item.seq = seq
            flight[seq] = item
            taken.append(item)
            room -= 1
            room_bytes -= len(item.content)
        waiting.extendleft(reversed(passed))
        self._seq = seq
        self.flight_bytes = self._most_bytes - room_bytes
        return taken

    def confirms(self, confirms: Iterable[Confirm]) -> None:
        """The broker has taken messages over, or not."""
        flight = self.flight
        for seq, multiple, is_ack in confirms:
            if multiple:
                for number in range(self._oldest, seq + 1):
                    item = flight.pop(number, None)
                    if item is not None:
                        self._confirmed(item, is_ack)
                self._oldest = max(self._oldest, seq + 1)
            else:
                item = flight.pop(seq, None)
                if item is not None:
                    self._confirmed(item, is_ack)
        if not flight:
            self._oldest = self._seq + 1

    def came_back(self, message: Returned, frame_max: int) -> bool:
        """Notes that a message is unroutable; whether it is one of these.

        Messages come back in the order in which they were sent, so none before the last one is looked at.
        Of two that are the same to the byte it does not matter which one it was.
        """
        first = max(self._match_from, next(iter(self.flight), self._seq + 1))
        content = message.content
        if len(content) > frame_max:
            content = refit(content, 1, frame_max)
        for seq in range(first, self._seq + 1):
            item = self.flight.get(seq)
            if item is not None and item.content == content:
                item.returned = message
                self._match_from = seq + 1
                return True
        return False

    def again(self) -> int:
        """All that came back is to be sent again, first, in order; how many."""
        back, self.back = sorted(self.back, key=lambda item: item.seq), []
        self._requeue(back)
        return len(back)

    def rewind(self) -> int:
        """The channel is gone: all that it had is to be sent again, first, in order; how many.

        The next channel counts from 1.
        """
        items = sorted((*self.flight.values(), *self.back, *self.refused), key=lambda item: item.seq)
        self.flight.clear()
        self.back, self.refused = [], []
        self.flight_bytes = self._seq = 0
        self._oldest = self._match_from = 1
        self._requeue(items)
        return len(items)

    def refit(self, frame_max: int) -> None:
        """Splits the bodies of what waits for another frame size. Call it after `rewind`."""
        for item in self.waiting:
            if len(item.content) > frame_max:
                self.bytes -= len(item.content)
                item.content = refit(item.content, 1, frame_max)
                self.bytes += len(item.content)

    def expire(self, before: float, error: Callable[[], PartyMQError]) -> int:
        """Gives up what was put before that time; how many. What is not sent yet never will be."""
        count = 0
        for item in self.flight.values():
            if item.at >= before:
                break
            if not item.given_up:
                item.settle(error())
                count += 1
        while self.waiting and self.waiting[0].at < before:
            self._drop(self.waiting.popleft(), error())
            count += 1
        return count

    def fail(self, error: Exception) -> None:
        """Gives up everything."""
        for item in (*self.flight.values(), *self.back, *self.refused, *self.waiting):
            item.settle(error)
        self.rewind()
        self.waiting.clear()
        self.bytes = 0

    def fail_back(self, error: Callable[[], PartyMQError]) -> None:
        """Gives up what came back."""
        back, self.back = self.back, []
        for item in back:
            self._drop(item, error())

    # Inside ---------------------------------------------------------------------------------------

    def _confirmed(self, item: Item, is_ack: bool) -> None:
        self.flight_bytes -= len(item.content)
        if self.careful:
            self.careful -= 1
        if item.returned is not None:
            self.back.append(item)
            return
        if not is_ack and item.refusals < _REFUSALS:
            item.refusals += 1
            self.refused.append(item)
            return
        self.bytes -= len(item.content)
        if is_ack:
            self.confirmed += 1
            # The same as `settle(None)`, spelled out for speed.
            future = item.future
            if future is not None:
                item.settled = True
                if not future.done():
                    future.set_result(None)
            else:
                item.settle(None)
        else:
            item.settle(Nacked("the broker did not take over a message: is its queue full, or down?"))

    def _requeue(self, items: list[Item]) -> None:
        for item in reversed(items):
            item.returned = None
            if item.given_up:
                self._drop(item, None)
            else:
                self.waiting.appendleft(item)

    def _drop(self, item: Item, error: Exception | None) -> None:
        self.bytes -= len(item.content)
        item.settle(error)
