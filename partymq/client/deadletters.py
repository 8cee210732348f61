"""What operators do with messages that were given up: look at them, have them handled again, drop them.

Looking takes nothing away: messages are consumed exclusively and given back, in order, by closing the
channel.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Returned, Span, body_of, properties_of, publish_frame, with_channel
from partymq.amqp.publishing import Publishing
from partymq.amqp.queues import count_for_certain, look_at
from partymq.client.failure import (
    ATTEMPTS_HEADER,
    ERROR_HEADER,
    KEY_HEADER,
    TRACEBACK_HEADER,
)
from partymq.client.message import Raw, RawCopy
from partymq.client.outlet import Outlet
from partymq.client.parking import SEQUENCE_HEADER, header, sequence, sift
from partymq.coordinator.layout_store import read_layout
from partymq.coordinator.pull_topology import finder
from partymq.errors import BrokerError, CallTimeout, ChannelClosed, ConfigError, ProtocolError
from partymq.group.layout import GroupLayout
from partymq.group.names import dead_letter_queue, hash_exchange, parked_queue, write_exchange
from partymq.group.partitioner import partition_of
from partymq.router.contents import (
    EXCHANGE_HEADER,
    EXPIRATION_HEADER,
    GROUP_HEADER,
    PARTITION_HEADER,
    REASON_HEADER,
    ROUTING_KEY_HEADER,
    USER_HEADER,
    Fitter,
)

REPLAYED_HEADER: Final = "x-partymq-replayed"
"""How often a dead message has been put into its partition again."""

OURS: Final = (
    REASON_HEADER,
    GROUP_HEADER,
    EXCHANGE_HEADER,
    ROUTING_KEY_HEADER,
    PARTITION_HEADER,
    ATTEMPTS_HEADER,
    KEY_HEADER,
    ERROR_HEADER,
    TRACEBACK_HEADER,
    SEQUENCE_HEADER,
    EXPIRATION_HEADER,
    REPLAYED_HEADER,
    USER_HEADER,
)
"""Headers that PartyMQ writes."""

_WINDOW: Final = 200
"""Messages that are published and not confirmed at most."""
_PREFETCH: Final = 65_535
"""All, as a rule: who takes some of what was given back to a quorum queue and gives it back too, gives it
back behind the rest. (None would be 2,000 there.)"""
_WITHIN: Final = 30.0
_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up. `place`: in its queue, 1 is the oldest."""

    place: int
    raw: Raw

    @property
    def body(self) -> bytes:
        """As it was published."""
        return body_of(self.raw.data, self.raw.header_at, len(self.raw.data))

    @property
    def headers(self) -> dict[str, Any]:
        """Its own and ours; empty where they can't be decoded."""
        try:
            return dict(properties_of(self.raw.data, self.raw.header_at).headers or {})
        except ProtocolError:
            return {}

    @property
    def key(self) -> str | None:
        """What it is ordered by, where that was known when it was given up; as it is shown."""
        return self.text(KEY_HEADER)

    def text(self, name: str) -> str | None:
        """One of our headers; None without it."""
        raw = header(self.raw, name)
        return shown(raw) if raw is not None else None

    def number(self, name: str) -> int | None:
        """The same as a number."""
        text = self.text(name)
        return int(text) if text is not None and text.isdecimal() else None

    def describe(self) -> dict[str, Any]:
        """What can be said of it, for people and machines."""
        return {
            "place": self.place,
            "key": self.key,
            "partition": self.number(PARTITION_HEADER),
            "reason": self.text(REASON_HEADER),
            "error": self.text(ERROR_HEADER),
            "attempts": self.number(ATTEMPTS_HEADER),
            "replayed": self.number(REPLAYED_HEADER) or 0,
            "bytes": len(self.body),
        }


@dataclass(frozen=True, slots=True)
class ParkedKey:
    """A key whose messages wait for somebody to release it. `raw`: its bytes; `key`: as they are shown."""

    raw: bytes
    key: str
    partition: int | None
    messages: int
    reason: str | None
    error: str | None


async def count(connection: Connection, queue: str) -> int:
    """Ready messages of a queue; 0 where there is none of that name. Raises BrokerError."""
    found = await look_at(connection, queue)
    return found.messages if found is not None else 0


async def dead_letters(connection: Connection, group: str, limit: int = 20) -> list[DeadLetter]:
    """The oldest dead letters of a group, of 65,535 at most.

    Raises BrokerError, also where somebody else is just reading them.
    """
    channel = await connection.open_channel()
    try:
        reader = await _Reader.start(connection, channel, dead_letter_queue(group))
        return [DeadLetter(place, raw) for place, (_, raw) in enumerate(await reader.next(limit), 1)]
    finally:
        await channel.close()


