"""The first messages to each partition on a new channel. Pure.

While a quorum queue has no leader, because a node has died, RabbitMQ (3.10) may refuse what is published to
it on a channel on which nothing was published to it before. On that channel it goes on refusing for as long
as the node is away (measured), and then takes the next message. So the first one to each partition goes
alone, and all others of it when that is confirmed. What the broker has taken once on a channel it goes on
taking, or the connection breaks.
"""

from collections.abc import Callable

from partymq.client.outbox import Item


class Firsts:
    """Of one channel.

    Args:
        partition: of a message; None where it has no order to be kept.
        partitions: their number.
    """

    def __init__(self, partition: Callable[[Item], int | None], partitions: int) -> None:
        self._partition = partition
        self._first: dict[int, Item | None] = {}
        self._left = partitions

    @property
    def over(self) -> bool:
        """Whether every message may go from now on."""
        return not self._left

    def may_go(self, item: Item) -> bool:
        """Whether a message may be sent now; if so, it has to be."""
        partition = self._partition(item)
        if partition is None:
            return True
        first = self._first.setdefault(partition, item)
        if first is None or first is item:
            return True
        if first.settled:
            self._first[partition] = None
            self._left -= 1
            return True
        return False
