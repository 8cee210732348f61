"""One schedule: a group, what happens to it by the seed's will, and how it has to end.

Everything that goes wrong goes wrong in the first part; then faults stop, and in bounded time all has to be
well again: everything processed, every partition with a ready member, balanced, nothing held or pending.
"""

from collections.abc import Callable
from dataclasses import dataclass

from partymq.group import events as ev
from partymq.group.coordinator import Coordinator
from partymq.group.membership import Timing
from partymq.group.names import DEFAULT_GROUP, leftover_queue
from partymq.group.state import GroupState, MemberState
from partymq.group.wire import MemberCall, Ready, Status
from tests.saved_state import decode_state
from tests.simulation.broker import Broker
from tests.simulation.course import Course, Result, not_balanced
from tests.simulation.faults import TRAPPED, Faults
from tests.simulation.instance import Election, Instance
from tests.simulation.management import Management
from tests.simulation.message import SOURCE, Message
from tests.simulation.oracle import Oracle
from tests.simulation.pod import AnswerTo, Habits, Pod
from tests.simulation.router_core import CoreRouter
from tests.simulation.router_model import RouterModel
from tests.simulation.term import Term

TIMING = Timing(
    expires_after=4.0, pending_expires_after=4.0, consumer_grace=0.5, drain_retry=0.5, recover_retry=0.5
)
CALL_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a schedule is played with: the real parts, or parts broken on purpose."""

    coordinator: Callable[[GroupState, Timing], Coordinator] = Coordinator
    router: type[RouterModel] | type[CoreRouter] = CoreRouter
    term: type[Term] = Term
    scrambled: bool = False
    """Whether the confirms of one queue come in any order."""


@dataclass(slots=True)
class Command:
    """A command in the coordinator queue."""

    expires: float
    request_id: str
    call: MemberCall
    answer: Callable[[Status], None]


class Schedule(Course):
    """A schedule, made of its seed."""

    def __init__(self, seed: int, parts: Parts, *, telling: bool = False) -> None:
        super().__init__(seed, telling=telling)
        world, rng = self.world, self.rng
        self.kind = rng.choices(("faults", "storm", "planned", "blind"), (8, 4, 2, 1))[0]
        self.partitions = rng.randint(1, 5)
        self.oracle = Oracle(world, self.partitions, faults=self.kind != "planned")
        self.broker = Broker(world, self.oracle.lost)
        self.broker.declare(SOURCE)
        self.broker.scrambled = parts.scrambled and rng.random() < 0.5
        self.broker.watch_ack = self._acked
        self.management = Management(exists=self.kind != "blind")
        self.election = Election(world, self.broker, GroupState.new(self.partitions))
        self.parts = parts
        self.prefetch = rng.choice((3, 8, 20)) if self.kind != "storm" else 20
        self.window = {"blind": None, "storm": 8}.get(self.kind, rng.choice((1, 3, 8)))
        self.instances = [
            Instance(world, self.broker, self.election, name, self._make_term) for name in ("one", "two")
        ]
        self.pods = [
            self._make_pod(f"pod-{number}")
            for number in range(rng.randint(1, 4) if self.kind != "storm" else rng.randint(2, 3))
        ]
        self.lossy = 0.0
        self._commands: list[Command] = []
        self._requests = 0
        self._numbers = [0] * self.partitions
        world.tell(
            "schedule",
            "seed %d: %s, %d partitions, prefetch %d, window %s",
            seed,
            self.kind,
            self.partitions,
            self.prefetch,
            self.window,
        )
        for pod in self.pods:
            world.tell(pod.name, "is written like this: %s", pod.habits)

    def _make_pod(self, hostname: str) -> Pod:
        return Pod(
            self.world,
            self.broker,
            self.oracle,
            hostname,
            self._habits(),
            self._call,
            self._may_bind,
            self._may_consume,
        )

    def _habits(self) -> Habits:
        rng = self.rng
        blind = self.kind == "blind"
        storm = self.kind == "storm"
        naming = "same" if blind else rng.choice(("same", "same", "fresh", "fresh" if storm else "exclusive"))
        return Habits(
            naming=naming,
            # Durable queues that are left behind, still bound, without a word: nobody could tell them apart.
            says_queue=naming == "fresh" or (not blind and rng.random() < 0.5),
            consumes_before_ready=rng.random() < 0.5,
            prefetch=rng.choice((1, 3, 10)),
            work=0.02 if blind else rng.choice((0.002, 0.03, 0.2) if not storm else (0.2, 0.4)),
            leaves_at_once=not blind and rng.random() < 0.5,
        )

    # -- the parts ---------------------------------------------------------------------------------------

    def _make_term(self, instance: Instance, state: GroupState) -> Term:
        def make_router(instance: Instance, happened: Callable[[ev.Event], None]) -> RouterModel | CoreRouter:
            assert instance.coordinator is not None
            return self.parts.router(
                self.world,
                self.broker,
                instance,
                instance.coordinator,
                lambda: instance.source,
                self.partitions,
                self.prefetch,
                self.window,
                happened,
            )

        return self.parts.term(
            instance,
            self.broker,
            self.oracle,
            self.management,
            lambda state: self.parts.coordinator(state, TIMING),
            make_router,
            state,
            self._performed,
        )

    def _performed(self, effect: ev.Effect) -> None:
        if isinstance(effect, ev.Assign) and effect.locked:
            self.effects["AssignLocked"] += 1
        self.performed(effect)

    @property
    def term(self) -> Term | None:
        """The term of the instance that holds the lease."""
        return next((instance.term for instance in self.instances if instance.holds_lease), None)

    def _acked(self, queue: str, body: object) -> None:
        """Nothing may leave the source before it is safe somewhere else."""
        if queue == SOURCE and isinstance(body, Message):
            self.oracle.left_the_source(body, self.broker)

    # -- calls -----------------------------------------------------------------------------------------

    def _call(self, pod: Pod, call: MemberCall, answer: AnswerTo, waits: Callable[[], bool]) -> None:
        self._requests += 1
        request_id = f"r{self._requests}"
        answered = False

        def once(status: Status | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                pod.world.after(self.world.lag(), pod.run, life, answer, (status,))

        life = pod.life
        command = Command(self.world.now + CALL_TIMEOUT, request_id, call, once)
        self.world.after(self.world.lag(), self._arrives, command)

        def again() -> None:
            if not answered and pod.life == life and waits():
                self._arrives(command)

        twice = 2 * self.rng.random() if self.rng.random() < self.lossy else None
        # A `ready` is sent once, as it could count for the next incarnation.
        if not isinstance(call, Ready):
            self.world.after(CALL_TIMEOUT / 2, again)
            if twice is not None:
                self.world.after(twice, self._arrives, command)
        self.world.after(CALL_TIMEOUT, once, None)

    def _arrives(self, command: Command) -> None:
        if self.rng.random() < self.lossy or not self.broker.up:
            return
        self._commands.append(command)
        self._serve()

    def _serve(self) -> None:
        term = self.term
        if term is None:
            if self._commands:
                self.world.after(0.1, self._serve)
                self._commands = [c for c in self._commands if c.expires > self.world.now]
            return
        commands, self._commands = self._commands, []
        for command in commands:
            if command.expires > self.world.now:
                self._submit(term, command)

    def _submit(self, term: Term, command: Command) -> None:
        def answer(status: Status) -> None:
            if self.rng.random() >= self.lossy:
                command.answer(status)

        term.submit(command.request_id, command.call, answer)

    def _may_bind(self, hostname: str) -> bool:
        terms = [instance.term for instance in self.instances if instance.term is not None]
        return not any(term.router.outstanding(hostname) for term in terms if not term.over)

    def _may_consume(self, queue: str) -> bool:
        for left in decode_state(self.election.saved).leftovers:
            if left.queue == queue and not left.moved:
                return not self.broker.look(leftover_queue(DEFAULT_GROUP, left.number)).ready
        return True

    # -- what happens ------------------------------------------------------------------------------------

    def _publish(self, partition: int) -> None:
        message = Message(partition, self._numbers[partition])
        self._numbers[partition] += 1
        self.oracle.published(message)
        self.broker.put(SOURCE, message)

    def plan(self) -> float:
        """Put messages and events into the calendar; when the last of them happens."""
        rng, world = self.rng, self.world
        length = rng.uniform(2.0, 12.0)
        for instance in self.instances:
            world.after(0.0 if instance.name == "one" else rng.uniform(0, 2), instance.boot)
        for pod in self.pods:
            world.after(0.0 if rng.random() < 0.5 else rng.uniform(0, length), pod.start)
        popular = rng.randrange(self.partitions)
        for _ in range(rng.randint(10, 60)):
            partition = popular if rng.random() < 0.3 else rng.randrange(self.partitions)
            world.after(rng.uniform(0, length), self._publish, partition)
        if rng.random() < 0.3:
            for _ in range(20):
                world.after(0.0, self._publish, rng.randrange(self.partitions))
        faults = Faults(self)
        actions = faults.of_kind(self.kind)
        for _ in range(rng.randint(1, 3) if self.kind == "planned" else rng.randint(2, 14)):
            when = rng.uniform(0.5, length)
            world.after(when, self.unless_healed, rng.choice(actions))
            if rng.random() < 0.3:
                world.after(when + rng.uniform(0, 0.6), self.unless_healed, rng.choice(actions))
        traps = TRAPPED.get(self.kind, ())
        for _ in range(rng.randint(3, 8) if self.kind == "storm" else rng.randint(0, 5)):
            if traps:
                self.traps.append((rng.choice(traps), rng.choice(actions)))
        self.lossy = rng.choice((0.0, 0.0, 0.1, 0.3)) if self.kind == "faults" else 0.0
        return length

    # -- the end -----------------------------------------------------------------------------------------

    def heal(self) -> None:
        """From now on nothing goes wrong, and there is somebody to do the work."""
        self.world.tell("schedule", "no more faults")
        self.healed = True
        self.lossy = 0.0
        self.management.regain()
        for instance in self.instances:
            if instance.frozen:
                instance.thaw()
            instance.crash_in = None
            if self.rng.random() < 0.5 or instance is self.instances[0]:
                instance.boot()
        for pod in self.pods:
            if pod.frozen:
                self._thaw(pod)
        if not any(pod.alive and not pod.leaving for pod in self.pods):
            down = [pod for pod in self.pods if not pod.alive]
            if down:
                self.rng.choice(down).start()
            else:
                pod = self._make_pod("pod-new")
                self.pods.append(pod)
                pod.start()
        for partition in range(self.partitions):
            self._publish(partition)

    def _thaw(self, pod: Pod) -> None:
        self.world.tell(pod.name, "continues")
        pod.thaw()

    def whats_left(self) -> str | None:
        """What is not yet as it should be; None at the good end."""
        term = self.term
        if term is None:
            return "nobody coordinates"
        unfinished = self.oracle.unfinished()
        if unfinished:
            return f"unfinished: {', '.join(map(str, unfinished[:10]))}"
        state = term.coordinator.state
        alive = sorted(pod.name for pod in self.pods if pod.alive and not pod.leaving)
        ready = sorted(name for name, member in state.members.items() if member.state is MemberState.READY)
        if alive != ready or len(ready) != len(state.members):
            members = {name: member.state.value for name, member in state.members.items()}
            return f"alive: {alive}, members: {members}"
        unbalanced = not_balanced(state, ready)
        if unbalanced is not None:
            return unbalanced
        router = term.router
        coordinator = term.coordinator
        paused = coordinator._pauses.paused
        if state.leftovers or len(coordinator._handovers) or paused:
            return f"pending: {coordinator!r} leftovers {state.leftovers} paused {paused}"
        if router.locked or router.paused or router.held_messages or router.fetching:
            return (
                f"the router has locked {router.locked}, paused {router.paused}, held {router.held_messages}"
            )
        if [partition.owner for partition in state.partitions] != router.owners:
            return f"the router routes to {router.owners}"
        if not router.session or self.broker.look(SOURCE).ready or self.broker.look(SOURCE).unacked:
            return "the source is not empty"
        return None


def play(seed: int, parts: Parts | None = None, *, telling: bool = False) -> Result:
    """Play the schedule of a seed."""
    return Schedule(seed, parts or Parts(), telling=telling).play()
