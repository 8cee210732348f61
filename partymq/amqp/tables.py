"""Header tables as they are written: pamqp's encoding, but for floats, which it cuts to 32 bits. Pure."""

import struct
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Final

from pamqp import encode

_DOUBLE: Final = struct.Struct(">d").pack
_U32: Final = struct.Struct(">I").pack


def table(values: Mapping[str, Any]) -> bytes:
    """A field table with its length.

    Raises TypeError, ValueError, OverflowError or struct.error where something can't be encoded.
    """
    return _sized(encode.short_string(name) + _value(value) for name, value in values.items())


def _value(value: Any) -> bytes:
    if isinstance(value, float):
        if not isfinite(value):
            # RabbitMQ fails over it, and closes the connection (measured, 3.10).
            raise ValueError(f"{value} is no number that a header can have")
        return b"d" + _DOUBLE(value)
    if isinstance(value, dict):
        return b"F" + table(value)
    if isinstance(value, list | tuple):
        return b"A" + _sized(map(_value, value))
    if isinstance(value, bytes):
        return b"x" + _U32(len(value)) + value
    return encode.encode_table_value(value)


def _sized(parts: Iterable[bytes]) -> bytes:
    joined = b"".join(parts)
    return _U32(len(joined)) + joined
