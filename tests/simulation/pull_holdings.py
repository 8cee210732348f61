"""What a member has of its partitions: the real lanes, and handlers that take time, fail, are tried again.

As `client/holdings.py`, `partition.py` and `runner.py` do it with IO.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from partymq.client.guard import Guard
from partymq.client.lanes import Item as Delivery
from partymq.client.lanes import Lanes, State, Stream
from tests.simulation.broker import Channel, Connection, Consumer, Entry
from tests.simulation.message import Message
from tests.simulation.pull_scene import Scene
from tests.simulation.world import Process

_ACK_INTERVAL = 0.005
_MOST_ATTEMPTS = 3
_IDLE = 0.5
_RETRY = 0.2

Ended = Callable[[list[int]], None]
"""Is told partitions that have been given up."""


@dataclass(frozen=True, slots=True)
class Work:
    """How a member handles messages. Times in seconds.

    threads: its handlers can't be cancelled.
    """

    concurrency: int
    prefetch: int
    duration: float
    failing: float
    hook: float
    threads: bool


class Item(Delivery):
    """A delivery with its message."""

    __slots__ = ("payload",)

    def __init__(self, stream: Stream, tag: int, key: bytes, payload: Message) -> None:
        super().__init__(stream, tag, key)
        self.payload = payload


@dataclass(slots=True, eq=False)
class Holding:
    """A partition from the moment it is gained until it is given up or lost."""

    who: str
    partition: int
    token: int
    channel: Channel
    guard: Guard
    stream: Stream = field(default_factory=Stream)
    consumer: Consumer | None = None
    positions: dict[int, int] = field(default_factory=dict)
    """Of messages not acknowledged, by delivery tag."""
    tags: int = 0
    dirty: bool = False
    lost: bool = False
    known_since: float | None = None
    """Since when the broker has the consumer; None until that is known."""
    proven: bool = False
    aside: list[Item] = field(default_factory=list)
    on_idle: Callable[[], None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the broker holds its member for alive."""
        return self.channel.connection.open


