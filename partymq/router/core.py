"""The router's decisions: which message goes where, which waits, and what is acked. Pure: no IO, no clock.

Theory of operation. Deliveries come in as spans over a read buffer; each goes to the lane of its partition's
owner or is held. What goes out is collected in one list of frames and taken by `take`. The broker's confirms,
entered in a ledger, turn into acks. Two streams, the source's and that of a leftover being fetched back, each
with channels and a ledger of its own, share the lanes.

Order. For one partition: from the source to one lane at a time, in the order of the delivery tags.
`Lane.room` is above 0 only while nothing is held for the lane, so whatever is held goes first. What is held
for a locked partition is parked with it, in no lane, until the leftover has gone ahead.

Faults. A message that came back or was refused ends the session: from then on nothing is routed, and nothing
acked until the session asks for the last acks. The caller closes the channels, which gives back the rest in
order.
"""

from collections.abc import Mapping
from typing import Final
from zlib import crc32

from partymq.amqp.content import Span, exchange_at, publish_frame, routing_key_at
from partymq.group.key import KeyFinder, make_finder
from partymq.group.state import SetAside
from partymq.router.contents import (
    EXCHANGE_HEADER,
    GROUP_HEADER,
    REASON_HEADER,
    ROUTING_KEY_HEADER,
    Fitter,
    leftover_finder,
    mark_of,
    to_keep,
)
from partymq.router.events import HoldExhausted, RouterEvent, Unroutable
from partymq.router.lane import Held, Lane
from partymq.router.ledger import Ledger
from partymq.router.outlet import LARGE, Outlet
from partymq.router.relief import Relief
from partymq.router.settings import RouterSettings
from partymq.router.statistics import Statistics
from partymq.router.stream import Stream
from partymq.router.table import Table
from partymq.router.traffic import Traffic
from partymq.router.window import Window

_USER_FLAG: Final = 0x10
"""In the low byte of the property flags, 20 bytes behind the start of the header frame."""


