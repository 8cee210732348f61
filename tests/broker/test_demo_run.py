"""A run of the demo against a real broker, through one plain queue: it ends, and its faults are found."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from partymq.demo import run as room
from partymq.demo.board import View
from partymq.demo.checker import Fault
from partymq.demo.flights import Flight, choose, read_flights, write_lines
from partymq.demo.outcome import judge
from partymq.demo.plan import PLAIN_QUEUE, Plan
from partymq.demo.run import DemoError, Run
from partymq.demo.scenario import fly
from partymq.demo.topology import Broker
from partymq.demo.ways import PlainQueue
from tests.conftest import Vhost

PLAN = Plan(messages=4_000, rate=800.0, work_ms=2.0)


class SilentBoard:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.views: list[View] = []

    def __enter__(self) -> "SilentBoard":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def event(self, text: str) -> None:
        self.events.append(text)

    def show(self, view: View) -> None:
        self.views.append(view)


@pytest.fixture
def board() -> SilentBoard:
    return SilentBoard()


@pytest.fixture(scope="module")
def flights() -> list[Flight]:
    return choose(read_flights(), PLAN.messages)


@pytest.fixture
def run(vhost: Vhost, flights: list[Flight], tmp_path: Path, board: SilentBoard) -> Iterator[Run]:
    write_lines(flights, tmp_path / "flights.csv")
    broker = Broker(vhost.amqp_url, vhost.management_url)
    aircraft = [flight.aircraft for flight in flights]
    way = PlainQueue(broker)
    fresh = Run(way, broker, PLAN, tmp_path / "flights.csv", aircraft, tmp_path / "run", board)
    yield fresh
    fresh.close()
    assert all(worker.child.status is not None for worker in fresh.workers)


def test_competing_consumers_break_order_and_exclusion_and_it_is_found(run: Run, board: SilentBoard) -> None:
    fly(run)
    outcome = judge(run)
    verdict = outcome.verdict
    assert (verdict.published, verdict.handled, verdict.lost) == (4_000, 4_000, 0)
    assert verdict.unexplained == 0
    assert verdict.out_of_order > 0
    assert verdict.concurrent > 0
    assert not outcome.kept
    assert [share.end for share in outcome.workers] == ["left", "killed", "left", "left", "left"]
    open_at_the_kill = verdict.deliveries - sum(share.deliveries for share in outcome.workers)
    assert open_at_the_kill in (0, 1)
    assert verdict.repeated <= 1 + PLAN.prefetch
    changes = [reaction.what.split(" ", 1)[1] for reaction in outcome.reactions]
    assert changes == ["joined"] * 4 + ["killed -9", "joined", "left", "left"]
    assert outcome.reactions[0].first is None, "it joined before the first flight was published"
    assert outcome.reactions[1].first is not None
    assert board.views[-1].published == 4_000
    assert [fault.name for fault in run.faults] == ["worker-2"]


def test_what_never_arrives_is_lost_in_the_verdict_and_the_run_ends(
    run: Run, vhost: Vhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_STALL_SECONDS", 2.0)
    run.scale_to(1)
    run.start_publisher()
    run.until_published(0.3)
    os.kill(run.workers[0].child.pid, signal.SIGSTOP)
    run.until_published(0.6)
    vhost.api("DELETE", f"queues/{vhost.name}/{PLAIN_QUEUE}/contents")
    os.kill(run.workers[0].child.pid, signal.SIGCONT)
    run.finish()
    verdict = judge(run).verdict
    assert verdict.lost > 100
    assert verdict.handled + verdict.lost == 4_000
    assert not verdict.kept


def test_a_worker_that_ends_by_itself_fails_the_run_with_its_last_words(run: Run) -> None:
    run.scale_to(1)
    run.start_publisher()
    run.until_published(0.1)
    os.kill(run.workers[0].child.pid, signal.SIGKILL)
    with pytest.raises(DemoError, match=r"worker-1 ended with exit status -9"):
        run.until_published(1.0)


def test_a_killed_worker_is_a_fault_and_no_failure(run: Run) -> None:
    run.scale_to(2)
    run.kill_worker()
    assert [worker.state for worker in run.workers] == ["working", "killed"]
    (fault,) = run.faults
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.name) == ("worker", "worker-2")
    assert fault.begin < fault.end
