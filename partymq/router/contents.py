"""Changes to content on its way, where it can't be copied as it is.

Nearly all messages are copied byte for byte. The exceptions: a `user_id` that is not ours (the broker would
close the channel), a routing key that the key rule needs (it is replaced by the member's), a smaller frame
size on the connection we publish on, messages that may be repeats, which are marked, and rejected ones, which
get the reason in headers and do not expire any more.
"""

import contextlib
from collections.abc import Mapping
from typing import Final

from partymq.amqp.content import (
    add_headers,
    redelivered_at,
    refit,
    user_id,
    without_expiration,
    without_user_id,
)
from partymq.group.canonical import Reason
from partymq.group.key import HeaderKey, KeyFinder, KeyRule, make_finder

USER_HEADER: Final = "x-partymq-user-id"
ROUTING_KEY_HEADER: Final = "x-partymq-routing-key"
EXCHANGE_HEADER: Final = "x-partymq-exchange"
REASON_HEADER: Final = "x-partymq-reason"
GROUP_HEADER: Final = "x-partymq-group"
PARTITION_HEADER: Final = "x-partymq-partition"
EXPIRATION_HEADER: Final = "x-partymq-expiration"

REDELIVERED_HEADER: Final = "x-partymq-redelivered"
"""On a message that was delivered before, to us or to a member that is gone: it may be a repeat."""
_REDELIVERED: Final = {REDELIVERED_HEADER: "true"}
_NO_HEADERS: Final[Mapping[str, str]] = {}

_ANY_SIZE: Final = 1 << 60


def mark_of(buf: bytes, method_at: int) -> Mapping[str, str]:
    """The header of a message that may be a repeat; none for others."""
    return _REDELIVERED if redelivered_at(buf, method_at) else _NO_HEADERS


class Fitter:
    """Makes content fit for a publish channel.

    Attributes:
        limit: content of more bytes than that may not be copied as it is.
        users_moved: messages whose user was moved to a header.

    Args:
        number: of the channel.
        username: who publishes.
        frame_max: bytes of a frame at most where we publish, 0 = no limit.
        source_frame_max: the same where the content comes from.
    """

    def __init__(self, number: int, username: str, frame_max: int, source_frame_max: int) -> None:
        self._number = number
        self._username = username
        self._frame_max = frame_max
        smaller = frame_max and (not source_frame_max or frame_max < source_frame_max)
        self.limit = frame_max if smaller else _ANY_SIZE
        self.users_moved = 0

    def fit(self, content: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """The content as it may be published, with these headers added.

        Headers that do not fit are left out. Raises ValueError where it can't be published at all.
        """
        added = dict(headers or {})
        user = user_id(content)
        if user is not None and user != self._username:
            content = without_user_id(content)
            added[USER_HEADER] = user
            self.users_moved += 1
        if added:
            with contextlib.suppress(ValueError):
                content = add_headers(content, added, self._number, self._frame_max)
        if len(content) > self.limit:
            content = refit(content, self._number, self._frame_max)
        return content


def to_keep(content: bytes, headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """What is given up, and its headers, so that it does not expire while it waits for somebody to look at
    it: the time is moved to a header."""
    content, expiration = without_expiration(content)
    return content, dict(headers) | ({EXPIRATION_HEADER: expiration} if expiration is not None else {})


class LeftoverKey:
    """Finds keys in messages that have been through the router once: what it moved is looked for there."""

    needs_body = False

    def __init__(self, moved: KeyFinder, original: KeyFinder | None) -> None:
        self._moved = moved
        self._original = original

    def find(self, buf: bytes, header: int, end: int, routing_key: bytes) -> bytes | None:
        """See `KeyFinder`."""
        key = self._moved.find(buf, header, end, routing_key)
        if key is None and self._original is not None:
            key = self._original.find(buf, header, end, routing_key)
        return key

    def why(self, buf: bytes, header: int, end: int, routing_key: bytes) -> Reason:
        """See `KeyFinder`."""
        return self._moved.why(buf, header, end, routing_key)


def leftover_finder(rule: KeyRule) -> KeyFinder:
    """The finder for messages fetched back from a member's queue."""
    if rule.source == "routing_key":
        return LeftoverKey(HeaderKey(ROUTING_KEY_HEADER), None)
    if rule.source == "property" and rule.name == "user_id":
        return LeftoverKey(HeaderKey(USER_HEADER), make_finder(rule))
    return make_finder(rule)
