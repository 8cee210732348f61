"""Builds the raw frames of a message's content, independently of the package and of any AMQP library."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

ROUTING_KEY = b"the.routing.key"
NOISE = b"\x01\x00\x01\x00\x00\x00\x04noise"  # what stands before and behind the content in a read buffer


class Field(NamedTuple):
    """One entry of a field table: type letter and the bytes of its value, without a length."""

    name: str
    kind: str
    value: bytes


def table(fields: Iterable[Field]) -> bytes:
    """A field table with its length."""
    content = b"".join(short_string(field.name) + field_value(field.kind, field.value) for field in fields)
    return struct.pack(">I", len(content)) + content


def field_value(kind: str, value: bytes) -> bytes:
    """Type octet and value; texts, byte arrays and arrays get their length (a table brings its own)."""
    length = struct.pack(">I", len(value)) if kind in "SxA" else b""
    return kind.encode() + length + value


def short_string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return bytes([len(raw)]) + raw


def frame(kind: int, payload: bytes, channel: int = 1) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


PROPERTY_BITS = {
    name: 15 - place
    for place, name in enumerate(
        [
            "content_type",
            "content_encoding",
            "headers",
            "delivery_mode",
            "priority",
            "correlation_id",
            "reply_to",
            "expiration",
            "message_id",
            "timestamp",
            "type",
            "user_id",
            "app_id",
        ]
    )
}


def property_value(name: str, value: object) -> bytes:
    if name == "headers":
        assert isinstance(value, list)
        return table(value)
    if name in ("delivery_mode", "priority"):
        return struct.pack(">B", value)
    if name == "timestamp":
        return struct.pack(">Q", value)
    assert isinstance(value, str | bytes)
    return short_string(value)


@dataclass(frozen=True)
class Content:
    """The arguments of `KeyFinder.find`."""

    buf: bytes
    header: int
    end: int

    def call(self) -> tuple[bytes, int, int, bytes]:
        return self.buf, self.header, self.end, ROUTING_KEY


def content(body: bytes = b"", frame_payload: int = 131_064, **properties: object) -> Content:
    """Header frame and body frames of at most `frame_payload` bytes, between other bytes."""
    flags = 0
    written = b""
    for name, bit in PROPERTY_BITS.items():
        if name in properties:
            flags |= 1 << bit
            written += property_value(name, properties[name])
    raw = frame(2, struct.pack(">HHQH", 60, 0, len(body), flags) + written)
    for start in range(0, len(body), frame_payload):
        raw += frame(3, body[start : start + frame_payload])
    return Content(NOISE + raw + NOISE, len(NOISE), len(NOISE) + len(raw))
