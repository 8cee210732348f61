"""Runs the handlers, as the lanes allow, and settles each message by how its handler ended.

Everything happens in one event loop. A message is acknowledged only when it is settled for good: handled, or
safe in another queue.

Tasks. A task handles one message after the other, so that handlers that never wait do not cost one each.
Whenever a task is about to call a handler, which may wait, and there is more that could be started, another
task is on its way: so there are soon as many as the lanes have places where handlers wait, and one that finds
nothing to do where they do not. Each handler sees the context (`contextvars`) that the consumer was started
in, nothing of what the message before it has set there: a task whose context was changed is not used again.
"""

import asyncio
import contextvars
import random
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from math import inf
from time import monotonic
from typing import Any, Final

from partymq.amqp.connection import Connection
from partymq.client.acks import Acks
from partymq.client.failure import describe, failure_headers
from partymq.client.guard import Guard
from partymq.client.handlers import Handler
from partymq.client.lanes import RUNNING, Item, Lanes
from partymq.client.message import Message, Raw
from partymq.client.outlet import Outlet
from partymq.client.parking import Parking
from partymq.client.partition import Partition
from partymq.client.settings import ConsumerSettings
from partymq.errors import BrokerError, HandlerFailed, Undecodable
from partymq.log import get_logger

_PUT_AWAY_AGAIN: Final = 1.0
"""Seconds until a message that could not be put away is tried again."""
_HALTED: Final = 0.05
"""Seconds between two looks whether what was halted may go on, where messages do not come from the lanes."""
_TURN: Final = 64
"""Messages that one task handles at most: then everything else in the event loop has its turn."""

_NO_GUARD: Final = Guard(inf, 0.0)

_log = get_logger(__name__)


