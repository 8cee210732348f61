"""Every name that PartyMQ gives to something in the broker."""

from hashlib import sha256

DEFAULT_GROUP = "default"
_LONGEST = 255
"""Bytes of an AMQP routing key or of a queue's name at most."""


def write_exchange(group: str) -> str:
    """The exchange to which the router publishes. The default group's is the one existing clients know."""
    return "partymq.ex.write" if group == DEFAULT_GROUP else f"partymq.{group}.ex.write"


def member_key(hostname: str) -> str:
    """The routing key of a member.

    `partymq.partition-<hostname>`; where that is longer than a routing key may be (255 bytes), the hostname
    is cut and ends in a part of its SHA-256. Clients use what `bind` answers.
    """
    return _within(f"partymq.partition-{hostname}", hostname)


def own_exchange(group: str) -> str:
    """What PartyMQ publishes members' messages to that goes to no member: leftovers and dead letters.

    Not the default exchange: there the broker would send a copy of a message with a header `CC` to any queue
    that it names, the source for example.
    """
    return f"partymq.{group}.ex.own"


def state_queue(group: str) -> str:
    """Holds the group's state; who is delivered it is the coordinator."""
    return f"partymq.{group}.q.state"


def coordinator_queue(group: str) -> str:
    """Commands to the coordinator."""
    return f"partymq.{group}.q.coordinator"


def control_queue(group: str, token: str) -> str:
    """Where somebody who asks the coordinator gets answers; exclusive to its connection.

    `token`: nobody else's.
    """
    return f"partymq.{group}.q.control-{token}"


def dead_letter_queue(group: str) -> str:
    """Messages that cannot be routed, with the reason in a header."""
    return f"partymq.{group}.q.dead-letter"


def leftover_queue(group: str, number: int) -> str:
    """Where a leftover lies until its new owners get it. Durable; deleted when it is done."""
    return f"partymq.{group}.q.leftover-{number}"


def source_queue(group: str) -> str:
    """The source where PartyMQ binds a queue of its own to an existing exchange."""
    return f"partymq.{group}.q.source"


def alone_lock(queue: str) -> str:
    """A queue that is exclusive to the connection that consumes `queue` alone; gone otherwise."""
    return _within(f"partymq.q.alone-{queue}", queue)


# Pull groups ----------------------------------------------------------------------------------------


def partition_queue(group: str, layout: int, partition: int) -> str:
    """The queue of a partition. The first layout's names have no number of the layout in them."""
    version = "" if layout == 1 else f"v{layout}."
    return f"partymq.{group}.q.{version}partition-{partition}"


MOST_PARTITIONS = 10_000


def partition_id(layout: int, partition: int) -> int:
    """A number for a partition that no partition of another layout of the group has."""
    return (layout - 1) * MOST_PARTITIONS + partition


def layout_and_number(identity: int) -> tuple[int, int]:
    """Inverse of `partition_id`."""
    return identity // MOST_PARTITIONS + 1, identity % MOST_PARTITIONS


def partition_key(layout: int, partition: int) -> str:
    """The routing key with which a partition's queue is bound to the write exchange."""
    return f"{layout}.{partition}"


def settings_queue(group: str) -> str:
    """Holds the settings of a pull group, in one message."""
    return f"partymq.{group}.q.settings"


def former_queue(group: str) -> str:
    """Remembers for some time the settings that a deleted group of this name had."""
    return f"partymq.{group}.q.former"


def settings_lock(group: str) -> str:
    """A queue that is exclusive to the connection that writes the settings; gone otherwise."""
    return f"partymq.{group}.q.settings-lock"


def parked_queue(group: str) -> str:
    """Messages of keys that are parked, in order, until somebody releases them."""
    return f"partymq.{group}.q.parked"


def router_lock(group: str) -> str:
    """A queue that is exclusive to the connection on which a pull group is filled; gone otherwise."""
    return f"partymq.{group}.q.router-lock"


def release_queue(group: str) -> str:
    """Asks the owners of parked keys to let them go on."""
    return f"partymq.{group}.q.release"


def hash_exchange(group: str) -> str:
    """The exchange to which they publish who know nothing of partitions, where the broker hashes the keys."""
    return f"partymq.{group}.ex.hash"


def second_hash_exchange(group: str) -> str:
    """Gets what that one has no binding for."""
    return f"partymq.{group}.ex.hash-2"


def ring_exchange(group: str, layout: int) -> str:
    """Spreads the keys over the queues of a layout."""
    return f"partymq.{group}.ex.v{layout}.ring"


def probe_exchange(group: str, token: str) -> str:
    """Is tried to see where keys go. It goes with its bindings. `token`: nobody else's."""
    return f"partymq.{group}.ex.probe-{token}"


def probe_queue(group: str, token: str, partition: int) -> str:
    """Stands for a partition's queue there; exclusive to its connection.

    In the order of their names, on which hashing depends, these are as those of the partitions.
    """
    return f"partymq.{group}.q.probe-{token}.partition-{partition}"


def looked_through(queue: str) -> str:
    """A queue that is consumed by whoever looks through `queue`; gone otherwise."""
    return f"{queue}-lock"


def _within(name: str, unique: str) -> str:
    """The name; where it is too long, cut, with a part of the SHA-256 of what makes it unique."""
    raw = name.encode()
    if len(raw) <= _LONGEST:
        return name
    tail = "~" + sha256(unique.encode()).hexdigest()[:16]
    return raw[: _LONGEST - len(tail)].decode(errors="ignore") + tail
