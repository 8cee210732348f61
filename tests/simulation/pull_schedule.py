"""One schedule of a pull group: publishers, partitions, members, and what happens to them by the seed's will.

In the end everything is handled, every partition has one consumer, the member that owns it, with its fencing
token, and the members have the same number of partitions, but for one.
"""

import random
from collections.abc import Callable
from contextlib import ExitStack

from partymq.coordinator.pull import PullSettings
from partymq.group import events as ev
from partymq.group.layout import GroupLayout
from partymq.group.names import dead_letter_queue, settings_queue
from partymq.group.state import GroupState, MemberState
from tests.simulation.broker import Broker, Connection
from tests.simulation.course import Course, Result, not_balanced
from tests.simulation.instance import Election
from tests.simulation.message import Message
from tests.simulation.pull_faults import PullFaults
from tests.simulation.pull_holdings import Work
from tests.simulation.pull_member import PullMember
from tests.simulation.pull_operator import Operator
from tests.simulation.pull_oracle import PullOracle
from tests.simulation.pull_publisher import PullPublisher
from tests.simulation.pull_scene import GROUP, PullParts, Scene
from tests.simulation.pull_session import Session
from tests.simulation.pull_term import Candidate, ModelTerm
from tests.simulation.world import Process

TRAPPED: tuple[type, ...] = (ev.Drain, ev.Drain, ev.Assign, ev.Assign, ev.Reclaim, ev.Cancel)
OF_RESIZES: tuple[type, ...] = (
    ev.Resized,
    ev.Idle,
    ev.Occupied,
    ev.Retired,
    ev.Remove,
    ev.ResizeOver,
)
"""What happens in the very moment of one of these is the most dangerous."""


LONGEST, SLOW = 1.9, 2.9
"""Seconds that the broker holds a message up, between routing and queueing, at most: usually, and where a
resize does not wait for it."""


class Server(Process):
    """A `partymq serve` that coordinates the group."""

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene.world, name)
        self._scene = scene
        self.candidate = Candidate(scene, self)

    def start(self) -> None:
        """Start the process; without effect where it runs."""
        if self.candidate.ended:
            self.candidate = Candidate(self._scene, self)
        self.candidate.stand()

    def crash(self) -> None:
        """SIGKILL."""
        self.world.tell(self.name, "is killed")
        self.candidate.kill()
        self.end_life()

    def stop(self) -> None:
        """SIGTERM."""
        self.world.tell(self.name, "stops")
        self.candidate.close()
        self.end_life()


