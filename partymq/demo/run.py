"""One run of the flights: a publisher, workers that come and go, and what they noted meanwhile."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from partymq.demo.board import Board, View, WorkerView
from partymq.demo.checker import Fault
from partymq.demo.children import Child
from partymq.demo.notes import END, Delivery, PublisherNotes, WorkerNotes, deliveries
from partymq.demo.plan import Plan
from partymq.demo.topology import Broker
from partymq.demo.ways import PartyMQ, Way, coordinator_epoch
from partymq.errors import PartyMQError

OUTSIDER = Path(__file__).parent / "outsider"

_TICK_SECONDS = 0.05
_SHOW_SECONDS = 0.25
_STALL_SECONDS = 20.0
_QUIET_SECONDS = 0.7
_STEP_SECONDS = 60.0
_LEAVE_SECONDS = 20.0
_PATIENCE_SECONDS = 5.0


class DemoError(PartyMQError):
    """The demo could not be carried through; says what happened, with the end of the log concerned."""


@dataclass(frozen=True, slots=True)
class Milestone:
    """Something that happened to a worker or the server, at `at` (ns of CLOCK_MONOTONIC)."""

    kind: Literal["join", "leave", "kill", "coordinator", "server"]
    name: str
    at: int
    published: int
    """Messages that were in the broker by then, as far as was known."""


@dataclass(slots=True)
class Worker:
    """A worker process."""

    child: Child
    notes: WorkerNotes
    state: Literal["joining", "working", "leaving", "left", "killed"] = "joining"
    rate: "Rate" = field(default_factory=lambda: Rate())

    @property
    def name(self) -> str:
        return self.child.name


class Rate:
    """Per second, over about the last second."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, now: float, count: int) -> float:
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - 1.0:
            self._seen.popleft()
        began, before = self._seen[0]
        return (count - before) / (now - began) if now > began else 0.0


