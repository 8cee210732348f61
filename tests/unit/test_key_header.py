"""The key in a header: found where it belongs, whatever its type, and nowhere else."""

import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode
from raw_content import Content, Field, content, table

from partymq.group.canonical import Reason
from partymq.group.key import KeyFinder, KeyRule, make_finder

NAME = "partitionKey"
FINDER = make_finder(KeyRule("header", NAME))


def text(name: str, value: bytes) -> Field:
    return Field(name, "S", value)


def found(message: Content, finder: KeyFinder = FINDER) -> bytes | None:
    """The key, after checking that `find` and `why` agree."""
    key = finder.find(*message.call())
    assert (finder.why(*message.call()) is Reason.USABLE) == (key is not None)
    return key


SCALARS = [
    ("S", b"N14228", b"N14228"),
    ("S", b"", b""),
    ("S", "Grüße".encode(), "Grüße".encode()),
    ("S", b"\xff\x00", b"\xff\x00"),
    ("S", b"k" * 255, b"k" * 255),
    ("S", b"k" * 256, b"k" * 256),
    ("S", b"k" * 70_000, b"k" * 70_000),
    ("x", b"N14228", b"N14228"),
    ("t", b"\x00", b"false"),
    ("t", b"\x01", b"true"),
    ("t", b"\x02", b"true"),
    ("b", struct.pack(">b", -42), b"-42"),
    ("B", struct.pack(">B", 200), b"200"),
    ("s", struct.pack(">h", -300), b"-300"),
    ("u", struct.pack(">H", 60_000), b"60000"),
    ("I", struct.pack(">i", -70_000), b"-70000"),
    ("i", struct.pack(">I", 4_000_000_000), b"4000000000"),
    ("l", struct.pack(">q", -(2**63)), b"-9223372036854775808"),
    ("L", struct.pack(">q", 2**63 - 1), b"9223372036854775807"),
    ("T", struct.pack(">Q", 1_700_000_000), b"1700000000"),
    ("T", struct.pack(">Q", 2**64 - 1), b"18446744073709551615"),
    ("d", struct.pack(">d", 42.0), b"42"),
    ("d", struct.pack(">d", -0.0), b"0"),
    ("d", struct.pack(">d", 0.1), b"0.1"),
    ("d", struct.pack(">d", 1e-7), b"0.0000001"),
    ("d", struct.pack(">d", 1e23), b"100000000000000000000000"),
    ("d", struct.pack(">d", -2.5e3), b"-2500"),
    ("f", struct.pack(">f", 0.1), b"0.1"),
    ("f", struct.pack(">f", 42.0), b"42"),
    ("f", struct.pack(">f", -0.0), b"0"),
    ("f", b"\x7f\x7f\xff\xff", b"340282350000000000000000000000000000000"),
    ("f", b"\x00\x00\x00\x01", b"0." + b"0" * 44 + b"1"),
    ("D", struct.pack(">Bi", 2, 150), b"1.5"),
    ("D", struct.pack(">Bi", 0, -7), b"-7"),
    ("D", struct.pack(">Bi", 3, -5), b"-0.005"),
    ("D", struct.pack(">Bi", 2, 4200), b"42"),
    ("D", struct.pack(">Bi", 9, 0), b"0"),
]
UNUSABLE = [
    ("F", table([text("id", b"1")]), Reason.TABLE),
    ("A", b"t\x01", Reason.ARRAY),
    ("V", b"", Reason.VOID),
    ("d", struct.pack(">d", float("nan")), Reason.NOT_FINITE),
    ("d", struct.pack(">d", float("-inf")), Reason.NOT_FINITE),
    ("f", struct.pack(">f", float("inf")), Reason.NOT_FINITE),
]
BEFORE = [
    [],
    [text("tenant", b"acme")],
    [Field("a", kind, value) for kind, value, _ in SCALARS] + [Field("b", k, v) for k, v, _ in UNUSABLE],
]


@pytest.mark.parametrize(("kind", "value", "key"), SCALARS)
@pytest.mark.parametrize("before", BEFORE, ids=["first", "second", "last"])
@pytest.mark.parametrize("behind", [[], [text("z", b"1")]], ids=["alone", "followed"])
def test_any_scalar_type_is_a_key(
    kind: str, value: bytes, key: bytes, before: list[Field], behind: list[Field]
) -> None:
    headers = [*before, Field(NAME, kind, value), *behind]
    assert found(content(headers=headers)) == key
    everything = content(
        headers=headers, content_type="application/json", content_encoding="", delivery_mode=2, app_id="x"
    )
    assert found(everything) == key


@pytest.mark.parametrize(("kind", "value", "reason"), UNUSABLE)
def test_what_is_no_scalar_is_not_usable_and_says_so(kind: str, value: bytes, reason: Reason) -> None:
    message = content(headers=[Field(NAME, kind, value)])
    assert found(message) is None
    assert FINDER.why(*message.call()) is reason


def test_no_header_of_that_name_is_absent() -> None:
    for message in (
        content(),
        content(content_type="x", correlation_id=NAME),
        content(headers=[]),
        content(headers=[text("partitionKe", b"1"), text("partitionKeys", b"1"), text("PartitionKey", b"1")]),
    ):
        assert found(message) is None
        assert FINDER.why(*message.call()) is Reason.ABSENT


