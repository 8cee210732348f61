"""A model of the broker, as far as order and loss depend on it.

Requeued messages take their old place; a lost connection settles a first part of what was under way on it;
a return comes before the confirm; confirms come late, in order for one queue and in any order over several.
A restart keeps durable queues, up to some message after the last confirmed one. What the types of queues do
differently concerns `basic.nack` and `basic.cancel` with messages unacked, which clients of ours never use.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.world import Pipe, Process, World


@dataclass(slots=True)
class Entry:
    """A message in a queue."""

    position: int
    body: Any
    redelivered: bool = False
    safe: bool = True
    """Confirmed, so that it survives a restart."""

    def __lt__(self, other: "Entry") -> bool:
        return self.position < other.position


OnDelivery = Callable[[Entry], None]


@dataclass(slots=True, eq=False)
class Consumer:
    """A consumer of a queue."""

    channel: "Channel"
    queue: "Queue"
    prefetch: int
    exclusive: bool
    on_delivery: OnDelivery
    on_cancel: Callable[[], None]
    no_ack: bool = False
    unacked: int = 0
    active: bool = True


@dataclass(slots=True, eq=False)
class Queue:
    """A queue."""

    name: str
    durable: bool = True
    owner: "Connection | None" = None
    """The connection it is exclusive to."""
    single_active: bool = False
    """Only its first consumer is delivered messages; the next one is as soon as that one is gone."""
    ready: deque[Entry] = field(default_factory=deque)
    unacked: dict[int, tuple[Entry, Consumer]] = field(default_factory=dict)
    consumers: list[Consumer] = field(default_factory=list)
    positions: int = 0
    confirmed_at: float = 0.0
    turn: int = 0

    @property
    def depth(self) -> int:
        """Messages, ready and unacked."""
        return len(self.ready) + len(self.unacked)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the broker says of a queue."""

    exists: bool
    ready: int = 0
    unacked: int = 0
    consumers: int = 0


class Refused(Exception):
    """The broker does not do it: no such queue, or somebody has it for himself."""


class Channel:
    """A channel: two pipes, and what the client wants to hear of."""

    def __init__(self, broker: "Broker", connection: "Connection") -> None:
        self.broker = broker
        self.connection = connection
        self.to_broker = Pipe(broker.world)
        self.to_client = Pipe(broker.world, connection.process)
        self.open = True
        self.consumers: list[Consumer] = []
        self.confirms = True
        """Whether what is published is confirmed."""
        self.on_return: Callable[[int], None] = lambda seq: None
        self.on_confirm: Callable[[int], None] = lambda seq: None

    def stall(self, until: float) -> None:
        """The network takes nothing any further before then."""
        self.to_broker.stall(until)
        self.to_client.stall(until)

    def publish(self, key: str | None, queue: str | None, body: Any, seq: int) -> None:
        """Publish to the exchange with a key, or to a queue."""
        self.to_broker.send(self.broker.land, self, key, queue, body, seq)

    def ack(self, consumer: Consumer, position: int) -> None:
        """Ack one message."""
        self.to_broker.send(self.broker.ack, consumer, position)

    def ack_all(self, consumer: Consumer, positions: list[int]) -> None:
        """Ack several messages in one go."""
        self.to_broker.send(self.broker.ack_all, consumer, positions)

    def close(self, some: bool = False, flush: bool = True) -> None:
        """Close in good order (all that was sent arrives), or not."""
        if not self.open:
            return
        if flush:
            self.to_broker.flush()
        self.open = False
        self.to_broker.cut(some)
        self.to_client.cut(False)
        self.broker.channel_closed(self)
        if self in self.connection.channels:
            self.connection.channels.remove(self)


class Connection:
    """A connection of a process."""

    def __init__(self, broker: "Broker", process: Process, on_lost: Callable[[], None]) -> None:
        self.broker = broker
        self.process = process
        self.open = True
        self.channels: list[Channel] = []
        self._stalled_until = 0.0
        self._on_lost = on_lost
        self._life = process.life

    def channel(self) -> Channel:
        """Open a channel; to no avail where the broker has closed the connection."""
        channel = Channel(self.broker, self)
        channel.stall(self._stalled_until)
        if self.open:
            self.channels.append(channel)
        else:
            channel.open = channel.to_broker.open = channel.to_client.open = False
        return channel

    def stall(self, until: float) -> None:
        """The network takes nothing any further before then."""
        self._stalled_until = until
        for channel in self.channels:
            channel.stall(until)

    def close(self) -> None:
        """Close in good order."""
        self._end(flush=True)

    def cut(self, notice: float = 0.0) -> None:
        """The broker holds it for lost; the client hears of it later."""
        if self.open:
            self._end(flush=False)
            self.broker.world.after(notice, self.process.run, self._life, self._on_lost, ())

    def _end(self, flush: bool) -> None:
        if not self.open:
            return
        self.open = False
        for channel in list(self.channels):
            channel.close(some=True, flush=flush)
        self.broker.connection_closed(self)


