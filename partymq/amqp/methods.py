"""The methods that are not on the data path, coded by pamqp.

pamqp refuses names that the broker allows (a queue may be called `täglich[1]`) and encodes nothing that
it refuses; so method frames are encoded here from its field descriptions, without that check.
"""

import struct
from typing import Any, Final, TypeVar

from pamqp import base, commands, encode
from pamqp.exceptions import PAMQPException

from partymq.errors import ProtocolError

_FRAME = struct.Struct(">BHI")
_U32 = struct.Struct(">I")
_MethodT = TypeVar("_MethodT", bound=base.Frame)

HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_NOTHING: Final[dict[str, Any]] = {
    "octet": 0,
    "short": 0,
    "long": 0,
    "longlong": 0,
    "shortstr": "",
    "longstr": "",
    "table": {},
}
PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
_NOT_FOUND: Final = 404
_RESOURCE_ERROR: Final = 506
_DOWN: Final = "is down or inaccessible"
"""What the broker says of a queue whose node is away, with the code of one that does not exist."""


def make(kind: type[_MethodT], **fields: Any) -> _MethodT:
    """A method with these fields, the rest as AMQP defines them, or empty; names are not checked."""
    method = kind()
    for name, value in fields.items():
        setattr(method, name, value)
    return method


def encode_method(channel: int, method: base.Frame) -> bytes:
    """The whole method frame. Raises ValueError where a field can't be encoded."""
    payload = bytearray(_U32.pack(method.index))
    bits = place = 0
    try:
        for name in method.__slots__:
            kind = method.amqp_type(name)
            value = getattr(method, name)
            if kind == "bit":
                bits |= bool(value) << place
                place += 1
                continue
            if place:
                payload.append(bits)
                bits = place = 0
            payload += encode.by_type(_NOTHING[kind] if value is None else value, kind)
    except (TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{method.name}: field {name!r} can't be {value!r}: {error}") from error
    if place:
        payload.append(bits)
    return _FRAME.pack(1, channel, len(payload)) + payload + b"\xce"


def decode_method(payload: bytes) -> base.Frame:
    """The method in a method frame's payload. Raises ProtocolError where it is none."""
    if len(payload) < 4:
        raise ProtocolError("a method frame without a method")
    index = _U32.unpack_from(payload)[0]
    kind = commands.INDEX_MAPPING.get(index)
    if kind is None:
        raise ProtocolError(f"unknown method {index >> 16}.{index & 0xFFFF}")
    method: base.Frame = kind()
    try:
        method.unmarshal(payload[4:])
    except (PAMQPException, ValueError, IndexError, OverflowError, OSError, struct.error) as error:
        raise ProtocolError(f"{method.name} can't be decoded: {error}") from error
    return method


def reason_of(close: commands.Channel.Close) -> int:
    """Why the broker closed a channel. Nobody is to take a queue that is away for one that is not there."""
    code = close.reply_code or 0
    return _RESOURCE_ERROR if code == _NOT_FOUND and _DOWN in (close.reply_text or "") else code
