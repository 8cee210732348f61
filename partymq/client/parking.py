"""Keys that are parked: a message of theirs failed for good, and it and all later ones wait in the parking
queue until somebody releases the key.

The parking queue is the whole truth: a key is parked as long as a message of it is there. Only the owner of
the key's partition parks and releases its messages, so it knows which keys are parked from one look when it
gets the partition. What keeps their order is a number in a header, so their places in the queue do not
matter, and it can be looked through: by an exclusive consumer that takes everything, acknowledges what it
wants removed, and gives the rest back by closing its channel.

A release is asked for in a queue of its own, which the owners of parked keys look into every second or two;
the request expires where nobody has parked that key. The owner then handles the parked messages, while the
key's lane is held, so nothing newer of the key can come in between. One that fails again stays, and the ones
behind it do too. A message is removed after it was handled: a crash in between repeats it.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Iterable
from functools import cache
from operator import itemgetter
from typing import Final, TypeVar

from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Span
from partymq.amqp.queues import declare_or_take, has_messages
from partymq.client.failure import KEY_HEADER
from partymq.client.message import Raw, RawCopy
from partymq.client.outlet import Outlet
from partymq.client.ownership import Owned, Places
from partymq.coordinator.layout_store import read_layout
from partymq.errors import CallTimeout, ChannelClosed
from partymq.group.key import HeaderKey
from partymq.group.names import looked_through, parked_queue, release_queue
from partymq.group.partitioner import partition_of
from partymq.router.contents import PARTITION_HEADER

_ReadT = TypeVar("_ReadT")

SEQUENCE_HEADER: Final = "x-partymq-sequence"
POLL_INTERVAL: Final = 1.0
"""Seconds between two looks for requests, while keys are parked."""

_LOOKS: Final = 40
_BETWEEN_LOOKS: Final = 0.005
"""So often, and so many seconds apart, is it looked whether a queue's last consumer has gone."""
_MOST: Final = 65_535
"""Messages that one consumer can have at a time: AMQP's largest prefetch."""
_NEXT_WITHIN: Final = 5.0
"""Seconds in which the next messages of a queue have to come."""
_MOST_LOOKS: Final = 6
"""Times that a queue is looked through for what has to be seen whole."""
_NOT_FOUND: Final = 404
_LOCKED: Final = 405
_REQUEST_LIVES: Final = 60.0
_UNUSED_LIVES: Final = 24 * 3600.0


