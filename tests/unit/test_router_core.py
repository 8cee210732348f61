"""The core against a model broker, over random schedules: order, acks, nothing lost, nothing repeated."""

from collections import deque
from collections.abc import Callable
from random import Random

import pytest
from router_model import Message, QueueChannel, partition, split_by_channel

from partymq.group.key import KeyRule
from partymq.group.names import member_key
from partymq.router import outlet
from partymq.router.core import Core
from partymq.router.events import Depth, Unroutable
from partymq.router.settings import RouterSettings
from partymq.router.statistics import Statistics

PARTITIONS = 8
MEMBERS = ("a", "b", "c")
SOURCE, LEFTOVER = 3, 7


@pytest.fixture(autouse=True)
def _burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "BURST", outlet.BURST)


class World:
    """A router's core, the broker around it, and a coordinator that does anything at any time."""

    def __init__(self, seed: int, *, messages: int = 600, faults: bool = True) -> None:
        self.random = random = Random(seed)
        outlet.BURST = random.choice([200, 4 * 2**20])  # restored by a fixture
        self.faults = faults
        prefetch = random.choice([5, 40, 200])
        self.settings = RouterSettings(
            group="g",
            source_queue="source",
            exchange="partymq.ex.write",
            dead_letter_queue="dead",
            partitions=PARTITIONS,
            key=KeyRule("header", "partitionKey"),
            prefetch=prefetch,
            hold_messages=max(1, prefetch // 2),
            hold_bytes=random.choice([2000, 10**6]),
            fetch_prefetch=random.choice([1, 7, 100]),
            window=random.choice([0.0, 0.5]),
        )
        self.now = 100.0
        self.core = Core(self.settings, Statistics(), self.now)
        keys = [f"key{number}".encode() for number in range(20)]
        self.messages = [Message(number, random.choice(keys)) for number in range(messages)]
        self.source = QueueChannel(SOURCE, deque(self.messages), prefetch, PARTITIONS)
        self.leftover: QueueChannel | None = None
        self.fetching = False
        self.dropped = False
        self.leftovers = 0
        self.queues: dict[str, list[int]] = {member_key(name): [] for name in MEMBERS}
        self.confirmed: dict[int, int] = {}
        self.owners: dict[int, str] = {}
        self.locked: set[int] = set()
        self.paused: set[str] = set()
        self.broken: set[str] = set()
        self.refusing: set[str] = set()
        self.last: dict[int, int] = {}
        self.allowed: set[str] = set()
        self.session = 0
        self.by_number = {message.number: message for message in self.messages}
        self.assign(dict.fromkeys(range(PARTITIONS), "a"))
        self.begin()

    # What the coordinator does ------------------------------------------------------------------------

    def assign(self, owners: dict[int, str], locked: bool = False) -> None:
        self.owners.update(owners)
        if locked:
            self.locked |= owners.keys()
        else:
            self.locked -= owners.keys()
        self.core.traffic.assign(owners, locked, self.now)
        self.flush()

    def command(self) -> None:
        random, core = self.random, self.core
        name = random.choice(MEMBERS)
        movable = [number for number in range(PARTITIONS) if number not in self.locked]
        match random.randint(0, 10):
            case 0 | 1:
                self.paused.add(name)
                core.traffic.pause(name)
            case 2 | 3 | 4:
                self.paused.discard(name)
                self.broken.discard(name)
                self.refusing.discard(name)
                core.traffic.resume(name, self.now)
            case 5 | 6 if movable:
                moved = random.sample(movable, random.randint(1, len(movable)))
                self.assign({number: random.choice(MEMBERS) for number in moved})
            case 7 if movable:
                if not self.locked:
                    self.lock_and_fetch(random.sample(movable, random.randint(1, min(3, len(movable)))))
                else:
                    moved = random.sample(sorted(self.locked), 1)
                    self.assign({number: random.choice(MEMBERS) for number in moved}, locked=True)
            case 8:
                self.allowed.add(name)
                core.traffic.give_way(name, self.now)
                self.flush()
                if core.outlet.choked or core.outlet.more:
                    return
                self.allowed.discard(name)
            case 10 if random.random() < 0.3:
                core.traffic.forget(name, self.now)
                self.owners = {at: "" if owner == name else owner for at, owner in self.owners.items()}
                self.paused.discard(name)
            case 9 if self.faults:
                (self.broken if random.random() < 0.5 else self.refusing).add(name)
        self.flush()

    def lock_and_fetch(self, partitions: list[int]) -> None:
        """As after a member's death: partitions go to others, locked, and its queue is fetched."""
        self.assign({number: self.random.choice(MEMBERS) for number in partitions}, locked=True)
        self.leftovers += 1
        keys = {m.key for m in self.messages if partition(m, PARTITIONS) in partitions}
        base = -1000 * self.leftovers
        left = [
            Message(base + n, self.random.choice(sorted(keys))) for n in range(self.random.randint(0, 60))
        ]
        self.by_number |= {message.number: message for message in left}
        self.left_numbers = [message.number for message in left]
        for number in partitions:
            self.last.pop(number, None)  # from here on the older ones come first
        self.leftover = QueueChannel(LEFTOVER, deque(left), self.settings.fetch_prefetch, PARTITIONS)
        self.begin_fetch()

    def begin_fetch(self) -> None:
        if self.core.frozen:
            return
        self.fetching, self.dropped = True, False
        self.core.begin_leftover(LEFTOVER, "guest", 131_072, 131_072)

    def end_fetch(self) -> None:
        """When all is done the partitions are unlocked; when it was given up it starts anew."""
        leftover, stream = self.leftover, self.core.outlet.leftover
        assert leftover is not None
        if not self.fetching or stream is None or not stream.is_settled:
            return
        if self.dropped:
            leftover.ack(stream.ledger.last_acks(), self.confirmed)
            confirmed = {each.number for each in leftover.published if each.outcome == "confirmed"}
            assert not confirmed & {message.number for message in leftover.unacked.values()}
            leftover.requeue()
            self.core.end_leftover()
            for number in self.locked:
                self.last.pop(number, None)
            self.begin_fetch()
        elif not leftover.queue and not leftover.unacked:
            self.core.end_leftover()
            self.fetching = False
            self.leftover = None
            self.core.traffic.unlock(self.locked, self.now)
            self.locked = set()
            self.flush()

    # What the broker does --------------------------------------------------------------------------------

    def flush(self) -> None:
        """Everything the core has to say, checked."""
        core = self.core
        for event in core.events:
            if isinstance(event, Unroutable):
                lane = core.traffic.table.lanes.get(event.hostname)
                if lane is not None:
                    assert lane.paused
                    self.paused.add(event.hostname)
        core.events.clear()
        for _ in range(100):
            raw = b"".join(core.take(self.now))
            for number, part in split_by_channel(raw).items():
                channel = self.source if number == SOURCE else self.leftover
                assert channel is not None
                for published in channel.receive(part):
                    self.check(published.number, published.routing_key, channel)
                    if published.routing_key in map(member_key, self.broken):
                        published.outcome = "returned"
            if not core.outlet.more or core.outlet.choked:
                break
            core.go_on(self.now)
        if core.outlet.source is not None:
            self.source.ack(b"" if core.fault else core.outlet.source.acks(), self.confirmed)
        if core.outlet.leftover is not None and self.leftover is not None:
            self.leftover.ack(b"" if core.fault else core.outlet.leftover.acks(), self.confirmed)

    def check(self, number: int, routing_key: str, channel: QueueChannel) -> None:
        message = self.by_number[number]
        at = partition(message, PARTITIONS)
        owner = self.owners[at]
        assert routing_key == member_key(owner), f"{message} went past its owner {owner}"
        assert owner not in self.paused or owner in self.allowed, f"{message} went to paused {owner}"
        assert number > self.last.get(at, -(10**9)), f"{message} after {self.last[at]}"
        self.last[at] = number
        if channel is self.source:
            assert at not in self.locked, f"{message} of locked partition {at}"

    def confirm(self, count: int) -> None:
        for channel, stream in (
            (self.source, self.core.outlet.source),
            (self.leftover, self.core.outlet.leftover),
        ):
            if channel is None or stream is None:
                continue
            for published in channel.published:
                if published.outcome == "returned" and not published.settled:
                    self.core.returned(stream, published.routing_key, "NO_ROUTE")
                    published.outcome = "came back"
            outcome = "confirmed"
            pending = {each.routing_key for each in channel.published if not each.settled}
            if pending & set(map(member_key, self.refusing)) and self.random.random() < 0.2:
                outcome = "refused"
            confirms = channel.answer(self.random, count, outcome)
            for published in channel.published:
                if published.settled and published.outcome == "confirmed" and published.raw != b"":
                    self.confirmed[published.number] = self.confirmed.get(published.number, 0) + 1
                    self.queues[published.routing_key].append(published.number)
                    published.raw = b""
            if confirms:
                channel.ack(self.core.confirms(stream, confirms, self.now), self.confirmed)
        self.flush()

    def deliver(self) -> None:
        count = self.random.randint(1, 60)
        if self.random.random() < 0.5:
            buf, spans = self.source.deliver(count)
            if spans:
                self.core.deliveries(buf, spans, self.now)
        elif self.leftover is not None and self.fetching:
            buf, spans = self.leftover.deliver(count)
            if spans:
                self.core.fetched(buf, spans, self.now)
        self.flush()

    # Sessions -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.session += 1
        self.last = {}
        self.core.begin(SOURCE, "guest", 131_072, 131_072, self.now)
        self.flush()
        if self.leftover is not None:
            self.begin_fetch()

    def end(self, how: str) -> None:
        """`cut`: nothing more is heard of the broker; else confirms are awaited and the rest acked."""
        core = self.core
        faulty = core.fault is not None
        core.freeze()
        if how != "cut":
            for _ in range(10_000):
                if not core.outstanding:
                    break
                self.confirm(50)
            assert not core.outstanding
            for channel, stream in ((self.source, core.outlet.source), (self.leftover, core.outlet.leftover)):
                if channel is not None and stream is not None:
                    channel.ack(stream.ledger.last_acks(), self.confirmed)
                    back = {message.number for message in channel.unacked.values()}
                    sent = {each.number for each in channel.published}
                    if not faulty and core.fault is None:
                        assert not back & sent, "a planned end repeats"
                    bad = {each.number for each in channel.published if each.outcome != "confirmed"}
                    assert bad <= back
        self.source.requeue()
        if self.leftover is not None:
            self.leftover.requeue()
        self.fetching = False
        core.end()
        assert core.statistics.held_messages == core.statistics.held_bytes == 0
        self.begin()

    def fetch_step(self) -> None:
        if self.leftover is None:
            return
        if self.fetching and not self.dropped and self.random.random() < 0.05:
            self.core.drop_leftover(self.now)
            self.dropped = True
            self.flush()
        self.end_fetch()

    def tick(self) -> None:
        self.now += self.random.choice([0.01, 0.05, 0.3, 3.0])
        for stream, acks in self.core.tick(self.now):
            channel = self.source if stream is self.core.outlet.source else self.leftover
            assert channel is not None
            channel.ack(acks, self.confirmed)
        self.flush()

    def observe(self) -> None:
        name = self.random.choice(MEMBERS)
        depth = Depth(self.random.choice([0, 0, 3, 100]), self.random.choice([None, 0, 5]), 1)
        self.core.traffic.observe(name, depth, self.now)
        self.flush()

    def choke(self) -> None:
        self.core.outlet.choked = not self.core.outlet.choked
        if not self.core.outlet.choked:
            self.core.go_on(self.now)
            self.flush()
            self.allowed.clear()

    def step(self) -> None:
        steps: list[tuple[float, Callable[[], None]]] = [
            (6, self.deliver),
            (5, lambda: self.confirm(self.random.randint(1, 40))),
            (2, self.command),
            (2, self.tick),
            (1, self.observe),
            (1, self.fetch_step),
            (0.1, self.choke),
            (0.03, lambda: self.end("stop")),
        ]
        if self.faults:
            steps.append((0.03, lambda: self.end("cut")))
        step = self.random.choices([step for _, step in steps], [weight for weight, _ in steps])[0]
        step()
        if self.core.fault is not None and self.random.random() < 0.3:
            self.end("fault" if self.random.random() < 0.9 else "cut")
        self.invariants()

    def invariants(self) -> None:
        core = self.core
        for lane in core.traffic.table.lanes.values():
            assert lane.room >= 0
            assert not (lane.room and (lane.held or lane.leftover)), lane
            assert not (lane.room and lane.paused), lane
            for queue in (lane.held, lane.leftover):
                assert [held.tag for held in queue] == sorted(held.tag for held in queue)
        source = core.outlet.source
        assert source is not None
        in_hand = sum(len(lane.held) for lane in core.traffic.table.lanes.values())
        in_hand += sum(map(len, core.traffic._parked.values()))
        assert source.held == in_hand
        assert sum(core.traffic.held_by_partition().values()) == in_hand
        if not core.frozen:
            published = {each.number for each in self.source.published}
            waiting = {message.number for message in self.source.unacked.values()} - published
            assert in_hand == len(waiting)

    def finish(self) -> None:
        """All faults are gone, everybody takes part: everything arrives."""
        self.broken.clear()
        self.refusing.clear()
        self.core.outlet.choked = False
        self.faults = False
        for at, owner in list(self.owners.items()):
            if not owner:
                self.assign({at: "a"}, at in self.locked)
        for _ in range(20_000):
            if not (self.source.queue or self.source.unacked or self.leftover):
                break
            if self.core.fault:
                self.end("fault")
            self.paused.clear()
            for name in MEMBERS:
                self.core.traffic.resume(name, self.now)
            self.deliver()
            self.confirm(100)
            for name in MEMBERS:
                self.core.traffic.observe(name, Depth(0, 0, 1), self.now)
            self.flush()
            self.tick()
            if self.leftover is not None:
                self.end_fetch()
        else:
            raise AssertionError(f"stuck: {self.core!r}")
        arrived = {number for queue in self.queues.values() for number in queue}
        assert arrived == self.by_number.keys()


@pytest.mark.parametrize("seed", range(150))
def test_whatever_happens_order_is_kept_and_nothing_is_lost(seed: int) -> None:
    world = World(seed)
    for _ in range(400):
        world.step()
    world.finish()


@pytest.mark.parametrize("seed", range(1000, 1050))
def test_without_faults_nothing_is_repeated(seed: int) -> None:
    world = World(seed, faults=False)
    for _ in range(400):
        world.step()
    world.finish()
    arrived = [number for queue in world.queues.values() for number in queue]
    assert len(arrived) == len(world.by_number)
