"""Raw content of messages: the header frame and the body frames as they came, and what is read from them.

The data path copies content without decoding it. A *span* says where one delivery stands in a buffer:
`(delivery_tag, method_at, header_at, end)`, the positions of the first byte of the Deliver method frame
and of the content-header frame, and the one behind the last body frame's end octet. So
`buf[header_at:end]` is the *content*: what goes behind a Publish frame of the same channel number.

Everything here is pure. Names of exchanges, keys and users that are not UTF-8 are carried by `str` with
surrogate escapes, both ways.
"""

import copy
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from partymq.amqp.tables import table
from partymq.errors import ProtocolError

Span = tuple[int, int, int, int]
"""delivery tag, position of the method frame, of the header frame, and behind the last body frame."""

FRAME_OVERHEAD: Final = 8
"""Bytes of a frame besides its payload: type, channel, size, end octet."""

_FRAME = struct.Struct(">BHI")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_ACK = struct.Struct(">BHIHHQBB")

# From the header frame's first byte: frame header (7), class id, weight (4), body size (8), flags (2).
_FLAGS: Final = 19
_PROPERTY_LIST: Final = 21
_HEADERS_FLAG: Final = 0x2000
_EXPIRATION_FLAG: Final = 0x0100
_USER_ID_FLAG: Final = 0x0010
_MORE_FLAGS: Final = 0x0001

# The properties in front of `user_id`, as they are written: flag, and bytes (0: short string, -1: table).
_FRONT: Final = (
    (0x8000, 0),
    (0x4000, 0),
    (0x2000, -1),
    (0x1000, 1),
    (0x0800, 1),
    (0x0400, 0),
    (0x0200, 0),
    (0x0100, 0),
    (0x0080, 0),
    (0x0040, 8),
    (0x0020, 0),
)
_FIXED_VALUES: Final = dict(
    zip(b"tbBUsuIilLfdDTV", (1, 1, 1, 2, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0), strict=True)
)


@dataclass(frozen=True, slots=True)
class Message:
    """One message, decoded: for the control plane and for tests, not for the data path."""

    body: bytes
    properties: Basic.Properties = field(default_factory=Basic.Properties)
    exchange: str = ""
    routing_key: str = ""
    tag: int = 0
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class Returned:
    """A message that came back to its publisher because it could not be routed.

    `content` is raw (header frame and body frames), with the number of the channel it came back on.
    """

    code: int
    text: str
    exchange: str
    routing_key: str
    content: bytes


# What the Deliver method frame says --------------------------------------------------------------


def routing_key_at(buf: bytes, method_at: int) -> bytes:
    """The routing key of the delivery whose method frame begins at `method_at`."""
    exchange = method_at + 21 + buf[method_at + 11]
    start = exchange + 2 + buf[exchange]
    return buf[start : start + buf[start - 1]]


def exchange_at(buf: bytes, method_at: int) -> bytes:
    """The exchange to which the message was published; empty for the default exchange."""
    start = method_at + 22 + buf[method_at + 11]
    return buf[start : start + buf[start - 1]]


def redelivered_at(buf: bytes, method_at: int) -> bool:
    """Whether the broker may have delivered the message before."""
    return buf[method_at + 20 + buf[method_at + 11]] & 1 == 1


# Whole frames to send ----------------------------------------------------------------------------


def publish_frame(channel: int, exchange: str, routing_key: str, mandatory: bool = False) -> bytes:
    """The Basic.Publish method frame; content of the same channel number has to follow.

    Raises ValueError where a name is longer than 255 bytes.
    """
    payload = (
        b"\x00\x3c\x00\x28\x00\x00"
        + short_string(exchange)
        + short_string(routing_key)
        + bytes([1 if mandatory else 0])
    )
    return _frame(1, channel, payload)


def ack_frame(channel: int, tag: int, multiple: bool = False) -> bytes:
    """The Basic.Ack frame for one delivery, or for all up to it."""
    return _ACK.pack(1, channel, 13, 60, 80, tag, multiple, 0xCE)


def ack_frames(channel: int, tags: Iterable[int]) -> bytes:
    """Basic.Ack frames for single deliveries, joined."""
    pack = _ACK.pack
    return b"".join([pack(1, channel, 13, 60, 80, tag, 0, 0xCE) for tag in tags])


def nack_frame(channel: int, tag: int, multiple: bool, requeue: bool) -> bytes:
    """The Basic.Nack frame."""
    return _ACK.pack(1, channel, 13, 60, 120, tag, multiple | requeue << 1, 0xCE)


