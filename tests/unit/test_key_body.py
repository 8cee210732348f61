"""The key in a JSON body, by path."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from raw_content import Content, Field, content

from partymq.group.canonical import Reason
from partymq.group.key import KeyRule, make_finder
from partymq.group.partitioner import partition_of

PATHS = ["id", "customer.id", "a.b.c", "items.0.sku", "0", "a.1", r"a\.b", "größe"]
FINDERS = {path: make_finder(KeyRule("body", path)) for path in PATHS}


def found(path: str, message: Content) -> bytes | None:
    """The key, after checking that `find` and `why` agree."""
    finder = FINDERS[path]
    key = finder.find(*message.call())
    assert (finder.why(*message.call()) is Reason.USABLE) == (key is not None)
    return key


def why(path: str, body: bytes) -> Reason:
    message = content(body)
    assert found(path, message) is None
    return FINDERS[path].why(*message.call())


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"id":"N14228"}', b"N14228"),
        (b'{"id":""}', b""),
        ('{"id":"Grüße"}'.encode(), "Grüße".encode()),
        (rb'{"id":"Gr\u00fc\u00dfe \ud83d\ude00"}', "Grüße 😀".encode()),
        (rb'{"i\u0064":7}', b"7"),
        (b'{"id":42}', b"42"),
        (b'{"id":42.0}', b"42"),
        (b'{"id":4.2e1}', b"42"),
        (b'{"id":1e3}', b"1000"),
        (b'{"id":-0}', b"0"),
        (b'{"id":-0.0}', b"0"),
        (b'{"id":0.10}', b"0.1"),
        (b'{"id":1E-7}', b"0.0000001"),
        (b'{"id":18446744073709551616}', b"18446744073709551616"),
        (b'{"id":' + b"9" * 400 + b"}", b"9" * 400),
        (b'{"id":true}', b"true"),
        (b'{"id":false}', b"false"),
        (b' \n{ "x" : [1, {"id": 2}], "id" :\t3 } \r\n', b"3"),
        (b'{"id":1,"id":2}', b"2"),
        (b'{"id":{"a":1},"id":2}', b"2"),
        (b'{"x":1e999,"id":3}', b"3"),
        (rb'{"x":"half of a pair: \ud800!","id":3}', b"3"),
    ],
)
def test_every_scalar_is_a_key(body: bytes, key: bytes) -> None:
    assert found("id", content(body)) == key


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("customer.id", b'{"id":1,"customer":{"name":"x","id":2}}', b"2"),
        ("customer.id", b'{"customer":{"id":1},"customer":{"id":2}}', b"2"),
        ("customer.id", b'{"customer":"gone","customer":{"id":2}}', b"2"),
        ("a.b.c", b'{"a":{"b":{"c":"deep"}}}', b"deep"),
        ("items.0.sku", b'{"items":[{"sku":"first"},{"sku":"second"}]}', b"first"),
        ("items.0.sku", b'{"items":{"0":{"sku":"a name, not an index"}}}', b"a name, not an index"),
        ("0", b'["first", 2]', b"first"),
        ("0", b'{"0":"name"}', b"name"),
        ("a.1", b'{"a":[true,false]}', b"false"),
        (r"a\.b", b'{"a":{"b":1},"a.b":2}', b"2"),
        ("größe", '{"größe":"XL"}'.encode(), b"XL"),
    ],
)
def test_a_path_leads_through_objects_and_lists(path: str, body: bytes, key: bytes) -> None:
    assert found(path, content(body)) == key


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("id", b"", Reason.INVALID_JSON),
        ("id", b"N14228", Reason.INVALID_JSON),
        ("id", b'{"id":1', Reason.INVALID_JSON),
        ("id", b'{"id":1} {}', Reason.INVALID_JSON),
        ("id", b'{"id":NaN}', Reason.INVALID_JSON),
        ("id", b'{"id":Infinity}', Reason.INVALID_JSON),
        ("id", b'{"id":01}', Reason.INVALID_JSON),
        ("id", b"{'id':1}", Reason.INVALID_JSON),
        ("id", b'\xef\xbb\xbf{"id":1}', Reason.INVALID_JSON),
        ("id", b'{"id":' + b"9" * 5000 + b"}", Reason.INVALID_JSON),
        ("id", '{"id":1}'.encode("utf-16"), Reason.NOT_UTF8),
        ("id", b'{"id":"\xff"}', Reason.NOT_UTF8),
        ("id", b'{"x":"Gr\xfc\xdfe","id":1}', Reason.NOT_UTF8),
        ("id", rb'{"id":"\ud800!"}', Reason.NOT_UTF8),
        ("id", b'{"id":1e999}', Reason.NOT_FINITE),
        ("id", b'{"id":null}', Reason.VOID),
        ("id", b'{"id":{}}', Reason.TABLE),
        ("id", b'{"id":[1]}', Reason.ARRAY),
        ("id", b'{"id":1,"id":null}', Reason.VOID),
        ("id", b'{"ID":1}', Reason.PATH_NOT_FOUND),
        ("id", b'[{"id":1}]', Reason.PATH_NOT_FOUND),
        ("id", b"7", Reason.PATH_NOT_FOUND),
        ("id", b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"id":1}', Reason.TOO_DEEP),
        ("customer.id", b'{"customer":null}', Reason.PATH_NOT_FOUND),
        ("customer.id", b'{"customer":[{"id":1}]}', Reason.PATH_NOT_FOUND),
        ("customer.id", b'{"customer":{"id":1},"customer":{}}', Reason.PATH_NOT_FOUND),
        ("customer.id", b'{"customer.id":1}', Reason.PATH_NOT_FOUND),
        ("items.0.sku", b'{"items":[]}', Reason.PATH_NOT_FOUND),
        ("a.1", b'{"a":"xyz"}', Reason.PATH_NOT_FOUND),
    ],
)
def test_what_is_not_usable_says_why(path: str, body: bytes, reason: Reason) -> None:
    assert why(path, body) is reason


@given(st.integers(1, 40), st.integers(0, 3))
def test_a_body_over_several_frames_is_joined(frame_payload: int, padding: int) -> None:
    body = json.dumps({"x": "y" * padding, "customer": {"id": "N14228"}}).encode()
    assert found("customer.id", content(body, frame_payload, content_type="application/json")) == b"N14228"


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "customer", "a", "b", "c", "items", "sku", "0"]), inner)
    ),
    max_leaves=12,
)


def walk(value: Any, path: str) -> Any:
    """What the path leads to in a decoded document, None where nowhere."""
    for segment in path.split("."):
        if isinstance(value, dict) and segment in value:
            value = value[segment]
        elif isinstance(value, list) and segment.isdigit() and int(segment) < len(value):
            value = value[int(segment)]
        else:
            return None
    return value


@given(DOCUMENTS, st.sampled_from(["id", "customer.id", "a.b.c", "items.0.sku", "0", "a.1"]), st.booleans())
@example({"id": "\ud800"}, "id", True)
def test_the_standard_librarys_decoder_finds_the_same(document: Any, path: str, plain_ascii: bool) -> None:
    raw = json.dumps(document, ensure_ascii=plain_ascii).encode(errors="surrogatepass")
    value = walk(document, path)
    key = found(path, content(raw))
    if value is None or isinstance(value, dict | list):
        assert key is None
    elif isinstance(value, str):
        usable = value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
        assert key == (value.encode() if usable else None)
    elif isinstance(value, bool):
        assert key == json.dumps(value).encode()
    else:
        assert key is not None
        assert (float if isinstance(value, float) else int)(key) == value


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\0123eE.+-idtrufalsn ').map(str.encode))
def test_no_body_makes_it_raise(body: bytes) -> None:
    for path in PATHS:
        found(path, content(body))


@given(st.integers(0, 80), st.integers(0, 255))
def test_broken_frames_never_raise(at: int, value: int) -> None:
    message = content(b'{"id":1,"customer":{"id":2}}', 10)
    raw = bytearray(message.buf)
    raw[message.header + at % (message.end - message.header)] = value
    for finder in FINDERS.values():
        finder.find(bytes(raw), message.header, message.end, b"")
        assert isinstance(finder.why(bytes(raw), message.header, message.end, b""), Reason)


def test_one_key_has_one_partition_wherever_it_comes_from() -> None:
    header = make_finder(KeyRule("header", "k"))
    texts = {
        header.find(*content(headers=[Field("k", "S", b"42")]).call()),
        header.find(*content(headers=[Field("k", "l", (42).to_bytes(8))]).call()),
        header.find(*content(headers=[Field("k", "T", (42).to_bytes(8))]).call()),
        make_finder(KeyRule("property", "message_id")).find(*content(message_id="42").call()),
        make_finder(KeyRule("property", "priority")).find(*content(priority=42).call()),
        make_finder(KeyRule("routing_key")).find(b"", 0, 0, b"42"),
        *(found("id", content(body)) for body in (b'{"id":42}', b'{"id":"42"}', b'{"id":42.0}')),
    }
    assert texts == {b"42"}
    assert partition_of(b"42", 64) == 8


@pytest.mark.parametrize("path", ["", ".", "a..b", ".a", "a."])
def test_a_path_with_an_empty_name_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="names joined by dots"):
        KeyRule("body", path)
