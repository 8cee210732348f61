"""Raw content is read and changed as pamqp would, and what is not changed stays byte for byte."""

import struct
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from amqp_stream import content_of, delivery, entries_of, joined, raw_content, raw_headers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from partymq.amqp import content
from partymq.errors import ProtocolError

NAMES = st.text(st.characters(codec="utf-8"), max_size=60)
BODIES = st.one_of(st.just(b""), st.binary(min_size=1, max_size=50), st.just(b"\xce" * 9000))
Raw = tuple[int, bytes, list[tuple[str, bytes]] | None]


def frames_of(raw: bytes) -> list[tuple[int, object]]:
    """Channel and frame, decoded by pamqp."""
    frames: list[tuple[int, object]] = []
    while raw:
        used, channel, value = frame.unmarshal(raw)
        frames.append((channel, value))
        raw = raw[used:]
    return frames


def body_of(raw: bytes) -> bytes:
    return b"".join(value.value for _, value in frames_of(raw) if isinstance(value, ContentBody))


def header_of(raw: bytes) -> ContentHeader:
    header = frames_of(raw)[0][1]
    assert isinstance(header, ContentHeader)
    return header


def properties_behind_frame(raw: bytes) -> bytes:
    """Flags and properties, as they stand in the header frame."""
    return raw[19 : 7 + struct.unpack_from(">I", raw, 3)[0]]


@given(raw_headers(), BODIES, st.integers(1, 2047))
@settings(deadline=None)
def test_another_channel_number_changes_nothing_else(raw: Raw, body: bytes, number: int) -> None:
    before = content_of(1, raw[0], raw[1], body)
    after = content.with_channel(before, number)
    assert after == content_of(number, raw[0], raw[1], body)
    assert content.with_channel(after, number) is after


@given(
    raw_headers(), BODIES, st.sampled_from([4096, 4100, 131_072, 0]), st.sampled_from([100, 4088, 100_000])
)
@settings(deadline=None)
def test_refit_keeps_properties_and_body_and_the_limit(
    raw: Raw, body: bytes, frame_max: int, payload: int
) -> None:
    before = content_of(1, raw[0], raw[1], body, payload)
    assume(not frame_max or len(raw[1]) + 22 <= frame_max)
    after = content.refit(before, 7, frame_max)
    assert {channel for channel, _ in frames_of(after)} == {7}
    assert properties_behind_frame(after) == properties_behind_frame(before)
    assert body_of(after) == body
    if frame_max:
        assert all(len(value.value) <= frame_max - 8 for _, value in frames_of(after)[1:])  # type: ignore[attr-defined]


def test_refit_refuses_properties_that_need_more_than_a_frame() -> None:
    raw = content_of(
        1, 0x2000, struct.pack(">I", 5000) + b"\x01aS" + struct.pack(">I", 4993) + b"x" * 4993, b""
    )
    with pytest.raises(ValueError, match="5018 bytes"):
        content.refit(raw, 1, 4096)
    assert content.refit(raw, 1, 0) == raw


@given(raw_headers(), BODIES, st.dictionaries(st.text(max_size=20), st.text(max_size=300), max_size=3))
@settings(max_examples=300, deadline=None)
def test_added_headers_stand_behind_the_others_which_stay_as_they_are(
    raw: Raw, body: bytes, added: dict[str, str]
) -> None:
    flags, written, table = raw
    before = content_of(3, flags, written, body)
    after = content.add_headers(before, added, 9)
    kept = [(name, value) for name, value in table or [] if name not in added]
    entries = entries_of(kept) + b"".join(
        bytes([len(name.encode())])
        + name.encode()
        + b"S"
        + struct.pack(">I", len(value.encode()))
        + value.encode()
        for name, value in added.items()
    )
    old = b"" if table is None else struct.pack(">I", len(entries_of(table))) + entries_of(table)
    front = content._behind(before, flags, content._FRONT[:2]) - content._PROPERTY_LIST
    assert written[front : front + len(old)] == old
    new = written[:front] + struct.pack(">I", len(entries)) + entries + written[front + len(old) :]
    assert after == content_of(9, flags | 0x2000, new, body)


