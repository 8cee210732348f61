"""The parser of what the broker sends: bytes in, one batch of what they mean out. No IO.

Theory: nearly all bytes on a data path are deliveries of one consumer (on the source connection) or
confirms of one channel (on the publishing one). `Parser.feed` runs through a read with a loop for each
of the two, and does everything else frame by frame:

* a delivery whose body is one frame, or none, costs three `unpack_from` and one span;
* a run of confirms is one `iter_unpack`;
* other methods are decoded by pamqp, one by one;
* an incomplete tail is kept, and not looked at again until its next frame is complete;
* content in many frames or interrupted by other frames goes through `untangle`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pamqp import base

from partymq.amqp.content import FRAME_OVERHEAD, Returned, Span
from partymq.amqp.methods import decode_method
from partymq.amqp.untangle import DELIVER, GET_OK, RETURN, WITH_CONTENT, Untangler, check_frame
from partymq.errors import ProtocolError

Confirm = tuple[int, bool, bool]
"""sequence number, whether it stands for all up to it, whether it is an ack (else a nack)."""
OnDeliveries = Callable[[bytes, list[Span]], None]

_ACK: Final = 0x003C0050
_NACK: Final = 0x003C0078
_CONFIRM_SIZE: Final = 21

_FRAME = struct.Struct(">BHI").unpack_from
_U32 = struct.Struct(">I").unpack_from
_U64 = struct.Struct(">Q").unpack_from
# From a frame's end octet on: that octet and the next frame's type, channel and size as one number
# (compared or subtracted as a whole), then, in the first form, the content header's body size.
_SEAM_AND_BODY_SIZE = struct.Struct(">Q4xQ").unpack_from
_CONFIRMS = struct.Struct(">11sQBB").iter_unpack

_COMPLETE_LATER: Final = -1
_TANGLED: Final = -2


class Consumer:
    """What the parser knows of one consumer; `on_deliveries` is for whoever takes the batch."""

    __slots__ = (
        "active",
        "body_seam",
        "channel",
        "head",
        "header_seam",
        "on_deliveries",
        "spans",
        "start",
        "tag",
        "touched",
        "unpack",
    )

    def __init__(self, channel: int, tag: bytes, on_deliveries: OnDeliveries) -> None:
        self.channel = channel
        self.tag = tag
        self.on_deliveries = on_deliveries
        self.active = True
        self.touched = False
        self.spans: list[Span] = []
        self.head = struct.pack(">BH", 1, channel)
        self.start = struct.pack(">IB", DELIVER, len(tag)) + tag
        self.unpack = struct.Struct(f">3sI{len(self.start)}sQ").unpack_from
        self.header_seam = 0xCE02 << 48 | channel << 32
        self.body_seam = 0xCE03 << 48 | channel << 32


@dataclass(frozen=True, slots=True)
class Got:
    """The answer to Basic.Get, still raw: `content.decode(got.buf, got.span)` is the message."""

    buf: bytes
    span: Span


class Batch:
    """What one read brought.

    Attributes:
        buf: the buffer that the spans are positions in.
        deliveries: consumers with their spans, in stream order for each.
        confirms: by channel number, in stream order for each.
        returns: channel number and message, in stream order.
        frames: channel number and method (or got message), in stream order.
        error: why nothing behind this can be understood.
    """

    __slots__ = ("buf", "confirms", "deliveries", "error", "frames", "returns")

    def __init__(self) -> None:
        self.buf = b""
        self.deliveries: list[tuple[Consumer, list[Span]]] = []
        self.confirms: dict[int, list[Confirm]] = {}
        self.returns: list[tuple[int, Returned]] = []
        self.frames: list[tuple[int, base.Frame | Got]] = []
        self.error: ProtocolError | None = None


class Parser:
    """Turns reads, split anywhere, into batches.

    Attributes:
        frame_max: bytes of a frame at most, as agreed with the broker.
    """

    def __init__(self, frame_max: int = 131_072) -> None:
        self.frame_max = frame_max
        self._consumers: dict[tuple[int, bytes], Consumer] = {}
        self._latest: dict[bytes, Consumer] = {}
        self._current: Consumer | None = None
        self._touched: list[Consumer] = []
        self._untangler: Untangler | None = None
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 0

    def add_consumer(self, consumer: Consumer) -> None:
        """From now on deliveries with its tag are found. ValueError where the tag is taken."""
        key = consumer.channel, consumer.tag
        if key in self._consumers:
            raise ValueError(f"channel {consumer.channel} has a consumer {consumer.tag!r} already")
        self._consumers[key] = consumer

    def remove_consumer(self, consumer: Consumer) -> None:
        """Its deliveries are passed over from now on, also the ones of a batch not yet handed out."""
        consumer.active = False
        self._consumers.pop((consumer.channel, consumer.tag), None)
        if self._latest.get(consumer.head) is consumer:
            del self._latest[consumer.head]
        if self._current is consumer:
            self._current = None

    def feed(self, data: bytes) -> Batch:
        """What is complete with these bytes. Never raises; see `Batch.error`."""
        batch = Batch()
        try:
            if self._untangler is not None:
                data = self._untangler.feed(data)
                if self._untangler.idle:
                    self._untangler = None
            elif self._have:
                self._chunks.append(data)
                self._have += len(data)
                if self._have < self._need:
                    return batch
                data = b"".join(self._chunks)
                self._chunks.clear()
                self._have = 0
            batch.buf = data
            self._parse(batch)
        except ProtocolError as error:
            batch.error = error
        if self._touched:
            for consumer in self._touched:
                batch.deliveries.append((consumer, consumer.spans))
                consumer.spans = []
                consumer.touched = False
            self._touched.clear()
        return batch

    def _parse(self, batch: Batch) -> None:
        buf = batch.buf
        total = len(buf)
        pos = 0
        while pos < total:
            consumer = self._current
            if consumer is not None:
                pos = self._run(consumer, buf, pos, total)
                if pos == total:
                    break
            # Most likely a delivery of another channel, to the consumer that had the last one there.
            other = self._latest.get(buf[pos : pos + 3])
            if other is not None and other is not consumer:
                after = self._run(other, buf, pos, total)
                if after > pos:
                    self._current = other
                    pos = after
                    continue
            after = self._one(batch, buf, pos, total)
            if after > 0:
                pos = after
            elif after == _COMPLETE_LATER:
                self._chunks.append(buf[pos:])
                self._have = total - pos
                self._need -= pos
                break
            else:
                untangler = Untangler(self.frame_max - FRAME_OVERHEAD)
                buf = batch.buf = buf[:pos] + untangler.feed(buf[pos:])
                total = len(buf)
                self._untangler = None if untangler.idle else untangler

    def _run(self, consumer: Consumer, buf: bytes, pos: int, total: int) -> int:
        """Takes the deliveries of one consumer from `pos` on, as long as they have their usual shape.

        This is the hot loop. The comparison of a whole seam checks end octet, frame type and channel at
        once. Positions made of wrong sizes end behind the buffer, and so in an exception; whatever ends
        the loop is looked at again, with all checks, by `_one`.
        """
        spans = consumer.spans
        append = spans.append
        unpack, head, start = consumer.unpack, consumer.head, consumer.start
        header_seam, body_seam = consumer.header_seam, consumer.body_seam
        seam_and_body_size, u64 = _SEAM_AND_BODY_SIZE, _U64
        try:
            while pos < total:
                head_here, size, start_here, tag = unpack(buf, pos)
                if start_here != start or head_here != head:
                    break
                at = pos + 7 + size
                seam, body_size = seam_and_body_size(buf, at)
                size = seam - header_seam
                if size < 0:
                    break
                header_end = at + 8 + size
                if body_size and u64(buf, header_end)[0] == body_seam + body_size:
                    end = header_end + 8 + body_size
                elif body_size:
                    break
                else:
                    end = header_end
                if buf[end] != 0xCE:
                    break
                end += 1
                append((tag, pos, at + 1, end))
                pos = end
        except (struct.error, IndexError):
            pass
        if spans and not consumer.touched:
            consumer.touched = True
            self._touched.append(consumer)
        return pos

    def _one(self, batch: Batch, buf: bytes, pos: int, total: int) -> int:
        """Takes one method (with its content), or a run of confirms. Answers the position behind it."""
        if total - pos < 7:
            self._need = pos + 7
            return _COMPLETE_LATER
        kind, channel, size = _FRAME(buf, pos)
        check_frame(kind, channel, size, self.frame_max - FRAME_OVERHEAD)
        end: int = pos + FRAME_OVERHEAD + size
        if end > total:
            self._need = end
            return _COMPLETE_LATER
        if buf[end - 1] != 0xCE:
            raise ProtocolError(f"a frame of channel {channel} does not end where it should")
        if kind == 8:
            return end
        if kind != 1:
            raise ProtocolError(f"content without a method on channel {channel}")
        if size < 4:
            raise ProtocolError(f"a method frame of {size} bytes on channel {channel}")
        method = _U32(buf, pos + 7)[0]
        if method in (_ACK, _NACK) and end - pos == _CONFIRM_SIZE:
            return self._confirms(batch, buf, pos, total)
        if method not in WITH_CONTENT:
            batch.frames.append((channel, decode_method(buf[pos + 7 : end - 1])))
            return end
        content_end = self._content_end(buf, end, channel, total)
        if content_end > 0:
            try:
                self._content(batch, buf, pos, end, content_end)
            except (IndexError, struct.error) as error:
                raise ProtocolError(f"a method can't be decoded on channel {channel}: {error}") from error
        return content_end

    def _confirms(self, batch: Batch, buf: bytes, pos: int, total: int) -> int:
        start = buf[pos : pos + 9]
        ack, nack = start + b"\x00\x50", start + b"\x00\x78"
        append = batch.confirms.setdefault(buf[pos + 1] << 8 | buf[pos + 2], []).append
        whole = (total - pos) // _CONFIRM_SIZE * _CONFIRM_SIZE
        for prefix, seq, bits, end in _CONFIRMS(memoryview(buf)[pos : pos + whole]):
            if prefix == ack:
                append((seq, bits & 1 != 0, True))
            elif prefix == nack:
                append((seq, bits & 1 != 0, False))
            else:
                break
            if end != 0xCE:
                raise ProtocolError("a frame does not end where it should")
            pos += _CONFIRM_SIZE
        return pos

    def _content_end(self, buf: bytes, pos: int, channel: int, total: int) -> int:
        """Position behind the content whose header frame should begin at `pos`, with all checks."""
        limit = self.frame_max - FRAME_OVERHEAD
        expected, rest = 2, 0
        several = False
        while True:
            if total - pos < 7:
                self._need = pos + 7
                break
            kind, number, size = _FRAME(buf, pos)
            check_frame(kind, number, size, limit)
            if kind != expected or number != channel:
                return _TANGLED
            end: int = pos + FRAME_OVERHEAD + size
            if expected == 2 and total - pos >= 19:
                rest = _U64(buf, pos + 11)[0]
            if end > total:
                self._need = end
                break
            if buf[end - 1] != 0xCE:
                raise ProtocolError(f"a frame of channel {channel} does not end where it should")
            if expected == 3:
                rest -= size
            elif size < 14:
                raise ProtocolError(f"a content header of {size} bytes on channel {channel}")
            if rest < 0:
                raise ProtocolError(f"a longer body than announced on channel {channel}")
            if not rest:
                return end
            several = expected == 3
            expected = 3
            pos = end
        return _TANGLED if several or rest > limit else _COMPLETE_LATER

    def _content(self, batch: Batch, buf: bytes, pos: int, header_at: int, end: int) -> None:
        channel = buf[pos + 1] << 8 | buf[pos + 2]
        method = _U32(buf, pos + 7)[0]
        if method == DELIVER:
            tag_at = pos + 12
            tag_end = tag_at + buf[pos + 11]
            consumer = self._consumers.get((channel, buf[tag_at:tag_end]))
            if consumer is not None:
                self._current = self._latest[consumer.head] = consumer
                consumer.spans.append((_U64(buf, tag_end)[0], pos, header_at, end))
                if not consumer.touched:
                    consumer.touched = True
                    self._touched.append(consumer)
        elif method == RETURN:
            text, after = _text(buf, pos + 13)
            exchange, after = _text(buf, after)
            routing_key, _ = _text(buf, after)
            code = buf[pos + 11] << 8 | buf[pos + 12]
            batch.returns.append((channel, Returned(code, text, exchange, routing_key, buf[header_at:end])))
        elif method == GET_OK:
            # Written as a delivery without a consumer tag it is read like one.
            start = buf[pos : pos + 7] + struct.pack(">IB", DELIVER, 0)
            got = start + buf[pos + 11 : end]
            tag = _U64(buf, pos + 11)[0]
            batch.frames.append((channel, Got(got, (tag, 0, header_at - pos + 1, len(got)))))


def _text(buf: bytes, at: int) -> tuple[str, int]:
    """The short string at a position, and the position behind it."""
    end = at + 1 + buf[at]
    return buf[at + 1 : end].decode(errors="surrogateescape"), end
