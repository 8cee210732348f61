"""What a handler is given: one message, decoded only as far as it is asked."""

import asyncio
import threading
from typing import Any

import msgspec
from pamqp.commands import Basic

from partymq.amqp import content
from partymq.client.lanes import READY, Item, Stream
from partymq.group.key import HeaderKey
from partymq.router.contents import REDELIVERED_HEADER

_REDELIVERED = HeaderKey(REDELIVERED_HEADER).find
_FROM_JSON = msgspec.json.Decoder().decode


class Lost:
    """Is set when a partition is not ours any more although its handlers have not ended.

    That happens when the connection to the broker is gone, or the queue. Then somebody else may be handling
    the same messages: stop, and write nothing that is not guarded by the fencing token. May be asked and
    awaited by async handlers, and asked or waited for by handlers in threads.
    """

    __slots__ = ("_event", "_for_threads")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._for_threads = threading.Event()

    def __repr__(self) -> str:
        return f"<Lost: {'set' if self.is_set() else 'not set'}>"

    def set(self) -> None:
        """For the consumer, in its event loop."""
        self._for_threads.set()
        self._event.set()

    def is_set(self) -> bool:
        """Whether it is lost. From any thread."""
        return self._for_threads.is_set()

    async def wait(self) -> None:
        """Until it is lost. In the consumer's event loop."""
        await self._event.wait()

    def wait_in_thread(self, timeout: float | None = None) -> bool:
        """Until it is lost, or `timeout` seconds have passed; whether it is lost. In a handler's thread."""
        return self._for_threads.wait(timeout)


class Raw:
    """The bytes of one delivery.

    Attributes:
        data: the delivery as it came, copied out of the read: from the Deliver method frame on.
        header_at: where in it the header frame begins.
    """

    __slots__ = ()
    data: bytes
    header_at: int

    @property
    def content(self) -> bytes:
        """Header frame and body frames."""
        return self.data[self.header_at :]

    @property
    def exchange(self) -> str:
        """Where it was published."""
        return content.exchange_at(self.data, 0).decode(errors="surrogateescape")

    @property
    def routing_key(self) -> str:
        """With which routing key."""
        return content.routing_key_at(self.data, 0).decode(errors="surrogateescape")


class RawCopy(Raw):
    """One delivery that is in nobody's lanes."""

    __slots__ = ("data", "header_at")

    def __init__(self, data: bytes, header_at: int) -> None:
        self.data = data
        self.header_at = header_at


class Delivery(Item, Raw):
    """One delivery of a partition, on its way through the lanes."""

    __slots__ = ("data", "header_at")

    def __init__(self, stream: Stream, tag: int, key: bytes | None, data: bytes, header_at: int) -> None:
        self.stream = stream
        self.tag = tag
        self.key = key
        self.data = data
        self.header_at = header_at
        self.state = READY
        self.attempt = 0
        self.run = None


class Origin:
    """Where messages come from: see `Message` for its attributes."""

    __slots__ = ("fencing_token", "lost", "partition")

    def __init__(self, partition: int, fencing_token: int, lost: Lost) -> None:
        self.partition = partition
        self.fencing_token = fencing_token
        self.lost = lost


class Message(msgspec.Struct, eq=False):
    """One message.

    Attributes:
        attempt: 1 for the first time that this member handles it, 2 for the second …
    """

    # One of these is made for every message: a Struct is made in half the time of a class.
    _raw: Raw
    _key: bytes | None
    _origin: Origin
    attempt: int
    _properties: Basic.Properties | None = None

    def __repr__(self) -> str:
        return (
            f"<Message of partition {self.partition}, key {self.key!r}, attempt {self.attempt},"
            f" {len(self.body)} bytes>"
        )

    @property
    def partition(self) -> int:
        """The partition it came in."""
        return self._origin.partition

    @property
    def fencing_token(self) -> int:
        """Grows every time the partition gets another owner. Pass it to whatever you write to, and have it
        refuse a lower one: so an owner that the broker holds for dead can do no harm."""
        return self._origin.fencing_token

    @property
    def lost(self) -> Lost:
        """Set when the partition is not this member's any more; see `Lost`."""
        return self._origin.lost

    @property
    def body(self) -> bytes:
        """The body, as it was published."""
        raw = self._raw
        return content.body_of(raw.data, raw.header_at, len(raw.data))

    @property
    def key(self) -> str | None:
        """What it is ordered by; None where it has no usable key and is ordered by nothing."""
        return None if self._key is None else self._key.decode(errors="surrogateescape")

    @property
    def properties(self) -> Basic.Properties:
        """Its AMQP properties (content_type, message_id, timestamp …).

        Raises:
            ProtocolError: they can't be decoded.
        """
        if self._properties is None:
            self._properties = content.properties_of(self._raw.data, self._raw.header_at)
        return self._properties

    @property
    def headers(self) -> dict[str, Any]:
        """Its headers, empty where it has none.

        Raises:
            ProtocolError: they can't be decoded.
        """
        return self.properties.headers or {}

    @property
    def redelivered(self) -> bool:
        """Whether it may be a repeat: the broker has delivered it before, to this member or to another, or
        the router may have."""
        raw = self._raw
        return (
            content.redelivered_at(raw.data, 0)
            or _REDELIVERED(raw.data, raw.header_at, len(raw.data), b"") is not None
        )

    @property
    def exchange(self) -> str:
        """The exchange it was published to."""
        return self._raw.exchange

    @property
    def routing_key(self) -> str:
        """The routing key it was published with."""
        return self._raw.routing_key

    @property
    def raw(self) -> Raw:
        """The bytes it came in."""
        return self._raw

    def json(self) -> Any:
        """Its body, decoded from JSON.

        Raises:
            msgspec.DecodeError: it is none.
        """
        return _FROM_JSON(self.body)