class Parking:
    """The parked keys of the partitions that we own, over one connection.

    Attributes:
        keys: those that are parked, each with the id of its partition; not to be changed from outside.
    """

    def __init__(self, connection: Connection, group: str, outlet: Outlet) -> None:
        self._connection = connection
        self._group = group
        self._outlet = outlet
        self.keys: dict[bytes, int] = {}
        self._next = 1
        self._any = asyncio.Event()

    def __contains__(self, key: bytes | None) -> bool:
        """Whether it is parked."""
        return key in self.keys

    def __len__(self) -> int:
        return len(self.keys)

    def partition(self, key: bytes) -> int:
        """The id of the partition of a parked key, -1 where it is not parked (any more)."""
        return self.keys.get(key, -1)

    async def learn(
        self, partitions: Iterable[Owned], total: int | None, places: Places | None = None
    ) -> None:
        """Which keys of new partitions are parked. `total`: their number, where it gives a key's partition;
        `places`: who knows it; otherwise the message says from which it came. Raises BrokerError."""
        mine = {owned.number: owned.id for owned in partitions}
        placed = await places(await self._all_keys()) if places is not None else None

        def number_of(raw: Raw, key: bytes) -> int:
            if total is not None:
                return partition_of(key, total)
            if placed is not None:
                return placed.get(key, -1)
            text = header(raw, PARTITION_HEADER)
            return int(text) if text is not None and text.isdigit() else -1

        def read(raw: Raw) -> tuple[bytes, int, int] | None:
            key = header(raw, KEY_HEADER)
            identity = mine.get(number_of(raw, key)) if key is not None else None
            return (key, identity, sequence(raw)) if key is not None and identity is not None else None

        for (key, identity, number), _ in await self._found(read):
            self._next = max(self._next, number + 1)
            self._note(key, identity)

    def forget(self, partitions: Collection[int]) -> None:
        """These partitions are not ours any more."""
        gone = set(partitions)
        self.keys = {key: number for key, number in self.keys.items() if number not in gone}

    async def park(self, raw: Raw, headers: dict[str, str], key: bytes, partition: int) -> None:
        """Parks a message of a partition (its id), and with it its key, which it is even if this raises
        BrokerError or ValueError."""
        self._note(key, partition)
        number, self._next = self._next, self._next + 1
        headers = headers | {SEQUENCE_HEADER: str(number)}
        await self._outlet.publish(parked_queue(self._group), raw, headers, needed=SEQUENCE_HEADER)

    async def parked(self, key: bytes) -> list[Raw]:
        """The parked messages of a key, in order. Raises BrokerError."""
        found = await self._found(
            lambda raw: sequence(raw) if header(raw, KEY_HEADER) == key else None, keep=True
        )
        return [raw for _, raw in sorted(found, key=itemgetter(0)) if raw is not None]

    async def remove(self, key: bytes, handled: Collection[Raw], *, all_of_it: bool) -> None:
        """Removes messages of a key that were handled; the key is parked no more where that was
        `all_of_it`. Raises BrokerError."""
        if handled:
            numbers = {sequence(raw) for raw in handled}

            def is_left(raw: Raw) -> bool:
                return header(raw, KEY_HEADER) == key and sequence(raw) in numbers

            for _ in range(_MOST_LOOKS):
                removed = await sift(self._connection, parked_queue(self._group), is_left, remove=True)
                numbers -= {sequence(raw) for raw in removed}
                if not numbers:
                    break
        if all_of_it:
            self.keys.pop(key, None)

    async def requests(self) -> list[bytes]:
        """Waits until the release of parked keys is asked for; answers these keys. Raises BrokerError."""
        while True:
            if not self.keys:
                self._any.clear()
            await self._any.wait()
            await asyncio.sleep(POLL_INTERVAL * random.uniform(0.5, 1.5))
            asked = await sift(
                self._connection,
                release_queue(self._group),
                lambda raw: header(raw, KEY_HEADER) in self.keys,
                remove=True,
            )
            keys = {key for raw in asked if (key := header(raw, KEY_HEADER)) in self.keys and key is not None}
            if keys:
                return sorted(keys)

    async def _all_keys(self) -> set[bytes]:
        """Those of all parked messages."""
        return {key for key, _ in await self._found(lambda raw: header(raw, KEY_HEADER))}

    async def _found(
        self, read: Callable[[Raw], _ReadT | None], *, keep: bool = False
    ) -> list[tuple[_ReadT, Raw | None]]:
        """What is read of each parked message, where that is not None, and with `keep` the message: what two
        looks in turn agree on, as one may miss some while others are being parked.

        Read as they come: there may be hundreds of thousands, and the event loop is not to stand still.
        """
        before: set[_ReadT] = set()
        for look in range(_MOST_LOOKS):
            found: list[tuple[_ReadT, Raw | None]] = []

            def note(raw: Raw, found: list[tuple[_ReadT, Raw | None]] = found) -> bool:
                what = read(raw)
                if what is not None:
                    found.append((what, raw if keep else None))
                return False

            await sift(self._connection, parked_queue(self._group), note)
            seen = {what for what, _ in found}
            if look and seen == before:
                break
            before = seen
        return found

    def _note(self, key: bytes, partition: int) -> None:
        self.keys[key] = partition
        self._any.set()


async def ask_for_release(connection: Connection, group: str, key: str | bytes) -> None:
    """Has the owner of a parked key handle what is parked of it, and let the key go on.

    Without effect where no running member has parked that key within a minute. Whether it worked is seen in
    the parking queue. Raises BrokerError.
    """
    layout = await read_layout(connection, group)
    # A classic one would be away with its node.
    kind = layout.queue_type if layout is not None else "classic"
    arguments = {"x-queue-type": kind, "x-expires": int(_UNUSED_LIVES * 1000)}
    channel = await connection.open_channel()
    try:
        channel, _ = await declare_or_take(connection, channel, release_queue(group), arguments)
        await channel.select_confirms()
        properties = Basic.Properties(
            headers={KEY_HEADER: bytearray(as_bytes(key))},
            expiration=str(int(_REQUEST_LIVES * 1000)),
            delivery_mode=2,
        )
        await channel.publish("", release_queue(group), b"", properties, mandatory=True)
    finally:
        await channel.close()


