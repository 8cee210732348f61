"""Streams as a broker could send them, encoded with pamqp, and what the parser makes of them."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from pamqp import base, frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from partymq.amqp import content
from partymq.amqp.codec import Batch, Consumer, Got, Parser

FRAME_MAX = 4096
PAYLOAD = FRAME_MAX - 8
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


@dataclass(frozen=True)
class Item:
    """One method with what follows it: the frames, and what has to come out."""

    channel: int
    frames: Sequence[bytes]
    meaning: tuple[Any, ...]


def raw_content(
    channel: int, body: bytes, properties: Basic.Properties, payload: int = PAYLOAD
) -> list[bytes]:
    parts = [body[start : start + payload] for start in range(0, len(body), payload)]
    header = ContentHeader(0, len(body), properties)
    return [frame.marshal(value, channel) for value in (header, *map(ContentBody, parts))]


def delivery(
    channel: int,
    tag: str,
    number: int,
    body: bytes,
    properties: Basic.Properties | None = None,
    *,
    payload: int = PAYLOAD,
    exchange: str = "ex",
    routing_key: str = "key",
    redelivered: bool = False,
) -> Item:
    method = Basic.Deliver(tag, number, redelivered, exchange, routing_key)
    properties = properties or Basic.Properties()
    frames = raw_content(channel, body, properties, payload)
    meaning = ("delivery", channel, tag, number, redelivered, exchange, routing_key, b"".join(frames))
    return Item(channel, [frame.marshal(method, channel), *frames], meaning)


def returned(channel: int, body: bytes, properties: Basic.Properties | None = None) -> Item:
    method = Basic.Return(312, "NO_ROUTE", "ex", "key")
    frames = raw_content(channel, body, properties or Basic.Properties())
    meaning = ("return", channel, 312, "NO_ROUTE", "ex", "key", b"".join(frames))
    return Item(channel, [frame.marshal(method, channel), *frames], meaning)


def got(channel: int, number: int, body: bytes) -> Item:
    method = Basic.GetOk(number, True, "ex", "key", 3)
    frames = raw_content(channel, body, Basic.Properties(message_id="m"))
    return Item(
        channel, [frame.marshal(method, channel), *frames], ("got", channel, number, True, "ex", "key", body)
    )


def confirm(channel: int, seq: int, multiple: bool, is_ack: bool) -> Item:
    method = Basic.Ack(seq, multiple) if is_ack else Basic.Nack(seq, multiple, False)
    return Item(channel, [frame.marshal(method, channel)], ("confirm", channel, seq, multiple, is_ack))


def method(channel: int, value: base.Frame) -> Item:
    return Item(channel, [frame.marshal(value, channel)], ("method", channel, value.name, tuple(value)))


def heartbeat() -> Item:
    return Item(0, [HEARTBEAT], ())


@dataclass
class Reader:
    """A parser with consumers, and all that it has found, by kind and channel (or consumer) in order."""

    frame_max: int = FRAME_MAX
    consumers: Iterable[tuple[int, str]] = ()
    found: dict[tuple[Any, ...], list[tuple[Any, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parser = Parser(self.frame_max)
        for channel, tag in self.consumers:
            self.parser.add_consumer(Consumer(channel, tag.encode(), lambda _buf, _spans: None))

    def feed(self, data: bytes) -> Batch:
        batch = self.parser.feed(data)
        if batch.error is not None:
            raise batch.error
        assert len({id(consumer) for consumer, _ in batch.deliveries}) == len(batch.deliveries)
        for meaning in meanings(batch):
            self.found.setdefault(order_of(meaning), []).append(meaning)
        return batch


def order_of(meaning: tuple[Any, ...]) -> tuple[Any, ...]:
    """Things of one kind on one channel (of one consumer) keep their order."""
    return meaning[:3] if meaning[0] == "delivery" else meaning[:2]


def meanings(batch: Batch) -> Iterator[tuple[Any, ...]]:
    for consumer, spans in batch.deliveries:
        for span in spans:
            tag, method_at, header_at, end = span
            yield (
                "delivery",
                consumer.channel,
                consumer.tag.decode(),
                tag,
                content.redelivered_at(batch.buf, method_at),
                content.exchange_at(batch.buf, method_at).decode(),
                content.routing_key_at(batch.buf, method_at).decode(),
                batch.buf[header_at:end],
            )
    for channel, message in batch.returns:
        yield (
            "return",
            channel,
            message.code,
            message.text,
            message.exchange,
            message.routing_key,
            message.content,
        )
    for channel, confirms in batch.confirms.items():
        for seq, multiple, is_ack in confirms:
            yield ("confirm", channel, seq, multiple, is_ack)
    for channel, value in batch.frames:
        if isinstance(value, Got):
            message = content.decode(value.buf, value.span)
            yield (
                "got",
                channel,
                message.tag,
                message.redelivered,
                message.exchange,
                message.routing_key,
                message.body,
            )
        else:
            yield ("method", channel, value.name, tuple(value))


def expected(items: Iterable[Item]) -> dict[tuple[Any, ...], list[tuple[Any, ...]]]:
    found: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for item in items:
        if item.meaning:
            found.setdefault(order_of(item.meaning), []).append(item.meaning)
    return found


def joined(items: Iterable[Item]) -> bytes:
    return b"".join(part for item in items for part in item.frames)


def pieces(stream: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """The stream, split at these places (taken modulo its length)."""
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    for start, end in pairwise(places):
        yield stream[start:end]


# Field tables with every type RabbitMQ knows, as raw bytes -----------------------------------------

_NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


def _numbers(letter: bytes, form: str, low: int, high: int) -> st.SearchStrategy[bytes]:
    return st.integers(low, high).map(lambda value: letter + struct.pack(form, value))


def _long(letter: bytes, value: bytes) -> bytes:
    return letter + struct.pack(">I", len(value)) + value


FIELD_VALUES: st.SearchStrategy[bytes] = st.recursive(
    st.one_of(
        st.booleans().map(lambda value: b"t" + bytes([value])),
        _numbers(b"b", ">b", -128, 127),
        _numbers(b"B", ">B", 0, 255),
        _numbers(b"s", ">h", -(2**15), 2**15 - 1),
        _numbers(b"u", ">H", 0, 2**16 - 1),
        _numbers(b"I", ">i", -(2**31), 2**31 - 1),
        _numbers(b"i", ">I", 0, 2**32 - 1),
        _numbers(b"l", ">q", -(2**63), 2**63 - 1),
        _numbers(b"T", ">Q", 0, 2**32 - 1),
        st.floats(width=32, allow_nan=False).map(lambda value: b"f" + struct.pack(">f", value)),
        st.floats(allow_nan=False).map(lambda value: b"d" + struct.pack(">d", value)),
        st.tuples(st.integers(0, 28), st.integers(0, 2**31 - 1)).map(lambda v: b"D" + struct.pack(">BI", *v)),
        st.text(st.characters(codec="utf-8"), max_size=300).map(lambda value: _long(b"S", value.encode())),
        st.binary(max_size=300).map(lambda value: _long(b"S", value)),
        st.binary(max_size=20).map(lambda value: _long(b"x", value)),
        st.just(b"V"),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda values: _long(b"A", b"".join(values))),
        st.lists(st.tuples(_NAMES, inner), max_size=4).map(lambda entries: _long(b"F", entries_of(entries))),
    ),
    max_leaves=12,
)


def entries_of(entries: Iterable[tuple[str, bytes]]) -> bytes:
    return b"".join(bytes([len(name.encode())]) + name.encode() + value for name, value in entries)


TABLES = st.lists(st.tuples(_NAMES, FIELD_VALUES), max_size=6)
"""Header tables: names with raw values (type letter included); names may repeat."""

_SHORT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@st.composite
def raw_headers(draw: st.DrawFn) -> tuple[int, bytes, list[tuple[str, bytes]] | None]:
    """Property flags, properties, and the header table (None where there is none)."""
    flags, written, table = 0, b"", None
    for place, kind in enumerate("ssTooss" + "sstsss"):
        if not draw(st.booleans()):
            continue
        flags |= 0x8000 >> place
        if kind == "s":
            text = draw(_SHORT).encode()
            written += bytes([len(text)]) + text
        elif kind == "T":
            table = draw(TABLES)
            entries = entries_of(table)
            written += struct.pack(">I", len(entries)) + entries
        elif kind == "o":
            written += bytes([draw(st.integers(0, 255))])
        else:
            written += struct.pack(">Q", draw(st.integers(0, 2**32 - 1)))
    return flags, written, table


def content_of(channel: int, flags: int, properties: bytes, body: bytes, payload: int = PAYLOAD) -> bytes:
    header = struct.pack(">HHQH", 60, 0, len(body), flags) + properties
    raw = struct.pack(">BHI", 2, channel, len(header)) + header + b"\xce"
    for start in range(0, len(body), payload):
        part = body[start : start + payload]
        raw += struct.pack(">BHI", 3, channel, len(part)) + part + b"\xce"
    return raw