class Holdings:
    """All partitions of one process of a member."""

    def __init__(self, scene: Scene, process: Process, keys: list[bytes], work: Work) -> None:
        self._scene = scene
        self._process = process
        self._keys = keys
        self._work = work
        self.lanes: Lanes = scene.parts.lanes(work.concurrency)
        self.holdings: dict[int, Holding] = {}
        self._guard: Guard | None = None
        self._over: set[str] = set()
        self._idle_since: dict[int, float] = {}

    # -- as the ownership wants it -------------------------------------------------------------------------

    def gain(
        self,
        who: str,
        connection: Connection,
        partitions: dict[int, int],
        guard: Guard,
        then: Callable[[], None],
    ) -> None:
        """Consume these; `then` is called when the broker knows all the consumers."""
        if self._guard is not guard:
            self._guard = guard
            self.heed()
        opening = set(partitions)

        def opened(partition: int) -> None:
            opening.discard(partition)
            if not opening:
                then()

        for partition, token in sorted(partitions.items()):
            assert partition not in self.holdings
            holding = Holding(who, partition, token, connection.channel(), guard)
            holding.stream.owner = holding
            self.holdings[partition] = holding
            holding.channel.to_broker.send(self._consume, holding, opened)

    def _consume(self, holding: Holding, opened: Callable[[int], None]) -> None:
        if not holding.channel.open:
            return
        broker = self._scene.broker
        queue = self._scene.queue(holding.partition)
        if not broker.look(queue).exists:
            self._process.timer(self._scene.world.lag(), self._not_there, holding, opened)
            return

        def delivered(entry: Entry) -> None:
            self._delivered(holding, entry)

        others = broker.look(queue).consumers
        self._scene.oracle.consumes(holding.who, holding.partition, holding.token, others)
        holding.channel.to_client.send(self._opened, holding, opened)
        holding.consumer = broker.consume(
            holding.channel, queue, self._work.prefetch, delivered, lambda: None
        )

    def _opened(self, holding: Holding, opened: Callable[[int], None]) -> None:
        holding.known_since = self._scene.world.now
        self._prove(holding)
        opened(holding.partition)

    def _prove(self, holding: Holding) -> None:
        since = holding.known_since
        if holding.proven or since is None or not holding.guard.prove(since):
            return
        holding.proven = True
        waiting, holding.aside = holding.aside, []
        if not holding.stream.dropped:
            for item in waiting:
                self.lanes.add(item)
            self._pump()

    def heed(self) -> None:
        """The guard has closed or opened, or may have proof of more."""
        for holding in self.holdings.values():
            self._prove(holding)
        if self._guard is not None and self._guard.closed:
            self.lanes.halt()
        else:
            self.lanes.go_on()
            self._pump()

    def _not_there(self, holding: Holding, opened: Callable[[int], None]) -> None:
        """It is owned, and tried again and again, until it is given up."""
        opened(holding.partition)

        def again() -> None:
            if self.holdings.get(holding.partition) is holding and not holding.stream.dropped:
                holding.channel.to_broker.send(self._consume, holding, lambda _: None)

        self._process.timer(_RETRY, again)

    def idle(self, partitions: Collection[int]) -> tuple[int, ...]:
        """Those of these of which there has been nothing for a while."""
        now = self._scene.world.now
        self._idle_since = {
            identity: self._idle_since.get(identity, now)
            for identity in partitions
            if identity in self.holdings
            and not self.holdings[identity].stream
            and not self.holdings[identity].aside
        }
        return tuple(identity for identity, since in self._idle_since.items() if now - since >= _IDLE)

    def revoke(self, partitions: Collection[int], ended: Ended) -> None:
        """Give these up: start nothing more, wait for what runs, acknowledge, close the channel. Those that
        get idle while others are on their way out go together after them."""
        leaving = [self.holdings[number] for number in partitions if number in self.holdings]
        quiet: list[Holding] = []
        going = False

        def idle(holding: Holding) -> None:
            nonlocal going
            holding.on_idle = None
            quiet.append(holding)
            if not going:
                going = True
                self._process.timer(0.0, go)

        def go() -> None:
            batch = quiet.copy()
            quiet.clear()
            self._process.timer(self._work.hook, self._close, batch, gone)

        def gone(numbers: list[int]) -> None:
            nonlocal going
            going = bool(quiet)
            ended(numbers)
            if going:
                go()

        for holding in leaving:
            self._drop(holding)
            holding.on_idle = lambda holding=holding: idle(holding)
        self._pump()
        for holding in leaving:
            if self._scene.parts.releases_early:
                idle(holding)
            self._check_idle(holding)
        missing = [number for number in partitions if number not in self.holdings]
        if missing:
            ended(missing)

    def lose(self, who: str) -> None:
        """The connection is gone, and everything with it."""
        self._over.add(who)
        lost, self.holdings = self.holdings, {}
        self._guard = None
        self.lanes.go_on()
        if self._scene.parts.forgets_loss:
            return
        for holding in lost.values():
            holding.lost = True
            for item in self.lanes.forget(holding.stream):
                if not self._work.threads:
                    item.run = None
                    self._process.timer(0.0, self.lanes.leave, item)
        self._process.timer(0.0, self._pump)

    # -- messages ------------------------------------------------------------------------------------------

    def _delivered(self, holding: Holding, entry: Entry) -> None:
        assert holding.consumer is not None
        if self._scene.parts.acks_early:
            holding.channel.ack(holding.consumer, entry.position)
        if holding.stream.dropped:
            return
        message: Message = entry.body
        holding.tags += 1
        holding.positions[holding.tags] = entry.position
        item = Item(holding.stream, holding.tags, self._keys[message.key], message)
        if not holding.proven:
            holding.aside.append(item)
            return
        self.lanes.add(item)
        self._pump()

    def _pump(self) -> None:
        if self._guard is not None and self._scene.world.now > self._guard.until:
            self.lanes.halt()
        while (item := self.lanes.start()) is not None:
            self._begin(item)

    def _begin(self, item: Item) -> None:
        holding: Holding = item.stream.owner
        oracle, rng = self._scene.oracle, self._scene.world.rng
        if holding.who in self._over:
            oracle.fail("%s handles %s, and knows that its connection is gone", holding.who, item.payload)
        if item.attempt == 1:
            handles = oracle.handles if holding.alive else oracle.zombie_handles
            self._scene.world.tell(
                holding.who, "handles %s of %d (token %d)", item.payload, holding.partition, holding.token
            )
            handles(holding.who, item.payload, holding.partition, holding.token)
        item.run = run = object()
        self._process.timer(self._work.duration * rng.expovariate(1.0), self._ended, item, run)

    def _ended(self, item: Item, run: object) -> None:
        if item.run is not run:
            return  # cancelled
        holding: Holding = item.stream.owner
        rng = self._scene.world.rng
        if holding.lost:
            self.lanes.leave(item)
        elif item.attempt < _MOST_ATTEMPTS and rng.random() < self._work.failing:
            if self.lanes.hold(item):
                self._process.timer(rng.uniform(0.02, 0.5), self._resume, item)
            else:
                self._given_back(holding, item)
        else:
            self.lanes.finish(item)
            if holding.alive:
                self._scene.oracle.finishes(holding.who, item.payload)
            self._flush_soon(holding)
        self._check_idle(holding)
        self._pump()

    def _resume(self, item: Item) -> None:
        self.lanes.resume(item)
        self._pump()

    def _drop(self, holding: Holding) -> None:
        for item in holding.stream.items():
            if item.attempt and item.state in (State.HELD, State.READY):
                self._given_back(holding, item)
        self.lanes.drop(holding.stream)

    def _given_back(self, holding: Holding, item: Item) -> None:
        if holding.alive:
            self._scene.oracle.gives_back(holding.who, item.payload)

    @staticmethod
    def _check_idle(holding: Holding) -> None:
        if holding.on_idle is not None and not holding.stream.running and not holding.lost:
            holding.on_idle()

    # -- acknowledgements and the end ----------------------------------------------------------------------

    def _flush_soon(self, holding: Holding) -> None:
        if not holding.dirty:
            holding.dirty = True
            self._process.timer(_ACK_INTERVAL, self._flush, holding)

    def _flush(self, holding: Holding, all_now: bool = False) -> None:
        holding.dirty = False
        upto, alone = holding.stream.acks(all_now=all_now)
        positions = holding.positions
        tags = [tag for tag in positions if tag <= upto] + alone
        if tags and holding.consumer is not None:
            holding.channel.ack_all(holding.consumer, [positions.pop(tag) for tag in tags])
        if holding.stream.done:
            self._flush_soon(holding)

    def _close(self, leaving: list[Holding], ended: Ended) -> None:
        """The broker has acks, and everything else back in order, before anybody is told."""
        open_still = {holding.partition for holding in leaving if not holding.lost}

        def closed(holding: Holding) -> None:
            holding.channel.close()
            self._process.timer(self._scene.world.lag(), gone, holding)

        def gone(holding: Holding) -> None:
            if self.holdings.get(holding.partition) is holding:
                del self.holdings[holding.partition]
                open_still.discard(holding.partition)
                if not open_still:
                    ended([holding.partition for holding in leaving])

        for holding in leaving:
            self._flush(holding, all_now=True)
            holding.channel.to_broker.send(closed, holding)