class Broker:
    """The broker.

    Args:
        on_lost: told of every message that ceases to be, with its queue, other than by an ack.
    """

    def __init__(self, world: World, on_lost: Callable[[Any, str], None]) -> None:
        self.world = world
        self.queues: dict[str, Queue] = {}
        self.bindings: dict[str, list[str]] = {}
        self.connections: list[Connection] = []
        self.up = True
        self.scrambled = False
        """Whether confirms of one queue come in any order: with large and small messages mixed they do."""
        self.held_up: Callable[[], float] | None = None
        """Seconds that a message which is routed takes to be in its queue, and those behind it."""
        self.watch_ack: Callable[[str, Any], None] = lambda queue, body: None
        self.watch_closed: Callable[[Connection], None] = lambda connection: None
        self._on_lost = on_lost
        self._starts = 0
        self._on_its_way: dict[str, float] = {}

    # -- topology --------------------------------------------------------------------------------------

    def connect(self, process: Process, on_lost: Callable[[], None]) -> Connection | None:
        """A connection, None while the broker is down."""
        if not self.up:
            return None
        connection = Connection(self, process, on_lost)
        self.connections.append(connection)
        return connection

    def declare(
        self,
        name: str,
        *,
        durable: bool = True,
        owner: Connection | None = None,
        single_active: bool = False,
    ) -> Queue:
        """Declare a queue."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name, durable, owner, single_active)
        return queue

    def delete(self, name: str) -> None:
        """Delete a queue with all that is in it."""
        queue = self.queues.pop(name, None)
        if queue is None:
            return
        for bound in self.bindings.values():
            if name in bound:
                bound.remove(name)
        for entry in [*(entry for entry, _ in queue.unacked.values()), *queue.ready]:
            self._on_lost(entry.body, name)
        queue.unacked.clear()
        queue.ready.clear()
        for consumer in list(queue.consumers):
            self._remove(consumer)
            consumer.channel.to_client.send(consumer.on_cancel)

    def bind(self, queue: str, key: str) -> None:
        """Bind a queue with a key."""
        bound = self.bindings.setdefault(key, [])
        if queue not in bound:
            bound.append(queue)

    def unbind(self, queue: str, key: str) -> None:
        """Take a binding back."""
        bound = self.bindings.get(key, [])
        if queue in bound:
            bound.remove(queue)

    def look(self, name: str) -> Seen:
        """What there is in a queue."""
        queue = self.queues.get(name)
        if queue is None:
            return Seen(False)
        return Seen(True, len(queue.ready), len(queue.unacked), len(queue.consumers))

    # -- messages ----------------------------------------------------------------------------------------

    def put(self, name: str, body: Any) -> None:
        """A producer's message."""
        self._enqueue(self.queues[name], body, safe=True)

    def land(self, channel: Channel, key: str | None, name: str | None, body: Any, seq: int) -> None:
        """A publish arrives."""
        names = self.bindings.get(key, []) if key is not None else [name]
        queues = [self.queues[name] for name in names if name in self.queues]
        if not queues:
            self.world.tell("broker", "returns %s for %s", body, key or name)
            channel.to_client.send(channel.on_return, seq)
            if channel.confirms:
                channel.to_client.send(channel.on_confirm, seq)
            return
        if not channel.confirms:
            for queue in queues:
                self._enqueue(queue, body, safe=False)
            return
        if self.held_up is not None and key is not None:
            for queue in queues if self.up else ():
                at = max(self._on_its_way.get(queue.name, 0.0), self.world.now + self.held_up())
                self._on_its_way[queue.name] = at
                self.world.at(at, self._arrive, channel, queue.name, body, seq, self._starts)
        else:
            self._take(channel, queues, body, seq)

    def _arrive(self, channel: Channel, name: str, body: Any, seq: int, starts: int) -> None:
        """A message that was routed some time ago; lost with its queue, or with the broker, as it was never
        confirmed."""
        if starts != self._starts:
            return
        if name in self.queues:
            self._take(channel, [self.queues[name]], body, seq)
        else:
            self._on_lost(body, name)

    def _take(self, channel: Channel, queues: list[Queue], body: Any, seq: int) -> None:
        entries = []
        at = 0.0
        for queue in queues:
            confirmed_at = self.world.now + self.world.lag()
            if not self.scrambled:
                confirmed_at = queue.confirmed_at = max(queue.confirmed_at, confirmed_at)
            at = max(at, confirmed_at)
            entries.append(self._enqueue(queue, body, safe=False))
        self.world.at(at, self._confirm, channel, seq, entries, self._starts)

    def _confirm(self, channel: Channel, seq: int, entries: list[Entry], starts: int) -> None:
        if starts == self._starts:
            for entry in entries:
                entry.safe = True
            channel.to_client.send(channel.on_confirm, seq)

    def _enqueue(self, queue: Queue, body: Any, safe: bool) -> Entry:
        queue.positions += 1
        entry = Entry(queue.positions, body, safe=safe)
        queue.ready.append(entry)
        self._deliver(queue)
        return entry

    def consume(
        self,
        channel: Channel,
        name: str,
        prefetch: int,
        on_delivery: OnDelivery,
        on_cancel: Callable[[], None],
        *,
        exclusive: bool = False,
        no_ack: bool = False,
    ) -> Consumer:
        """Consume a queue. Raises Refused."""
        queue = self.queues.get(name)
        if queue is None or not channel.open:
            raise Refused(f"no queue {name}")
        if any(other.exclusive for other in queue.consumers) or (exclusive and queue.consumers):
            raise Refused(f"queue {name} is in exclusive use")
        consumer = Consumer(channel, queue, prefetch, exclusive, on_delivery, on_cancel, no_ack)
        queue.consumers.append(consumer)
        channel.consumers.append(consumer)
        self._deliver(queue)
        return consumer

    def cancel(self, consumer: Consumer) -> None:
        """basic.cancel: what it has unacked stays with its channel."""
        self._drop(consumer)
        if consumer.queue.single_active:
            self._deliver(consumer.queue)

    @staticmethod
    def _drop(consumer: Consumer) -> None:
        if consumer in consumer.queue.consumers:
            consumer.queue.consumers.remove(consumer)
        consumer.active = False

    def ack_all(self, consumer: Consumer, positions: list[int]) -> None:
        """Acks of one consumer arrive."""
        for position in positions:
            self.ack(consumer, position)

    def ack(self, consumer: Consumer, position: int) -> None:
        """An ack arrives."""
        found = consumer.queue.unacked.pop(position, None)
        if found is not None:
            consumer.unacked -= 1
            self.watch_ack(consumer.queue.name, found[0].body)
            self._deliver(consumer.queue)

    def _deliver(self, queue: Queue) -> None:
        while queue.ready and queue.consumers:
            consumer = self._with_room(queue)
            if consumer is None:
                return
            entry = queue.ready.popleft()
            if not consumer.no_ack:
                queue.unacked[entry.position] = (entry, consumer)
                consumer.unacked += 1
            consumer.channel.to_client.send(consumer.on_delivery, entry)

    @staticmethod
    def _with_room(queue: Queue) -> Consumer | None:
        """Whose turn it is to be delivered a message."""
        consumers = queue.consumers
        for _ in range(1 if queue.single_active else len(consumers)):
            queue.turn = 0 if queue.single_active else (queue.turn + 1) % len(consumers)
            consumer = consumers[queue.turn]
            if consumer.unacked < consumer.prefetch:
                return consumer
        return None

    # -- ends ------------------------------------------------------------------------------------------

    def channel_closed(self, channel: Channel) -> None:
        """What it had unacked goes back to its place."""
        for consumer in list(channel.consumers):
            queue = consumer.queue
            self._remove(consumer)
            back = [entry for entry, holder in queue.unacked.values() if holder is consumer]
            for entry in back:
                del queue.unacked[entry.position]
                entry.redelivered = True
                insort(queue.ready, entry)
            if back or queue.single_active:
                self._deliver(queue)

    def _remove(self, consumer: Consumer) -> None:
        self._drop(consumer)
        if consumer in consumer.channel.consumers:
            consumer.channel.consumers.remove(consumer)

    def connection_closed(self, connection: Connection) -> None:
        """Its exclusive queues go."""
        if connection in self.connections:
            self.connections.remove(connection)
        self.watch_closed(connection)
        for queue in [queue for queue in self.queues.values() if queue.owner is connection]:
            self.delete(queue.name)

    def restart(self, down: float, notice: Callable[[], float]) -> None:
        """Everybody loses the connection; what was not confirmed may be lost, from the end on."""
        self.up = False
        self._starts += 1
        for connection in list(self.connections):
            connection.cut(notice())
        for queue in list(self.queues.values()):
            if not queue.durable:
                self.delete(queue.name)
                continue
            last_safe = max((at for at, entry in enumerate(queue.ready, 1) if entry.safe), default=0)
            for _ in range(self.world.rng.randint(0, len(queue.ready) - last_safe)):
                queue.ready.pop()
            for entry in queue.ready:
                entry.safe = True
        self.world.after(down, self._up)

    def _up(self) -> None:
        self.up = True
        self.world.tell("broker", "is up again")
