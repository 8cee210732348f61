"""Standing by to coordinate a pull group, and the real term, which sends into the model of the broker."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from partymq.amqp.content import Returned
from partymq.coordinator.pull import PullTerm
from partymq.errors import PartyMQError
from partymq.group import events as ev
from partymq.group.state import GroupState
from partymq.group.wire import Assignment, Reply
from tests.saved_state import decode_state, encode_state
from tests.simulation.broker import Connection, Entry, Refused
from tests.simulation.pull_loop import Loop
from tests.simulation.pull_scene import COMMANDS, GROUP, Envelope, Scene
from tests.simulation.pull_wire import Wire
from tests.simulation.world import Process

_TICK = 0.2
_LOOK = 0.25
_OF_RESIZES = (ev.Resized, ev.Idle, ev.Occupied, ev.Retired, ev.ResizeOver)


class ModelTerm(PullTerm):
    """The real term; its tasks are timers of the process here.

    Attributes:
        over: its connection is gone, or it was told to end.
    """

    def __init__(self, scene: Scene, candidate: "Candidate", state: GroupState, epoch: int) -> None:
        lease: Any = SimpleNamespace(epoch=epoch, current=SimpleNamespace(instance=candidate.process.name))
        clock: Callable[[], float] = lambda: scene.world.now  # noqa: E731
        super().__init__(scene.settings, lease, state, cast("Any", None), clock=clock)
        self.coordinator = scene.parts.coordinator(state, scene.settings.timing())
        self._assignments = scene.parts.assignments(state, epoch)
        assert candidate.connection is not None
        assert candidate.wire is not None
        self._scene = scene
        self._candidate = candidate
        self._resize = scene.parts.resize(
            GROUP, cast("Any", candidate.wire), self.coordinator, self.happened, clock
        )
        self._process = candidate.process
        self._state_channel = candidate.connection.channel()
        self._serving = candidate.connection.channel()
        self._serving.confirms = False
        self._post = candidate.connection.channel()
        self._post.confirms = False
        self._post.on_return = self._returned
        self._posted: list[str] = []
        self._saving = self._scheduled = False
        self.over = False

    def start(self) -> None:
        """Take up the state, and all the tasks."""
        self._serve_queue()
        self._decided_on([], self.begin())
        self._every(_TICK, self._tick_now)
        self._every(_LOOK, self.look)
        self._candidate.loop.begin(self._resize.run(), None, self._failed)

    def _failed(self, error: PartyMQError) -> None:
        """A term ends with an error of any of its tasks."""
        self._scene.world.tell(self._process.name, "can't go on: %s", error)
        if not self.over:
            self._candidate.give_up()

    def linger(self, delay: float) -> None:
        """What was sent to members is still on its way when the connection is gone."""
        self._post.to_broker.linger(delay)

    def _every(self, interval: float, call: Callable[[], None]) -> None:
        def again() -> None:
            if not self.over:
                call()
                self._process.timer(interval, again)

        self._process.timer(interval, again)

    def _tick_now(self) -> None:
        self.happened(ev.Tick())

    # -- commands ------------------------------------------------------------------------------------------

    def _serve_queue(self) -> None:
        """Consume the coordinator queue, as soon as an earlier coordinator does not any more."""
        if self.over:
            return
        try:
            self._scene.broker.consume(
                self._serving, COMMANDS, 1, self._delivered, lambda: None, exclusive=True, no_ack=True
            )
        except Refused:
            self._process.timer(0.1, self._serve_queue)

    def _delivered(self, entry: Entry) -> None:
        envelope: Envelope = entry.body
        if self.over or envelope.expires <= self._scene.world.now:
            return

        def answer(reply: Reply) -> None:
            self._scene.send(self._serving, envelope.reply_to, reply)

        self.submit(envelope.command, answer)

    # -- decisions -----------------------------------------------------------------------------------------

    def happened(self, event: ev.Event) -> None:
        super().happened(event)
        if isinstance(event, _OF_RESIZES):
            self._scene.world.tell(self._process.name, "%s", event)
            self._scene.performed(event)
        if not self._saving and not self._scheduled:
            self._scheduled = True
            self._process.timer(0.0, self._work)

    def _work(self) -> None:
        self._scheduled = False
        if self._saving or self.over:
            return
        batch = self.waiting()
        if batch:
            self._decided_on(batch, self.decide(batch))

    def _decided_on(self, batch: list[ev.Event], effects: list[ev.Effect]) -> None:
        if any(isinstance(effect, ev.Save) for effect in effects):
            self._saving = True
            if self._scene.parts.acts_before_saving:
                self.decided(batch)
                self.perform(effects)
                batch, effects = [], []
            payload = encode_state(self.coordinator.state)
            self._process.timer(self._scene.save_takes(), self._save, payload, batch, effects)
        else:
            self.decided(batch)
            self.perform(effects)

    def _save(self, payload: bytes, batch: list[ev.Event], effects: list[ev.Effect]) -> None:
        self._scene.election.save(self._state_channel, payload, lambda: self._saved(batch, effects))

    def _saved(self, batch: list[ev.Event], effects: list[ev.Effect]) -> None:
        if self.over:
            return
        self._saving = False
        self.decided(batch)
        self.perform(effects)
        self._work()

    def perform(self, effects: list[ev.Effect]) -> None:
        super().perform(effects)
        for effect in effects:
            if not isinstance(effect, ev.Answer):
                self._scene.world.tell(self._process.name, "%s", effect)
            self._scene.performed(effect)

    def send(self, queue: str, assignment: Assignment) -> None:
        self._posted.append(queue)
        self._post.publish(None, queue, assignment, len(self._posted) - 1)

    def _returned(self, seq: int) -> None:
        if not self.over:
            self.returned(Returned(312, "NO_ROUTE", "", self._posted[seq], b""))


class Candidate:
    """Waits for the group's state, on a connection of its own; coordinates while it has it.

    Attributes:
        connection: None while there is none. wire: the same, for what runs in `loop`.
        term: the present one.
    """

    def __init__(self, scene: Scene, process: Process) -> None:
        self._scene = scene
        self.process = process
        self.loop = Loop(process)
        self.connection: Connection | None = None
        self.wire: Wire | None = None
        self.term: ModelTerm | None = None
        self.ended = False

    @property
    def coordinates(self) -> bool:
        """Whether it does, as the broker sees it."""
        return (
            self.term is not None
            and not self.term.over
            and self.connection is not None
            and self.connection.open
            and self._scene.election.holder is self.connection
        )

    def stand(self) -> None:
        """Connect, and wait in line."""
        if self.ended or self.connection is not None:
            return
        self.connection = self._scene.broker.connect(self.process, self._lost)
        if self.connection is None:
            self.process.timer(0.3, self.stand)
        else:
            self.wire = Wire(self.loop, self.connection)
            self._scene.election.stand(self.connection, self._elected)

    def _elected(self, payload: bytes) -> None:
        connection, election = self.connection, self._scene.election
        if connection is None or not connection.open or election.holder is not connection:
            return
        state = decode_state(payload)
        epoch = next(self._scene.epochs)
        self._scene.world.tell(
            self.process.name, "coordinates: epoch %d, generation %d", epoch, state.generation
        )
        self.term = ModelTerm(self._scene, self, state, epoch)
        self.term.start()

    def _lost(self) -> None:
        self._end_term()
        self._hang_up()
        self.process.timer(0.1 + 0.3 * self._scene.world.rng.random(), self.stand)

    def give_up(self) -> None:
        """Begin anew, with another connection."""
        if self.connection is not None:
            self.connection.close()
            self._lost()

    def _hang_up(self) -> None:
        if self.wire is not None:
            self.wire.lost()
        self.connection = self.wire = None

    def _end_term(self) -> None:
        if self.term is not None:
            self.term.over = True
            self.term = None

    def cut(self, notice: float = 0.0) -> None:
        """The broker closes its connection; what it has sent may still arrive, late."""
        rng = self._scene.world.rng
        if self.connection is None:
            return
        if self.term is not None and rng.random() < 0.7:
            self.term.linger(rng.uniform(0.0, 2.0))
        self.connection.cut(notice)

    def kill(self) -> None:
        """Its process is dead."""
        try:
            self.cut()
        finally:  # what it had sent may break a promise
            self._end_term()
            self._hang_up()
            self.loop.end()
            self.ended = True

    def close(self) -> None:
        """End in good order."""
        self.ended = True
        self._end_term()
        if self.connection is not None:
            self.connection.close()
            self._hang_up()
        self.loop.end()
