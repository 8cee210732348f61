"""The router's decisions: which message goes where, which waits, and what is acked. Pure: no IO, no clock.

Theory of operation. Deliveries come in as spans over a read buffer; each goes to the lane of its partition's owner
or is held. What goes out is collected in one list of frames and taken by `take`. The broker's confirms, entered
in a ledger, turn into acks. Two ledgers, one for the source and one for a leftover being fetched back, each with
a publish channel of its own, share the lanes.

Order. For one partition: from the source to one lane at a time, in the order of the delivery tags. `Lane.room` is
above 0 only while nothing is held for the lane, so whatever is held goes first. What is held for a locked partition
is parked with it, in no lane, until the leftover has gone ahead.

Faults. A message that came back or was refused ends the session: from then on nothing is routed, and nothing acked
until the session asks for the last acks. The caller closes the channels, which gives back the rest in order.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final
from zlib import crc32

from partymq.amqp.content import Span, exchange_at, publish_frame, routing_key_at
from partymq.group.key import KeyFinder, make_finder
from partymq.group.names import member_key
from partymq.group.state import SetAside
from partymq.router.contents import (
    EXCHANGE_HEADER,
    GROUP_HEADER,
    REASON_HEADER,
    ROUTING_KEY_HEADER,
    Fitter,
    leftover_finder,
)
from partymq.router.events import Depth, HoldExhausted, RouterEvent, Unroutable
from partymq.router.lane import Held, Lane
from partymq.router.ledger import Ledger
from partymq.router.relief import Relief
from partymq.router.settings import RouterSettings
from partymq.router.statistics import Statistics
from partymq.router.table import Table
from partymq.router.window import Window

BURST: Final = 4 * 2**20
"""Bytes of held messages that are let go between two calls of `take`."""
_LARGE: Final = 512 * 2**10
"""Bytes in one batch from which on its parts are not copied together."""
_USER_FLAG: Final = 0x10


class Stream:
    """One way in and out: a consume channel and a publish channel of the same number."""

    __slots__ = ("bytes", "dropped", "finder", "fitter", "held", "ledger", "reject_frame", "seen")

    def __init__(self, ledger: Ledger, finder: KeyFinder, fitter: Fitter, reject_frame: bytes) -> None:
        self.ledger = ledger
        self.finder = finder
        self.fitter = fitter
        self.reject_frame = reject_frame
        self.held = 0
        self.bytes = 0
        self.seen = ledger.next_seq
        self.dropped = False

    @property
    def is_settled(self) -> bool:
        """Whether everything that came in has gone out and is confirmed."""
        return not self.held and not self.ledger.outstanding


class Core:
    """Routing of one group. Lives as long as the router; `begin` and `end` frame a session.

    Attributes:
        table: who owns what.
        counts, last: by partition, messages published and when the last one was (monotonic seconds).
        source, leftover: the streams of the session; None = not there.
        frozen: nothing is routed any more.
        fault: why the session has to end, None while all is well.
        events: for the coordinator, in order; whoever takes them clears the list.
        more: held messages could go on, but enough was let go at once.
        choked: no held messages are let go; to be set while the write buffer is full.
    """

    def __init__(self, settings: RouterSettings, statistics: Statistics, now: float) -> None:
        self.table = Table(settings.partitions, self._make_lane)
        self.counts = [0] * settings.partitions
        self.last = [now] * settings.partitions
        self.source: Stream | None = None
        self.leftover: Stream | None = None
        self.frozen = True
        self.fault: str | None = None
        self.events: list[RouterEvent] = []
        self.more = False
        self.choked = False
        self.statistics = statistics
        self._settings = settings
        self._now = now
        self._rejects = Lane("", settings.dead_letter_queue)
        self._by_routing_key = settings.key.source == "routing_key"
        self._out: list[bytes] = []
        self._large = False
        self._burst = BURST
        self._parked: dict[int, deque[Held]] = {}
        self._spread = 0
        self._sample: tuple[Ledger, int, float] | None = None
        self._relief = Relief(settings)
        self._returned: set[str] = set()
        self._blamed: set[Lane] = set()

    def __repr__(self) -> str:
        state = self.fault or ("frozen" if self.frozen else "routing")
        return f"<Core {state} held={self.held} source={self.source and self.source.ledger}>"

    @property
    def held(self) -> int:
        """Messages of the source in our hands."""
        return self.source.held if self.source else 0

    @property
    def outstanding(self) -> int:
        """Publishes that are not confirmed."""
        return sum(stream.ledger.outstanding for stream in (self.source, self.leftover) if stream)

    # A session ---------------------------------------------------------------------------------------

    def begin(self, number: int, username: str, frame_max: int, source_frame_max: int, now: float) -> None:
        """A session begins, on channels of this number; `frame_max` where we publish, and at the source."""
        self.fault = None
        self._out, self._large, self.more, self.choked = [], False, False, False
        self._burst = BURST
        self._parked.clear()
        self._sample = None
        self._returned.clear()
        self._blamed.clear()
        finder = make_finder(self._settings.key)
        self.source = self._stream(
            number, username, frame_max, source_frame_max, finder, self._settings.prefetch
        )
        self.leftover = None
        self.frozen = False
        for lane in self._all_lanes():
            lane.begin_session()
            lane.publish = self._frame(number, lane)
        self._refill_all(now)
        self._count_held()

    def begin_leftover(self, number: int, username: str, frame_max: int, source_frame_max: int) -> None:
        """A leftover will be fetched, on channels of this number."""
        finder = leftover_finder(self._settings.key)
        prefetch = self._settings.fetch_prefetch
        self.leftover = self._stream(number, username, frame_max, source_frame_max, finder, prefetch)
        for lane in self._all_lanes():
            lane.publish_leftover = self._frame(number, lane)

    def freeze(self) -> None:
        """Route nothing any more. Confirms are still entered."""
        self.frozen = True
        for lane in self._all_lanes():
            lane.grant(0)

    def end(self) -> None:
        """The session is over; nothing of it stays."""
        self.freeze()
        for lane in self._all_lanes():
            lane.begin_session()
        self._parked.clear()
        self._out = []
        self._sample = None
        self.source = self.leftover = None
        self._count_held()

    def drop_leftover(self, now: float) -> None:
        """Route nothing more of the leftover, also nothing of it that is held."""
        if self.leftover is None:
            return
        for lane in self._all_lanes():
            lane.leftover.clear()
        self.leftover.held = self.leftover.bytes = 0
        self.leftover.dropped = True
        self._refill_all(now)
        self._count_held()

    def end_leftover(self) -> None:
        """The leftover's channels are closed."""
        self.leftover = None
        self._count_held()

    # Messages ----------------------------------------------------------------------------------------

    def deliveries(self, buf: bytes, spans: list[Span], now: float) -> None:
        """Messages from the source. The hot path."""
        stream = self.source
        if self.frozen or stream is None:
            return
        self._now = now
        if len(buf) > _LARGE:
            self._large = True
        if self._by_routing_key:
            self._deliveries_by_routing_key(stream, buf, spans)
            return
        find, limit, route = stream.finder.find, stream.fitter.limit, self.table.route
        partitions, counts, last = len(route), self.counts, self.last
        out = self._out.append
        enter_tag, enter_lane = stream.ledger.tags.append, stream.ledger.lanes.append
        for tag, method_at, header_at, end in spans:
            key = find(buf, header_at, end, b"")
            if key is not None:
                partition = crc32(key) % partitions
                lane = route[partition]
                if lane.room > 0 and not buf[header_at + 20] & 0x10 and end - header_at <= limit:
                    lane.room -= 1
                    out(lane.publish)
                    out(buf[header_at:end])
                    enter_tag(tag)
                    enter_lane(lane)
                    counts[partition] += 1
                    last[partition] = now
                else:
                    self._aside(stream, tag, partition, buf[header_at:end])
            else:
                self._keyless(stream, buf, tag, method_at, header_at, end)

    def fetched(self, buf: bytes, spans: list[Span], now: float) -> None:
        """Messages of the leftover."""
        stream = self.leftover
        if self.frozen or stream is None or stream.dropped:
            return
        self._now = now
        if len(buf) > _LARGE:
            self._large = True
        find, partitions = stream.finder.find, len(self.table.owners)
        for tag, method_at, header_at, end in spans:
            key = find(buf, header_at, end, routing_key_at(buf, method_at))
            if key is not None:
                self._aside(stream, tag, crc32(key) % partitions, buf[header_at:end])
            else:
                self._keyless(stream, buf, tag, method_at, header_at, end)

    def confirms(self, stream: Stream, confirms: list[tuple[int, bool, bool]], now: float) -> None:
        """The broker's answers to what was published. Raises ProtocolError where it answers nonsense."""
        refused = stream.ledger.confirm(confirms)
        if self._sample is not None:
            ledger, seq, written = self._sample
            if ledger is stream.ledger and ledger.is_settled(seq):
                self.statistics.confirm_latency.observe(now - written)
                self._sample = None
        for lane in refused:
            self._went_wrong(lane, SetAside.REJECTED, "the broker refused (basic.nack) a message")

    def returned(self, stream: Stream, routing_key: str, text: str) -> None:
        """A message came back: nothing is bound to take it."""
        if routing_key in self._returned:
            return  # All that was on its way to the lane is tainted, and nothing has followed it.
        self._returned.add(routing_key)
        lanes = set(stream.ledger.lanes)
        found = [lane for lane in lanes if lane.routing_key == routing_key]
        for lane in found or lanes:
            for each in (self.source, self.leftover):
                if each is not None:
                    each.ledger.taint(lane)
        if not found:
            self._fail(f"a message came back for {routing_key!r}, which was not published to: {text}")
        for lane in found:
            self._went_wrong(lane, SetAside.RETURNED, text)

    # What comes out ------------------------------------------------------------------------------------

    def take(self, now: float) -> list[bytes]:
        """Frames to be written where we publish, in few pieces. To be called after everything else."""
        out = self._out
        if not out:
            return out
        for stream in (self.source, self.leftover):
            if stream is not None:
                ledger = stream.ledger
                published = ledger.next_seq - stream.seen
                if published:
                    stream.seen += published
                    self.statistics.messages += published
                    if stream is self.leftover:
                        self.statistics.fetched += published
                    if self._sample is None:
                        self._sample = ledger, stream.seen - 1, now
        self._out = []
        if self._large:
            self._large = False
            self.statistics.bytes += sum(map(len, out))
        else:
            out = [b"".join(out)]
            self.statistics.bytes += len(out[0])
        self._burst = BURST
        return out

    def acks(self, stream: Stream) -> bytes:
        """Acks for the stream's consume channel, as frames."""
        return b"" if self.fault is not None else stream.ledger.acks(stream.held > 0 or stream.dropped)

    def go_on(self, now: float) -> None:
        """Let go more of what is held, after `more` or when no longer `choked`."""
        self.more = False
        self._refill_all(now)

    def tick(self, now: float) -> list[tuple[Stream, bytes]]:
        """To be called some times a second. Answers acks."""
        for lane in self.table.lanes.values():
            if lane.held or lane.leftover:
                self._refill(lane, now)
        if self.frozen:
            return []
        self._relieve(now)
        streams = [stream for stream in (self.source, self.leftover) if stream is not None]
        acks = [(stream, stream.ledger.tick(now)) for stream in streams]
        return [(stream, frames) for stream, frames in acks if frames]

    def oldest(self, now: float) -> float:
        """Seconds for which the oldest message has been unacked in our hands, at least."""
        waits = [stream.ledger.stuck_for(now) for stream in (self.source, self.leftover) if stream]
        queues = [queue for lane in self._all_lanes() for queue in (lane.held, lane.leftover)]
        waits += [now - queue[0].since for queue in (*queues, *self._parked.values()) if queue]
        return max(waits, default=0.0)

    def held_by_partition(self) -> dict[int, int]:
        """Messages in our hands, by partition."""
        held: dict[int, int] = {}
        for queue in (*(lane.held for lane in self._all_lanes()), *self._parked.values()):
            for message in queue:
                held[message.partition] = held.get(message.partition, 0) + 1
        return held

    # Commands ------------------------------------------------------------------------------------------

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
        self._refill(lane, now)

    def give_way(self, hostname: str, now: float) -> None:
        """See `Router.give_way`."""
        lane = self.table.lane(hostname)
        lane.owed = len(lane.held) + len(lane.leftover)
        self.statistics.gave_way += lane.owed
        self._refill(lane, now)

    def assign(self, owners: Mapping[int, str], locked: bool, now: float) -> None:
        """See `Router.assign`."""
        table = self.table
        taken = self._take_held(set(owners))
        affected = {table.owners[partition] for partition in owners}
        for partition, hostname in owners.items():
            table.assign(partition, table.lane(hostname), locked)
        self._put_back(*taken)
        affected.update(table.owners[partition] for partition in owners)
        for lane in affected:
            self._refill(lane, now)

    def lock(self, partitions: Iterable[int], now: float) -> None:
        """See `Router.lock`."""
        self._set_locked(set(partitions), True, now)

    def unlock(self, partitions: Iterable[int], now: float) -> None:
        """See `Router.unlock`."""
        self._set_locked(set(partitions), False, now)

    def forget(self, hostname: str) -> None:
        """See `Router.forget`."""
        table = self.table
        lane = table.lanes.get(hostname)
        if lane is not None and lane.owned:
            owned = {partition for partition, owner in enumerate(table.owners) if owner is lane}
            taken = self._take_held(owned)
            for partition in owned:
                table.assign(partition, table.closed, partition in table.locked)
            self._put_back(*taken)
        table.forget(hostname)

    def observe(self, hostname: str, depth: Depth, now: float) -> None:
        """See `Router.observe`."""
        lane = self.table.lanes.get(hostname)
        if lane is None or lane.window is None:
            return
        short = lane.short or (not lane.paused and bool(lane.held or lane.leftover))
        lane.window.observe(depth, lane.sent, lane.outstanding, short, now)
        lane.short = False
        self._refill(lane, now)

    # Inside: one message ---------------------------------------------------------------------------------

    def _deliveries_by_routing_key(self, stream: Stream, buf: bytes, spans: list[Span]) -> None:
        partitions = len(self.table.route)
        for tag, method_at, header_at, end in spans:
            key = routing_key_at(buf, method_at)
            headers = {ROUTING_KEY_HEADER: key.decode(errors="surrogateescape")}
            self._aside(stream, tag, crc32(key) % partitions, buf[header_at:end], headers)

    def _aside(
        self,
        stream: Stream,
        tag: int,
        partition: int,
        content: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Route a message that can't take the straight way, or hold it."""
        if headers or content[20] & _USER_FLAG or len(content) > stream.fitter.limit:
            try:
                content = self._fit(stream, content, headers)
            except ValueError as error:
                self._fail(f"a message can't be published: {error}")
                return
        from_source = stream is self.source
        lane = (self.table.route if from_source else self.table.owners)[partition]
        if lane.room <= 0 and not (lane.paused or lane.held or lane.leftover):
            self._refill(lane, self._now)
        if lane.room > 0:
            lane.room -= 1
            self._out += (lane.publish if from_source else lane.publish_leftover, content)
            stream.ledger.tags.append(tag)
            stream.ledger.lanes.append(lane)
            self.counts[partition] += 1
            self.last[partition] = self._now
            return
        held = Held(tag, partition, content, self._now)
        if not from_source:
            lane.leftover.append(held)
        elif lane is self.table.closed:
            self._parked.setdefault(partition, deque()).append(held)
        else:
            lane.held.append(held)
        if not lane.paused:
            lane.short = True
        stream.held += 1
        stream.bytes += len(content)
        self.statistics.holds += 1
        self._count_held()

    def _keyless(
        self, stream: Stream, buf: bytes, tag: int, method_at: int, header_at: int, end: int
    ) -> None:
        match self._settings.key.missing:
            case "spread":
                partition = self._spread
                self._spread = (partition + 1) % len(self.counts)
            case "fixed":
                partition = 0
            case "reject":
                self._reject(stream, buf, tag, method_at, header_at, end)
                return
        self.statistics.spread += 1
        self._aside(stream, tag, partition, buf[header_at:end])

    def _reject(self, stream: Stream, buf: bytes, tag: int, method_at: int, header_at: int, end: int) -> None:
        routing_key = routing_key_at(buf, method_at)
        reason = stream.finder.why(buf, header_at, end, routing_key)
        headers = {
            REASON_HEADER: str(reason),
            EXCHANGE_HEADER: exchange_at(buf, method_at).decode(errors="surrogateescape"),
            ROUTING_KEY_HEADER: routing_key.decode(errors="surrogateescape"),
            GROUP_HEADER: self._settings.group,
        }
        try:
            content = self._fit(stream, buf[header_at:end], headers)
        except ValueError as error:
            self._fail(f"a message can't be published: {error}")
            return
        self._out += (stream.reject_frame, content)
        stream.ledger.tags.append(tag)
        stream.ledger.lanes.append(self._rejects)
        self._rejects.before += 1
        rejects = self.statistics.rejects
        rejects[reason] = rejects.get(reason, 0) + 1

    def _fit(self, stream: Stream, content: bytes, headers: Mapping[str, str] | None) -> bytes:
        moved = stream.fitter.users_moved
        content = stream.fitter.fit(content, headers)
        self.statistics.users_moved += stream.fitter.users_moved - moved
        return content

    # Inside: what is held ----------------------------------------------------------------------------------

    def _refill(self, lane: Lane, now: float) -> None:
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

    def _refill_all(self, now: float) -> None:
        for lane in self.table.lanes.values():
            self._refill(lane, now)

    def _let_go(self, lane: Lane, most: int) -> int:
        """Publish up to so many held messages; how many it was."""
        gone = 0
        for queue, stream, frame in (
            (lane.leftover, self.leftover, lane.publish_leftover),
            (lane.held, self.source, lane.publish),
        ):
            if stream is None or not queue:
                continue
            before = gone
            while queue and gone < most and self._burst > 0 and not self.choked:
                message = queue.popleft()
                self._out += (frame, message.content)
                stream.ledger.tags.append(message.tag)
                stream.ledger.lanes.append(lane)
                self.counts[message.partition] += 1
                self.last[message.partition] = self._now
                size = len(message.content)
                stream.bytes -= size
                self._burst -= size
                if size > _LARGE:
                    self._large = True
                gone += 1
            if gone > before:
                stream.held -= gone - before
                stream.ledger.out_of_order()
            if queue:
                if gone < most:
                    self.more = True
                break
        lane.before += gone
        if gone:
            self._count_held()
        return gone

    def _take_held(self, partitions: set[int]) -> tuple[list[Held], list[Held]]:
        """Take out what is held for these partitions: of the source, of the leftover."""
        held: list[Held] = []
        leftover: list[Held] = []
        for lane in {self.table.owners[partition] for partition in partitions}:
            lane.held = _without(lane.held, partitions, held)
            lane.leftover = _without(lane.leftover, partitions, leftover)
        for partition in partitions:
            held += self._parked.pop(partition, ())
        return held, leftover

    def _put_back(self, held: list[Held], leftover: list[Held]) -> None:
        """Put it where it belongs now, each in its place."""
        changed: dict[int, deque[Held]] = {}
        for message in held:
            partition = message.partition
            lane = self.table.route[partition]
            if lane is self.table.closed:
                queue = self._parked.setdefault(partition, deque())
            else:
                queue = lane.held
            queue.append(message)
            changed[id(queue)] = queue
        for message in leftover:
            queue = self.table.owners[message.partition].leftover
            queue.append(message)
            changed[id(queue)] = queue
        for queue in changed.values():
            ordered = sorted(queue, key=_tag)
            queue.clear()
            queue.extend(ordered)

    def _set_locked(self, partitions: set[int], locked: bool, now: float) -> None:
        partitions = {number for number in partitions if (number in self.table.locked) != locked}
        held, leftover = self._take_held(partitions)
        for partition in partitions:
            self.table.assign(partition, self.table.owners[partition], locked)
        self._put_back(held, leftover)
        for lane in {self.table.owners[partition] for partition in partitions}:
            self._refill(lane, now)

    def _relieve(self, now: float) -> None:
        """Where no more can be held and somebody would starve: let windows overflow, else tell."""
        source = self.source
        assert source is not None
        settings = self._settings
        exhausted = (
            source.held >= min(settings.hold_messages, settings.prefetch)
            or source.bytes >= settings.hold_bytes
        )
        relief = self._relief.check(self.table.lanes.values(), exhausted, now)
        for lane, count in relief.overflow:
            lane.owed += count
            self.statistics.gave_way += count
            self._refill(lane, now)
        if relief.overflow or relief.exhausted:
            self.statistics.exhausted += 1
        if relief.exhausted:
            self.events.append(HoldExhausted(relief.exhausted))

    def _count_held(self) -> None:
        streams = [stream for stream in (self.source, self.leftover) if stream is not None]
        self.statistics.held_messages = sum(stream.held for stream in streams)
        self.statistics.held_bytes = sum(stream.bytes for stream in streams)

    # Inside: sessions and faults -----------------------------------------------------------------------------

    def _stream(
        self,
        number: int,
        username: str,
        frame_max: int,
        source_frame_max: int,
        finder: KeyFinder,
        prefetch: int,
    ) -> Stream:
        fitter = Fitter(number, username, frame_max, source_frame_max)
        reject_frame = publish_frame(number, "", self._settings.dead_letter_queue, True)
        return Stream(Ledger(number, prefetch), finder, fitter, reject_frame)

    def _make_lane(self, hostname: str) -> Lane:
        settings = self._settings
        window = Window(settings.window, settings.minimum_window, self._now) if settings.window else None
        lane = Lane(hostname, member_key(hostname), window)
        if self.source is not None:
            lane.publish = self._frame(self.source.ledger.number, lane)
        if self.leftover is not None:
            lane.publish_leftover = self._frame(self.leftover.ledger.number, lane)
        return lane

    def _frame(self, number: int, lane: Lane) -> bytes:
        return publish_frame(number, self._settings.exchange, lane.routing_key, True)

    def _all_lanes(self) -> list[Lane]:
        return [*self.table.lanes.values(), self.table.closed, self._rejects]

    def _went_wrong(self, lane: Lane, reason: SetAside, text: str) -> None:
        if reason is SetAside.RETURNED:
            self.statistics.returns += 1
        else:
            self.statistics.nacks += 1
        if lane is self._rejects:
            self._fail(f"dead-letter queue {lane.routing_key!r}: {reason}: {text}")
            return
        if lane not in self._blamed:
            self._blamed.add(lane)
            lane.paused = True
            lane.owed = 0
            self.events.append(Unroutable(lane.hostname, reason, text))
        self._fail(f"member {lane.hostname!r}: {reason}")

    def _fail(self, why: str) -> None:
        if self.fault is None:
            self.fault = why
        self.freeze()


def _without(queue: deque[Held], partitions: set[int], taken: list[Held]) -> deque[Held]:
    """The queue without the messages of these partitions, which are added to `taken`."""
    if not queue:
        return queue
    kept: deque[Held] = deque()
    for message in queue:
        (taken if message.partition in partitions else kept).append(message)
    return kept


def _tag(message: Held) -> int:
    return message.tag