def test_of_a_repeated_name_the_first_counts() -> None:
    assert found(content(headers=[text(NAME, b"1"), text(NAME, b"2")])) == b"1"
    assert found(content(headers=[text("a", b""), text(NAME, b"1"), text(NAME, b"2")])) == b"1"


DECOY = table([text(NAME, b"decoy")])[4:]


@pytest.mark.parametrize(
    "decoy",
    [
        text("a", DECOY),
        Field("a", "x", DECOY),
        Field("a", "F", table([text(NAME, b"decoy")])),
        Field("a", "A", b"F" + table([text(NAME, b"decoy")])),
        text(NAME + "S", DECOY),
        text(NAME[:-1], b"y" + DECOY),
    ],
    ids=["text", "bytes", "table", "array", "longer name", "shorter name"],
)
def test_what_only_looks_like_the_header_is_never_taken_for_it(decoy: Field) -> None:
    real = text(NAME, b"real")
    for body in (b"", DECOY, content(headers=[text(NAME, b"decoy")]).buf):
        assert found(content(body, headers=[decoy, real])) == b"real"
        assert found(content(body, headers=[decoy], content_type="application/json")) is None
        assert found(content(body, content_type=DECOY, reply_to=DECOY)) is None


def test_properties_behind_an_empty_table_do_not_pass_for_an_entry() -> None:
    spelled = DECOY[2:] + b"x" * (ord("a") - len(DECOY[2:]))
    finder = make_finder(KeyRule("header", "pa"))
    assert len(spelled) == ord("a")
    # delivery_mode 2, priority "p", then a text of length "a": \x02pa S\0\0\0...
    message = content(
        headers=[], delivery_mode=2, priority=ord("p"), correlation_id=b"S\0\0\0\x01X".ljust(ord("a"), b"x")
    )
    assert found(message, finder) is None
    assert finder.why(*message.call()) is Reason.ABSENT


NAMES = st.sampled_from(["a", "partitionKe", "partitionKey2", "tenant", "x-death"]) | st.text(
    max_size=20
).filter(lambda name: len(name.encode()) < 256)
VALUES = st.sampled_from([(kind, value) for kind, value, _ in SCALARS + UNUSABLE]) | st.tuples(
    st.sampled_from("Sx"), st.binary(max_size=300) | st.just(DECOY)
)
FIELDS = st.lists(st.builds(lambda name, pair: Field(name, *pair), NAMES, VALUES), max_size=6)


@given(FIELDS, FIELDS, st.booleans(), st.binary(max_size=30), st.none() | st.binary(max_size=300))
def test_an_oracle_that_decodes_everything_finds_the_same(
    before: list[Field], behind: list[Field], has_type: bool, body: bytes, key: bytes | None
) -> None:
    middle = [] if key is None else [text(NAME, key)]
    headers = [*(field for field in before if field.name != NAME), *middle, *behind]
    properties = {"headers": headers} | ({"content_type": "text/plain"} if has_type else {})
    message = content(body, delivery_mode=2, **properties)
    if key is not None:
        assert found(message) == key
    else:
        assert NAME not in {field.name for field in headers}
        assert found(message) is None


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 30))
def test_a_decimal_reads_as_the_same_number(unscaled: int, scale: int) -> None:
    raw = struct.pack(">Bi", scale, unscaled)
    key = found(content(headers=[Field(NAME, "D", raw)]))
    assert key is not None
    assert Decimal(key.decode()) == Decimal(unscaled).scaleb(-scale)
    assert Decimal(key.decode()) == decode.decimal(raw)[1]


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
def test_a_float_reads_back_as_the_same_number(double: float, single: float) -> None:
    for kind, form, value in (("d", ">d", double), ("f", ">f", single)):
        key = found(content(headers=[Field(NAME, kind, struct.pack(form, value))]))
        assert key is not None
        assert struct.unpack(form, struct.pack(form, float(key))) == (value,)
        assert b"e" not in key
        assert not key.endswith(b".0")


@given(FIELDS, st.integers(0, 400), st.integers(0, 255), st.integers(0, 400))
def test_broken_bytes_never_raise(fields: list[Field], at: int, value: int, cut: int) -> None:
    message = content(headers=[*fields, text(NAME, b"key")], content_type="a")
    raw = bytearray(message.buf)
    raw[message.header + 7 + at % (message.end - message.header - 8)] = value
    for broken in (bytes(raw), message.buf[: message.header + cut % (message.end - message.header)]):
        FINDER.find(broken, message.header, len(broken), b"")
        assert isinstance(FINDER.why(broken, message.header, len(broken), b""), Reason)


@pytest.mark.parametrize("name", ["", "x" * 256, "ü" * 128])
def test_a_name_that_no_header_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        KeyRule("header", name)


def test_the_body_frames_are_not_needed() -> None:
    message = content(b"x" * 100, headers=[text(NAME, b"key")])
    assert not FINDER.needs_body
    assert FINDER.find(message.buf[: message.end - 108], message.header, message.end - 108, b"") == b"key"