def encode_content(
    channel: int, body: bytes, properties: Basic.Properties | None = None, frame_max: int = 131_072
) -> bytes:
    """Header frame and body frames of a message; `frame_max` in bytes, 0 = no limit.

    Raises ValueError where a property can't be encoded or the properties need more than one frame.
    """
    try:
        header = _header_payload(len(body), properties)
    except (TypeError, OverflowError, RecursionError, struct.error) as error:
        raise ValueError(f"a property can't be encoded: {error}") from error
    _check_header(len(header), frame_max)
    return _frame(2, channel, header) + b"".join(_body_frames(channel, body, frame_max))


def _header_payload(size: int, properties: Basic.Properties | None) -> bytes:
    if properties is None or not properties.headers:
        return ContentHeader(0, size, properties).marshal()
    headers = table(properties.headers)
    others = copy.copy(properties)
    others.headers = {}
    payload = ContentHeader(0, size, others).marshal()
    flags = _U16.unpack_from(payload, _FLAGS - 7)[0]
    start = _behind(payload, flags, _FRONT[:2], -7)
    return payload[:start] + headers + payload[start + 4 :]


# Changes to content ------------------------------------------------------------------------------


def with_channel(content: bytes, number: int) -> bytes:
    """The same content with another channel number in its frames; itself where it has that already."""
    raw = _U16.pack(number)
    if content[1:3] == raw:
        return content
    out = bytearray(content)
    pos = 0
    while pos < len(out):
        out[pos + 1 : pos + 3] = raw
        pos += FRAME_OVERHEAD + _U32.unpack_from(out, pos + 3)[0]
    return bytes(out)


def refit(content: bytes, number: int, frame_max: int) -> bytes:
    """The same content with another channel number and bodies split for another `frame_max` (bytes).

    Raises ValueError where the properties do not fit into one frame.
    """
    size = _U32.unpack_from(content, 3)[0]
    _check_header(size, frame_max)
    limit = frame_max - FRAME_OVERHEAD if frame_max else len(content)
    pos = size + FRAME_OVERHEAD
    while pos < len(content):
        size = _U32.unpack_from(content, pos + 3)[0]
        if size > limit:
            break
        pos += FRAME_OVERHEAD + size
    else:
        return with_channel(content, number)
    header_end = FRAME_OVERHEAD + _U32.unpack_from(content, 3)[0]
    frames = _body_frames(number, body_of(content, 0, len(content)), frame_max)
    return with_channel(content[:header_end], number) + b"".join(frames)


def add_headers(content: bytes, headers: Mapping[str, str], number: int, frame_max: int = 0) -> bytes:
    """The content with these headers (as long strings) added at the end of its header table.

    Entries of the same names are replaced; every other byte of properties and body stays as it is.
    `number` is the channel number of the result; `frame_max` in bytes, 0 = not checked.
    Raises ValueError where the properties do not fit into one frame or a name is longer than 255 bytes.
    """
    header_end, flags = _header(content)
    table_at = _behind(content, flags, _FRONT[:2])
    table_end = table_at
    entries = b""
    if flags & _HEADERS_FLAG:
        table_end += 4 + _U32.unpack_from(content, table_at)[0]
        entries = _without_entries(content, table_at + 4, table_end, {_raw(name) for name in headers})
    for name, value in headers.items():
        text = _raw(value)
        entries += short_string(name) + b"S" + _U32.pack(len(text)) + text
    properties = (
        content[_PROPERTY_LIST:table_at]
        + _U32.pack(len(entries))
        + entries
        + content[table_end : header_end - 1]
    )
    return _with_properties(content, header_end, flags | _HEADERS_FLAG, properties, number, frame_max)


def user_id(content: bytes, header_at: int = 0) -> str | None:
    """The `user_id` property, None where there is none. `header_at`: where the header frame begins."""
    if not content[header_at + _FLAGS + 1] & _USER_ID_FLAG:
        return None
    flags = _U16.unpack_from(content, header_at + _FLAGS)[0]
    start = _behind(content, flags, _FRONT, header_at) + 1
    return content[start : start + content[start - 1]].decode(errors="surrogateescape")


def without_user_id(content: bytes) -> bytes:
    """The content without its `user_id` property (the broker refuses one that is not the publisher's)."""
    header_end, flags = _header(content)
    if not flags & _USER_ID_FLAG:
        return content
    return _without(content, header_end, flags, _USER_ID_FLAG, _behind(content, flags, _FRONT))


def without_expiration(content: bytes) -> tuple[bytes, str | None]:
    """The content without its `expiration` property, and what that was (milliseconds, as a text)."""
    header_end, flags = _header(content)
    if not flags & _EXPIRATION_FLAG:
        return content, None
    start = _behind(content, flags, _FRONT[:7])
    text = content[start + 1 : start + 1 + content[start]].decode(errors="surrogateescape")
    return _without(content, header_end, flags, _EXPIRATION_FLAG, start), text


# Decoding ----------------------------------------------------------------------------------------


