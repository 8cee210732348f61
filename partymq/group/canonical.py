"""The canonical text of a key, whatever type carried it, and where a value stands in raw AMQP bytes.

One key must go to one partition however a publisher wrote it: header `42` as any integer type, header
"42", JSON `42`, JSON `42.0` and JSON "42" are all the text `42`. The rule:

    text, bytes     as they are (also the empty text, which is a key like any other)
    integers        decimal digits, `-` in front of negative ones
    booleans        `true`, `false`
    floats          the shortest decimal digits that read back as the same number, written without an
                    exponent and without trailing zeros: 1.0 is `1`, 1e3 `1000`, 1e-7 `0.0000001`, -0.0 `0`
    decimals        the same form: 1.50 is `1.5`
    timestamps      the integer (seconds)
    anything else   not usable: tables, arrays, void or null, infinity, not-a-number

Field types are those of RabbitMQ (its errata to the AMQP 0-9-1 specification), whose letters differ
from the specification's: `s` is a signed 16-bit integer, `l` (and `L`) a signed 64-bit one.
"""

import struct
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from math import isfinite
from typing import Final


class Reason(StrEnum):
    """Why a message has no usable key. The set is fixed, so that it can label a metric or a header."""

    USABLE = "usable"
    ABSENT = "absent"
    PATH_NOT_FOUND = "path not found"
    TABLE = "wrong type: table"
    ARRAY = "wrong type: array"
    VOID = "wrong type: void"
    NOT_FINITE = "wrong type: not a finite number"
    INVALID_JSON = "invalid JSON"
    NOT_UTF8 = "invalid UTF-8"
    TOO_DEEP = "JSON nested too deeply"
    MALFORMED = "malformed message"


Found = bytes | Reason
"""A key's canonical text, or why there is none."""

_LENGTH_PREFIXED: Final = -1
_UNKNOWN: Final = -2
_U32 = struct.Struct(">I").unpack_from


def float_text(value: float) -> str | None:
    """Canonical text of a double; None where it is not finite."""
    if not isfinite(value):
        return None
    return _positional(repr(value))


def decimal_text(scale: int, unscaled: int) -> str:
    """Canonical text of `unscaled` × 10^-`scale`."""
    sign, digits = ("-", str(-unscaled)) if unscaled < 0 else ("", str(unscaled))
    if scale == 0:
        return sign + digits
    digits = digits.rjust(scale + 1, "0")
    return _trimmed(f"{sign}{digits[:-scale]}.{digits[-scale:]}")


def scalar_text(value: object) -> bytes | Reason:
    """Canonical text of a value decoded from JSON."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, escaped: no text
            return Reason.NOT_UTF8
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return str(value).encode()
    if isinstance(value, float):
        text = float_text(value)
        return Reason.NOT_FINITE if text is None else text.encode()
    if isinstance(value, dict):
        return Reason.TABLE
    if isinstance(value, list):
        return Reason.ARRAY
    return Reason.VOID


def entry_text(buf: bytes, pos: int, end: int, entry: bytes) -> Found:
    """Canonical text of one entry of a field table: of a repeated name the first.

    Args:
        buf: raw bytes.
        pos: position of the table's first entry (behind its length).
        end: where the table ends.
        entry: the name looked for, with its length byte in front.

    Only entries of the table itself are compared; values and nested tables are stepped over by their
    lengths, so a name that occurs inside one is never taken for the entry.
    """
    try:
        while pos < end:
            kind_at = pos + 1 + buf[pos]
            size = _SIZES[buf[kind_at]]
            if size < 0:
                if size == _UNKNOWN:
                    return Reason.MALFORMED
                size = 4 + _U32(buf, kind_at + 1)[0]
            after = kind_at + 1 + size
            if buf.startswith(entry, pos):
                return _field_text(buf, kind_at, after) if after <= end else Reason.MALFORMED
            pos = after
    except (IndexError, struct.error):
        return Reason.MALFORMED
    return Reason.ABSENT if pos == end else Reason.MALFORMED


def _field_text(buf: bytes, kind_at: int, end: int) -> Found:
    """Canonical text of the field value whose type octet is at `kind_at` and which ends at `end`."""
    kind = chr(buf[kind_at])
    if kind in "Sx":
        return buf[kind_at + 5 : end]
    read = _SCALARS.get(kind)
    if read is None:
        return _NO_SCALAR.get(kind, Reason.MALFORMED)
    text = read(buf, kind_at + 1)
    return Reason.NOT_FINITE if text is None else text.encode()


def _positional(text: str) -> str:
    if "e" in text:
        text = format(Decimal(text), "f")
    return _trimmed(text)


def _trimmed(text: str) -> str:
    if "." in text:
        text = text.rstrip("0").removesuffix(".")
    return "0" if text == "-0" else text


def _single_text(bits: bytes) -> str | None:
    """The shortest digits that read back as the same 32-bit float: nine are always enough."""
    value: float = struct.unpack(">f", bits)[0]
    if not isfinite(value):
        return None
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        try:
            if struct.pack(">f", float(text)) == bits:
                return _positional(text)
        except OverflowError:  # rounded up beyond the largest 32-bit float: needs more digits
            continue
    return _positional(repr(value))


def _integer(form: str) -> Callable[[bytes, int], str]:
    read = struct.Struct(form).unpack_from
    return lambda buf, pos: str(read(buf, pos)[0])


_DOUBLE = struct.Struct(">d").unpack_from
_DECIMAL = struct.Struct(">Bi").unpack_from  # the value is signed in RabbitMQ's clients

_SCALARS: Final[dict[str, Callable[[bytes, int], str | None]]] = {
    "t": lambda buf, pos: "true" if buf[pos] else "false",
    "b": _integer(">b"),
    "B": _integer(">B"),
    "s": _integer(">h"),
    "u": _integer(">H"),
    "I": _integer(">i"),
    "i": _integer(">I"),
    "l": _integer(">q"),
    "L": _integer(">q"),
    "T": _integer(">Q"),
    "f": lambda buf, pos: _single_text(buf[pos : pos + 4]),
    "d": lambda buf, pos: float_text(_DOUBLE(buf, pos)[0]),
    "D": lambda buf, pos: decimal_text(*_DECIMAL(buf, pos)),
}
_NO_SCALAR: Final = {"F": Reason.TABLE, "A": Reason.ARRAY, "V": Reason.VOID}
_FIXED_SIZES: Final = {
    **dict.fromkeys("tbB", 1),
    **dict.fromkeys("su", 2),
    **dict.fromkeys("Iif", 4),
    **dict.fromkeys("lLTd", 8),
    "D": 5,
    "V": 0,
}


def _sizes() -> tuple[int, ...]:
    """Bytes of a value behind its type octet, by type octet."""
    sizes = [_UNKNOWN] * 256
    for kind, size in _FIXED_SIZES.items():
        sizes[ord(kind)] = size
    for kind in "SxFA":
        sizes[ord(kind)] = _LENGTH_PREFIXED
    return tuple(sizes)


_SIZES: Final = _sizes()
