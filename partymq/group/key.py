"""The key rule of a group, and finders that take the key out of a message's raw bytes.

This is the hot path: one call for every message that is routed. A finder works on the frames as they
came from the broker, without decoding what it does not need, and answers with the canonical text of
the key (see `canonical`) or None where the message has no usable one. Why there is none is told by
`why`, which may be slow, because it is asked rarely.

A key is only ever read from where it belongs: a header is an entry of the message's own header table,
at its place in it. Bytes that merely look like one (in another header's value, in a nested table, in
the body) are never taken for it.
"""

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Literal, NoReturn, Protocol, get_args

import msgspec

from partymq.group.canonical import Found, Reason, entry_text, scalar_text

Source = Literal["header", "body", "routing_key", "property"]
Missing = Literal["spread", "fixed", "reject"]

# Every property of AMQP's class `basic` that stands in front of or is itself a key, in the order in
# which they are written; the first has the highest flag bit. Sizes: bytes, or one of the two below.
_SHORT_STRING: Final = 0
_TABLE: Final = -1
_PROPERTIES: Final = (
    ("content_type", _SHORT_STRING),
    ("content_encoding", _SHORT_STRING),
    ("headers", _TABLE),
    ("delivery_mode", 1),
    ("priority", 1),
    ("correlation_id", _SHORT_STRING),
    ("reply_to", _SHORT_STRING),
    ("expiration", _SHORT_STRING),
    ("message_id", _SHORT_STRING),
    ("timestamp", 8),
    ("type", _SHORT_STRING),
    ("user_id", _SHORT_STRING),
    ("app_id", _SHORT_STRING),
)
PROPERTY_NAMES: Final = tuple(name for name, size in _PROPERTIES if size != _TABLE)

# Offsets from the first byte of the content-header frame: frame header (7), class id, weight (2 + 2),
# body size (8), property flags (2), properties.
_FLAGS: Final = 19
_PROPERTY_LIST: Final = 21
_U32 = struct.Struct(">I").unpack_from
_FRAME_AND_BODY_SIZE = struct.Struct(
    ">I4xQ"
).unpack_from  # from offset 3: the frame's payload, the whole body


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Where the key of a group's messages is, and what happens to a message without a usable one.

    Attributes:
        source: `header`, `body` (JSON), `routing_key` or `property`.
        name: the header's name; the dotted path into the body (`customer.id`, `items.0.sku`; a dot that
            belongs to a name is written `\\.`); the property's name, one of `PROPERTY_NAMES`. Not used
            for the routing key.
        missing: `spread` over all partitions, all to one (`fixed`), or `reject`.

    Raises:
        ValueError: one of them is not possible; the text says what is allowed.
    """

    source: Source = "header"
    name: str = "partitionKey"
    missing: Missing = "spread"

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(f"key source {self.source!r}: allowed are {', '.join(get_args(Source))}")
        if self.missing not in get_args(Missing):
            raise ValueError(f"missing key {self.missing!r}: allowed are {', '.join(get_args(Missing))}")
        if self.source == "header" and not 1 <= len(self.name.encode()) <= 255:
            raise ValueError(f"header name {self.name!r}: allowed are 1 to 255 bytes")
        if self.source == "property" and self.name not in PROPERTY_NAMES:
            raise ValueError(f"property {self.name!r}: allowed are {', '.join(PROPERTY_NAMES)}")
        if self.source == "body":
            path_segments(self.name)


class KeyFinder(Protocol):
    """Finds the key of one message after the other. Has no state: any number of callers may share it."""

    @property
    def needs_body(self) -> bool:
        """Whether the body frames are looked at; if not, the header frame alone may be passed."""

    def find(self, buf: bytes, header: int, end: int, routing_key: bytes) -> bytes | None:
        """The canonical text of the message's key, None where it has no usable one. Never raises.

        Args:
            buf: raw bytes with the whole content: header frame, then all body frames.
            header: position of the first byte of the content-header frame (its type octet).
            end: position behind the last body frame's end octet.
            routing_key: the routing key of the delivery.
        """

    def why(self, buf: bytes, header: int, end: int, routing_key: bytes) -> Reason:
        """Why `find` answers None for the same arguments (`Reason.USABLE` where it does not)."""


def make_finder(rule: KeyRule) -> KeyFinder:
    """The finder for a rule; made once for a group."""
    match rule.source:
        case "header":
            return HeaderKey(rule.name)
        case "body":
            return BodyKey(rule.name)
        case "property":
            return PropertyKey(rule.name)
        case "routing_key":
            return RoutingKey()


class RoutingKey:
    """The delivery's routing key, as it is."""

    __slots__ = ()
    needs_body = False

    def find(self, buf: bytes, header: int, end: int, routing_key: bytes) -> bytes | None:
        return routing_key

    def why(self, buf: bytes, header: int, end: int, routing_key: bytes) -> Reason:
        return Reason.USABLE