def test_a_table_that_cannot_be_read_is_kept_when_a_header_is_added() -> None:
    odd = b"\x01a?what is this"
    before = content_of(1, 0x2000, struct.pack(">I", len(odd)) + odd, b"x")
    after = content.add_headers(before, {"b": "c"}, 1)
    added = b"\x01bS\x00\x00\x00\x01c"
    assert after == content_of(1, 0x2000, struct.pack(">I", len(odd + added)) + odd + added, b"x")


def test_added_headers_must_fit_into_the_frame_and_names_into_a_short_string() -> None:
    before = content_of(1, 0, b"", b"x")
    with pytest.raises(ValueError, match="4096"):
        content.add_headers(before, {"a": "x" * 5000}, 1, 4096)
    with pytest.raises(ValueError, match="256 bytes"):
        content.add_headers(before, {"a" * 256: "x"}, 1)
    with pytest.raises(ValueError, match="more than 15 flags"):
        content.add_headers(content_of(1, 1, b"\x00\x00", b""), {"a": "b"}, 1)


@given(raw_headers(), BODIES)
@settings(max_examples=300, deadline=None)
def test_user_id_is_found_and_taken_away(raw: Raw, body: bytes) -> None:
    flags, written, _ = raw
    before = content_of(3, flags, written, body)
    name = content.user_id(before)
    assert content.user_id(b"noise" + before, 5) == name
    after = content.without_user_id(before)
    assert content.user_id(after) is None
    assert body_of(after) == body
    if name is None:
        assert not flags & 0x10
        assert after is before
    else:
        part = bytes([len(name.encode())]) + name.encode()
        # What is behind it: app_id, the last property that is drawn.
        rest = (
            len(written) if not flags & 8 else content._behind(before, flags, content._FRONT) + len(part) - 21
        )
        assert written[rest - len(part) : rest] == part
        assert after == content_of(3, flags & ~0x10, written[: rest - len(part)] + written[rest:], body)


@given(raw_headers(), BODIES)
@settings(max_examples=300, deadline=None)
def test_the_expiration_is_found_and_taken_away(raw: Raw, body: bytes) -> None:
    flags, written, _ = raw
    before = content_of(3, flags, written, body)
    after, expiration = content.without_expiration(before)
    assert body_of(after) == body
    assert content.without_expiration(after) == (after, None)
    if expiration is None:
        assert not flags & 0x100
        assert after is before
    else:
        part = bytes([len(expiration.encode())]) + expiration.encode()
        start = content._behind(before, flags, content._FRONT[:7]) - 21
        assert written[start : start + len(part)] == part
        rest = written[:start] + written[start + len(part) :]
        assert after == content_of(3, flags & ~0x100, rest, body)


@given(st.binary(max_size=9000), NAMES, NAMES, st.booleans(), st.integers(1, 2**63 - 1))
@settings(deadline=None)
def test_a_delivery_is_decoded(body: bytes, exchange: str, key: str, redelivered: bool, number: int) -> None:
    assume(len(exchange.encode()) < 256 and len(key.encode()) < 256)
    method = joined([delivery(1, "tag", number, b"", redelivered=redelivered)])
    names = b"".join(bytes([len(name.encode())]) + name.encode() for name in (exchange, key))
    payload = method[7:23] + bytes([redelivered]) + names
    start = struct.pack(">BHI", 1, 1, len(payload)) + payload + b"\xce"
    properties = Basic.Properties(headers={"a": [1, {"b": None}]}, app_id="app")
    raw = b"noise" + start + b"".join(raw_content(1, body, properties)) + b"noise"
    message = content.decode(raw, (number, 5, 5 + len(start), len(raw) - 5))
    assert message == content.Message(body, properties, exchange, key, number, redelivered)


