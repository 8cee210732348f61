"""Keys from properties and the routing key, and what a rule accepts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_content import ROUTING_KEY, Content, Field, content

from partymq.group.canonical import Reason
from partymq.group.key import PROPERTY_NAMES, KeyFinder, KeyRule, make_finder

EVERYTHING: dict[str, object] = {
    "content_type": "application/json",
    "content_encoding": "",
    "headers": [Field("partitionKey", "S", b"header"), Field("t", "t", b"\x01")],
    "delivery_mode": 2,
    "priority": 255,
    "correlation_id": "correlation",
    "reply_to": "reply",
    "expiration": "60000",
    "message_id": "message",
    "timestamp": 2**64 - 1,
    "type": "Grüße",
    "user_id": "guest",
    "app_id": "x" * 255,
}


def found(finder: KeyFinder, message: Content) -> bytes | None:
    """The key, after checking that `find` and `why` agree."""
    key = finder.find(*message.call())
    assert finder.why(*message.call()) is (Reason.ABSENT if key is None else Reason.USABLE)
    return key


@pytest.mark.parametrize("name", PROPERTY_NAMES)
@given(present=st.sets(st.sampled_from(list(EVERYTHING))))
def test_a_property_is_found_among_any_others(name: str, present: set[str]) -> None:
    finder = make_finder(KeyRule("property", name))
    message = content(b"body", **{other: EVERYTHING[other] for other in present})
    expected = str(EVERYTHING[name]).encode() if name in present else None
    assert found(finder, message) == expected
    assert not finder.needs_body


@given(st.sampled_from(PROPERTY_NAMES), st.integers(0, 600), st.integers(0, 255))
def test_broken_properties_never_raise(name: str, at: int, value: int) -> None:
    message = content(**EVERYTHING)
    finder = make_finder(KeyRule("property", name))
    raw = bytearray(message.buf)
    raw[message.header + 7 + at % (message.end - message.header - 8)] = value
    for broken in (bytes(raw), bytes(raw[: message.header + at])):
        finder.find(broken, message.header, len(broken), b"")
        assert isinstance(finder.why(broken, message.header, len(broken), b""), Reason)


def test_the_routing_key_is_taken_as_it_is() -> None:
    finder = make_finder(KeyRule("routing_key"))
    assert found(finder, content()) == ROUTING_KEY
    assert finder.find(b"", 0, 0, b"") == b""


@pytest.mark.parametrize("name", ["headers", "correlation-id", "cluster_id", ""])
def test_an_unknown_property_is_refused_with_the_names_allowed(name: str) -> None:
    with pytest.raises(ValueError, match=r"allowed are content_type, .*, app_id"):
        KeyRule("property", name)


def test_an_unknown_source_or_answer_to_a_missing_key_is_refused() -> None:
    with pytest.raises(ValueError, match="'cookie': allowed are header, body, routing_key, property"):
        KeyRule("cookie")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'drop': allowed are spread, fixed, reject"):
        KeyRule(missing="drop")  # type: ignore[arg-type]


def test_existing_deployments_rule_is_the_default() -> None:
    assert KeyRule() == KeyRule("header", "partitionKey", "spread")
