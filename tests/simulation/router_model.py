"""What the router promises, in few lines: holds, windows, confirms, acks, sessions, leftovers.

The same face as `partymq.router.Router`; instead of bytes it moves `Message`s of the broker's model.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from partymq.group.events import Fetched, HoldExhausted, Unroutable
from partymq.group.names import member_key
from partymq.group.state import SetAside
from tests.simulation.broker import Broker, Channel, Connection, Consumer, Entry, Refused, Seen
from tests.simulation.message import SOURCE
from tests.simulation.world import Process, World

RouterEvent = Unroutable | Fetched | HoldExhausted


@dataclass(slots=True)
class Line:
    """A publish on its way."""

    entry: Entry
    hostname: str
    partition: int
    confirmed: bool = False


class Session:
    """One publish channel and one consume channel."""

    def __init__(self, number: int, publish: Channel, consume: Channel) -> None:
        self.number = number
        self.publish = publish
        self.consume = consume
        self.consumer: Consumer | None = None
        self.next_seq = 1
        self.lines: dict[int, Line] = {}
        self.order: dict[int, deque[int]] = {}  # by partition, what is not acked yet
        self.unacked = 0
        self.ending = False
        self.returned: set[int] = set()


@dataclass(slots=True)
class Fetch:
    """A leftover being fetched."""

    number: int
    queue: str
    active: bool = True
    source: Channel | None = None
    publish: Channel | None = None
    consumer: Consumer | None = None
    waiting: deque[Entry] = field(default_factory=deque)
    lines: dict[int, Line] = field(default_factory=dict)
    next_seq: int = 1
    cancelled: bool = False
    done: bool = False


class RouterModel:
    """See `partymq.router.Router`.

    Args:
        process: the instance; stopped and killed with it.
        connection: the coordinator's, published on.
        source: gives the connection to consume on, None while there is none.
        partitions, prefetch, window: settings. `window` None: no limit.
        on_event: gets what happens.
    """

    acks_early = False
    """Whether to ack before the confirm: for seeing that it is noticed."""

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
        self._source = source
        self.prefetch = prefetch
        self._window = window
        self._on_event = on_event
        self.owners: list[str | None] = [None] * partitions
        self.locked: set[int] = set()
        self.paused: set[str] = set()
        self.held: list[deque[Entry]] = [deque() for _ in range(partitions)]
        self._idle_since = [world.now] * partitions
        self._credit: dict[str, int] = {}
        self._published: dict[str, int] = {}
        self._current: Session | None = None
        self.sessions = 0
        self.running = False
        self.over = False
        self._starting = False
        self.fetches: list[Fetch] = []
        self._tick()

    # -- commands --------------------------------------------------------------------------------------

    def start(self) -> None:
        self.running = True
        self._begin_session()

    def stop(self) -> None:
        self.running = False
        self._end_session("stop")
        for fetch in self.fetches:
            fetch.active = False  # what is under way is confirmed and acked

    def finish(self) -> None:
        """Stop for good, see `quiet`."""
        self.stop()

    def pause(self, hostname: str) -> None:
        self.paused.add(hostname)

    def resume(self, hostname: str) -> None:
        self.paused.discard(hostname)
        self._flush(hostname)
        self._push_fetches()

    def give_way(self, hostname: str) -> None:
        self._flush(hostname, even_paused=True)

    def assign(self, owners: Mapping[int, str], locked: bool = False) -> None:
        for partition, owner in owners.items():
            self.owners[partition] = owner
            if locked:
                self.locked.add(partition)
            else:
                self.locked.discard(partition)
        for owner in sorted(set(owners.values())):
            self._flush(owner)
        self._push_fetches()

    def lock(self, partitions: Iterable[int]) -> None:
        self.locked.update(partitions)

    def unlock(self, partitions: Iterable[int]) -> None:
        partitions = list(partitions)
        self.locked.difference_update(partitions)
        for owner in sorted({o for p in partitions if (o := self.owners[p]) is not None}):
            self._flush(owner)

    def forget(self, hostname: str) -> None:
        self.owners = [None if owner == hostname else owner for owner in self.owners]
        self.paused.discard(hostname)
        self._credit.pop(hostname, None)

    def observe(self, hostname: str, seen: Seen) -> None:
        if self._window is not None:
            queued = seen.ready + seen.unacked + self.outstanding(hostname)
            self._credit[hostname] = self._window - queued
            self._flush(hostname)

    # -- questions ---------------------------------------------------------------------------------------

    @property
    def session(self) -> int:
        return self._current.number if self._current is not None else 0

    @property
    def fetching(self) -> bool:
        """Whether a leftover is being fetched."""
        return bool(self.fetches)

    def settled(self, hostname: str) -> bool:
        session = self._current
        return (session is None or not session.ending) and not self.outstanding(hostname)

    def published(self, hostname: str) -> int:
        return self._published.get(hostname, 0)

    def idle_since(self, partition: int) -> float:
        return self._idle_since[partition]

    @property
    def quiet(self) -> bool:
        """Whether all is confirmed and acked, after `finish`."""
        return self._current is None and not any(fetch.lines for fetch in self.fetches)

    @property
    def held_messages(self) -> int:
        return sum(map(len, self.held))

    def outstanding(self, hostname: str) -> int:
        """Messages on their way to the member."""
        lines = list(self._current.lines.values()) if self._current is not None else []
        for fetch in self.fetches:
            lines += fetch.lines.values()
        return sum(line.hostname == hostname and not line.confirmed for line in lines)

    # -- sessions --------------------------------------------------------------------------------------

    def _begin_session(self) -> None:
        source = self._source()
        if self._current is not None or not self.running or self.over or not self.connection.open:
            return
        if source is None or not source.open:
            self._retry()
            return
        consume = source.channel()
        session = Session(self.sessions + 1, self.connection.channel(), consume)
        try:
            session.consumer = self.broker.consume(
                consume,
                SOURCE,
                self.prefetch,
                lambda entry: self._delivered(session, entry),
                lambda: self._end_session("the source was deleted"),
                exclusive=True,
            )
        except Refused:
            consume.close()
            session.publish.close()
            self._retry()
            return
        self.sessions += 1
        self._current = session
        session.publish.on_return = lambda seq: self._returned(session, seq)
        session.publish.on_confirm = lambda seq: self._confirmed(session, seq)
        self.world.tell(self.process.name, "router session %d", session.number)

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

    def _end_session(self, why: str) -> None:
        session = self._current
        if session is None or session.ending:
            return
        session.ending = True
        self.world.tell(self.process.name, "router session %d ends: %s", session.number, why)
        self._finish_session(session, self.world.now + 0.5)

    def _finish_session(self, session: Session, deadline: float) -> None:
        waiting = any(not line.confirmed for line in session.lines.values())
        if waiting and session.publish.open and session.consume.open and self.world.now < deadline:
            self.process.timer(0.01, self._finish_session, session, deadline)
            return
        session.publish.close()
        session.consume.close()
        self._current = None
        for held in self.held:
            held.clear()
        self._published.clear()
        if self.running:
            self._retry()

    def source_lost(self) -> None:
        """The connection that the source is consumed on is gone."""
        self._end_session("connection to the source lost")
        for fetch in self.fetches:
            self._reset_fetch(fetch)

    # -- messages ----------------------------------------------------------------------------------------

    def _delivered(self, session: Session, entry: Entry) -> None:
        if session.ending:
            return
        session.unacked += 1
        partition = entry.body.partition
        self.held[partition].append(entry)
        owner = self.owners[partition]
        if owner is not None:
            self._flush(owner)

    def _flush(self, hostname: str, even_paused: bool = False) -> None:
        session = self._current
        if session is None or session.ending or self.over or (hostname in self.paused and not even_paused):
            return
        waiting = [
            (entry.position, partition)
            for partition, owner in enumerate(self.owners)
            if owner == hostname and partition not in self.locked
            for entry in self.held[partition]
        ]
        credit = self._credit.get(hostname, self._window or 1_000_000)
        for _, partition in sorted(waiting):
            if credit <= 0 and not even_paused:
                break
            credit -= 1
            self._send(session, partition, hostname, self.held[partition].popleft())
        if waiting:
            self._credit[hostname] = credit

    def _send(self, session: Session, partition: int, hostname: str, entry: Entry) -> None:
        seq = session.next_seq
        session.next_seq += 1
        session.lines[seq] = Line(entry, hostname, partition)
        session.order.setdefault(partition, deque()).append(seq)
        self._idle_since[partition] = self.world.now
        self._published[hostname] = self._published.get(hostname, 0) + 1
        session.publish.publish(member_key(hostname), None, entry.body, seq)
        if self.acks_early and session.consumer is not None:
            session.consume.ack(session.consumer, entry.position)

    def _returned(self, session: Session, seq: int) -> None:
        session.returned.add(seq)
        line = session.lines[seq]
        self.paused.add(line.hostname)
        self._on_event(Unroutable(line.hostname, SetAside.RETURNED))
        self._end_session(f"{line.entry.body} for {line.hostname} came back")

    def _confirmed(self, session: Session, seq: int) -> None:
        session.lines[seq].confirmed = True
        order = session.order[session.lines[seq].partition]
        while order and session.lines[order[0]].confirmed and order[0] not in session.returned:
            line = session.lines.pop(order.popleft())
            if session.consumer is not None:
                session.consume.ack(session.consumer, line.entry.position)
            session.unacked -= 1

    # -- leftovers -----------------------------------------------------------------------------------------

    def fetch(self, number: int, queue: str) -> None:
        self.fetches.append(Fetch(number, queue))
        self._work_on(self.fetches[-1])

    def cancel_fetch(self, number: int) -> None:
        for fetch in self.fetches:
            if fetch.number == number and not fetch.cancelled:
                fetch.cancelled = True
                self._end_cancelled(fetch)

    def _end_cancelled(self, fetch: Fetch) -> None:
        """Close it when what is on its way is confirmed and acked."""
        if not fetch.lines:
            self._close_fetch(fetch)
            self.fetches.remove(fetch)

    def _work_on(self, fetch: Fetch) -> None:
        """Get hold of the queue, push what came, see whether it is empty."""
        source = self._source()
        earlier = next((other for other in self.fetches if other.number == fetch.number), fetch) is not fetch
        if fetch.done or self.over or earlier:
            return
        if fetch.cancelled:
            self._end_cancelled(fetch)
            return
        if fetch.consumer is None and fetch.active and source is not None and source.open:
            seen = self.broker.look(fetch.queue)
            if not seen.exists or seen.ready + seen.unacked == 0:
                self._fetched(fetch)
                return
            if seen.consumers == 0:
                self._consume_leftover(fetch, source)
        self._push(fetch)

    def _consume_leftover(self, fetch: Fetch, source: Connection) -> None:
        if not self.connection.open:
            return
        fetch.source = channel = source.channel()
        fetch.publish = self.connection.channel()
        fetch.publish.on_return = lambda seq: self._fetch_returned(fetch, seq)
        fetch.publish.on_confirm = lambda seq: self._fetch_confirmed(fetch, seq)
        fetch.consumer = self.broker.consume(
            channel,
            fetch.queue,
            100,
            lambda entry: self._fetch_delivered(fetch, channel, entry),
            lambda: self._reset_fetch(fetch),
            exclusive=True,
        )
        self.world.tell(self.process.name, "has %s for itself", fetch.queue)

    def _fetch_delivered(self, fetch: Fetch, channel: Channel, entry: Entry) -> None:
        if fetch.source is channel:
            fetch.waiting.append(entry)
            self._push(fetch)

    def _push_fetches(self) -> None:
        for fetch in list(self.fetches):
            self._push(fetch)

    def _push(self, fetch: Fetch) -> None:
        if not fetch.active or fetch.cancelled or fetch.publish is None or self.over:
            return
        while fetch.waiting:
            entry = fetch.waiting[0]
            hostname = self.owners[entry.body.partition]
            if hostname is None or hostname in self.paused:
                return
            fetch.waiting.popleft()
            seq = fetch.next_seq
            fetch.next_seq += 1
            fetch.lines[seq] = Line(entry, hostname, entry.body.partition)
            self._published[hostname] = self._published.get(hostname, 0) + 1
            self._idle_since[entry.body.partition] = self.world.now
            fetch.publish.publish(member_key(hostname), None, entry.body, seq)

    def _fetch_returned(self, fetch: Fetch, seq: int) -> None:
        line = fetch.lines.get(seq)
        if line is None:
            return
        self.paused.add(line.hostname)
        self._on_event(Unroutable(line.hostname, SetAside.RETURNED))
        self._reset_fetch(fetch)

    def _fetch_confirmed(self, fetch: Fetch, seq: int) -> None:
        line = fetch.lines.get(seq)
        if line is None:
            return
        line.confirmed = True
        while fetch.lines and (first := next(iter(fetch.lines))) and fetch.lines[first].confirmed:
            done = fetch.lines.pop(first)
            if fetch.source is not None and fetch.consumer is not None:
                fetch.source.ack(fetch.consumer, done.entry.position)

    def _reset_fetch(self, fetch: Fetch) -> None:
        """What is not confirmed goes back to its queue, which is consumed anew at once."""
        active = fetch.active
        self._close_fetch(fetch)
        fetch.active = active
        self._work_on(fetch)

    def _close_fetch(self, fetch: Fetch) -> None:
        for channel in (fetch.publish, fetch.source):
            if channel is not None:
                channel.close()
        fetch.publish = fetch.source = fetch.consumer = None
        fetch.waiting.clear()
        fetch.lines.clear()
        fetch.active = False

    def _ask_whether_fetched(self, fetch: Fetch) -> None:
        """The queue is empty and all of it is confirmed."""
        if fetch.done or fetch.cancelled or not fetch.active or fetch.waiting or fetch.lines:
            return
        seen = self.broker.look(fetch.queue)
        if seen.exists and seen.ready + seen.unacked:
            return
        self._fetched(fetch)

    def _fetched(self, fetch: Fetch) -> None:
        fetch.done = True
        self._close_fetch(fetch)
        self.fetches.remove(fetch)
        self._on_event(Fetched(fetch.number))

    # -- time ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Sometimes: sessions that could not begin, leftovers, what can't be held any more."""
        if self.over:
            return
        if self.running and self._current is None:
            self._retry()
        for fetch in list(self.fetches):
            self._work_on(fetch)
            if fetch.active and fetch.consumer is not None and not fetch.waiting and not fetch.lines:
                self._ask_whether_fetched(fetch)
        self._see_exhaustion()
        self.process.timer(0.1, self._tick)

    def _see_exhaustion(self) -> None:
        session = self._current
        if session is None or session.unacked < self.prefetch:
            return
        counts: dict[str, int] = {}
        for partition, owner in enumerate(self.owners):
            if owner is not None and owner in self.paused and partition not in self.locked:
                counts[owner] = counts.get(owner, 0) + len(self.held[partition])
        hostnames = sorted((name for name, count in counts.items() if count), key=lambda n: (-counts[n], n))
        if hostnames:
            self._on_event(HoldExhausted(tuple(hostnames)))
