"""Puts content together whose frames do not stand next to each other, frame by frame.

The parser works on messages that stand in one piece in its buffer. This is the way round for the rest:
bodies of several frames that have not arrived as a whole, and content with frames of other channels (or
heartbeats) in between, which AMQP allows between any two frames.
"""

import struct

from partymq.errors import ProtocolError

_FRAME = struct.Struct(">BHI").unpack_from
_U32 = struct.Struct(">I").unpack_from
_U64 = struct.Struct(">Q").unpack_from

DELIVER = 0x003C003C
RETURN = 0x003C0032
GET_OK = 0x003C0047
WITH_CONTENT = frozenset({DELIVER, RETURN, GET_OK})
_HEADER_AWAITED = -1


def check_frame(kind: int, channel: int, size: int, limit: int) -> None:
    """Raises ProtocolError where a frame's first 7 bytes can't be right; `limit`: payload bytes at most."""
    if kind not in (1, 2, 3, 8):
        if kind == 0x41:
            raise ProtocolError("the broker does not speak AMQP 0-9-1: it offers another version")
        if kind == 0x15:
            raise ProtocolError("the peer speaks TLS: amqps is for that")
        raise ProtocolError(f"the peer does not speak AMQP 0-9-1: frame type {kind}")
    if size > limit:
        raise ProtocolError(f"a frame of {size} bytes on channel {channel}; {limit} are the most agreed on")


class Untangler:
    """Fed with a stream that begins at a frame, answers with the same frames, content in one piece.

    The frames of a message come where its last one came; frames in between come before it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[int, list[bytes]] = {}
        self._rest: dict[int, int] = {}  # of the open ones: body bytes still to come
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 7

    @property
    def idle(self) -> bool:
        """Whether nothing is kept back."""
        return not self._open and not self._have

    def feed(self, data: bytes) -> bytes:
        """What is complete now. Raises ProtocolError."""
        self._chunks.append(data)
        self._have += len(data)
        if self._have < self._need:
            return b""
        buf = b"".join(self._chunks) if len(self._chunks) > 1 else data
        out: list[bytes] = []
        pos, total = 0, len(buf)
        while True:
            if total - pos < 7:
                self._need = 7
                break
            kind, channel, size = _FRAME(buf, pos)
            check_frame(kind, channel, size, self._limit)
            end = pos + 8 + size
            if end > total:
                self._need = end - pos
                break
            if buf[end - 1] != 0xCE:
                raise ProtocolError(f"a frame of channel {channel} does not end where it should")
            self._frame(kind, channel, buf[pos:end], out)
            pos = end
        self._chunks = [buf[pos:]] if pos < total else []
        self._have = total - pos
        return b"".join(out)

    def _frame(self, kind: int, channel: int, frame: bytes, out: list[bytes]) -> None:
        frames = self._open.get(channel)
        if frames is None:
            if kind == 1 and len(frame) >= 12 and _U32(frame, 7)[0] in WITH_CONTENT:
                self._open[channel] = [frame]
                self._rest[channel] = _HEADER_AWAITED
            else:
                out.append(frame)
            return
        rest = self._rest[channel]
        if kind != (2 if rest == _HEADER_AWAITED else 3):
            raise ProtocolError(f"a frame of type {kind} inside a message on channel {channel}")
        if kind == 3:
            rest -= len(frame) - 8
        elif len(frame) >= 22:
            rest = _U64(frame, 11)[0]
        else:
            raise ProtocolError(f"a content header of {len(frame)} bytes on channel {channel}")
        if rest < 0:
            raise ProtocolError(f"a longer body than announced on channel {channel}")
        frames.append(frame)
        self._rest[channel] = rest
        if not rest:
            out += frames
            del self._open[channel], self._rest[channel]