class Runner:
    """Handlers of one consumer.

    Attributes:
        lanes: its messages.
        connection: that the partitions are consumed on; None without one.
        outlet: where messages go that are given up; None without a connection.
        parking: keys that are not handled now; None without a connection.
        handled, failed, retried: counts since the start; `failed` counts what was given up.

    Args:
        on_fatal: called when a handler has failed for good and the consumer is to stop; nothing of any
            partition may be started any more when it returns.
    """

    def __init__(
        self,
        handler: Handler,
        group: str,
        settings: ConsumerSettings,
        on_fatal: Callable[[HandlerFailed], None],
    ) -> None:
        self.lanes = Lanes(settings.threads if handler.in_threads else settings.concurrency)
        self.connection: Connection | None = None
        self.outlet: Outlet | None = None
        self.parking: Parking | None = None
        self.handled = self.failed = self.retried = 0
        self._releases = 0
        self._handler = handler
        self._group = group
        self._settings = settings
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_its_way = False
        self._guard = _NO_GUARD
        self._acks = Acks(settings.ack_interval, self._one_write)

    def pump(self) -> None:
        """Starts what may be started."""
        if not self._on_its_way and self.lanes.startable:
            self._on_its_way = True
            self._tasks.add(self._loop.create_task(self._work(), context=self._context.copy()))

    def guarded(self, guard: Guard | None) -> None:
        """This guard says from now on whether handlers may be started; None: they may."""
        self._guard = guard or _NO_GUARD
        self.heed()

    def heed(self) -> None:
        """The guard has closed, or opened."""
        if self._guard.closed:
            self.lanes.halt()
        else:
            self.lanes.go_on()
            self.pump()

    def lose(self, partition: Partition) -> None:
        """A partition is not ours any more: its handlers are cancelled (those in threads can't be)."""
        self._cancel(partition.lose())

    def cut_short(self, partition: Partition) -> None:
        """The handlers of a partition that is given up have had their time: they are cancelled, and the
        partition goes when they have ended."""
        self._cancel(partition.cut_short())

    def _cancel(self, items: Iterable[Item]) -> None:
        for item in items:
            if item.run is not None and not self._handler.in_threads:
                item.run.cancel()
        self.pump()

    # One message after the other ------------------------------------------------------------------

    async def _work(self) -> None:
        """The hot path: what is rare is elsewhere."""
        self._on_its_way = False
        task = asyncio.current_task()
        assert task is not None
        copy_context, clock = contextvars.copy_context, monotonic
        context = copy_context()
        start: Callable[[], Any] = self.lanes.start
        finish, reached = self.lanes.finish, self._acks.reached
        call, cancelled = self._handler.call, task.cancelling
        until = self._guard.until
        try:
            for _ in range(_TURN):
                if clock() > until and clock() > (until := self._guard.until):
                    # It is about to close; when it opens the lanes go on.
                    self.lanes.halt()
                item = start()
                if item is None:
                    break
                if not self._on_its_way:
                    self.pump()
                item.run = task
                stream = item.stream
                partition: Partition = stream.owner
                try:
                    parking = self.parking
                    key = item.key
                    if stream is partition.side or (parking is not None and key in parking.keys):
                        await self._handle_otherwise(partition, item)
                    else:
                        message = Message(item, key, partition.origin, item.attempt)
                        try:
                            await call(message)
                        except (Exception, asyncio.CancelledError) as error:
                            # Cancelled: by us, or it waited for something that was cancelled.
                            await self._failed(partition, item, message, error)
                        else:
                            self.handled += 1
                            finish(item)
                            # `Acks.done`: the call would cost as much as the look at the clock.
                            pending = partition.pending = partition.pending + 1
                            if pending == 1 or pending == partition.enough:
                                reached(partition, pending)
                finally:
                    if item.state == RUNNING:
                        self._unsettled(item)
                    item.run = None
                    if stream.dropped:
                        partition.ended()
                # Equal contexts are the same object inside, so this is cheap.
                if cancelled() or copy_context() != context:
                    break
        finally:
            self._tasks.discard(task)
            # So that what is raised is reported at once: its traceback would keep the task.
            del task, cancelled
            self.pump()

    async def _handle_otherwise(self, partition: Partition, item: Any) -> None:
        """A message of a parked key, or the release of one."""
        if item.stream is partition.side:
            await self._release(partition, item)
        else:
            message = Message(item, item.key, partition.origin, item.attempt)
            await self._put_away(partition, item, message, "parked", None)

    def _done(self, partition: Partition, item: Item) -> None:
        self.lanes.finish(item)
        self._acks.done(partition)

    def _one_write(self) -> AbstractContextManager[None]:
        return self.connection.one_write() if self.connection is not None else nullcontext()

    # Failures -------------------------------------------------------------------------------------

    async def _failed(self, partition: Partition, item: Item, message: Message, error: BaseException) -> None:
        if partition.lost.is_set():
            self.lanes.leave(item)
            return
        told: dict[str, Any] = {"group": self._group, "partition": message.partition, "key": message.key}
        if isinstance(error, Undecodable):
            _log.error("a body that can't be decoded is dead-lettered", reason=str(error), **told)
            await self._put_away(partition, item, message, "undecodable", error)
            return
        delay = self._settings.retry.delay(item.attempt, random.random())
        if delay is not None:
            self.retried += 1
            _log.warning(
                "a handler failed; its message is tried again",
                error=describe(error),
                attempt=item.attempt,
                seconds=round(delay, 3),
                **told,
            )
            self._again(item, delay)
        elif self._settings.on_failure == "stop":
            _log.error("a handler failed for good; the consumer stops", error=describe(error), **told)
            fatal = HandlerFailed(
                f"group {self._group}, partition {message.partition}, key {message.key!r}: the handler failed"
                f" {item.attempt} times, last with {describe(error)}"
            )
            fatal.__cause__ = error
            self.failed += 1
            self._on_fatal(fatal)
            self.lanes.leave(item)
        else:
            _log.error("a handler failed for good", error=describe(error), exc_info=error, **told)
            await self._put_away(partition, item, message, "failed", error)

    def _unsettled(self, item: Item) -> None:
        """Something was raised that is no failure of a handler (SystemExit, or a fault of our own). Going on
        without this message would break the order of its key."""
        error = sys.exception()
        fatal = HandlerFailed(f"group {self._group}: a handler ended with {error!r}")
        fatal.__cause__ = error
        self._on_fatal(fatal)
        item.stream.owner.drop()
        self.lanes.leave(item)

    def _again(self, item: Item, delay: float) -> None:
        if self.lanes.hold(item):
            self._loop.call_later(delay, self._resume, item)

    def _resume(self, item: Item) -> None:
        self.lanes.resume(item)
        self.pump()

    async def _put_away(
        self, partition: Partition, item: Item, message: Message, reason: str, error: BaseException | None
    ) -> None:
        """To the dead-letter queue, or the parking queue; its key waits until it is there."""
        headers = failure_headers(message, self._group, reason, error)
        park = item.key is not None and (reason == "parked" or self._parks(error))
        try:
            while not partition.lost.is_set():
                try:
                    if park and item.key is not None and self.parking is not None:
                        await self.parking.park(message.raw, headers, item.key, partition.owned.id)
                    elif self.outlet is not None:
                        await self.outlet.dead_letter(message.raw, headers)
                    self.failed += 1
                    self._done(partition, item)
                    return
                except (BrokerError, ValueError) as refused:
                    if item.stream.dropped:
                        break
                    _log.error("a message can't be put away yet; its key waits", error=describe(refused))
                await asyncio.sleep(_PUT_AWAY_AGAIN)
        except asyncio.CancelledError:
            pass
        # It goes back with the rest of its partition. What waits behind it must not overtake it.
        partition.drop()
        self.lanes.leave(item)

    def _parks(self, error: BaseException | None) -> bool:
        return self._settings.on_failure == "park" and not isinstance(error, Undecodable)

    # Parked keys ----------------------------------------------------------------------------------

    def release(self, partition: Partition, key: bytes) -> None:
        """Has the parked messages of a key handled, behind what is waiting of it (which is parked, too)."""
        self._releases += 1
        item = Item(partition.side, self._releases, key)
        if not partition.proven:
            partition.aside.append(item)
            return
        self.lanes.add(item)
        self.pump()

    async def _release(self, partition: Partition, item: Item) -> None:
        """Handles what is parked of a key, while its lane is held."""
        key, parking = item.key, self.parking
        handled: list[Raw] = []
        try:
            if parking is not None and key is not None and key in parking:
                waiting = await parking.parked(key)
                try:
                    for raw in waiting:
                        if partition.side.dropped or not await self._handle_parked(partition, key, raw):
                            break
                        handled.append(raw)
                finally:
                    # When it is cut short, too: what was handled is not to come again.
                    await parking.remove(key, handled, all_of_it=len(handled) == len(waiting))
                _log.info(
                    "a parked key was to be released",
                    group=self._group,
                    key=key.decode(errors="replace"),
                    handled=len(handled),
                    still_parked=len(waiting) - len(handled),
                )
        except (BrokerError, asyncio.CancelledError) as error:
            _log.warning("a parked key could not be released", group=self._group, error=describe(error))
        self.lanes.finish(item)
        partition.side.acks(all_now=True)

    async def _handle_parked(self, partition: Partition, key: bytes, raw: Raw) -> bool:
        """Whether it is settled; if not, it stays parked."""
        attempt = 0
        while not partition.side.dropped:
            if not self.lanes.limit or monotonic() > self._guard.until:
                await asyncio.sleep(_HALTED)
                continue
            attempt += 1
            message = Message(raw, key, partition.origin, attempt)
            try:
                await self._handler.call(message)
                self.handled += 1
                return True
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and partition.lost.is_set():
                    raise
                delay = self._settings.retry.delay(attempt, random.random())
                if isinstance(error, Undecodable) or delay is None:
                    _log.error(
                        "a parked message fails again",
                        group=self._group,
                        key=message.key,
                        error=describe(error),
                    )
                    return False
            await asyncio.sleep(delay)
        return False
