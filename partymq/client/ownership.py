"""Who owns which partition: the seam between the data path and the coordination of the group.

An `Ownership` knows the group: it connects, joins, and tells an `Owner` (the consumer) which partitions it
gets and has to give up. The consumer only ever handles messages of partitions it was told it owns.

The order of calls, of which an Ownership must keep the promises:

* for each partition, `gained` and `revoke` are called in turn, each after the other has ended; calls for
  different partitions may be under way at the same time;
* a partition is reported as released only after `revoke` has said that it has ended, or has returned: then
  its handlers have ended, what they did is acknowledged, and the rest is back in its queue;
* `lost` is called at once (synchronously) when the connection is gone; it ends every `gained` or `revoke`
  under way (they raise BrokerError or return), and nothing is owned any more until the next `gained`.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from partymq.amqp.connection import Connection
from partymq.client.guard import Guard
from partymq.errors import BrokerError
from partymq.group.key import KeyFinder
from partymq.group.names import partition_id

Ended = Callable[[Collection[int]], None]
"""Is told the ids of partitions."""


Places = Callable[[Collection[bytes]], Awaitable[Mapping[bytes, int]]]
"""The partitions of keys."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A partition that is ours.

    Attributes:
        number: the partition.
        layout: the number of the layout that it is of.
        queue: its queue, which is there, with a single active consumer.
        token: its fencing token.
    """

    number: int
    queue: str
    token: int
    layout: int = 1

    @property
    def id(self) -> int:
        """Tells it from partitions of the same number in another layout."""
        return partition_id(self.layout, self.number)


@dataclass(frozen=True, slots=True)
class Gain:
    """Partitions that have become ours.

    Attributes:
        connection: to consume on; the same for all partitions until it is lost.
        partitions: the new ones.
        total: the group's number of partitions.
        key: finds the key of a message: `group.key.make_finder(rule)`; where the router has been in between,
            `router.contents.leftover_finder(rule)`, as it moves some keys to a header.
        prefetch: messages of each at most that are delivered and not acknowledged.
        computed: what was parked of a key before a resize belongs to crc32 modulo `total`.
        places: says it where that is the broker's affair. Raises BrokerError.
        guard: says when handlers may be started, and of which partitions: until it has proof of one, its
            messages wait. None: always, of all.
        speak_on: a connection that nothing is consumed on, which shows whether the broker takes messages.
    """

    connection: Connection
    partitions: Sequence[Owned]
    total: int
    key: KeyFinder
    prefetch: int
    computed: bool = False
    places: Places | None = None
    guard: Guard | None = None
    speak_on: Connection | None = None


class Owner(Protocol):
    """What an Ownership drives: the consumer."""

    async def gained(self, gain: Gain) -> None:
        """Begins to consume; returns when the broker knows all the consumers.

        Each partition must not be owned already; a new token is a new gain, after a `revoke`. Raises
        BrokerError when the connection is lost meanwhile, or the broker does not answer in time: then cut the
        connection, call `lost`, and join again. What the hook `on_assigned` raises goes through, and is to
        end `run`. A queue that can't be consumed is tried again and again while its partition is owned.
        """

    def idle(self, partitions: Collection[int]) -> list[int]:
        """Those of these partitions (ids) of which it has had nothing for a while: no message that is not
        acknowledged."""

    async def revoke(self, partitions: Collection[int], ended: Ended | None = None) -> None:
        """Gives partitions (ids) up: starts nothing more, waits for what is running (as long as that takes),
        acknowledges it, and gives the rest back; `ended` is told of each as soon as that is so, in one call
        or several. Those that are not owned have ended already. Never raises a BrokerError: a connection that
        is lost meanwhile has given them up as well."""

    def heed(self) -> None:
        """The guard has closed or opened, or may have proof of more partitions. Returns at once."""

    def lost(self, error: BrokerError) -> None:
        """The connection is gone, and all partitions with it. Idempotent."""


class Ownership(Protocol):
    """Membership of a group."""

    @property
    def joined(self) -> bool:
        """Whether it is a member now."""

    @property
    def coordinates(self) -> bool:
        """Whether it coordinates the group now."""

    async def run(self, owner: Owner) -> None:
        """Joins the group and keeps `owner` informed, over lost connections too, until `leave` is called;
        then has it give up everything, leaves the group, closes its connections and returns.

        Raises ConfigError, LoginRefused and the like where no trying again helps. When it is cancelled it
        cuts its connections and calls `owner.lost`.
        """

    def leave(self) -> None:
        """Has `run` end in good order. Idempotent, returns at once."""
