"""Who owns which partition, what is locked, and so where messages go. Lives on over sessions."""

from collections.abc import Callable

from partymq.router.lane import Lane


class Table:
    """Partitions and lanes.

    Attributes:
        route: by partition, the lane that a message from the source takes: the owner's, or `closed` where
            there is none or the partition is locked.
        owners: by partition, the owner's lane, or `closed`.
        locked: partitions that messages from the source are held for.
        closed: a lane that never has room.
        lanes: by hostname.

    Args:
        partitions: their number.
        make_lane: makes a member's lane.
    """

    def __init__(self, partitions: int, make_lane: Callable[[str], Lane]) -> None:
        self.closed = Lane("", "")
        self.closed.paused = True
        self.closed.owned = partitions
        self.route = [self.closed] * partitions
        self.owners = [self.closed] * partitions
        self.locked: set[int] = set()
        self.lanes: dict[str, Lane] = {}
        self._make_lane = make_lane

    def lane(self, hostname: str) -> Lane:
        """The member's lane, a new one where there was none."""
        lane = self.lanes.get(hostname)
        if lane is None:
            lane = self.lanes[hostname] = self._make_lane(hostname)
        return lane

    def assign(self, partition: int, owner: Lane, locked: bool) -> None:
        """Set the owner of a partition and whether it is locked."""
        self.owners[partition].owned -= 1
        owner.owned += 1
        self.owners[partition] = owner
        if locked:
            self.locked.add(partition)
        else:
            self.locked.discard(partition)
        self.route[partition] = self.closed if locked else owner
