"""Messages as bytes and back, for the real router core, which knows nothing else."""

import struct
from functools import cache
from itertools import count
from zlib import crc32

from pamqp.commands import Basic

from partymq.amqp.content import Span, encode_content, short_string
from tests.simulation.message import Message

FRAME_MAX = 131_072
HEADER = "partitionKey"
_FRAME = struct.Struct(">BHI")
_PUBLISH = (60, 40)
_ACK = (60, 80)


@cache
def key_of(partition: int, partitions: int) -> str:
    """A key that belongs to a partition."""
    return next(key for n in count() if crc32((key := f"key-{n}").encode()) % partitions == partition)


@cache
def content(message: Message, partitions: int, channel: int) -> bytes:
    """Header frame and body frames."""
    properties = Basic.Properties(headers={HEADER: key_of(message.partition, partitions)}, delivery_mode=2)
    body = f"{message.partition}:{message.number}".encode()
    return encode_content(channel, body, properties, FRAME_MAX)


def delivery(
    message: Message, partitions: int, channel: int, tag: int, redelivered: bool
) -> tuple[bytes, list[Span]]:
    """A read buffer with one delivery, and its span."""
    method = struct.pack(">HH", 60, 60) + short_string("consumer") + struct.pack(">QB", tag, redelivered)
    method += short_string("source exchange") + short_string("routing key")
    frame = _FRAME.pack(1, channel, len(method)) + method + b"\xce"
    raw = content(message, partitions, channel)
    return frame + raw, [(tag, 0, len(frame), len(frame) + len(raw))]


def publishes(data: bytes) -> list[tuple[int, str, Message]]:
    """What is published: channel, routing key, message."""
    found: list[tuple[int, str, Message]] = []
    routing_key, body, size = "", b"", 0
    for kind, channel, payload in _frames(data):
        if kind == 1:
            assert struct.unpack_from(">HH", payload) == _PUBLISH
            at = 7 + payload[6]
            routing_key = payload[at + 1 : at + 1 + payload[at]].decode()
        elif kind == 2:
            size, body = struct.unpack_from(">Q", payload, 4)[0], b""
        else:
            body += payload
            if len(body) == size:
                partition, number = body.split(b":")
                found.append((channel, routing_key, Message(int(partition), int(number))))
    return found


def acks(data: bytes) -> list[tuple[int, bool]]:
    """What is acked: tag, whether all up to it."""
    found = []
    for _, _, payload in _frames(data):
        assert struct.unpack_from(">HH", payload) == _ACK
        tag, multiple = struct.unpack_from(">QB", payload, 4)
        found.append((tag, bool(multiple)))
    return found


def _frames(data: bytes) -> list[tuple[int, int, bytes]]:
    frames = []
    at = 0
    while at < len(data):
        kind, channel, size = _FRAME.unpack_from(data, at)
        frames.append((kind, channel, data[at + 7 : at + 7 + size]))
        assert data[at + 7 + size] == 0xCE
        at += size + 8
    return frames