async def replay(
    connection: Connection, group: str, *, key: str | None = None, places: Iterable[int] | None = None
) -> int:
    """Puts dead letters back into their partitions, oldest first; how many.

    They are handled after all that is there already. What dies again while this runs is not looked at.

    Args:
        key: only those of this key.
        places: only these, as `dead_letters` numbers them.

    Raises ConfigError where it is not known where one belongs, and BrokerError, also where somebody else is
    just reading them: what has not been put back is still a dead letter then.
    """
    layout = await read_layout(connection, group)
    only = set(places) if places is not None else None
    channel = await connection.open_channel()
    publisher = await connection.open_channel()
    try:
        back = await _Republisher.start(connection, publisher, group, layout)
        reader = await _Reader.start(connection, channel, dead_letter_queue(group))
        place = done = 0
        while place < reader.ready:
            batch = await reader.next(min(_WINDOW, reader.ready - place))
            if not batch:
                break  # As many are passed over as may be unacknowledged.
            wanted: list[tuple[int, Raw]] = []
            for tag, raw in batch:
                place += 1
                letter = DeadLetter(place, raw)
                if (only is None or place in only) and (key is None or letter.key == key):
                    wanted.append((tag, raw))
            await back.publish([raw for _, raw in wanted])
            if wanted:
                channel.ack_many([tag for tag, _ in wanted])
            done += len(wanted)
        if done:
            await channel.acks_done(dead_letter_queue(group))
        return done
    finally:
        await publisher.close()
        await channel.close()


async def purge(connection: Connection, group: str) -> int:
    """Drops all dead letters of a group; how many. Raises BrokerError."""
    channel = await connection.open_channel()
    try:
        return await channel.purge_queue(dead_letter_queue(group))
    except ChannelClosed as error:
        if error.code != _NOT_FOUND:
            raise
        return 0
    finally:
        await channel.close()


async def parked_keys(connection: Connection, group: str) -> list[ParkedKey]:
    """The parked keys of a group. Raises BrokerError."""
    found: dict[bytes, list[Raw]] = {}
    for raw in await sift(connection, parked_queue(group), lambda _: True):
        found.setdefault(header(raw, KEY_HEADER) or b"", []).append(raw)
    keys = []
    for key, raws in found.items():
        # Members that die while they look put the messages back in another order.
        told = DeadLetter(0, min(raws, key=sequence)).describe()
        keys.append(ParkedKey(key, shown(key), told["partition"], len(raws), told["reason"], told["error"]))
    return keys


async def parked_messages(connection: Connection, group: str, key: str) -> list[DeadLetter]:
    """The parked messages of a key (as it is shown), in order, `place` from 1 on. Raises BrokerError."""
    raws = await sift(
        connection, parked_queue(group), lambda raw: shown(header(raw, KEY_HEADER) or b"") == key
    )
    return [DeadLetter(place, raw) for place, raw in enumerate(sorted(raws, key=sequence), 1)]


async def pass_over(connection: Connection, group: str, parked: DeadLetter) -> None:
    """Makes a dead letter of a parked message. Raises BrokerError; it may be both then.

    Its key stays parked for its owner until its release is asked for, even if this was the last one.
    """
    await Outlet(connection, group).dead_letter(parked.raw, {})
    key, number = header(parked.raw, KEY_HEADER), sequence(parked.raw)
    await sift(
        connection,
        parked_queue(group),
        lambda raw: header(raw, KEY_HEADER) == key and sequence(raw) == number,
        remove=True,
    )


def shown(key: bytes) -> str:
    """A key for people: its text, and what is none of it as `\\xff`."""
    return key.decode(errors="backslashreplace")


# Inside -----------------------------------------------------------------------------------------------


