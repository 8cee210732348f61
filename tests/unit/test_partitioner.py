"""The rule that publishers in other languages have to compute alike."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.group.partitioner import partition_of


@pytest.mark.parametrize(
    ("key", "crc", "of_64", "of_7"),
    [
        (b"", 0x00000000, 0, 0),
        (b"123456789", 0xCBF43926, 38, 5),
        (b"a", 0xE8B7BE43, 3, 4),
        (b"42", 0x3224B088, 8, 3),
        (b"true", 0xFDFC4C8D, 13, 5),
        (b"N14228", 0x8505E96E, 46, 2),
        ("Grüße".encode(), 0xFBD37071, 49, 2),
    ],
)
def test_the_published_vectors_hold(key: bytes, crc: int, of_64: int, of_7: int) -> None:
    assert zlib.crc32(key) == crc
    assert partition_of(key, 64) == of_64
    assert partition_of(key, 7) == of_7


def bitwise_crc32(text: bytes) -> int:
    """The definition from the partitioner's docstring, written out bit by bit."""
    crc = 0xFFFFFFFF
    for byte in text:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@given(st.binary(max_size=40), st.integers(1, 4096))
def test_the_docstring_describes_what_is_computed(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == bitwise_crc32(key) % partitions


def test_keys_spread_over_all_partitions() -> None:
    counts = [0] * 64
    for number in range(64_000):
        counts[partition_of(f"N{number}".encode(), 64)] += 1
    assert 700 < min(counts) <= max(counts) < 1300
