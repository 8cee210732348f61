"""Names in URLs: percent-decoded once, as UTF-8, and checked."""

import unicodedata
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from partymq.errors import InvalidHostname

LONGEST_HOSTNAME = 255
"""Bytes in UTF-8."""


def decoded(segment: str) -> str:
    """The text of one percent-encoded segment of a path.

    Raises:
        ValueError: the bytes are not UTF-8.
    """
    return unquote_to_bytes(segment.encode("latin-1")).decode("utf-8")


def hostname_of(segment: str) -> str:
    """The hostname in a percent-encoded segment of a path: any text of 1 to 255 bytes.

    Raises:
        InvalidHostname: with the reason.
    """
    if "/" in segment:
        raise InvalidHostname("a slash in a hostname has to be written %2F")
    try:
        hostname = decoded(segment)
    except ValueError:
        raise InvalidHostname("the hostname is not UTF-8 text, percent-encoded") from None
    size = len(hostname.encode())
    if size == 0:
        raise InvalidHostname("the hostname is empty; allowed are 1 to 255 bytes")
    if size > LONGEST_HOSTNAME:
        raise InvalidHostname(f"the hostname has {size} bytes; allowed are 1 to {LONGEST_HOSTNAME}")
    for char in hostname:
        if unicodedata.category(char) == "Cc":
            raise InvalidHostname(f"the hostname has a control character, U+{ord(char):04X}, in it")
    return hostname


class EncodedPath:
    """ASGI middleware: routes see the path as it was sent, percent-encoded.

    A server decodes the path before it is split, so that `%2F` in a hostname would look like the end of a
    segment. Behind this one, each segment is decoded on its own, by the route.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw is not None:
            scope = {**scope, "path": raw.decode("latin-1")}
        await self._app(scope, receive, send)
