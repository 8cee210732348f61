"""Runs the handlers: a task a message, as the lanes allow, and settles each message by how its handler ended.

Everything happens in one event loop. A message is acknowledged only when it is settled for good: handled, or
safe in another queue.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import structlog

from partymq.client.failure import describe, failure_headers
from partymq.client.handlers import Handler
from partymq.client.lanes import Item, Lanes
from partymq.client.message import Message
from partymq.client.outlet import Outlet
from partymq.client.partition import Partition
from partymq.client.settings import ConsumerSettings
from partymq.errors import BrokerError, HandlerFailed, Undecodable

_PUT_AWAY_AGAIN: Final = 1.0
"""Seconds until a message that could not be put away is tried again."""

_log = structlog.get_logger(__name__)


class Runner:
    """Handlers of one consumer.

    Attributes:
        lanes: its messages.
        outlet: where messages go that are given up; None without a connection.
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
        self.outlet: Outlet | None = None
        self.handled = self.failed = self.retried = 0
        self._handler = handler
        self._group = group
        self._settings = settings
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._dirty: list[Partition] = []
        self._timer: asyncio.TimerHandle | None = None

    def pump(self) -> None:
        """Starts what may be started."""
        start, create_task, run = self.lanes.start, self._loop.create_task, self._run
        while (item := start()) is not None:
            # Kept by the loop until it has begun, and by its item (`run`) from then on.
            create_task(run(item))

    def lose(self, partition: Partition) -> None:
        """A partition is not ours any more: its handlers are cancelled (those in threads can't be)."""
        for item in partition.lose():
            if item.run is not None and not self._handler.in_threads:
                item.run.cancel()
        self.pump()

    # One message ----------------------------------------------------------------------------------

    async def _run(self, item: Item) -> None:
        partition: Partition = item.stream.owner
        lost = partition.lost
        item.run = asyncio.current_task()
        try:
            if lost.is_set():
                self.lanes.leave(item)
                return
            owned = partition.owned
            message = Message(item.payload, item.key, owned.number, owned.token, item.attempt, lost)
            try:
                await self._handler.call(message)
            except asyncio.CancelledError as error:
                # Cancelled by us, or a handler that waited for something that was cancelled.
                await self._failed(partition, item, message, error)
            except Exception as error:
                await self._failed(partition, item, message, error)
            else:
                self.handled += 1
                self._done(partition, item)
        finally:
            item.run = None
            partition.ended()
            self.pump()

    def _done(self, partition: Partition, item: Item) -> None:
        self.lanes.finish(item)
        partition.pending += 1
        if not partition.dirty:
            partition.dirty = True
            self._dirty.append(partition)
            if self._timer is None:
                self._timer = self._loop.call_later(self._settings.ack_interval, self._flush)
        if partition.pending * 2 >= partition.prefetch:
            partition.flush()

    def _flush(self) -> None:
        self._timer = None
        dirty, self._dirty = self._dirty, []
        for partition in dirty:
            partition.dirty = partition.flush()
            if partition.dirty:
                self._dirty.append(partition)
        if self._dirty:
            self._timer = self._loop.call_later(self._settings.ack_interval, self._flush)

    # Failures -------------------------------------------------------------------------------------

    async def _failed(self, partition: Partition, item: Item, message: Message, error: BaseException) -> None:
        if partition.lost.is_set():
            self.lanes.leave(item)
            return
        told = {"group": self._group, "partition": message.partition, "key": message.key}
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

    def _again(self, item: Item, delay: float) -> None:
        if self.lanes.hold(item):
            self._loop.call_later(delay, self._resume, item)

    def _resume(self, item: Item) -> None:
        self.lanes.resume(item)
        self.pump()

    async def _put_away(
        self, partition: Partition, item: Item, message: Message, reason: str, error: BaseException
    ) -> None:
        """To the dead-letter queue; its key waits until it is there."""
        headers = failure_headers(message, self._group, reason, error)
        try:
            while True:
                try:
                    if self.outlet is None:
                        break
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
        self.lanes.drop(item.stream)
        self.lanes.leave(item)