def decode(buf: bytes, span: Span) -> Message:
    """The message of a span. Raises ProtocolError where its properties can't be decoded."""
    tag, method_at, header_at, end = span
    return Message(
        body=body_of(buf, header_at, end),
        properties=properties_of(buf, header_at),
        exchange=exchange_at(buf, method_at).decode(errors="surrogateescape"),
        routing_key=routing_key_at(buf, method_at).decode(errors="surrogateescape"),
        tag=tag,
        redelivered=redelivered_at(buf, method_at),
    )


def body_of(buf: bytes, header_at: int, end: int) -> bytes:
    """The body: the payloads of the body frames, joined."""
    pos = header_at + FRAME_OVERHEAD + _U32.unpack_from(buf, header_at + 3)[0]
    parts = []
    while pos < end:
        after = pos + 7 + _U32.unpack_from(buf, pos + 3)[0]
        parts.append(buf[pos + 7 : after])
        pos = after + 1
    return parts[0] if len(parts) == 1 else b"".join(parts)


def properties_of(buf: bytes, header_at: int = 0) -> Basic.Properties:
    """The properties of a content, decoded. Raises ProtocolError where that is not possible."""
    header = ContentHeader()
    size = _U32.unpack_from(buf, header_at + 3)[0]
    try:
        header.unmarshal(buf[header_at + 7 : header_at + 7 + size])
    except (ValueError, IndexError, OverflowError, OSError, RecursionError, struct.error) as error:
        raise ProtocolError(f"the properties of a message can't be decoded: {error}") from error
    return header.properties


# Inside ------------------------------------------------------------------------------------------


def short_string(text: str) -> bytes:
    """A short string with its length octet. Raises ValueError where it is longer than 255 bytes."""
    raw = _raw(text)
    if len(raw) > 255:
        raise ValueError(f"{text[:40]!r}… has {len(raw)} bytes; allowed are 255")
    return bytes([len(raw)]) + raw


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, channel, len(payload)) + payload + b"\xce"


def _body_frames(channel: int, body: bytes, frame_max: int) -> list[bytes]:
    limit = frame_max - FRAME_OVERHEAD if frame_max else max(len(body), 1)
    return [_frame(3, channel, body[start : start + limit]) for start in range(0, len(body), limit)]


def _check_header(size: int, frame_max: int) -> None:
    if frame_max and size > frame_max - FRAME_OVERHEAD:
        raise ValueError(
            f"the properties have {size} bytes; a frame of {frame_max} bytes is the most on this connection"
        )


def _header(content: bytes) -> tuple[int, int]:
    """Position behind the header frame; property flags."""
    flags = _U16.unpack_from(content, _FLAGS)[0]
    if flags & _MORE_FLAGS:
        raise ValueError("properties with more than 15 flags are not known in AMQP 0-9-1")
    return FRAME_OVERHEAD + _U32.unpack_from(content, 3)[0], flags


def _behind(content: bytes, flags: int, front: tuple[tuple[int, int], ...], header_at: int = 0) -> int:
    """Position behind those of the properties `front` that the message has."""
    pos = header_at + _PROPERTY_LIST
    for flag, size in front:
        if flags & flag:
            if size > 0:
                pos += size
            elif size == 0:
                pos += 1 + content[pos]
            else:
                pos += 4 + _U32.unpack_from(content, pos)[0]
    return pos


def _without(content: bytes, header_end: int, flags: int, flag: int, start: int) -> bytes:
    """The content without a property that is a short string and begins at `start`."""
    properties = content[_PROPERTY_LIST:start] + content[start + 1 + content[start] : header_end - 1]
    number = _U16.unpack_from(content, 1)[0]
    return _with_properties(content, header_end, flags & ~flag, properties, number, 0)


def _with_properties(
    content: bytes, header_end: int, flags: int, properties: bytes, number: int, frame_max: int
) -> bytes:
    payload = content[7:_FLAGS] + _U16.pack(flags) + properties
    _check_header(len(payload), frame_max)
    return _frame(2, number, payload) + with_channel(content[header_end:], number)


def _without_entries(table: bytes, pos: int, end: int, names: set[bytes]) -> bytes:
    """The entries of a table without those of these names; all of them where it can't be read."""
    kept = []
    try:
        while pos < end:
            value = pos + 1 + table[pos]
            after = _value_end(table, value)
            if after > end:
                break
            if table[pos + 1 : value] not in names:
                kept.append(table[pos:after])
            pos = after
    except (IndexError, KeyError, struct.error):
        pass
    return b"".join(kept) + table[pos:end]


def _value_end(table: bytes, pos: int) -> int:
    """Position behind the field value (type letter and value) at `pos`; KeyError for an unknown type."""
    if table[pos] in b"SxAF":
        return int(pos + 5 + _U32.unpack_from(table, pos + 1)[0])
    return pos + 1 + _FIXED_VALUES[table[pos]]
