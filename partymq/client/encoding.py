"""From what a publisher is given to the bytes of a message: body, properties, the key in a header. Pure.

A message without headers and properties of its own is put together directly; anything else is coded by pamqp.
"""

import copy
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from pamqp.commands import Basic

from partymq.amqp.content import FRAME_OVERHEAD, encode_content, short_string
from partymq.group.canonical import Reason, scalar_text
from partymq.group.key import KeyRule

Key = str | bytes | int | float | bool
"""What a key may be. `42`, `"42"` and `42.0` are one key: see `partymq.group.canonical`."""

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
TEXT: Final = "text/plain; charset=utf-8"
_PERSISTENT: Final = 2

_HEADER_FRAME = struct.Struct(">BHIHHQH").pack
_BODY_FRAME = struct.Struct(">BHI").pack
_U32 = struct.Struct(">I").pack
_TO_JSON = msgspec.json.Encoder(enc_hook=lambda value: _as_json(value)).encode
_TYPE_HEADERS_MODE: Final = 0x8000 | 0x2000 | 0x1000
_FIXED: Final = 2 + 2 + 8 + 2
"""Bytes of a header frame's payload in front of the properties: class, weight, body size, flags."""


def body_bytes(body: Any) -> tuple[bytes, str]:
    """The bytes of a body, and their content type: bytes as they are, text in UTF-8, all else as JSON.

    Raises TypeError where it can't be JSON.
    """
    if isinstance(body, bytes):
        return body, BYTES
    if isinstance(body, str):
        return body.encode(), TEXT
    if isinstance(body, bytearray | memoryview):
        return bytes(body), BYTES
    return _TO_JSON(body), JSON


def key_bytes(key: Key | None) -> bytes | None:
    """A key's canonical text. Raises ValueError where it can't be a key."""
    if key is None or type(key) is bytes:
        return key
    if type(key) is str:
        return key.encode(errors="surrogateescape")
    text = scalar_text(key)
    if isinstance(text, Reason):
        why = text if isinstance(key, float | str) else f"wrong type: {type(key).__name__}"
        raise ValueError(f"key {key!r}: {why}; allowed are texts, bytes, numbers and booleans")
    return text


class Encoder:
    """Makes the content of messages for one channel.

    Args:
        number: the channel's number.
        frame_max: bytes of a frame at most, 0 = no limit.
        rule: where the key belongs. In a header it is written there; else it is the caller's business.
    """

    def __init__(self, number: int, frame_max: int, rule: KeyRule) -> None:
        self.frame_max = frame_max
        self._number = number
        self._limit = frame_max - FRAME_OVERHEAD if frame_max else 1 << 31
        self._name = rule.name if rule.source == "header" else None
        self._entry = short_string(rule.name) + b"S" if self._name else b""
        self._types = {name: short_string(name) for name in (JSON, BYTES, TEXT)}

    def encode(
        self,
        body: Any,
        key: bytes | None,
        headers: Mapping[str, Any] | None = None,
        properties: Basic.Properties | None = None,
    ) -> bytes:
        """Header frame and body frames. Raises TypeError or ValueError where something can't be encoded."""
        raw, kind = body_bytes(body)
        size = len(raw)
        if headers is not None or properties is not None or size > self._limit or len(key or b"") > 1_000:
            return encode_content(
                self._number, raw, self._properties(kind, key, headers, properties), self.frame_max
            )
        entry = self._entry + _U32(len(key)) + key if key is not None and self._entry else b""
        kind_raw = self._types[kind]
        out = (
            _HEADER_FRAME(
                2,
                self._number,
                _FIXED + len(kind_raw) + 4 + len(entry) + 1,
                60,
                0,
                size,
                _TYPE_HEADERS_MODE,
            )
            + kind_raw
            + _U32(len(entry))
            + entry
            + b"\x02\xce"
        )
        if not size:
            return out
        return out + _BODY_FRAME(3, self._number, size) + raw + b"\xce"

    def key_in(
        self, headers: Mapping[str, Any] | None, properties: Basic.Properties | None = None
    ) -> Key | None:
        """The key that stands in the headers already, or in those of the properties."""
        name = self._name
        if name is None:
            return None
        for own in (headers, properties.headers if properties is not None else None):
            if own and name in own:
                key: Key | None = own[name]  # type: ignore[assignment]
                return key
        return None

    def _properties(
        self,
        kind: str,
        key: bytes | None,
        headers: Mapping[str, Any] | None,
        properties: Basic.Properties | None,
    ) -> Basic.Properties:
        made = copy.copy(properties) if properties is not None else Basic.Properties()
        if made.content_type is None:
            made.content_type = kind
        if made.delivery_mode is None:
            made.delivery_mode = _PERSISTENT
        own = {**(made.headers or {}), **(headers or {})}
        if self._name is not None and key is not None:
            own.pop(self._name, None)
            own = {self._name: _as_header(key), **own}
        made.headers = own
        return made


def _as_header(key: bytes) -> str | bytearray:
    """As a text where it is one."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return bytearray(key)


def _as_json(value: Any) -> Any:
    """Pydantic models and the like, which msgspec does not know."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"a body of type {type(value).__name__} can't be JSON: pass bytes, or what JSON has")
    return dump(mode="json")