def test_properties_that_cannot_be_decoded_are_a_protocol_error() -> None:
    deep = b""
    for _ in range(3_000):
        deep = b"\x01aF" + len(deep).to_bytes(4) + deep
    for flags, written in (
        (0x2000, len(deep).to_bytes(4) + deep),
        (0x2000, b"\x00\x00\x00\x04\x01a?x"),
        (0x0040, b"\xff" * 8),
        (0x8000, b"\x05\xff\xff\xff\xff\xff"),
    ):
        with pytest.raises(ProtocolError, match="properties"):
            content.properties_of(content_of(1, flags, written, b""))


@given(st.binary(max_size=9000), st.sampled_from([4096, 131_072, 0]))
@settings(deadline=None)
def test_encoded_content_is_what_pamqp_makes(body: bytes, frame_max: int) -> None:
    properties = Basic.Properties(content_type="text/plain", headers={"x": 1}, delivery_mode=2)
    payload = frame_max - 8 if frame_max else len(body) + 1
    assert content.encode_content(5, body, properties, frame_max) == b"".join(
        raw_content(5, body, properties, payload)
    )
    assert header_of(content.encode_content(5, body)).properties == Basic.Properties()


def test_headers_of_every_type_are_decoded_as_they_were_given() -> None:
    given = {
        "partitionKey": "k",
        "float": 0.1,
        "large": 1e300,
        "integers": [0, -1, 200, 70_000, 2**40, -(2**63)],
        "table": {"decimal": Decimal("1.25"), "nothing": None, "empty": {}, "text": "größer", "yes": True},
        "bytes": bytearray(b"\xff\x00"),
        "at": datetime(2026, 11, 25, 14, 0, tzinfo=UTC),
    }
    for properties in (
        Basic.Properties(headers=given),
        Basic.Properties(content_type="a/b", content_encoding="gzip", headers=given, message_id="m"),
    ):
        made = content.properties_of(content.encode_content(1, b"body", properties))
        assert dict(made) == dict(properties)
    made = content.properties_of(
        content.encode_content(1, b"", Basic.Properties(headers={"b": b"\xff", "t": (1, 2)}))  # type: ignore[dict-item]
    )
    assert made.headers == {"b": bytearray(b"\xff"), "t": [1, 2]}


def test_content_that_cannot_be_encoded_is_a_value_error() -> None:
    for odd in (object(), 2**70, datetime(1960, 1, 1, tzinfo=UTC), {1: 2}, [float("nan")]):
        with pytest.raises(ValueError, match=r"property|no number"):
            content.encode_content(1, b"", Basic.Properties(headers={"a": odd}))  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="4096"):
        content.encode_content(1, b"", Basic.Properties(headers={"a": "x" * 5000}), 4096)


@given(NAMES, NAMES, st.booleans(), st.integers(1, 2047))
def test_a_publish_frame_names_exchange_and_key(
    exchange: str, key: str, mandatory: bool, channel: int
) -> None:
    assume(len(exchange.encode()) < 256 and len(key.encode()) < 256)
    [(number, method)] = frames_of(content.publish_frame(channel, exchange, key, mandatory))
    assert isinstance(method, Basic.Publish)
    assert (number, method.exchange, method.routing_key) == (channel, exchange, key)
    assert (method.mandatory, method.immediate, method.ticket) == (mandatory, False, 0)


@given(st.integers(1, 2047), st.integers(0, 2**63 - 1), st.booleans(), st.booleans())
def test_ack_and_nack_frames_are_what_pamqp_makes(
    channel: int, tag: int, multiple: bool, requeue: bool
) -> None:
    assert content.ack_frame(channel, tag, multiple) == frame.marshal(Basic.Ack(tag, multiple), channel)
    assert content.nack_frame(channel, tag, multiple, requeue) == frame.marshal(
        Basic.Nack(tag, multiple, requeue), channel
    )
    assert content.ack_frames(channel, [tag, 1]) == content.ack_frame(channel, tag) + content.ack_frame(
        channel, 1
    )


def test_names_that_are_not_utf8_survive() -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    assert b"\x04caf\xe9\x04caf\xe9" in content.publish_frame(1, name, name)
    assert content.user_id(content_of(1, 0x10, b"\x04caf\xe9", b"")) == name