class HeaderKey:
    """A header of the message, of any scalar type. Fastest where it is the first one and a text."""

    __slots__ = ("_entry", "_first", "_first_size")
    needs_body = False

    def __init__(self, name: str) -> None:
        encoded = name.encode()
        self._entry = bytes([len(encoded)]) + encoded
        # The entry up to the last byte of the value's length: a text of less than 256 bytes.
        self._first = self._entry + b"S\0\0\0"
        self._first_size = 4 + len(self._first) + 1  # table length, the entry, the last byte of its length

    def find(self, buf: bytes, header: int, end: int, routing_key: bytes) -> bytes | None:
        try:
            flags = buf[header + _FLAGS]
            if not flags & 0x20:
                return None
            table = header + _PROPERTY_LIST
            if flags & 0xC0:
                if flags & 0x80:
                    table += 1 + buf[table]
                if flags & 0x40:
                    table += 1 + buf[table]
            if buf.startswith(self._first, table + 4):
                start = table + self._first_size
                stop = start + buf[start - 1]
                # An entry that runs out of its table is no entry: an empty table, followed by
                # properties that spell it, would otherwise pass for one.
                if stop - table - 4 <= _U32(buf, table)[0]:
                    return buf[start:stop]
            found = self._walk(buf, header, table)
        except (IndexError, struct.error):
            return None
        return found if isinstance(found, bytes) else None

    def why(self, buf: bytes, header: int, end: int, routing_key: bytes) -> Reason:
        try:
            if not buf[header + _FLAGS] & 0x20:
                return Reason.ABSENT
            found = self._walk(buf, header, _behind(buf, header, _PROPERTIES[:2]))
        except (IndexError, struct.error):
            return Reason.MALFORMED
        return Reason.USABLE if isinstance(found, bytes) else found

    def _walk(self, buf: bytes, header: int, table: int) -> Found:
        table_end = table + 4 + _U32(buf, table)[0]
        if table_end > header + 7 + _U32(buf, header + 3)[0]:
            return Reason.MALFORMED
        return entry_text(buf, table + 4, table_end, self._entry)


class PropertyKey:
    """One of the message's properties: a text, or a number in decimal."""

    __slots__ = ("_flag", "_front", "_size")
    needs_body = False

    def __init__(self, name: str) -> None:
        if name not in PROPERTY_NAMES:
            raise ValueError(f"property {name!r}: allowed are {', '.join(PROPERTY_NAMES)}")
        place = next(place for place, (known, _) in enumerate(_PROPERTIES) if known == name)
        self._flag = 0x8000 >> place
        self._front = _PROPERTIES[:place]
        self._size = _PROPERTIES[place][1]

    def find(self, buf: bytes, header: int, end: int, routing_key: bytes) -> bytes | None:
        found = self._read(buf, header)
        return found if isinstance(found, bytes) else None

    def why(self, buf: bytes, header: int, end: int, routing_key: bytes) -> Reason:
        found = self._read(buf, header)
        return Reason.USABLE if isinstance(found, bytes) else found

    def _read(self, buf: bytes, header: int) -> Found:
        try:
            if not _flags(buf, header) & self._flag:
                return Reason.ABSENT
            start = _behind(buf, header, self._front)
            stop = start + (self._size or 1 + buf[start])
            if stop > header + 7 + _U32(buf, header + 3)[0]:
                return Reason.MALFORMED
        except (IndexError, struct.error):
            return Reason.MALFORMED
        if self._size:
            return str(int.from_bytes(buf[start:stop])).encode()
        return buf[start + 1 : stop]


