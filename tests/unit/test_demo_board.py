"""What one sees: lines without a terminal, a board with one, and the tables at the end."""

import io

from rich.console import Console

from partymq.demo.board import LineBoard, LiveBoard, View, WorkerView, board_for
from partymq.demo.checker import Verdict
from partymq.demo.outcome import Outcome, Reaction, WorkerShare
from partymq.demo.report import report
from partymq.demo.run import Rate

VIEW = View(
    "PartyMQ", "60% published", 12.0, 1_000, 600, 590, 123.4,
    [WorkerView("worker-1", "working", 400, 99.0), WorkerView("worker-2", "killed", 190, 0.0)],
)  # fmt: skip


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=110, legacy_windows=False)


def written(where: Console) -> str:
    assert isinstance(where.file, io.StringIO)
    return where.file.getvalue()


def test_without_a_terminal_there_are_plain_lines():
    where = console(terminal=False)
    with board_for(where) as board:
        assert isinstance(board, LineBoard)
        board._last = 0.0
        board.event("worker-2 killed with -9")
        board.show(VIEW)
        board.show(VIEW)
    lines = written(where).splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("worker-2 killed with -9")
    assert "published 600 handled 590 of 1,000, 123/s  [1:99/s]" in lines[1]
    assert "\x1b" not in written(where)


def test_on_a_terminal_the_board_shows_bars_workers_and_events():
    where = console(terminal=True)
    with board_for(where) as board:
        assert isinstance(board, LiveBoard)
        board.event("server killed with -9")
        board.show(VIEW)
        shown = written(where)
    for text in ("PartyMQ", "60% published", "590 of 1,000", "worker-2", "killed", "server killed with -9"):
        assert text in shown


def test_the_report_sets_the_runs_beside_each_other():
    bad = Verdict(
        100, deliveries=120, handled=98, lost=2, out_of_order=31, concurrent=7, repeated=20, unexplained=4
    )
    bad.examples = {"lost": ["N1: flight 5 was never completed"]}
    good = Outcome(
        "PartyMQ", 10.0, Verdict(100, 100, 100), [WorkerShare("worker-1", "left", 100)],
        [Reaction("worker-1 killed with -9", 3.0, 16, 0.5, 0.75, 1.25)], True, 0,
    )  # fmt: skip
    plain = Outcome("one plain queue", 5.0, bad, [WorkerShare("worker-1", "killed", 120)], [], False, None)
    where = console(terminal=False)
    report(where, [good, plain])
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:4]
        for line in written(where).splitlines()
        if "│" in line
    }
    cells = {name: [cell.strip() for cell in row] for name, row in rows.items()}
    assert cells["lost"] == ["0", "2"]
    assert cells["out of order"] == ["0", "31"]
    assert cells["two workers at one aircraft"] == ["0", "7"]
    assert cells["repeated after a fault"] == ["0", "16"]
    assert cells["repeated without a fault"] == ["0", "4"]
    assert cells["order and exclusion kept"] == ["yes", "no"]
    assert "0.50" in written(where)
    assert "N1: flight 5 was never completed" in written(where)


def test_a_server_that_ends_badly_breaks_the_promise():
    verdict = Verdict(1, 1, 1)
    assert Outcome("PartyMQ", 1.0, verdict, [], [], True, 0).kept
    assert not Outcome("PartyMQ", 1.0, verdict, [], [], True, 1).kept


def test_a_rate_is_that_of_the_last_second():
    rate = Rate()
    assert rate.of(10.0, 0) == 0.0
    assert rate.of(10.5, 100) == 200.0
    assert rate.of(11.0, 200) == 200.0
    assert rate.of(12.0, 200) == 0.0