class PullSchedule(Course):
    """A schedule, made of its seed."""

    patience = 90.0

    def __init__(self, seed: int, parts: PullParts, *, telling: bool) -> None:
        super().__init__(seed, telling=telling)
        world, rng = self.world, self.rng
        self.kind = "faults" if parts.hangs else rng.choices(("faults", "planned"), (3, 1))[0]
        self.partitions = rng.randint(1, 6)
        self.embedded = rng.random() < 0.7
        self.keys = [b"key-%d" % number for number in range(rng.randint(1, 10))]
        slow = rng.random() < 0.05
        faults = self.kind == "faults"
        self.oracle: PullOracle = PullOracle(world, len(self.keys), faults=faults, slow=slow)
        broker = self.broker = Broker(world, self.oracle.lost)
        longest, chance = SLOW if slow else LONGEST, rng.choice((0.0, 0.05, 0.4))
        broker.held_up = lambda: longest * rng.random() ** 0.5 if rng.random() < chance else 0.0
        slow_saves = rng.choice((0.0, 0.0, 0.3))
        grace = rng.choice((0.0, 0.0, 2.0))
        self.scene = Scene(
            world,
            broker,
            self.oracle,
            Election(world, broker, GroupState.new(self.partitions)),
            PullSettings(
                GROUP,
                self.partitions,
                session_timeout=1.0 if parts.hangs else rng.choice((1.0, 3.0, 3.0)),
                rejoin_grace=0.0 if parts.hangs else grace,
            ),
            GroupLayout(self.partitions),
            parts,
            self.performed,
            faults=faults,
            save_takes=lambda: rng.uniform(0, 0.5) if rng.random() < slow_saves else 0.0,
        )
        broker.watch_ack = self._acked
        broker.watch_closed = self._closed
        self.scene.create()
        self.work = Work(
            concurrency=rng.choice((1, 2, 64)),
            prefetch=rng.choice((1, 3, 20)),
            duration=rng.choice((0.003, 0.05, 0.3)),
            failing=rng.choice((0.0, 0.0, 0.2)),
            hook=rng.choice((0.0, 0.0, 0.5)),
            threads=rng.random() < 0.3,
        )
        self.publishers = [PullPublisher(self.scene, name, self.keys) for name in ("left", "right")]
        self.operators = [Operator(self.scene, name) for name in ("operator", "another operator")]
        self.servers = [] if self.embedded else [Server(self.scene, name) for name in ("one", "two")]
        self.members: list[PullMember] = []
        self.names = [f"m{number}" for number in range(rng.randint(1, 4))]
        self._numbers = [0] * len(self.keys)
        self._started = 0
        self._when_over: list[Callable[[], None]] = []
        """What happens in the very moment in which a resize is over, before that is saved."""
        world.tell("schedule", "seed %d: %s, %d partitions, %s", seed, self.kind, self.partitions, self.work)

    def _closed(self, connection: Connection) -> None:
        who = self.scene.who.pop(connection, None)
        if who is not None:
            self.oracle.gone(who)
        self.scene.election.lost(connection)

    def _acked(self, queue: str, body: object) -> None:
        dead = self.broker.queues[dead_letter_queue(GROUP)].ready
        if isinstance(body, Message) and any(entry.body == body for entry in dead):
            self.oracle.buried(body)
        self.oracle.acked(body)

    # -- who there is --------------------------------------------------------------------------------------

    def start_member(self, name: str) -> None:
        """Start a process of this name."""
        self._started += 1
        member = PullMember(self.scene, name, self._started, self.keys, self.work, embedded=self.embedded)
        namesakes = [other.name for other in self.members if other.member == name and other.alive]
        if namesakes:
            self.oracle.namesakes.update([*namesakes, member.name])
        self.members.append(member)
        member.start()

    @property
    def running(self) -> list[PullMember]:
        """Members that run, and are not about to end."""
        return [member for member in self.members if member.alive and not member.leaving]

    def candidates(self) -> "list[tuple[Process, Candidate]]":
        """All that stand by to coordinate, with their processes."""
        members = [(m, m.candidate) for m in self.members if m.alive and m.candidate is not None]
        return [*members, *((server, server.candidate) for server in self.servers)]

    @property
    def term(self) -> ModelTerm | None:
        """The one that holds the lease."""
        return next((c.term for _, c in self.candidates() if c.coordinates), None)

    @property
    def coordinating(self) -> Process | None:
        """Whose process that is."""
        return next((process for process, candidate in self.candidates() if candidate.coordinates), None)

    # -- what happens ------------------------------------------------------------------------------------

    def publish(self, key: int) -> None:
        """The next message of a key."""
        message = Message(key, self._numbers[key])
        self._numbers[key] += 1
        self.oracle.published(message)
        self.publishers[key % 2].put(message)

    def plan(self) -> float:
        """See `Course`."""
        rng, world = self.rng, self.world
        resizes = self.rng.choice((0, 1, 1, 2)) if self.scene.parts.resizes else 0
        # One takes four seconds or more, and something is to happen meanwhile.
        length = rng.uniform(8.0, 18.0) if resizes else rng.uniform(3.0, 14.0)
        for server in self.servers:
            world.after(rng.uniform(0, 0.5), server.start)
        for publisher in self.publishers:
            world.after(0.0, publisher.start)
        faults = PullFaults(self)
        for name in self.names:
            world.after(0.0 if rng.random() < 0.6 else rng.uniform(0, length), faults.start, name)
        for _ in range(rng.randint(10, 80)):
            world.after(rng.uniform(0, length), self.publish, rng.randrange(len(self.keys)))
        if rng.random() < 0.4:
            for _ in range(30):
                world.after(rng.choice((0.0, length / 2)), self.publish, rng.randrange(len(self.keys)))
        for _ in range(resizes):
            when, load = rng.uniform(0, length / 2), rng.choice((0, 10, 30))
            world.after(when, self.unless_healed, faults.resize)
            for _ in range(load):
                world.after(
                    max(0.0, when + rng.uniform(-0.5, 3.0)), self.publish, rng.randrange(len(self.keys))
                )
        actions = faults.of_kind(self.kind)
        for _ in range(rng.randint(1, 5) if self.kind == "planned" else rng.randint(2, 10)):
            when = rng.uniform(0.5, length)
            world.after(when, self.unless_healed, rng.choice(actions))
            if rng.random() < 0.3:
                world.after(when + rng.uniform(0, 0.6), self.unless_healed, rng.choice(actions))
        for _ in range(rng.randint(0, 6)):
            anything = self.kind == "planned" or self.scene.parts.hangs or rng.random() < 0.5
            sprung = actions if anything else faults.of_coordinators()
            moments = OF_RESIZES if resizes and rng.random() < 0.5 else TRAPPED
            self.traps.append((rng.choice(moments), rng.choice(sprung)))
        if resizes and rng.random() < 0.7:
            again = faults.cut_coordinator_and_resize if self.kind == "faults" else faults.resize
            self._when_over.append(again)
        return length

    def performed(self, effect: object) -> None:
        """See `Course`."""
        super().performed(effect)
        if isinstance(effect, ev.ResizeOver) and self._when_over:
            self.world.after(0.0, self.unless_healed, self._when_over.pop())

    # -- the end -----------------------------------------------------------------------------------------

    def heal(self) -> None:
        """See `Course`."""
        self.world.tell("schedule", "no more faults")
        self.healed = True
        self.broker.held_up = lambda: 0.0
        for process in [*self.members, *self.servers, *self.publishers, *self.operators]:
            if process.frozen:
                self.world.tell(process.name, "continues")
                process.thaw()
        for server in self.servers:
            server.start()
        if not self.running:
            self.start_member("m-last")
        for key in range(len(self.keys)):
            self.publish(key)

    def whats_left(self) -> str | None:
        """See `Course`."""
        unfinished = self.oracle.unfinished()
        if unfinished:
            return f"unfinished: {', '.join(map(str, unfinished[:10]))}"
        term = self.term
        if term is None:
            return "nobody coordinates"
        if not self.running:
            # Two of one name: the one that stayed may have been asked to leave.
            self.start_member("m-last")
            return "nobody is there"
        state = term.coordinator.state
        sessions = {member.member: member.session for member in self.running}
        ready = sorted(name for name, member in state.members.items() if member.state is MemberState.READY)
        if sorted(sessions) != ready or len(state.members) != len(self.running):
            members = {name: member.state.value for name, member in state.members.items()}
            return f"alive: {[str(member) for member in self.running]}, members: {members}"
        unbalanced = not_balanced(state, ready)
        if unbalanced is not None:
            return unbalanced
        return self._not_resized(state) or self._not_consumed(state, sessions)

    def _not_resized(self, state: GroupState) -> str | None:
        """What is left of a resize."""
        queue = self.broker.queues[settings_queue(GROUP)]
        settings = [GroupLayout.decode(entry.body) for entry in queue.ready]
        if not settings:
            return "somebody reads the settings"
        layout = max(settings, key=lambda one: one.version)
        if layout.previous or state.retiring or state.layout != layout.layout:
            return f"resizing: {layout.describe()}, {state.layout} {state.retiring}"
        if len(state.partitions) != layout.partitions:
            return f"{len(state.partitions)} partitions, but the settings say {layout.partitions}"
        present = {layout.queue(GROUP, number) for number in range(layout.partitions)}
        for name, queue in self.broker.queues.items():
            if "partition-" in name and name not in present and queue.depth:
                return f"{queue.depth} messages are left in {name}"
        return None

    def _not_consumed(self, state: GroupState, sessions: dict[str, Session | None]) -> str | None:
        for index, partition in enumerate(state.partitions):
            assert partition.owner is not None
            number = state.id_of(index)
            session = sessions[partition.owner]
            queue = self.broker.queues[self.scene.queue(number)]
            if queue.depth or session is None:
                return f"{queue.depth} messages are in {queue.name}, of {session}"
            if [c.channel.connection for c in queue.consumers] != [session.data]:
                return f"{queue.name} has {len(queue.consumers)} consumers, {partition.owner} should be it"
            if session.duties._held.get(number) != partition.fencing_token:
                return f"{session.who} has {session.duties!r}, but {number} has {partition.fencing_token}"
        return None

    # -- play ----------------------------------------------------------------------------------------------

    def play(self) -> Result:
        """See `Course`. The real code throws dice of its own, which are the seed's here."""
        dice = random.getstate()
        random.seed(self.seed)
        try:
            return super().play()
        finally:
            random.setstate(dice)
            self.end()

    def end(self) -> None:
        """Nothing of it runs any more. All of it is ended, though a promise may be broken by that."""
        with ExitStack() as ends:
            for member in self.members:
                ends.callback(member.loop.end)
            for _, candidate in self.candidates():
                ends.callback(candidate.kill)
            for process in (*self.publishers, *self.operators):
                ends.callback(process.end)


def play_pull(seed: int, parts: PullParts | None = None, *, telling: bool = False) -> Result:
    """Play the schedule of a seed."""
    return PullSchedule(seed, parts or PullParts(), telling=telling).play()