async def sift(
    connection: Connection, queue: str, wanted: Callable[[Raw], bool], *, remove: bool = False
) -> list[Raw]:
    """Looks through a queue that nobody consumes: the messages that are wanted, which are removed from it if
    so asked. The others go back. Waits while somebody else does the same. A queue that is not there is empty.

    Raises BrokerError.
    """
    while True:
        channel = await connection.open_channel()
        try:
            await _lock(channel, queue)
            expected = await _count(connection, channel, queue)
            if expected is not None:
                found = await _look_through(channel, queue, wanted, expected) if expected else {}
                if remove and found:
                    channel.ack_many(found)
                    await channel.acks_done(queue)
                return list(found.values())
        except ChannelClosed as error:
            locked = looked_through(queue) in error.text
            if error.code == _NOT_FOUND and not locked:
                return []
            if not error.in_exclusive_use and not (error.code in (_NOT_FOUND, _LOCKED) and locked):
                raise
        finally:
            await channel.close()
        await asyncio.sleep(random.uniform(0.02, 0.1))


async def _lock(channel: Channel, queue: str) -> None:
    """Nobody else looks through the queue until the channel is closed; ChannelClosed where somebody does.

    A quorum queue lets in a second consumer although the first one is exclusive (measured, RabbitMQ 3.10), so
    it is a classic queue: exclusive to this connection, so that it is not in the way of others for as long as
    the node is away that the connection was to; and consumed exclusively, as others look on this connection,
    too. It goes with its consumer.
    """
    lock = looked_through(queue)
    await channel.declare_queue(lock, exclusive=True, auto_delete=True)
    await channel.consume(lock, lambda _buf, _spans: None, exclusive=True)


async def _count(connection: Connection, channel: Channel, queue: str) -> int | None:
    """The messages in a queue; None while it has a consumer, or that is not known.

    As long as an earlier consumer is on its way out, some are on their way back.
    """
    some = await has_messages(connection, queue)
    for _ in range(_LOOKS):
        state = await channel.declare_queue(queue, passive=True)
        if not state.consumers and (state.messages or not some):
            return state.messages
        await asyncio.sleep(_BETWEEN_LOOKS)
    return None


async def _look_through(
    channel: Channel, queue: str, wanted: Callable[[Raw], bool], expected: int
) -> dict[int, Raw]:
    """The messages that are wanted, by delivery tag, of as many as are expected.

    That a queue has none ready any more does not mean that all of them are here (measured).
    """
    found: dict[int, Raw] = {}
    missing = expected
    news = asyncio.Event()

    def receive(buf: bytes, spans: list[Span]) -> None:
        nonlocal missing
        missing -= len(spans)
        for tag, method_at, header_at, end in spans:
            raw = RawCopy(buf[method_at:end], header_at - method_at)
            if wanted(raw):
                found[tag] = raw
        news.set()

    # Said, because quorum queues take no limit for one of 2,000 (measured, RabbitMQ 3.10).
    await channel.qos(_MOST)
    for _ in range(0, expected, _MOST):
        await channel.consume(queue, receive)
    while missing > 0:
        news.clear()
        try:
            async with asyncio.timeout(_NEXT_WITHIN):
                await news.wait()
        except TimeoutError:
            if channel.error is not None:
                raise channel.error from None
            raise CallTimeout(
                f"{queue} has {expected} messages, but {missing} of them did not come within"
                f" {_NEXT_WITHIN:g} s"
            ) from None
    return found


def header(raw: Raw, name: str) -> bytes | None:
    """A header that PartyMQ wrote, as it was written; None without it. Found even where those that were there
    before can't be decoded."""
    return _finder(name)(raw.data, raw.header_at, len(raw.data), b"")


@cache
def _finder(name: str) -> Callable[[bytes, int, int, bytes], bytes | None]:
    return HeaderKey(name).find


def as_bytes(key: str | bytes) -> bytes:
    """A key as it is in messages."""
    return key.encode(errors="surrogateescape") if isinstance(key, str) else key


def sequence(raw: Raw) -> int:
    """The place of a parked message among those of its key."""
    text = header(raw, SEQUENCE_HEADER)
    return int(text) if text is not None and text.isdigit() else 0
