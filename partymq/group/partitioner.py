"""From the text of a key to its partition.

The rule, for every language that has to agree with us (a publisher that computes the partition
itself, a binding of a consistent-hash exchange that has to be checked, a test):

    partition = crc32(key) mod partitions

* `key` is the canonical text of the key in UTF-8 (`partymq.group.canonical` says what that is for a
  number, a boolean or a timestamp); a byte string is taken as it is.
* `crc32` is the one of zlib, gzip, PNG and Ethernet: reflected polynomial 0xEDB88320, start value and
  final XOR 0xFFFFFFFF, the result an unsigned 32-bit number. Check value: crc32("123456789") is
  0xCBF43926 = 3,421,780,262, hence partition 38 of 64.
* In languages whose crc32 is signed, mask with 0xFFFFFFFF before the modulo.

The number of partitions of a group is fixed: another number sends the same key elsewhere.
"""

from zlib import crc32


def partition_of(key: bytes, partitions: int) -> int:
    """The partition, 0 to `partitions - 1`, of a key's canonical text.

    The number of partitions is the group's and was checked with its settings: at least 1 (0 raises
    ZeroDivisionError). Pure and stable for ever: members and publishers depend on it.
    """
    return crc32(key) % partitions