class _Reader:
    """Reads a queue that nobody else reads. `ready`: how many messages it had in the beginning."""

    def __init__(self) -> None:
        self._got: list[tuple[int, Raw]] = []
        self._more = asyncio.Event()
        self._error: BrokerError | None = None
        self.ready = 0
        self._read = 0

    @classmethod
    async def start(cls, connection: Connection, channel: Channel, queue: str) -> "_Reader":
        reader = cls()
        channel.on_closed(reader._end)
        try:
            reader.ready = await count_for_certain(connection, queue)
            if reader.ready:
                await channel.qos(_PREFETCH)
                await channel.consume(queue, reader._receive, exclusive=True)
        except ChannelClosed as error:
            if error.in_exclusive_use:
                raise BrokerError(f"{queue} is just being read by somebody else: try again later") from error
            if error.code != _NOT_FOUND:
                raise
        return reader

    async def next(self, most: int) -> list[tuple[int, Raw]]:
        """So many more, or all that were there in the beginning; fewer where no more come in time. Raises
        BrokerError."""
        wanted = min(most, self.ready - self._read)
        try:
            async with asyncio.timeout(_WITHIN):
                while len(self._got) < wanted:
                    if self._error is not None:
                        raise self._error
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            wanted = len(self._got)
        taken, self._got = self._got[:wanted], self._got[wanted:]
        self._read += wanted
        return taken

    def _receive(self, buf: bytes, spans: list[Span]) -> None:
        for tag, method_at, header_at, end in spans:
            self._got.append((tag, RawCopy(buf[method_at:end], header_at - method_at)))
        self._more.set()

    def _end(self, error: BrokerError) -> None:
        self._error = error
        self._more.set()


class _Republisher:
    """Puts messages back to where they came from, byte for byte but for one header."""

    def __init__(
        self, connection: Connection, channel: Channel, group: str, layout: GroupLayout | None
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._group = group
        self._layout = layout
        self._finder = finder(layout) if layout is not None else None
        limit = connection.frame_max
        self._fitter = Fitter(channel.number, connection.username, limit, limit)
        self._publishing = Publishing()

    @classmethod
    async def start(
        cls, connection: Connection, channel: Channel, group: str, layout: GroupLayout | None
    ) -> "_Republisher":
        made = cls(connection, channel, group, layout)

        def came_back(message: Returned) -> None:
            made._publishing.returned(message)

        channel.on_closed(made._publishing.end)
        await channel.select_confirms(made._publishing.confirmed, came_back)
        return made

    async def publish(self, raws: Iterable[Raw]) -> None:
        """Returns when all are confirmed."""
        futures = [self._send(raw) for raw in raws]
        try:
            async with asyncio.timeout(_WITHIN):
                outcomes = await asyncio.gather(*futures, return_exceptions=True)
        except TimeoutError:
            raise CallTimeout(f"group {self._group}: replayed messages were not confirmed") from None
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _send(self, raw: Raw) -> "asyncio.Future[None]":
        letter = DeadLetter(0, raw)
        key = self._key(raw)
        exchange, routing_key = self._where(letter, key)
        number = self._channel.number
        headers = {REPLAYED_HEADER: str((letter.number(REPLAYED_HEADER) or 0) + 1), **self._key_headers(key)}
        content = self._fitter.fit(with_channel(raw.content, number), headers)
        future = self._publishing.sent(exchange, routing_key, body_of(content, 0, len(content)), True)
        self._connection.write(publish_frame(number, exchange, routing_key, mandatory=True) + content)
        return future

    def _key(self, raw: Raw) -> bytes | None:
        """What it is ordered by; looked for in the message itself where the broker has dead-lettered it, or
        our headers did not fit."""
        key = header(raw, KEY_HEADER)
        if key is None and self._finder is not None:
            key = self._finder.find(raw.data, raw.header_at, len(raw.data), b"")
        return key

    def _key_headers(self, key: bytes | None) -> dict[str, str]:
        """Where the routing key is the key: the router had put it there, before it was the partition's."""
        layout = self._layout
        if layout is None or layout.ingress != "router" or layout.key.source != "routing_key" or key is None:
            return {}
        return {ROUTING_KEY_HEADER: key.decode(errors="surrogateescape")}

    def _where(self, letter: DeadLetter, key: bytes | None) -> tuple[str, str]:
        layout = self._layout
        if layout is None:
            # A push group: to where the router has it from.
            exchange, routing_key = (
                header(letter.raw, EXCHANGE_HEADER),
                header(letter.raw, ROUTING_KEY_HEADER),
            )
            if exchange is None or routing_key is None:
                raise ConfigError(f"group {self._group}: a dead letter does not say where it was published")
            return exchange.decode(errors="surrogateescape"), routing_key.decode(errors="surrogateescape")
        if layout.ingress == "hash-exchange":
            return hash_exchange(self._group), (key or b"").decode(errors="surrogateescape")
        if key is not None:
            partition = partition_of(key, layout.partitions)
        else:
            partition = (letter.number(PARTITION_HEADER) or 0) % layout.partitions
        return write_exchange(self._group), layout.routing_key(partition)
