"""The real router core on the broker model, driven as `partymq.router.session` and `.leftover` drive it."""

from collections.abc import Callable, Iterable, Mapping

from partymq.group.events import Fetched, HoldExhausted, Unroutable
from partymq.group.key import KeyRule
from partymq.router import events as routed
from partymq.router.core import Core
from partymq.router.events import Depth
from partymq.router.settings import RouterSettings
from partymq.router.statistics import Statistics
from partymq.router.stream import Stream
from tests.simulation import frames
from tests.simulation.broker import Broker, Channel, Connection, Consumer, Entry, Refused, Seen
from tests.simulation.message import SOURCE
from tests.simulation.world import Process, World

RouterEvent = Unroutable | Fetched | HoldExhausted

_SOURCE_CHANNEL = 1
_LEFTOVER_CHANNEL = 2


class Way:
    """A stream with its two channels."""

    def __init__(self, number: int, stream: Stream, publish: Channel, consume: Channel) -> None:
        self.number = number
        self.stream = stream
        self.publish = publish
        self.consume = consume
        self.consumer: Consumer | None = None
        self.tags: dict[int, int] = {}
        """Unacked: position in the queue by delivery tag."""
        self.keys: dict[int, str] = {}
        """Routing keys by publish."""
        self.deadline = 0.0
        self._last_tag = 0
        self._next_seq = 1

    def tag(self, entry: Entry) -> int:
        """The next delivery tag."""
        self._last_tag += 1
        self.tags[self._last_tag] = entry.position
        return self._last_tag

    def send(self, routing_key: str, body: object) -> None:
        """Publish."""
        self.keys[self._next_seq] = routing_key
        self.publish.publish(routing_key, None, body, self._next_seq)
        self._next_seq += 1

    def ack(self, data: bytes) -> None:
        """Ack as the frames say. A tag that was acked before is an error that closes the channel."""
        for tag, multiple in frames.acks(data):
            if tag not in self.tags:
                raise AssertionError(
                    f"tag {tag} is not unacked on channel {self.number}: {sorted(self.tags)}"
                )
            for each in [known for known in self.tags if known == tag or (multiple and known < tag)]:
                position = self.tags.pop(each)
                if self.consumer is not None:
                    self.consume.ack(self.consumer, position)

    def close(self) -> None:
        """First what publishes, then what consumes: all that is unacked goes back."""
        self.publish.close()
        self.consume.close()