class BodyKey:
    """A scalar in the body, which must be JSON in UTF-8 as a whole; of a repeated name the last counts.

    A path of plain names is read through a struct type made for it, so that the decoder steps over
    everything else. What that type does not fit (list indexes, an unexpected type on the way) is
    decoded in full.
    """

    __slots__ = ("_decode", "_scalar", "_segments")
    needs_body = True

    def __init__(self, path: str) -> None:
        self._segments = path_segments(path)
        plain = not any(_is_index(segment) for segment in self._segments)
        self._decode = _typed_decoder(self._segments) if plain else None
        self._scalar = attrgetter(".".join(["at"] * len(self._segments)))

    def find(self, buf: bytes, header: int, end: int, routing_key: bytes) -> bytes | None:
        try:
            payload, size = _FRAME_AND_BODY_SIZE(buf, header + 3)
            start = header + payload + 15  # behind the header frame and the first body frame's own header
            body = buf[start : end - 1] if end - start == size + 1 else _joined(buf, start - 7, end)
            if self._decode is not None:
                value = self._scalar(self._decode(str(body, "utf-8")))
                if isinstance(value, str):
                    return value.encode()
                found = scalar_text(value)
                return found if isinstance(found, bytes) else None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            pass
        except (IndexError, struct.error):
            return None
        found = self._read(body)
        return found if isinstance(found, bytes) else None

    def why(self, buf: bytes, header: int, end: int, routing_key: bytes) -> Reason:
        try:
            body = _joined(buf, header + 8 + _U32(buf, header + 3)[0], end)
        except (IndexError, struct.error):
            return Reason.MALFORMED
        found = self._read(body)
        return Reason.USABLE if isinstance(found, bytes) else found

    def _read(self, body: bytes) -> Found:
        try:
            value = _document(str(body, "utf-8"))
        except UnicodeDecodeError:
            return Reason.NOT_UTF8
        except RecursionError:
            return Reason.TOO_DEEP
        except ValueError:
            return Reason.INVALID_JSON
        for segment in self._segments:
            if isinstance(value, dict) and segment in value:
                value = value[segment]
            elif isinstance(value, list) and _is_index(segment) and int(segment) < len(value):
                value = value[int(segment)]
            else:
                return Reason.PATH_NOT_FOUND
        return scalar_text(value)


def path_segments(path: str) -> tuple[str, ...]:
    """The names and indexes of a dotted path; ValueError where one of them is empty."""
    segments = tuple(part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", path))
    if not all(segments):
        raise ValueError(
            f"path {path!r}: allowed are names joined by dots, such as customer.id or items.0.sku"
        )
    return segments


def _is_index(segment: str) -> bool:
    return segment.isascii() and segment.isdigit() and len(segment) < 10


def _typed_decoder(segments: tuple[str, ...]) -> Callable[[str], object]:
    """Decodes into an object with nothing but the value of the path, one `at` for every segment."""
    kind = msgspec.defstruct(
        "Leaf",
        [("at", str | int | float | bool | None | msgspec.UnsetType, _member(segments[-1], msgspec.UNSET))],
        frozen=True,
        gc=False,
    )
    for segment in reversed(segments[:-1]):
        # A missing object has the same effect as one without the value: `kind()` is that object.
        kind = msgspec.defstruct("Node", [("at", kind, _member(segment, kind()))], frozen=True, gc=False)
    return msgspec.json.Decoder(kind).decode


def _member(name: str, default: object) -> Any:
    return msgspec.field(name=name, default=default)


_DECODE_ANY = msgspec.json.Decoder().decode


def _document(text: str) -> Any:
    """A whole JSON document. The standard library has the last word on what is JSON: it knows lone
    surrogate escapes and numbers out of a double's range, which are valid by the grammar."""
    try:
        return _DECODE_ANY(text)
    except (msgspec.DecodeError, UnicodeError):
        return json.loads(text, parse_constant=_no_json)


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _joined(buf: bytes, pos: int, end: int) -> bytes:
    """The payloads of the body frames from `pos` to `end`, joined."""
    parts = []
    while pos < end:
        after = pos + 7 + _U32(buf, pos + 3)[0]
        parts.append(buf[pos + 7 : after])
        pos = after + 1
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _flags(buf: bytes, header: int) -> int:
    return buf[header + _FLAGS] << 8 | buf[header + _FLAGS + 1]


def _behind(buf: bytes, header: int, front: tuple[tuple[str, int], ...]) -> int:
    """Position behind those of the first properties, `front`, that the message has."""
    flags = _flags(buf, header)
    pos = header + _PROPERTY_LIST
    flag = 0x8000
    for _, size in front:
        if flags & flag:
            if size == _SHORT_STRING:
                pos += 1 + buf[pos]
            elif size == _TABLE:
                pos += 4 + _U32(buf, pos)[0]
            else:
                pos += size
        flag >>= 1
    return pos
