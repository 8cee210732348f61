"""What goes wrong in a pull group's schedule, or is only planned to happen."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.broker import Connection
from tests.simulation.pull_member import PullMember
from tests.simulation.world import Process

if TYPE_CHECKING:
    from tests.simulation.pull_schedule import PullSchedule

Action = Callable[[], None]

BROKER_PATIENCE = (2.0, 3.0)
"""Seconds after which the broker gives up a process that says nothing, with heartbeats each second."""


class PullFaults:
    """The actions of a schedule."""

    def __init__(self, schedule: "PullSchedule") -> None:
        self.schedule = schedule
        self.world = schedule.world
        self.rng = schedule.rng
        self._hangs: Counter[Process] = Counter()
        """How often each has hung."""

    def of_kind(self, kind: str) -> list[Action]:
        """What can happen in a schedule of this kind, the likelier more than once."""
        if kind == "planned":
            return [
                self._join,
                self._leave,
                self._restart,
                self._roll,
                self._stop_coordinator,
                self._roll_servers,
                self.resize,
            ]
        if self.schedule.scene.parts.hangs:
            return [
                self._join,
                self._crash,
                self._kill_coordinator,
                self._hang_member,
                self._hang_coordinator,
                self._hang_through_changes,
                self._hang_through_changes,
                self._hang_through_changes,
            ]
        cut = self._cut
        return [
            self._join,
            self._join,
            self._leave,
            self._restart,
            self._roll,
            self._crash,
            self._crash,
            self._crash_and_restart,
            self._crash_and_restart,
            self._hang_member,
            self._hang_member,
            self._hang_and_replace,
            self._hang_through_changes,
            self._hang_coordinator,
            self._kill_coordinator,
            self._kill_coordinator,
            self._cut_coordinator,
            self._restart_broker,
            self._roll_servers,
            self._cut_publisher,
            self._hang_publisher,
            self._cut_operator,
            self.resize,
            lambda: cut(lambda member, notice: member.cut_data(notice)),
            lambda: cut(lambda member, notice: member.cut_voice(notice)),
            self._cut_both,
        ]

    def of_coordinators(self) -> list[Action]:
        """What can happen to whoever coordinates."""
        return [
            self._kill_coordinator,
            self._cut_coordinator,
            self._cut_coordinator,
            self._hang_coordinator,
        ]

    # -- planned -------------------------------------------------------------------------------------------

    def _some(self) -> PullMember | None:
        running = self.schedule.running
        return self.rng.choice(running) if running else None

    def start(self, name: str) -> None:
        """Start a process, if none of its name runs: two of one name are no plan of anybody."""
        if all(member.member != name for member in self.schedule.members if member.alive):
            self.schedule.start_member(name)

    def _join(self) -> None:
        self.start(self.rng.choice([*self.schedule.names, "m-new"]))

    def _leave(self) -> None:
        member = self._some()
        if member is not None and (len(self.schedule.running) > 1 or self.schedule.kind == "faults"):
            member.leave()

    def _restart(self) -> None:
        member = self._some()
        if member is not None:
            self._restart_it(member)

    def _restart_it(self, member: PullMember) -> None:
        member.leave()
        self._start_when_gone(member)

    def _start_when_gone(self, member: PullMember) -> None:
        """Static members come back under their names, others under new ones."""
        if member.alive:
            self.world.after(0.1, self._start_when_gone, member)
        else:
            static = self.schedule.scene.settings.rejoin_grace > 0 or self.rng.random() < 0.5
            name = member.member if static else f"{member.member}-{self.rng.randrange(1000)}"
            self.world.after(self.rng.uniform(0.05, 0.5), self.start, name)

    def _roll(self) -> None:
        """A rolling restart: one after the other."""
        at = 0.0
        for member in self.schedule.running:
            self.world.after(at, self.schedule.unless_healed, lambda member=member: self._restart_it(member))
            at += self.rng.uniform(0.2, 2.0)

    def _stop_coordinator(self) -> None:
        process = self.schedule.coordinating
        if isinstance(process, PullMember):
            self._restart_it(process)
        elif process is not None:
            self._stop_server(process)

    def _stop_server(self, process: Process) -> None:
        server = next(server for server in self.schedule.servers if server is process)
        server.stop()
        self.world.after(self.rng.uniform(0.2, 2.0), server.start)

    def _roll_servers(self) -> None:
        """All that only coordinate, one after the other."""
        at = 0.0
        for server in self.schedule.servers:
            self.world.after(at, self.schedule.unless_healed, lambda server=server: self._stop_server(server))
            at += self.rng.uniform(0.0, 2.0)

    # -- faults --------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        member = self._some()
        if member is not None:
            member.crash()

    def _crash_and_restart(self) -> None:
        member = self._some()
        if member is not None:
            member.crash()
            self.world.after(self.rng.choice((0.05, 0.5, 1.5, 3.0)), self.start, member.member)

    def _cut(self, cut: Callable[[PullMember, float], None]) -> None:
        member = self._some()
        if member is not None:
            self.world.tell(member.name, "has a connection cut")
            cut(member, self.rng.choice((0.0, 0.3, 2.0)) * self.rng.random())

    def _cut_both(self) -> None:
        def cut(member: PullMember, notice: float) -> None:
            member.cut_voice(notice)
            member.cut_data(notice)

        self._cut(cut)

    def _hang_member(self) -> None:
        member = self._some()
        if member is not None:
            self._hang(member, member.connections)

    def _hang_through_changes(self) -> None:
        """A member hangs, or its network does, for about as long as the broker is patient; others get what
        it had, and die about when it wakes, while nobody coordinates."""
        member = self._some()
        if member is None:
            return
        duration = self.rng.choice((1.3, 1.6, 2.0, 2.5))
        if self.rng.random() < 0.5:
            self._hang(member, member.connections, duration)
        else:
            self._stall(member, duration)

        def others_die() -> None:
            for other in self.schedule.running:
                if other is not member and self.rng.random() < 0.7:
                    other.crash()

        def unless_it_is_the_member() -> None:
            if self.schedule.coordinating is not member:
                self._hang_coordinator()

        for when, what in ((0.05, unless_it_is_the_member), (0.1, others_die)):
            later = max(0.0, duration + self.rng.uniform(-when, when))
            self.world.after(later, self.schedule.unless_healed, what)

    def _stall(self, member: PullMember, duration: float) -> None:
        """Its network takes nothing any further; the process runs."""
        self.world.tell(member.name, "has no network for %.1f s", duration)
        self.schedule.oracle.hung.add(member.name)
        for connection in member.connections():
            connection.stall(self.world.now + duration)
            patience = self.rng.uniform(*BROKER_PATIENCE)
            if patience < duration:
                self.world.after(patience, connection.cut, duration - patience)

    def _hang(
        self,
        process: Process,
        connections: Callable[[], list[Connection]],
        duration: float | None = None,
    ) -> None:
        """SIGSTOP, SIGCONT; the broker gives it up meanwhile, if that takes long enough."""
        if process.frozen:
            return
        duration = duration or self.rng.choice((0.5, 2.2, 3.5, 8.0))
        self.world.tell(process.name, "hangs for %.1f s", duration)
        self.schedule.oracle.hung.add(process.name)
        process.freeze()
        self._hangs[process] += 1
        life, hang = process.life, self._hangs[process]
        for connection in connections():
            self.world.after(
                self.rng.uniform(*BROKER_PATIENCE), self._give_up, process, life, hang, connection
            )
        self.world.after(duration, self._continue, process, life)

    def _give_up(self, process: Process, life: int, hang: int, connection: Connection) -> None:
        if process.life == life and process.frozen and self._hangs[process] == hang:
            self.schedule.oracle.hung_too_long.add(self.schedule.scene.who.get(connection, ""))
            connection.cut()

    def _continue(self, process: Process, life: int) -> None:
        if process.life == life and process.frozen:
            self.world.tell(process.name, "continues")
            process.thaw()

    def _hang_and_replace(self) -> None:
        """Another process takes the name of one that hangs, which wakes after that."""
        member = self._some()
        if member is not None:
            self._hang(member, member.connections)
            self.world.after(
                self.rng.uniform(0.1, 3.0), self.schedule.unless_healed, lambda: self._replace(member)
            )

    def _replace(self, member: PullMember) -> None:
        if member.frozen and sum(other.member == member.member for other in self.schedule.running) == 1:
            self.schedule.start_member(member.member)

    def _hang_coordinator(self) -> None:
        process = self.schedule.coordinating
        if isinstance(process, PullMember):
            self._hang(process, process.connections)
        elif process is not None:
            connection = next(c.connection for p, c in self.schedule.candidates() if p is process)
            self._hang(process, lambda: [connection] if connection is not None else [])

    def _kill_coordinator(self) -> None:
        process = self.schedule.coordinating
        if isinstance(process, PullMember):
            process.crash()
            self.world.after(self.rng.choice((0.05, 0.5, 3.0)), self.start, process.member)
        elif process is not None:
            server = next(server for server in self.schedule.servers if server is process)
            server.crash()
            self.world.after(self.rng.uniform(0.2, 2.0), server.start)

    def _cut_coordinator(self) -> None:
        for process, candidate in self.schedule.candidates():
            if candidate.coordinates:
                self.world.tell(process.name, "has its coordinator connection cut")
                candidate.cut(self.rng.choice((0.0, 1.0)) * self.rng.random())

    def cut_coordinator_and_resize(self) -> None:
        """Whoever follows may find that a resize has been done, and another one has begun."""
        self._cut_coordinator()
        for operator in self.schedule.operators:
            operator.resize(self.rng.randint(1, 8))

    def _cut_publisher(self) -> None:
        publisher = self.rng.choice(self.schedule.publishers)
        self.world.tell(publisher.name, "has its connection cut")
        publisher.cut(0.3 * self.rng.random())

    def _hang_publisher(self) -> None:
        publisher = self.rng.choice(self.schedule.publishers)
        self._hang(publisher, lambda: [publisher.wire.connection] if publisher.wire is not None else [])

    def resize(self) -> None:
        """Another number of partitions, or fresh ones for another prefetch; with faults, whoever
        does it may die of it."""
        rng = self.rng
        if not self.schedule.scene.parts.resizes:
            return
        dies = rng.choice((None, "early", "half")) if self.schedule.kind == "faults" else None
        rng.choice(self.schedule.operators).resize(
            rng.randint(1, 8),
            rng.choice((None, None, 500, 1000)),
            rng.uniform(0, 0.5) if dies == "early" else None,
            rng.uniform(0, 0.05) if dies == "half" else None,
        )

    def _cut_operator(self) -> None:
        for operator in self.schedule.operators:
            operator.cut(0.3 * self.rng.random())

    def _restart_broker(self) -> None:
        if self.schedule.broker.up:
            self.world.tell("broker", "restarts")
            self.schedule.broker.restart(self.rng.uniform(0.2, 3.0), lambda: 0.3 * self.rng.random())