class Core:
    """Routing of one group. Lives as long as the router; `begin` and `end` frame a session.

    Attributes:
        traffic: the lanes; takes the coordinator's commands.
        outlet: what is to be written.
        fault: why the session has to end, None while all is well.
        events: for the coordinator, in order; whoever takes them clears the list.
    """

    def __init__(self, settings: RouterSettings, statistics: Statistics, now: float) -> None:
        self.outlet = Outlet(settings.partitions, statistics, now)
        self.traffic = Traffic(Table(settings.partitions, self._make_lane), self.outlet)
        self.statistics = statistics
        self.fault: str | None = None
        self.events: list[RouterEvent] = []
        self._settings = settings
        self._rejects = Lane("", settings.dead_letter_queue)
        self._by_routing_key = settings.key.source == "routing_key"
        self._spread = 0
        self._relief = Relief(settings)
        self._returned: set[str] = set()
        self._blamed: set[str] = set()

    def __repr__(self) -> str:
        state = self.fault or ("frozen" if self.frozen else "routing")
        source = self.outlet.source
        return f"<Core {state} held={source.held if source else 0} source={source and source.ledger}>"

    @property
    def frozen(self) -> bool:
        """Whether nothing is routed (any more)."""
        return self.traffic.frozen

    @property
    def outstanding(self) -> int:
        """Publishes that are not confirmed."""
        return sum(stream.ledger.outstanding for stream in self.outlet.streams)

    # A session ---------------------------------------------------------------------------------------

    def begin(self, number: int, username: str, frame_max: int, source_frame_max: int, now: float) -> Stream:
        """A session begins, on channels of this number; `frame_max` where we publish, and at the source.

        Answers the source's stream.
        """
        self._clear()
        self.outlet.now = now
        finder = make_finder(self._settings.key)
        prefetch = self._settings.prefetch
        stream = self._stream(number, username, frame_max, source_frame_max, finder, prefetch)
        self.outlet.source = stream
        for lane in self.traffic.table.lanes.values():
            lane.publish = self._frame(number, lane)
        self.traffic.frozen = False
        self.traffic.refill_all(now)
        return stream

    def begin_leftover(self, number: int, username: str, frame_max: int, source_frame_max: int) -> Stream:
        """A leftover will be fetched, on channels of this number. Answers its stream."""
        finder = leftover_finder(self._settings.key)
        prefetch = self._settings.fetch_prefetch
        stream = self._stream(number, username, frame_max, source_frame_max, finder, prefetch)
        self.outlet.leftover = stream
        for lane in self.traffic.table.lanes.values():
            lane.publish_leftover = self._frame(number, lane)
        return stream

    def freeze(self) -> None:
        """Route nothing any more. Confirms are still entered."""
        self.traffic.freeze()

    def end(self) -> None:
        """The session is over; nothing of it stays."""
        self.freeze()
        self._clear()

    def drop_leftover(self, now: float) -> None:
        """Route nothing more of the leftover, also nothing of it that is held."""
        stream = self.outlet.leftover
        if stream is not None:
            stream.dropped = True
            stream.held = stream.bytes = 0
            self.traffic.drop_leftover(now)
            self.outlet.count_held()

    def end_leftover(self) -> None:
        """The leftover's channels are closed."""
        self.outlet.leftover = None
        self.outlet.count_held()

    # Messages ----------------------------------------------------------------------------------------

    def deliveries(self, buf: bytes, spans: list[Span], now: float) -> None:
        """Messages from the source. The hot path."""
        outlet = self.outlet
        stream = outlet.source
        if self.traffic.frozen or stream is None:
            return
        outlet.now = now
        if len(buf) > LARGE:
            outlet.large = True
        if self._by_routing_key:
            self._deliveries_by_routing_key(stream, buf, spans)
            return
        find, limit, route = stream.finder.find, stream.fitter.limit, self.traffic.table.route
        partitions, counts, last = len(route), outlet.counts, outlet.last
        out = outlet.frames.append
        enter_tag, enter_lane = stream.ledger.tags.append, stream.ledger.lanes.append
        for tag, method_at, header_at, end in spans:
            key = find(buf, header_at, end, b"")
            if key is not None:
                partition = crc32(key) % partitions
                lane = route[partition]
                if (
                    lane.room > 0
                    and not buf[header_at + 20] & 0x10  # no user_id
                    and not buf[method_at + 20 + buf[method_at + 11]] & 1  # not redelivered
                    and end - header_at <= limit
                ):
                    lane.room -= 1
                    out(lane.publish)
                    out(buf[header_at:end])
                    enter_tag(tag)
                    enter_lane(lane)
                    counts[partition] += 1
                    last[partition] = now
                else:
                    self._aside(stream, tag, partition, buf[header_at:end], mark_of(buf, method_at))
            else:
                self._keyless(stream, buf, (tag, method_at, header_at, end))

    def fetched(self, buf: bytes, spans: list[Span], now: float) -> None:
        """Messages of the leftover."""
        outlet = self.outlet
        stream = outlet.leftover
        if self.traffic.frozen or stream is None or stream.dropped:
            return
        outlet.now = now
        if len(buf) > LARGE:
            outlet.large = True
        find, partitions = stream.finder.find, len(outlet.counts)
        for span in spans:
            tag, method_at, header_at, end = span
            key = find(buf, header_at, end, routing_key_at(buf, method_at))
            if key is not None:
                self._aside(stream, tag, crc32(key) % partitions, buf[header_at:end], mark_of(buf, method_at))
            else:
                self._keyless(stream, buf, span)

    def confirms(self, stream: Stream, confirms: list[tuple[int, bool, bool]], now: float) -> bytes:
        """The broker's answers to what was published. Answers acks, as frames.

        Raises ProtocolError where the broker answers nonsense.
        """
        refused = stream.ledger.confirm(confirms)
        self.outlet.confirmed(stream.ledger, now)
        for lane in refused:
            self._went_wrong(lane, SetAside.REJECTED, "the broker refused (basic.nack) a message")
        return b"" if self.fault is not None else stream.acks()

    def returned(self, stream: Stream, routing_key: str, text: str) -> None:
        """A message came back: nothing is bound to take it."""
        if routing_key in self._returned:
            return  # All that was on its way to the lane is tainted, and nothing has followed it.
        self._returned.add(routing_key)
        lanes = set(stream.ledger.lanes)
        found = [lane for lane in lanes if lane.routing_key == routing_key]
        for lane in found or lanes:
            for each in self.outlet.streams:
                each.ledger.taint(lane)
        if not found:
            self._fail(f"a message came back for {routing_key!r}, which was not published to: {text}")
        for lane in found:
            self._went_wrong(lane, SetAside.RETURNED, text)

    # What follows --------------------------------------------------------------------------------------

    def take(self, now: float) -> list[bytes]:
        """Frames to be written where we publish, in few pieces. To be called after everything else."""
        return self.outlet.take(now)

    def go_on(self, now: float) -> None:
        """Let go more of what is held, after `Outlet.more` or when no longer `Outlet.choked`."""
        self.outlet.more = False
        self.traffic.refill_all(now)

    def tick(self, now: float) -> list[tuple[Stream, bytes]]:
        """To be called some times a second. Answers acks, as frames."""
        self.outlet.now = now
        self.traffic.refill_waiting(now)
        if self.frozen:
            return []
        self._relieve(now)
        acks = [(stream, stream.ledger.tick(now)) for stream in self.outlet.streams]
        return [(stream, frames) for stream, frames in acks if frames]

    def oldest(self, now: float) -> float:
        """Seconds for which the oldest message has been unacked in our hands, at least."""
        waits = [stream.ledger.stuck_for(now) for stream in self.outlet.streams]
        return max(self.traffic.oldest(now), *waits, 0.0)

    # Inside: one message -------------------------------------------------------------------------------

    def _deliveries_by_routing_key(self, stream: Stream, buf: bytes, spans: list[Span]) -> None:
        partitions = len(self.outlet.counts)
        for tag, method_at, header_at, end in spans:
            key = routing_key_at(buf, method_at)
            # The member's queue is reached by another key; a fetch has to find this one.
            headers = {ROUTING_KEY_HEADER: key.decode(errors="surrogateescape"), **mark_of(buf, method_at)}
            self._aside(stream, tag, crc32(key) % partitions, buf[header_at:end], headers)

    def _aside(
        self,
        stream: Stream,
        tag: int,
        partition: int,
        content: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Route a message that can't take the straight way."""
        if headers or content[20] & _USER_FLAG or len(content) > stream.fitter.limit:
            fit = self._fit(stream, content, headers)
            if fit is None:
                return
            content = fit
        self.traffic.route(stream, Held(tag, partition, content, self.outlet.now))

    def _keyless(self, stream: Stream, buf: bytes, span: Span) -> None:
        tag, method_at, header_at, end = span
        match self._settings.key.missing:
            case "spread":
                partition = self._spread
                self._spread = (partition + 1) % len(self.outlet.counts)
            case "fixed":
                partition = 0
            case "reject":
                self._reject(stream, buf, span)
                return
        self.statistics.spread += 1
        self._aside(stream, tag, partition, buf[header_at:end], mark_of(buf, method_at))

    def _reject(self, stream: Stream, buf: bytes, span: Span) -> None:
        tag, method_at, header_at, end = span
        routing_key = routing_key_at(buf, method_at)
        reason = stream.finder.why(buf, header_at, end, routing_key)
        headers = {
            REASON_HEADER: str(reason),
            EXCHANGE_HEADER: exchange_at(buf, method_at).decode(errors="surrogateescape"),
            ROUTING_KEY_HEADER: routing_key.decode(errors="surrogateescape"),
            GROUP_HEADER: self._settings.group,
        }
        content = self._fit(stream, *to_keep(buf[header_at:end], headers))
        if content is None:
            return
        self.outlet.frames += (stream.reject_frame, content)
        stream.ledger.tags.append(tag)
        stream.ledger.lanes.append(self._rejects)
        self._rejects.before += 1
        rejects = self.statistics.rejects
        rejects[reason] = rejects.get(reason, 0) + 1

    def _fit(self, stream: Stream, content: bytes, headers: Mapping[str, str] | None) -> bytes | None:
        fitter = stream.fitter
        moved = fitter.users_moved
        try:
            content = fitter.fit(content, headers)
        except ValueError as error:
            self._fail(f"a message can't be published: {error}")
            return None
        self.statistics.users_moved += fitter.users_moved - moved
        return content

    # Inside: the rest ----------------------------------------------------------------------------------

    def _clear(self) -> None:
        self.fault = None
        self.outlet.source = self.outlet.leftover = None
        self.outlet.reset()
        self.outlet.count_held()
        self.traffic.begin_session()
        self._rejects.begin_session()
        self._returned.clear()
        self._blamed.clear()

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
        reject_frame = publish_frame(
            number, self._settings.dead_letter_exchange, self._settings.dead_letter_queue, True
        )
        return Stream(Ledger(number, prefetch), finder, fitter, reject_frame)

    def _make_lane(self, hostname: str) -> Lane:
        settings, outlet = self._settings, self.outlet
        window = Window(settings.window, settings.minimum_window, outlet.now) if settings.window else None
        lane = Lane(hostname, settings.routing_key(hostname), window)
        if outlet.source is not None:
            lane.publish = self._frame(outlet.source.ledger.number, lane)
        if outlet.leftover is not None:
            lane.publish_leftover = self._frame(outlet.leftover.ledger.number, lane)
        return lane

    def _frame(self, number: int, lane: Lane) -> bytes:
        return publish_frame(number, self._settings.exchange, lane.routing_key, True)

    def _relieve(self, now: float) -> None:
        """Where no more can be held and somebody would starve: let windows overflow, else tell."""
        source = self.outlet.source
        if source is None:
            return
        settings = self._settings
        most = min(settings.hold_messages, settings.prefetch)
        exhausted = source.held >= most or source.bytes >= settings.hold_bytes
        outcome = self._relief.check(self.traffic.table.lanes.values(), exhausted, now)
        for lane, count in outcome.overflow:
            self.traffic.overflow(lane, count, now)
        if outcome.overflow or outcome.exhausted:
            self.statistics.exhausted += 1
        if outcome.exhausted:
            self.events.append(HoldExhausted(outcome.exhausted))

    def _went_wrong(self, lane: Lane, reason: SetAside, text: str) -> None:
        if reason is SetAside.RETURNED:
            self.statistics.returns += 1
        else:
            self.statistics.nacks += 1
        if lane is self._rejects:
            self._fail(f"dead-letter queue {lane.routing_key!r}: {reason}: {text}")
            return
        # The lane may be one that was forgotten, and made anew since.
        if lane.hostname not in self._blamed and lane.hostname in self.traffic.table.lanes:
            self._blamed.add(lane.hostname)
            self.traffic.pause(lane.hostname)
            self.events.append(Unroutable(lane.hostname, reason, text))
        self._fail(f"{self._settings.lane} {lane.hostname!r}: {reason}")

    def _fail(self, why: str) -> None:
        if self.fault is None:
            self.fault = why
        self.freeze()