class Run:
    """A run under way. Its methods carry out the steps of a scenario and wait for the effect, bounded."""

    def __init__(
        self,
        way: Way,
        broker: Broker,
        plan: Plan,
        flights: Path,
        aircraft: Sequence[str],
        folder: Path,
        board: Board,
    ) -> None:
        """Nothing runs yet. `flights` is the publisher's input, `aircraft` whose each of its lines is."""
        self.way = way
        self.plan = plan
        self.aircraft = aircraft
        self.workers: list[Worker] = []
        self.milestones: list[Milestone] = []
        self.faults: list[Fault] = []
        self.began = time.monotonic()
        self.ended: float | None = None
        self._amqp_url = broker.amqp_url
        self._flights = flights
        self._folder = folder
        self._board = board
        self._publisher: Child | None = None
        self._publisher_notes = PublisherNotes(folder / "publisher.notes")
        self._completed = bytearray(len(aircraft))
        self._handled = 0
        self._deliveries = 0
        self._step = ""
        self._shown = 0.0
        self._moved = time.monotonic()
        self._rate = Rate()
        folder.mkdir(parents=True, exist_ok=True)
        for stale in [*folder.glob("*.notes"), *folder.glob("*.log")]:
            stale.unlink()

    @property
    def published(self) -> int:
        """Messages that the broker has confirmed."""
        return self._publisher_notes.confirmed

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began

    @property
    def working(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state in ("joining", "working")]

    def start_publisher(self) -> None:
        self._publisher = Child(
            "publisher",
            [
                sys.executable,
                str(OUTSIDER / self.way.publisher_script),
                f"--amqp={self._amqp_url}",
                *self.way.publisher_arguments(),
                f"--flights={self._flights}",
                f"--notes={self._folder / 'publisher.notes'}",
                f"--rate={self.plan.rate}",
            ],
            self._folder / "publisher.log",
        )
        self.began = self._moved = time.monotonic()
        self._board.event(f"publishing {len(self.aircraft):,} flights, {self.plan.rate:,.0f} a second")

    def until_published(self, share: float) -> None:
        wanted = int(len(self.aircraft) * share)
        seconds = self.plan.seconds * 4 + _STEP_SECONDS
        self.until(lambda: self.published >= wanted, f"{share:.0%} published", seconds)

    def scale_to(self, count: int) -> None:
        """Start or stop workers until there are `count`; when it returns they have joined, or are gone.

        Newcomers get a few seconds for their first flights, lest they are gone before they had any.
        """
        now = self.working
        if count > len(now):
            newcomers = [self._start_worker() for _ in range(count - len(now))]
            self._board.event(f"joining: {_names(newcomers)}")
            self.until(
                lambda: all(one.state == "working" for one in newcomers), "workers joining", _STEP_SECONDS
            )
            if self.published:
                self._give_time(lambda: all(one.notes.ended for one in newcomers), "their first flights")
        elif count < len(now):
            leavers = now[count:]
            self._board.event(f"leaving: {_names(leavers)}")
            for one in leavers:
                one.state = "leaving"
                self.milestones.append(
                    Milestone("leave", one.name, time.monotonic_ns(), self._publisher_notes.confirmed)
                )
                one.child.terminate()
            self.until(lambda: all(one.state == "left" for one in leavers), "workers leaving", _LEAVE_SECONDS)

    def kill_worker(self) -> None:
        """SIGKILL the second of the workers."""
        self._kill(self.working[1], "kill")

    def kill_coordinator(self) -> None:
        """SIGKILL the worker that coordinates the pull group.

        Raises:
            DemoError: none of them does.
        """
        epochs = {
            coordinator_epoch(one.child.log.read_text(errors="replace")): one
            for one in self.workers
            if one.state != "joining"
        }
        latest = max(epochs, default=0)
        if not latest or epochs[latest].state != "working":
            raise DemoError(f"{self.way.title}: no worker coordinates the group{self._logs()}")
        self._kill(epochs[latest], "coordinator")

    def _kill(self, victim: Worker, kind: Literal["kill", "coordinator"]) -> None:
        before, after = victim.child.kill()
        victim.state = "killed"
        self.milestones.append(Milestone(kind, victim.name, after, self.published))
        self.faults.append(Fault("worker", before, after, victim.name))
        role = ", the coordinator," if kind == "coordinator" else ""
        self._board.event(f"{victim.name}{role} killed with -9")

    def kill_server(self, way: PartyMQ) -> None:
        """SIGKILL the server, and start it again as a supervisor would."""
        before, after = way.kill()
        self.milestones.append(Milestone("server", "server", after, self.published))
        self._board.event("server killed with -9")
        back = time.monotonic() + self.plan.server_away
        self.until(lambda: time.monotonic() >= back, "the server's restart", _STEP_SECONDS)
        way.start()
        self.until(way.ready, "the server", _STEP_SECONDS)
        self._board.event(f"server ready again after {(time.monotonic_ns() - after) / 1e9:.1f} s")
        self.faults.append(Fault("server", before, time.monotonic_ns(), published=self.published))

    def finish(self) -> None:
        """Wait until all is handled, or nothing comes any more; then all workers leave."""
        self.until_published(1.0)
        self._board.event(f"all {len(self.aircraft):,} published")
        total = len(self.aircraft)
        self._moved = time.monotonic()
        with suppress(_StalledError):
            self.until(lambda: self._handled >= total, "the rest", self.plan.seconds * 4 + _STEP_SECONDS)
        self.ended = self._moved = time.monotonic()
        self.until(lambda: time.monotonic() >= self._moved + _QUIET_SECONDS, "late repeats", _STEP_SECONDS)
        for one in self.working:
            one.state = "leaving"
            one.child.terminate()
        self.until(
            lambda: all(one.state in ("left", "killed") for one in self.workers), "the end", _LEAVE_SECONDS
        )
        self._board.event(f"done: {self._handled:,} of {total:,} flights handled in {self.seconds:.1f} s")

    def close(self) -> None:
        """End what still runs; safe at any time."""
        for child in [worker.child for worker in self.workers] + [self._publisher]:
            if child is not None and child.status is None:
                child.kill()

    def deliveries(self) -> list[Delivery]:
        """All deliveries so far, in the order in which they began."""
        found = [
            one
            for worker in self.workers
            for one in deliveries(worker.name, worker.notes.notes, concurrent=self.way.concurrent)
        ]
        return sorted(found, key=lambda one: (one.begin, one.number))

    def until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Look and show until `condition` holds.

        Raises:
            DemoError: it did not hold in `seconds`, a process ended that should run, or nothing moves.
        """
        self._step = what
        deadline = time.monotonic() + seconds
        while True:
            self._look()
            if condition():
                return
            now = time.monotonic()
            if now >= deadline:
                raise DemoError(f"{self.way.title}: waited {seconds:.0f} s in vain for {what}{self._logs()}")
            if self._publisher is not None and now >= self._moved + _STALL_SECONDS:
                raise _StalledError(
                    f"{self.way.title}: nothing has moved for {_STALL_SECONDS:.0f} s, waiting for {what} "
                    f"(published {self.published:,}, handled {self._handled:,}){self._logs()}"
                )
            if now >= self._shown + _SHOW_SECONDS:
                self._shown = now
                self._board.show(self._view(now))
            time.sleep(_TICK_SECONDS)

    def _give_time(self, condition: Callable[[], bool], what: str) -> None:
        patience = time.monotonic() + _PATIENCE_SECONDS
        self.until(lambda: condition() or time.monotonic() >= patience, what, _STEP_SECONDS)

    def _start_worker(self) -> Worker:
        name = f"worker-{len(self.workers) + 1}"
        notes = self._folder / f"{name}.notes"
        child = Child(
            name,
            [
                sys.executable,
                str(OUTSIDER / self.way.worker_script),
                f"--name={name}",
                f"--amqp={self._amqp_url}",
                f"--notes={notes}",
                *self.way.worker_arguments(self.plan),
            ],
            self._folder / f"{name}.log",
            {**os.environ, "no_proxy": "*"},
        )
        worker = Worker(child, WorkerNotes(notes))
        self.workers.append(worker)
        return worker

    def _look(self) -> None:
        before = (self.published, self._deliveries)
        self._publisher_notes.refresh()
        for worker in self.workers:
            ended = worker.child.status is not None  # before the notes are read: so none is missed
            for note in worker.notes.refresh():
                self._deliveries += note.kind == END
                if note.kind == END and not self._completed[note.number]:
                    self._completed[note.number] = 1
                    self._handled += 1
            if worker.state == "joining" and worker.notes.ready_at is not None:
                worker.state = "working"
                self.milestones.append(Milestone("join", worker.name, worker.notes.ready_at, self.published))
            if worker.state == "leaving" and ended:
                worker.state = "left"
                if worker.child.status != 0:
                    raise DemoError(self._end_of(worker.child))
        if (self.published, self._deliveries) != before:
            self._moved = time.monotonic()
        self._check_processes()

    def _check_processes(self) -> None:
        expected = [worker.child for worker in self.working] + self.way.processes()
        publisher = self._publisher
        if publisher is not None and publisher.status != 0:
            expected.append(publisher)
        for child in expected:
            if child.status is not None:
                raise DemoError(self._end_of(child))

    def _end_of(self, child: Child) -> str:
        return (
            f"{self.way.title}: {child.name} ended with exit status {child.status}; "
            f"the end of {child.log}:\n{child.last_words()}"
        )

    def _logs(self) -> str:
        logs = [
            f"\nthe end of {child.log}:\n{words}"
            for child in [*self.way.processes(), *(worker.child for worker in self.workers)]
            if (words := child.last_words())
        ]
        return "".join(logs)

    def _view(self, now: float) -> View:
        return View(
            title=self.way.title,
            step=self._step,
            seconds=self.seconds,
            total=len(self.aircraft),
            published=self.published,
            handled=self._handled,
            rate=self._rate.of(now, self._deliveries),
            workers=[
                WorkerView(one.name, one.state, one.notes.ended, one.rate.of(now, one.notes.ended))
                for one in self.workers
            ],
        )


class _StalledError(DemoError):
    """Nothing moved for a while."""


def _names(workers: Sequence[Worker]) -> str:
    return ", ".join(worker.name for worker in workers)
