"""What a handler is given: one message, decoded only as far as it is asked."""

import asyncio
import threading
from typing import Any

import msgspec
from pamqp.commands import Basic

from partymq.amqp import content
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
    """One delivery as it came, copied out of the read: `data` begins with the Deliver method frame."""

    __slots__ = ("data", "header_at")

    def __init__(self, data: bytes, header_at: int) -> None:
        self.data = data
        self.header_at = header_at

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


class Message:
    """One message.

    Attributes:
        partition: the partition it came in.
        fencing_token: grows every time the partition gets another owner. Pass it to whatever you write to,
            and have it refuse a lower one: so an owner that the broker holds for dead can do no harm.
        attempt: 1 for the first time that this member handles it, 2 for the second …
        lost: set when the partition is not this member's any more; see `Lost`.
    """

    __slots__ = ("_key", "_properties", "_raw", "attempt", "fencing_token", "lost", "partition")

    def __init__(
        self, raw: Raw, key: bytes | None, partition: int, fencing_token: int, attempt: int, lost: Lost
    ) -> None:
        self._raw = raw
        self._key = key
        self._properties: Basic.Properties | None = None
        self.partition = partition
        self.fencing_token = fencing_token
        self.attempt = attempt
        self.lost = lost

    def __repr__(self) -> str:
        return (
            f"<Message of partition {self.partition}, key {self.key!r}, attempt {self.attempt},"
            f" {len(self.body)} bytes>"
        )

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
