"""A consumer's process, as somebody would write it who knows the four calls and an AMQP library."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from partymq.group.names import member_key
from partymq.group.wire import Bind, Heartbeat, MemberCall, Ready, Status, Unbind
from tests.simulation.broker import Broker, Channel, Connection, Consumer, Entry, Refused
from tests.simulation.message import Message
from tests.simulation.oracle import Oracle
from tests.simulation.world import Process, World

HEARTBEAT = 1.0
RECONNECT = 0.4
BROKER_PATIENCE = (1.5, 2.5)
"""Seconds after which the broker gives up a process that says nothing."""

AnswerTo = Callable[[Status | None], None]
CallServer = Callable[["Pod", MemberCall, AnswerTo, Callable[[], bool]], None]


@dataclass(frozen=True, slots=True)
class Habits:
    """How a pod was written.

    naming: `same` durable queue for ever, a `fresh` durable one each start, or one `exclusive` to the
    connection, which goes with it.
    """

    naming: str = "same"
    says_queue: bool = True
    consumes_before_ready: bool = True
    prefetch: int = 5
    work: float = 0.05
    leaves_at_once: bool = False
    """On leaving, whether what it has not begun is left in the queue."""


class Pod(Process):
    """A member.

    Args:
        call: calls the server; the answer is None when none came in time. The last argument says whether the
            caller is still there.
        may_bind: whether nothing is on its way to it. A queue that is bound again in the millisecond in which
            a message comes back, while the next one is on its way already, would get that one first.
        may_consume: whether its queue was not left half moved. A consumer that comes back in the moment in
            which moving a leftover is interrupted would get its second half before anybody gets the first.
    """

    def __init__(
        self,
        world: World,
        broker: Broker,
        oracle: Oracle,
        hostname: str,
        habits: Habits,
        call: CallServer,
        may_bind: Callable[[str], bool],
        may_consume: Callable[[str], bool],
    ) -> None:
        super().__init__(world, hostname)
        self.broker = broker
        self.oracle = oracle
        self.habits = habits
        self._call = call
        self._may_bind = may_bind
        self._may_consume = may_consume
        self.alive = False
        self.leaving = False
        self.starts = 0
        self.queue: str | None = None
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self.consumer: Consumer | None = None
        self._buffer: deque[tuple[Consumer, Entry]] = deque()
        self._works = False
        self.ready = False
        self._calling = False
        self._holds_off_until = 0.0
        self._epoch = 0
        self._chain = 0
        self._empty_since = 0.0
        self._said_goodbye = False

    # -- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The process starts."""
        if self.alive:
            return
        self.alive = True
        self.leaving = self._said_goodbye = False
        self.starts += 1
        self.world.tell(self.name, "starts")
        self._bind_call()

    def _ask(self, call: MemberCall, then: Callable[[Status], None]) -> None:
        chain = self._chain

        def answered(status: Status | None) -> None:
            if chain != self._chain:
                return  # it has begun again meanwhile
            if status is None:
                self.timer(0.3, again)
            else:
                then(status)

        def again() -> None:
            if chain == self._chain:
                self._ask(call, then)

        self._call(self, call, answered, lambda: chain == self._chain)

    def _bind_call(self) -> None:
        self.ready = False
        self._chain += 1
        self._ask(Bind(self.name), lambda status: self._bound())

    def _bound(self) -> None:
        if self.leaving:
            return
        if not self._set_up_queue():
            self.timer(RECONNECT, self._bound)
            return
        if self.habits.consumes_before_ready:
            self._consume()
        self._say_ready()

    def _say_ready(self) -> None:
        queue = self.queue if self.habits.says_queue else None
        self._ask(Ready(self.name, queue), lambda status: self._is_ready())

    def _is_ready(self) -> None:
        if self.leaving:
            return
        self.ready = True
        self._consume()
        self._epoch += 1
        self.timer(HEARTBEAT, self._beat, self._epoch)

    def _beat(self, epoch: int) -> None:
        if self.leaving or epoch != self._epoch:
            return

        def answered(status: Status | None) -> None:
            if self.leaving or epoch != self._epoch:
                return
            if status is Status.UNKNOWN_MEMBER:
                self.world.tell(self.name, "is not known any more, binds again")
                self._epoch += 1
                self._bind_call()
            else:
                self.timer(HEARTBEAT, self._beat, epoch)

        self._call(self, Heartbeat(self.name), answered, lambda: epoch == self._epoch)

    # -- its queue -----------------------------------------------------------------------------------------

    def _set_up_queue(self) -> bool:
        """Connect, declare the queue, bind it; False where the broker is away."""
        if not self._may_bind(self.name):
            return False
        if self._connection is None or not self._connection.open:
            connection = self._connection = self.broker.connect(self, lambda: self._lost(connection))
            if self._connection is None:
                return False
            self.consumer = None
            self._buffer.clear()
            self._channel = self._connection.channel()
            if self.habits.naming == "exclusive":
                self._name_queue()
        if self.queue is None:
            self._name_queue()
        assert self.queue is not None
        owner = self._connection if self.habits.naming == "exclusive" else None
        self.broker.declare(self.queue, durable=owner is None, owner=owner)
        self.broker.bind(self.queue, member_key(self.name))
        return True

    def _name_queue(self) -> None:
        if self.habits.naming == "same":
            self.queue = f"q-{self.name}"
        else:
            self.queue = f"q-{self.name}-{self.world.rng.randrange(1000):03}"

    def _consume(self) -> None:
        if self.consumer is not None or self.leaving or self._channel is None or not self._channel.open:
            return
        if self.world.now < self._holds_off_until:
            self.timer(self._holds_off_until - self.world.now, self._consume)
            return
        assert self.queue is not None
        if not self._may_consume(self.queue):
            self.timer(RECONNECT, self._consume)
            return
        try:
            # For itself, so that an earlier connection that the broker still holds for alive is waited for.
            consumer = self.consumer = self.broker.consume(
                self._channel,
                self.queue,
                self.habits.prefetch,
                lambda entry: self._delivered(consumer, entry),
                self._cancelled,
                exclusive=True,
            )
        except Refused as refusal:
            self.world.tell(self.name, "is refused: %s", refusal)
            self.timer(RECONNECT, self._consume)

    def _delivered(self, consumer: Consumer, entry: Entry) -> None:
        if not (self.leaving and self.habits.leaves_at_once):
            self._buffer.append((consumer, entry))
            self._work()

    def _cancelled(self) -> None:
        """The broker cancels: the queue is gone."""
        self.world.tell(self.name, "is cancelled by the broker")
        self.consumer = None
        self._buffer.clear()

    def _lost(self, connection: Connection | None) -> None:
        """It notices that its connection is gone."""
        if connection is not self._connection:
            return  # it has a new one already
        self.world.tell(self.name, "notices that its connection is lost")
        self.consumer = None
        self._buffer.clear()
        if not self.leaving:
            self.timer(RECONNECT * (1 + self.world.rng.random()), self._reconnect)

    def _reconnect(self) -> None:
        if self.leaving or not self.alive:
            return
        before = self.queue
        if not self._set_up_queue():
            self.timer(RECONNECT, self._reconnect)
            return
        if self.queue != before:
            # Another queue: it has to say so.
            self._epoch += 1
            self._bind_call()
        elif self.ready or self.habits.consumes_before_ready:
            self._consume()

    # -- work ------------------------------------------------------------------------------------------

    @staticmethod
    def _counts(consumer: Consumer, entry: Entry) -> bool:
        """Whether the broker holds it for alive: the message is still with this consumer."""
        return consumer.channel.open and entry.position in consumer.queue.unacked

    def _work(self) -> None:
        if self._works or not self._buffer:
            return
        consumer, entry = self._buffer.popleft()
        message = entry.body
        assert isinstance(message, Message)
        self._works = True
        if self._counts(consumer, entry):
            self.oracle.begins(self.name, message)
            self.world.tell(self.name, "begins %s", message)
        duration = self.habits.work * (0.2 + 1.6 * self.world.rng.random())
        self.timer(duration, self._worked, consumer, entry)

    def _worked(self, consumer: Consumer, entry: Entry) -> None:
        self._works = False
        if self._counts(consumer, entry):
            self.oracle.finishes(self.name, entry.body)
            consumer.channel.ack(consumer, entry.position)
        self._work()
        if self.leaving:
            self._leave_when_done()

    # -- what happens to it ------------------------------------------------------------------------------

    def leave(self) -> None:
        """Planned: unbind, finish, go."""
        if not self.alive or self.leaving:
            return
        self.world.tell(self.name, "leaves")
        self.leaving = True
        self._epoch += 1
        if self.habits.leaves_at_once:
            if self.consumer is not None:
                self.broker.cancel(self.consumer)
            self._buffer.clear()
        self._chain += 1
        self._ask(Unbind(self.name), lambda status: self._unbound())

    def _unbound(self) -> None:
        self._said_goodbye = True
        self._empty_since = self.world.now
        self._leave_when_done()

    def _leave_when_done(self) -> None:
        if not self.alive or self._works or not self._said_goodbye:
            return
        if self._buffer or (not self.habits.leaves_at_once and not self._idle_for_a_while()):
            self.timer(0.2, self._leave_when_done)
            return
        self.alive = False
        self.world.tell(self.name, "is gone")
        self.end_life()
        if self._connection is not None:
            self._connection.close()
        self._forget()

    def _idle_for_a_while(self) -> bool:
        """Whether its queue has been empty for a second: nothing more comes."""
        empty = self.queue is None or self.broker.look(self.queue).ready == 0
        if not empty or self._works or self._connection is None or not self._connection.open:
            self._empty_since = self.world.now
            return self._connection is None or not self._connection.open
        return self.world.now - self._empty_since > 1.0

    def crash(self) -> None:
        """kill -9."""
        if not self.alive:
            return
        self.world.tell(self.name, "crashes")
        self.alive = False
        self.end_life()
        if self._connection is not None:
            self._connection.cut()
        self.oracle.gone(self.name)
        self._forget()

    def _forget(self) -> None:
        self._connection = self._channel = self.consumer = None
        self._buffer.clear()
        self._works = self.ready = self.leaving = False
        if self.habits.naming == "fresh":
            self.queue = None

    def cut(self) -> None:
        """The broker holds it for dead; it goes on until it notices."""
        if self._connection is not None and self._connection.open:
            self.world.tell(self.name, "is held for dead by the broker")
            self.oracle.gone(self.name)
            self._connection.cut(notice=self.world.rng.random())

    def hang(self, duration: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        if not self.alive or self.frozen:
            return
        self.world.tell(self.name, "hangs for %.1f s", duration)
        self.freeze()
        life = self.life
        low, high = BROKER_PATIENCE
        patience = low + (high - low) * self.world.rng.random()
        if duration > patience and self._connection is not None:
            connection = self._connection
            self.world.after(patience, self._given_up, connection)
        self.world.after(duration, self._continue, life)

    def _given_up(self, connection: Connection) -> None:
        if connection.open and self.frozen:
            self.oracle.gone(self.name)
            connection.cut()

    def _continue(self, life: int) -> None:
        if life == self.life and self.frozen:
            self.world.tell(self.name, "continues")
            self.thaw()

    def pause_consuming(self, duration: float) -> None:
        """Its consumer goes away and comes back."""
        if self.consumer is not None:
            self.world.tell(self.name, "cancels its consumer for %.1f s", duration)
            self.broker.cancel(self.consumer)
            self.consumer = None
            self._holds_off_until = self.world.now + duration
            self.timer(duration, self._consume)

    def delete_queue(self, duration: float) -> None:
        """Its queue is deleted, and declared again later."""
        if self.queue is not None and self.queue in self.broker.queues:
            self.world.tell(self.name, "has its queue deleted for %.1f s", duration)
            self.oracle.gone(self.name)
            self._unbind_all()
            self.broker.delete(self.queue)
            self.timer(duration, self._restore_queue)

    def unbind_queue(self, duration: float) -> None:
        """Its queue's binding goes away and comes back."""
        if self.queue is not None:
            self.world.tell(self.name, "has its queue unbound for %.1f s", duration)
            self._unbind_all()
            self.timer(duration, self._restore_queue)

    def _unbind_all(self) -> None:
        # Of an earlier incarnation too: what goes to a queue that nobody consumes is not returned.
        for queue in list(self.broker.bindings.get(member_key(self.name), [])):
            self.broker.unbind(queue, member_key(self.name))

    def _restore_queue(self) -> None:
        if self.alive and not self.leaving and self._connection is not None and self._connection.open:
            if self._set_up_queue():
                self._consume()
            else:
                self.timer(0.05, self._restore_queue)
