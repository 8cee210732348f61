"""Which lanes are open, what waits for them, and letting it go. Carries out the coordinator's commands.

A message from the source that can't go on is held in its lane, or parked with its partition while that is
locked. One of a leftover waits in its owner's lane, in front of the source's, locked or not. All are kept in
the order of their delivery tags, whoever owns the partition in between.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from partymq.router.events import Depth
from partymq.router.lane import Held, Lane
from partymq.router.outlet import Outlet
from partymq.router.stream import Stream
from partymq.router.table import Table


class Traffic:
    """The lanes of a group, over all sessions.

    Attributes:
        table: who owns what.
        frozen: nothing goes out.
    """

    def __init__(self, table: Table, outlet: Outlet) -> None:
        self.table = table
        self.frozen = True
        self._outlet = outlet
        self._parked: dict[int, deque[Held]] = {}

    # Sessions ----------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Let nothing go any more."""
        self.frozen = True
        for lane in self.table.lanes.values():
            lane.grant(0)

    def begin_session(self) -> None:
        """Forget what the last session held and had on its way."""
        for lane in (*self.table.lanes.values(), self.table.closed):
            lane.begin_session()
        self._parked.clear()

    def drop_leftover(self, now: float) -> None:
        """Forget what is held of the leftover."""
        for lane in (*self.table.lanes.values(), self.table.closed):
            lane.leftover.clear()
        self.refill_all(now)

    # Messages ----------------------------------------------------------------------------------------

    def route(self, stream: Stream, message: Held) -> None:
        """Publish a message if it may go now, else hold it."""
        from_source = stream is self._outlet.source
        lane = (self.table.route if from_source else self.table.owners)[message.partition]
        if lane.room <= 0 and not (lane.paused or lane.held or lane.leftover):
            self.refill(lane, message.since)
        if lane.room > 0:
            lane.room -= 1
            self._outlet.publish(stream, lane, message)
            return
        if not from_source:
            lane.leftover.append(message)
        elif lane is self.table.closed:
            self._parked.setdefault(message.partition, deque()).append(message)
        else:
            lane.held.append(message)
        if not lane.paused:
            lane.short = True
        stream.held += 1
        stream.bytes += len(message.content)
        statistics = self._outlet.statistics
        statistics.holds += 1
        statistics.held_messages += 1
        statistics.held_bytes += len(message.content)

    def refill(self, lane: Lane, now: float) -> None:
        """Let go what may go, and set the room for what will come."""
        lane.grant(0)
        if self.frozen or (lane.paused and not lane.owed):
            return
        free = lane.free(now)
        if lane.held or lane.leftover:
            gone = self._let_go(lane, max(free, lane.owed))
            lane.owed = max(0, lane.owed - gone)
            free -= gone
        if not (lane.held or lane.leftover):
            lane.owed = 0
            lane.grant(max(0, free))

    def refill_all(self, now: float) -> None:
        """`refill` every lane."""
        for lane in self.table.lanes.values():
            self.refill(lane, now)

    def refill_waiting(self, now: float) -> None:
        """`refill` the lanes that something waits for."""
        for lane in self.table.lanes.values():
            if lane.held or lane.leftover:
                self.refill(lane, now)

    # Commands ----------------------------------------------------------------------------------------

    def pause(self, hostname: str) -> None:
        """See `Router.pause`."""
        lane = self.table.lane(hostname)
        lane.paused = True
        lane.owed = 0
        lane.grant(0)

    def resume(self, hostname: str, now: float) -> None:
        """See `Router.resume`."""
        lane = self.table.lane(hostname)
        lane.paused = False
        self.refill(lane, now)

    def give_way(self, hostname: str, now: float) -> None:
        """See `Router.give_way`."""
        lane = self.table.lane(hostname)
        self.overflow(lane, len(lane.held) + len(lane.leftover), now)

    def overflow(self, lane: Lane, count: int, now: float) -> None:
        """Let so many held messages go in spite of a pause or a full window."""
        lane.owed += count
        self._outlet.statistics.gave_way += count
        self.refill(lane, now)

    def assign(self, owners: Mapping[int, str], locked: bool, now: float) -> None:
        """See `Router.assign`."""
        table = self.table
        lanes = {partition: table.lane(hostname) for partition, hostname in owners.items()}
        self._rearrange({partition: (lane, locked) for partition, lane in lanes.items()}, now)

    def lock(self, partitions: Iterable[int], now: float) -> None:
        """See `Router.lock`."""
        self._set_locked(partitions, True, now)

    def unlock(self, partitions: Iterable[int], now: float) -> None:
        """See `Router.unlock`."""
        self._set_locked(partitions, False, now)

    def forget(self, hostname: str, now: float) -> None:
        """See `Router.forget`."""
        table = self.table
        lane = table.lanes.get(hostname)
        if lane is not None:
            owned = [partition for partition, owner in enumerate(table.owners) if owner is lane]
            self._rearrange({number: (table.closed, number in table.locked) for number in owned}, now)
            del table.lanes[hostname]

    def observe(self, hostname: str, depth: Depth, now: float) -> None:
        """See `Router.observe`."""
        lane = self.table.lanes.get(hostname)
        if lane is None or lane.window is None:
            return
        short = lane.short or (not lane.paused and bool(lane.held or lane.leftover))
        lane.window.observe(depth, lane.sent, lane.outstanding, short, now)
        lane.short = False
        self.refill(lane, now)

    # Questions ---------------------------------------------------------------------------------------

    def oldest(self, now: float) -> float:
        """Seconds for which the oldest message has been held; 0 where nothing is."""
        lanes = (*self.table.lanes.values(), self.table.closed)
        queues = [queue for lane in lanes for queue in (lane.held, lane.leftover) if queue]
        queues += [queue for queue in self._parked.values() if queue]
        return max((now - queue[0].since for queue in queues), default=0.0)

    def held_by_partition(self) -> dict[int, int]:
        """Messages of the source that are held, by partition."""
        held: dict[int, int] = {}
        for queue in (*(lane.held for lane in self.table.lanes.values()), *self._parked.values()):
            for message in queue:
                held[message.partition] = held.get(message.partition, 0) + 1
        return held

    # Inside --------------------------------------------------------------------------------------------

    def _let_go(self, lane: Lane, most: int) -> int:
        """Publish up to so many held messages; how many it was."""
        outlet = self._outlet
        gone = 0
        for queue, stream in ((lane.leftover, outlet.leftover), (lane.held, outlet.source)):
            if stream is None or not queue:
                continue
            before = gone
            while queue and gone < most and outlet.burst > 0 and not outlet.choked:
                message = queue.popleft()
                outlet.publish(stream, lane, message)
                stream.bytes -= len(message.content)
                gone += 1
            if gone > before:
                stream.held -= gone - before
                stream.ledger.out_of_order()
            if queue:
                outlet.more = outlet.more or gone < most
                break
        if gone:
            lane.before += gone
            outlet.count_held()
        return gone

    def _set_locked(self, partitions: Iterable[int], locked: bool, now: float) -> None:
        owners, now_locked = self.table.owners, self.table.locked
        changed = {number for number in partitions if (number in now_locked) != locked}
        self._rearrange({number: (owners[number], locked) for number in changed}, now)

    def _rearrange(self, changes: Mapping[int, tuple[Lane, bool]], now: float) -> None:
        """Give partitions these owners and locks, with what is held for them."""
        table = self.table
        # No set: what is let go then goes in the same order each time, and schedules can be played again.
        affected = {table.owners[partition]: None for partition in changes}
        held: list[Held] = []
        leftover: list[Held] = []
        for lane in affected:
            lane.held = _without(lane.held, changes, held)
            lane.leftover = _without(lane.leftover, changes, leftover)
        for partition, (owner, locked) in changes.items():
            held += self._parked.pop(partition, ())
            table.assign(partition, owner, locked)
            affected[owner] = None
        self._put_back(held, leftover)
        for lane in affected:
            self.refill(lane, now)

    def _put_back(self, held: list[Held], leftover: list[Held]) -> None:
        """Put messages where they belong now, each in its place."""
        table = self.table
        changed: dict[int, deque[Held]] = {}
        for message in held:
            lane = table.route[message.partition]
            parked = lane is table.closed
            queue = self._parked.setdefault(message.partition, deque()) if parked else lane.held
            queue.append(message)
            changed[id(queue)] = queue
        for message in leftover:
            queue = table.owners[message.partition].leftover
            queue.append(message)
            changed[id(queue)] = queue
        for queue in changed.values():
            ordered = sorted(queue, key=_tag)
            queue.clear()
            queue.extend(ordered)


def _without(queue: deque[Held], partitions: Mapping[int, object], taken: list[Held]) -> deque[Held]:
    """The queue without the messages of these partitions, which are added to `taken`."""
    if not queue:
        return queue
    kept: deque[Held] = deque()
    for message in queue:
        (taken if message.partition in partitions else kept).append(message)
    return kept


def _tag(message: Held) -> int:
    return message.tag
