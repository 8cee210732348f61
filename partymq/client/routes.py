"""Where the messages of a publisher go: Publish frames, made once for every partition. Pure."""

from collections.abc import Callable, Iterable
from itertools import count
from zlib import crc32

from partymq.amqp.content import publish_frame
from partymq.client.outbox import Item
from partymq.errors import ConfigError
from partymq.group.layout import GroupLayout
from partymq.group.names import hash_exchange, write_exchange


class Routes:
    """The Publish frames of one channel and one layout. All are mandatory: what has no queue comes back.

    Attributes:
        frames: Publish frames and contents of messages, joined.
        ordered: whether it is known which partition a key is in.
        longest_key: bytes.

    Raises ConfigError where a publisher can't know where to: messages of a routed group go to its source.
    """

    def __init__(self, channel: int, group: str, layout: GroupLayout) -> None:
        self._partitions = layout.partitions
        self._turn = count()
        self.longest_key = 1 << 16
        self.ordered = layout.ingress == "publisher"
        self.frames: Callable[[Iterable[Item]], bytes]
        if layout.ingress == "publisher":
            exchange = write_exchange(group)
            self._frames = [
                publish_frame(channel, exchange, layout.routing_key(partition), mandatory=True)
                for partition in range(layout.partitions)
            ]
            self.frames = self._by_partition
        elif layout.ingress == "hash-exchange":
            self._channel = channel
            self._exchange = hash_exchange(group)
            self._fixed = publish_frame(channel, self._exchange, "", mandatory=True)
            self.frames = self._by_header
            if layout.key.source == "routing_key":
                self.frames = self._by_key
                self.longest_key = 255
        else:
            raise ConfigError(
                f"group {group}: ingress = 'router': publish to the source that `partymq serve` routes,"
                " or use a group with ingress 'publisher'"
            )

    def partition(self, item: Item) -> int | None:
        """Of a message, where it is `ordered` and the message has a key."""
        return crc32(item.key) % self._partitions if item.key is not None and self.ordered else None

    def _by_partition(self, items: Iterable[Item]) -> bytes:
        frames, partitions, turn = self._frames, self._partitions, self._turn
        parts = []
        for item in items:
            key = item.key
            # `partition_of`, spelled out for speed.
            parts.append(frames[(crc32(key) if key is not None else next(turn)) % partitions])
            parts.append(item.content)
        return b"".join(parts)

    def _by_header(self, items: Iterable[Item]) -> bytes:
        return b"".join([self._fixed + item.content for item in items])

    def _by_key(self, items: Iterable[Item]) -> bytes:
        return b"".join(
            [
                publish_frame(
                    self._channel,
                    self._exchange,
                    (item.key or b"").decode(errors="surrogateescape"),
                    mandatory=True,
                )
                + item.content
                for item in items
            ]
        )
