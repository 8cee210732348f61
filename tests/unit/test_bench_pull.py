"""The arithmetic and words of the benchmark of pull groups. Nothing here depends on how fast anything is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import InvalidRun
from bench.pull.consumers import member, tally
from bench.pull.consuming import Cost, Round, ratios
from bench.pull.counted import OURS, Note, Process, counts
from bench.pull.flow import Flow, Member, keys_in_turn
from bench.pull.plan import FULL, QUICK
from bench.pull.publishing import Rate
from bench.pull.reactions import Death, Restart
from bench.pull.report import markdown
from bench.pull.results import Results
from bench.pull.targets import verdicts
from partymq.group.partitioner import partition_of

_SECOND = 1_000_000_000
_CHILD: Any = SimpleNamespace(name="child", status=None, last_words=lambda: "its last words")


def death(last: float, was: str = "oldest") -> Death:
    return Death(first=0.1, last=last, partitions=21, was=was)


def all_results() -> Results:
    def one(ours: float, raw: float, handler: float) -> Round:
        rates = {"partymq": ours, "amqp": raw, "handler": handler}
        cpu = {"partymq": 0.5, "amqp": 0.2, "handler": 0.25}
        broker_cpu = {"partymq": 1.5, "amqp": 1.6, "handler": 2.0}
        return Round("classic", 2, False, rates, cpu, broker_cpu, load=0.0)

    return Results(
        FULL,
        facts={"commit": "abc"},
        costs=[
            Cost("partymq", "classic", 0.4, (0.3, 0.4, 0.5), 2.0, 70_000.0),
            Cost("aio_pika", "classic", 8.0, (8.0,), 6.0, 9_000.0),
            Cost("partymq", "quorum", 1.6, (1.6,), 2.0, 70_000.0),
        ],
        rounds=[one(80.0, 100.0, 50.0), one(100.0, 100.0, 50.0), one(95.0, 100.0, 125.0)],
        joins=[number / 100 for number in range(1, 51)],
        kills=[death(0.1 * number, "newest" if number % 2 else "oldest") for number in range(1, 31)],
        stops={3.0: [death(4.9), death(3.0)], 10.0: [death(12.1)]},
        restarts=[Restart(10.0, 8.0, 16_000, 0), Restart(0.0, 8.0, 16_000, 3)],
        rates=[
            *(Rate("partymq, publish_many", "quorum", per_second, 0.3) for per_second in (1.0, 50.0, 60.0)),
            Rate("aio-pika, 1,000 at once", "quorum", 9.0, 6.0),
            Rate("aio-pika, one by one", "quorum", 2.0, 12.0),
        ],
    )


def test_every_target_is_judged():
    words = [
        f"{one.what} {one.target}: {one.measured} {'yes' if one.reached else 'no'}"
        for one in verdicts(all_results())
    ]
    assert words == [
        "consumer's CPU, classic queues ≤ 1.5 s / 100k messages: 0.40 s yes",
        "consumer's CPU, quorum queues ≤ 1.5 s / 100k messages: 1.60 s no",
        "2 members beside 2 raw consumers, no handler, classic queues, backlog ≥ 0.9 ×: 0.95 × yes",
        "2 members beside 2 raw consumers, with a handler, classic queues, backlog ≥ 0.9 ×: 1.60 × yes",
        "a joining member's first message, p99 of 50 ≤ 500 ms after the start of its consumer: 500 ms yes",
        "all partitions of a member go on after kill -9, p99 of 30 ≤ 2 s: 3.00 s no",
        "all partitions of a member go on after SIGSTOP, the longest of 2 "
        "≤ 5 s (session_timeout 3 s): 4.90 s yes",
        "all partitions of a member go on after SIGSTOP, the longest of 1 "
        "≤ 12 s (session_timeout 10 s): 12.10 s no",
        "a rolling restart of four members, rejoin_grace 10 s "
        "repeats and loses no message: 0 of 16,000 repeated yes",
        "a rolling restart of four members, rejoin_grace 0 s "
        "repeats and loses no message: 3 of 16,000 repeated no",
        "publish_many beside aio-pika's best confirmed publish, quorum queues ≥ 5 ×: 5.6 × yes",
    ]


def test_the_ratio_is_that_of_each_round():
    assert ratios(all_results().rounds, "amqp") == [0.8, 1.0, 0.95]


def test_the_tables_are_whole_and_show_every_round():
    text = markdown(all_results())
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 8
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
    assert "0.95 (0.80, 1.00, 0.95)" in text
    assert "| 0.50 + 1.50 | 0.20 + 1.60 | 0.25 + 2.00 | 0.90 | 1.12 |" in text


def test_what_was_not_measured_is_not_judged_and_not_shown():
    results = Results(replace(QUICK, parts=("join",)), joins=[0.1])
    assert [one.what for one in verdicts(results)] == ["a joining member's first message, p99 of 1"]
    assert "Publishing" not in markdown(results)
    assert "only shows that it runs" in markdown(results)


def test_all_that_was_measured_is_in_the_json():
    found = json.loads(json.dumps(all_results().as_json()))
    assert len(found["kills"]) == 30
    assert found["rounds"][0]["per_second"]["partymq"] == 80.0


def process(*notes: tuple[int, float, float]) -> Process:
    """With notes of (count, seconds, CPU seconds)."""
    made = Process(_CHILD, Path())
    made.notes = [Note(count, 8, int(at * _SECOND), int(cpu * _SECOND)) for count, at, cpu in notes]
    return made


def test_the_clock_runs_from_before_the_first_message_of_anybody_to_the_last_and_cpu_until_all_is_acked():
    consumers = [
        process((0, 1.0, 0.2), (0, 2.0, 0.3), (400, 3.0, 0.5), (600, 4.0, 0.8), (600, 5.0, 0.9)),
        process((0, 1.5, 0.1), (0, 2.5, 0.1), (400, 6.0, 0.2), (400, 7.0, 0.3)),
    ]
    found = counts(OURS, consumers, 1000, broker_cpu=0.02)
    assert found.per_second == 1000 / (6.0 - 2.0)
    assert found.cpu == pytest.approx((0.6 + 0.2) * 100)
    assert found.broker_cpu == pytest.approx(2.0)


def test_a_tally_tells_what_was_done_and_opens_with_the_gate(tmp_path: Path):
    gate, notes = tmp_path / "gate", tmp_path / "tally"
    counting = tally.Tally(str(notes), str(gate))
    assert not counting.tick()
    counting.count, counting.partitions = 7, 3
    gate.touch()
    assert counting.tick()
    assert not counting.tick()
    assert counting.is_open
    consumer = Process(_CHILD, notes)
    assert (consumer.latest.count, consumer.latest.partitions) == (7, 3)
    assert [note.count for note in consumer.notes] == [0, 7, 7]


def test_a_process_that_has_ended_makes_the_run_invalid(tmp_path: Path):
    ended: Any = SimpleNamespace(name="amqp-1", status=1, last_words=lambda: "its last words")
    with pytest.raises(InvalidRun, match=r"amqp-1 ended: 1\nits last words"):
        _ = Process(ended, tmp_path / "tally").latest


def test_messages_go_to_one_partition_after_the_other():
    keys = keys_in_turn(8)
    assert [partition_of(key.encode(), 8) for key in keys] == list(range(8)) * 16
    assert len(set(keys)) == len(keys)


@pytest.fixture
def noted(tmp_path: Path) -> Callable[..., Member]:
    def make(*records: tuple[int, int, int, int]) -> Member:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.notes"
        path.write_bytes(b"".join(member.RECORD.pack(*record) for record in records))
        made = Member(_CHILD, path)
        made.refresh()
        return made

    return make


def test_what_a_member_noted_says_what_it_owns_and_what_it_has_handled(noted: Callable[..., Member]):
    found = noted(
        (member.STARTED, 0, 0, 100),
        (member.GAINED, 3, 0, 150),
        (member.GAINED, 4, 0, 151),
        (member.HANDLED, 3, 70, 160),
        (member.HANDLED, 4, 71, 170),
        (member.HANDLED, 3, 72, 180),
        (member.REVOKED, 4, 0, 190),
    )
    assert (found.started, found.first, found.partitions) == (100, 160, {3})
    assert list(found.handled_since(170)) == [(180, 3), (170, 4)]


def test_a_message_that_two_members_handled_is_repeated(noted: Callable[..., Member], tmp_path: Path):
    vhost: Any = None
    flow = Flow(vhost, QUICK, tmp_path, {})
    flow.members = [
        noted((member.HANDLED, 3, 70, 160), (member.HANDLED, 3, 71, 161)),
        noted((member.HANDLED, 3, 71, 170), (member.HANDLED, 3, 72, 171)),
    ]
    assert flow.repeated == 1
