"""A model of what the broker does for a router: deliveries, confirms, returns, acks, requeueing.

It is strict where RabbitMQ is strict: an ack for a tag that is not outstanding is an error, as it would close
the channel there.
"""

from collections import deque
from dataclasses import dataclass, field
from random import Random

from pamqp import body, commands, frame, header
from raw_content import Field, content, short_string
from raw_content import frame as raw_frame

from partymq.group.partitioner import partition_of

KEY = "partitionKey"


@dataclass(frozen=True)
class Message:
    """One message; `number` is its place in the source."""

    number: int
    key: bytes | None
    size: int = 20

    @property
    def body(self) -> bytes:
        return str(self.number).encode().ljust(self.size, b".")

    def content(self, channel: int, **properties: object) -> bytes:
        headers = {} if self.key is None else {"headers": [Field(KEY, "S", self.key)]}
        made = content(self.body, **headers, **properties)  # type: ignore[arg-type]
        raw = bytearray(made.buf[made.header : made.end])
        pos = 0
        while pos < len(raw):
            raw[pos + 1 : pos + 3] = channel.to_bytes(2, "big")
            pos += 8 + int.from_bytes(raw[pos + 3 : pos + 7], "big")
        return bytes(raw)


def deliver_frame(channel: int, tag: int, exchange: str = "ex", routing_key: str = "rk") -> bytes:
    payload = b"\x00\x3c\x00\x3c" + short_string("c1") + tag.to_bytes(8, "big") + b"\x00"
    return raw_frame(1, payload + short_string(exchange) + short_string(routing_key), channel)


@dataclass
class Published:
    seq: int
    routing_key: str
    exchange: str
    number: int
    outcome: str = "pending"  # confirmed, returned, refused
    settled: bool = False
    raw: bytes = b""


@dataclass
class QueueChannel:
    """A queue, the consume channel on it, and the publish channel that goes with it."""

    number: int
    queue: deque[Message]
    prefetch: int
    partitions: int
    tag: int = 0
    unacked: dict[int, Message] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)
    low: int = 0

    def deliver(self, count: int) -> tuple[bytes, list[tuple[int, int, int, int]]]:
        """A read with up to so many messages, as far as the prefetch goes."""
        buf, spans = b"\x08\x00\x00\x00\x00\x00\x00\xce", []
        for _ in range(min(count, self.prefetch - len(self.unacked), len(self.queue))):
            message = self.queue.popleft()
            self.tag += 1
            self.unacked[self.tag] = message
            start = len(buf)
            buf += deliver_frame(self.number, self.tag)
            header_at = len(buf)
            buf += message.content(self.number)
            spans.append((self.tag, start, header_at, len(buf)))
        return buf, spans

    def receive(self, raw: bytes) -> list[Published]:
        """Publish frames from the router (all of this channel)."""
        new: list[Published] = []
        for kind, payload, piece in frames(raw, self.number):
            if kind == "publish":
                new.append(
                    Published(len(self.published) + 1, payload.routing_key, payload.exchange, -1, raw=b"")
                )
                self.published.append(new[-1])
            elif kind == "body":
                new[-1].number = int(payload.rstrip(b"."))
            new[-1].raw += piece
        return new

    def answer(self, random: Random, count: int, outcome: str = "confirmed") -> list[tuple[int, bool, bool]]:
        """Confirms for some of the pending publishes, in any order, single or multiple."""
        confirms: list[tuple[int, bool, bool]] = []
        while self.low < len(self.published) and self.published[self.low].settled:
            self.low += 1
        for _ in range(count):
            pending = [each for each in self.published[self.low :] if not each.settled]
            if not pending:
                break
            if random.random() < 0.3:
                last = random.choice(pending[: random.randint(1, len(pending))])
                group = [each for each in pending if each.seq <= last.seq]
                if any(each.outcome == "returned" for each in group):
                    continue
                confirms.append((last.seq, True, outcome == "confirmed"))
            else:
                # The broker settles a queue's messages in their order.
                keys = {each.routing_key for each in pending}
                key = random.choice(sorted(keys))
                group = [next(each for each in pending if each.routing_key == key)]
                confirms.append((group[0].seq, False, outcome == "confirmed"))
            for each in group:
                each.settled = True
                if each.outcome == "pending":
                    each.outcome = outcome
        return confirms

    def ack(self, raw: bytes, tags_confirmed: dict[int, int]) -> None:
        """Ack frames from the router. `tags_confirmed`: by message number, how often it was confirmed."""
        for kind, payload, _ in frames(raw, self.number):
            assert kind == "ack"
            assert payload.delivery_tag in self.unacked, f"unknown delivery tag {payload.delivery_tag}"
            tags = (
                [tag for tag in self.unacked if tag <= payload.delivery_tag]
                if payload.multiple
                else [payload.delivery_tag]
            )
            for tag in tags:
                message = self.unacked.pop(tag)
                self.acked.append(message.number)
                assert tags_confirmed.get(message.number), f"acked, never confirmed: {message}"

    def requeue(self) -> None:
        """The channel is closed: what is not acked goes back to the front, in order."""
        self.queue.extendleft(reversed(self.unacked.values()))
        self.unacked = {}
        self.tag = 0
        self.published = []
        self.low = 0


def frames(raw: bytes, channel: int) -> list[tuple[str, object, bytes]]:
    """Decodes frames with pamqp, checking their channel."""
    result: list[tuple[str, object, bytes]] = []
    while raw:
        used, number, value = frame.unmarshal(raw)
        assert number == channel
        kind = {
            commands.Basic.Publish: "publish",
            commands.Basic.Ack: "ack",
            header.ContentHeader: "header",
            body.ContentBody: "body",
        }[type(value)]
        result.append((kind, value.value if kind == "body" else value, raw[:used]))
        raw = raw[used:]
    return result


def split_by_channel(raw: bytes) -> dict[int, bytes]:
    """Frames by channel number."""
    parts: dict[int, bytes] = {}
    pos = 0
    while pos < len(raw):
        end = pos + 8 + int.from_bytes(raw[pos + 3 : pos + 7], "big")
        channel = int.from_bytes(raw[pos + 1 : pos + 3], "big")
        parts[channel] = parts.get(channel, b"") + raw[pos:end]
        pos = end
    return parts


def partition(message: Message, partitions: int) -> int:
    assert message.key is not None
    return partition_of(message.key, partitions)