class CoreRouter:
    """The face of `partymq.router.Router`, see `RouterModel`, which takes the same arguments."""

    def __init__(
        self,
        world: World,
        broker: Broker,
        process: Process,
        connection: Connection,
        source: Callable[[], Connection | None],
        partitions: int,
        prefetch: int,
        window: int | None,
        on_event: Callable[[RouterEvent], None],
    ) -> None:
        self.world = world
        self.broker = broker
        self.process = process
        self.connection = connection
        self.prefetch = prefetch
        self.running = False
        self.over = False
        self.sessions = 0
        self._source = source
        self._on_event = on_event
        self._partitions = partitions
        settings = RouterSettings(
            group="default",
            source_queue=SOURCE,
            exchange="partymq.ex.write",
            dead_letter_queue="dead",
            partitions=partitions,
            key=KeyRule("header", frames.HEADER),
            prefetch=prefetch,
            hold_messages=max(1, prefetch // 2),
            fetch_prefetch=prefetch,
            window=0.0 if window is None else 0.1 * window,
            minimum_window=window or 1,
        )
        self._settings = settings
        self.core = Core(settings, Statistics(), world.now)
        self._way: Way | None = None
        self._ending = False
        self._starting = False
        self._wanted: tuple[int, str] | None = None
        self._fetch: Way | None = None
        self._fetching: tuple[int, str] | None = None
        self._fetch_ends: str | None = None
        self._tick()

    # -- commands --------------------------------------------------------------------------------------

    def start(self) -> None:
        self.running = True
        self._begin_session()

    def stop(self) -> None:
        self.running = False
        self._wanted = None
        self._end_session("stopped")

    def finish(self) -> None:
        """Stop for good, see `quiet`."""
        self.stop()

    def pause(self, hostname: str) -> None:
        self.core.traffic.pause(hostname)

    def resume(self, hostname: str) -> None:
        self.core.traffic.resume(hostname, self.world.now)
        self._flush()

    def give_way(self, hostname: str) -> None:
        self.core.traffic.give_way(hostname, self.world.now)
        self._flush()

    def assign(self, owners: Mapping[int, str], locked: bool = False) -> None:
        self.core.traffic.assign(owners, locked, self.world.now)
        self._flush()

    def lock(self, partitions: Iterable[int]) -> None:
        self.core.traffic.lock(partitions, self.world.now)
        self._flush()

    def unlock(self, partitions: Iterable[int]) -> None:
        self.core.traffic.unlock(partitions, self.world.now)
        self._flush()

    def forget(self, hostname: str) -> None:
        self.core.traffic.forget(hostname, self.world.now)

    def fetch(self, number: int, queue: str) -> None:
        self._wanted = (number, queue)
        self._see_to_fetch()

    def cancel_fetch(self, number: int) -> None:
        if self._wanted is not None and self._wanted[0] == number:
            self._wanted = None
            self._see_to_fetch()

    def observe(self, hostname: str, seen: Seen) -> None:
        depth = Depth(seen.ready, seen.unacked, seen.consumers)
        self.core.traffic.observe(hostname, depth, self.world.now)
        self._flush()

    # -- questions ---------------------------------------------------------------------------------------

    @property
    def session(self) -> int:
        return 0 if self.core.frozen or self._way is None else self.sessions

    def settled(self, hostname: str) -> bool:
        if self.session == 0:
            return self._way is None and not self.running
        return self.outstanding(hostname) == 0

    def published(self, hostname: str) -> int:
        lane = self.core.traffic.table.lanes.get(hostname)
        return 0 if lane is None else lane.sent - lane.began

    def idle_since(self, partition: int) -> float:
        return self.core.outlet.last[partition]

    def outstanding(self, hostname: str) -> int:
        lane = self.core.traffic.table.lanes.get(hostname)
        return 0 if lane is None else lane.outstanding

    @property
    def quiet(self) -> bool:
        return self._way is None and self._fetch is None

    @property
    def held_messages(self) -> int:
        return self.core.statistics.held_messages

    @property
    def fetching(self) -> bool:
        return self._fetch is not None

    @property
    def locked(self) -> set[int]:
        return self.core.traffic.table.locked

    @property
    def paused(self) -> set[str]:
        return {lane.hostname for lane in self.core.traffic.table.lanes.values() if lane.paused}

    @property
    def owners(self) -> list[str | None]:
        return [lane.hostname or None for lane in self.core.traffic.table.owners]

    # -- sessions --------------------------------------------------------------------------------------

    def _begin_session(self) -> None:
        source = self._source()
        if self._way is not None or not self.running or self.over or not self.connection.open:
            return
        if source is None or not source.open:
            self._retry()
            return
        publish, consume = self.connection.channel(), source.channel()
        core = self.core
        stream = core.begin(_SOURCE_CHANNEL, "guest", frames.FRAME_MAX, frames.FRAME_MAX, self.world.now)
        way = Way(_SOURCE_CHANNEL, stream, publish, consume)
        self._listen(way)
        try:
            way.consumer = self.broker.consume(
                consume,
                SOURCE,
                self.prefetch,
                lambda entry: self._delivered(way, entry),
                lambda: self._end_session("the source was deleted"),
                exclusive=True,
            )
        except Refused:
            core.end()
            way.close()
            self._retry()
            return
        self._way, self._ending = way, False
        self.sessions += 1
        self.world.tell(self.process.name, "router session %d", self.sessions)
        self._see_to_fetch()
        self._flush()

    def _listen(self, way: Way) -> None:
        way.publish.on_return = lambda seq: self._returned(way, seq)
        way.publish.on_confirm = lambda seq: self._confirmed(way, seq)

    def _retry(self) -> None:
        if not self._starting:
            self._starting = True
            self.process.timer(0.2 + 0.2 * self.world.rng.random(), self._try_again)

    def _try_again(self) -> None:
        self._starting = False
        self._begin_session()

    def fail(self, why: str) -> None:
        """Something went wrong with the session."""
        self._end_session(why)

    def source_lost(self) -> None:
        """The connection that the source is consumed on is gone."""
        self._end_session("connection to the source lost")

    def _end_session(self, why: str) -> None:
        if self._way is None or self._ending:
            return
        self._ending = True
        self.core.freeze()
        self.world.tell(self.process.name, "router session %d ends: %s", self.sessions, why)
        if self._fetch is not None:
            self._end_fetch("the session ends")
        self._way.deadline = self.world.now + 0.5
        self._finish_session(self._way)

    def _finish_session(self, way: Way) -> None:
        open_ = way.publish.open and way.consume.open
        if (
            open_
            and self.world.now < way.deadline
            and (way.stream.ledger.outstanding or self._fetch is not None)
        ):
            self.process.timer(0.01, self._finish_session, way)
            return
        if self._fetch is not None:
            self._close_fetch(self._fetch)
        if way.consume.open:
            way.ack(way.stream.ledger.last_acks())
        way.close()
        self.core.end()
        self._way = None
        if self.running:
            self._retry()

    # -- messages ----------------------------------------------------------------------------------------

    def _delivered(self, way: Way, entry: Entry) -> None:
        tag = way.tag(entry)
        buf, spans = frames.delivery(entry.body, self._partitions, way.number, tag, entry.redelivered)
        if way.number == _SOURCE_CHANNEL:
            self.core.deliveries(buf, spans, self.world.now)
        else:
            self.core.fetched(buf, spans, self.world.now)
        self._flush()

    def _flush(self) -> None:
        core, outlet = self.core, self.core.outlet
        while True:
            for piece in outlet.take(self.world.now):
                for number, routing_key, message in frames.publishes(piece):
                    way = self._way if number == _SOURCE_CHANNEL else self._fetch
                    assert way is not None
                    way.send(routing_key, message)
            if not outlet.more:
                break
            core.go_on(self.world.now)
        events, core.events = core.events, []
        for event in events:
            match event:
                case routed.Unroutable(hostname, reason):
                    self._on_event(Unroutable(hostname, reason))
                case routed.HoldExhausted(hostnames):
                    self._on_event(HoldExhausted(hostnames))
        if core.fault is not None:
            self._end_session(core.fault)

    def _confirmed(self, way: Way, seq: int) -> None:
        acks = self.core.confirms(way.stream, [(seq, False, True)], self.world.now)
        if way.consume.open:
            way.ack(acks)
        self._flush()

    def _returned(self, way: Way, seq: int) -> None:
        self.core.returned(way.stream, way.keys[seq], "312 NO_ROUTE")
        self._flush()

    # -- leftovers -----------------------------------------------------------------------------------------

    def _see_to_fetch(self) -> None:
        """Bring what is fetched in line with what is wanted."""
        if self._fetch is not None:
            if self._fetching != self._wanted:
                self._end_fetch("given up")
            return
        source = self._source()
        if self._wanted is None or self.session == 0 or source is None or not source.open:
            return
        if not self.broker.look(self._wanted[1]).exists:
            self._is_fetched(self._wanted)
            return
        publish, consume = self.connection.channel(), source.channel()
        stream = self.core.begin_leftover(_LEFTOVER_CHANNEL, "guest", frames.FRAME_MAX, frames.FRAME_MAX)
        way = Way(_LEFTOVER_CHANNEL, stream, publish, consume)
        self._listen(way)
        self._fetch, self._fetching, self._fetch_ends = way, self._wanted, None
        try:
            way.consumer = self.broker.consume(
                consume,
                self._wanted[1],
                self.prefetch,
                lambda entry: self._delivered(way, entry),
                lambda: None,
                exclusive=True,
            )
        except Refused:
            self._close_fetch(way)
            return
        self.world.tell(self.process.name, "has %s for itself", self._wanted[1])

    def _end_fetch(self, why: str) -> None:
        """Let what is on its way be confirmed and acked, then close."""
        way = self._fetch
        if way is None or self._fetch_ends is not None:
            return
        self._fetch_ends = why
        self.core.drop_leftover(self.world.now)
        self._flush()
        way.deadline = self.world.now + 0.5
        self._finish_fetch(way)

    def _finish_fetch(self, way: Way) -> None:
        if self._fetch is not way:
            return
        open_ = way.publish.open and way.consume.open
        if open_ and way.stream.ledger.outstanding and self.world.now < way.deadline:
            self.process.timer(0.01, self._finish_fetch, way)
            return
        unsure = way.stream.ledger.outstanding > 0
        wanted, done = self._fetching, self._fetch_ends == "done"
        self._close_fetch(way)
        if unsure:
            self.fail("a leftover's messages were not confirmed")
        elif done and wanted is not None and not self.broker.look(wanted[1]).ready:
            self._is_fetched(wanted)

    def _close_fetch(self, way: Way) -> None:
        if way.consume.open:
            way.ack(way.stream.ledger.last_acks())
        way.close()
        self.core.end_leftover()
        self._fetch = None

    def _is_fetched(self, wanted: tuple[int, str]) -> None:
        if self._wanted == wanted:
            self._wanted = None
            self._on_event(Fetched(wanted[0]))

    # -- time ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.over:
            return
        if self.running and self._way is None:
            self._retry()
        core = self.core
        for stream, acks in core.tick(self.world.now):
            way = next(
                (way for way in (self._way, self._fetch) if way is not None and way.stream is stream), None
            )
            if way is not None and way.consume.open:
                way.ack(acks)
        self._flush()
        way = self._fetch
        if way is not None and self._fetch_ends is None and self._fetching is not None:
            seen = self.broker.look(self._fetching[1])
            if not way.consume.open:
                self._end_fetch("its channel is closed")
            elif way.stream.is_settled and seen.ready + seen.unacked == 0:
                self._end_fetch("done")
        self._see_to_fetch()
        self.process.timer(0.1, self._tick)
