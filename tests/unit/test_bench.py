"""The benchmark's own arithmetic and words. Nothing here depends on how fast anything is."""

import json
from dataclasses import replace

import pytest

from bench import messages
from bench.forwarding import Run, figures
from bench.latency import Latencies, Latency, percentile
from bench.memory import Memory
from bench.plan import FULL, QUICK
from bench.rebalance import Join, Kill, Rebalances
from bench.report import markdown
from bench.results import Results
from bench.server import is_balanced
from bench.targets import verdicts
from partymq.group.key import KeyRule, make_finder


def run(candidate: str, router: float | None, per_second: float = 10_000.0) -> Run:
    return Run(candidate, 1000, router, broker_cpu=10.0, per_second=per_second, other_load=0.1)


def all_results() -> Results:
    joins = [Join(first=0.1 * number, share=0.9, share_of_all=0.8) for number in range(1, 21)]
    return Results(
        FULL,
        facts={"commit": "abc"},
        forwarding=[
            run("partymq-full", 0.5),
            run("partymq-full", 0.9),
            run("partymq-full", 0.6),
            run("partymq-body", 1.7),
            run("partymq", 0.7, per_second=15_000.0),
            run("shovel", None),
        ],
        latency=Latencies(1000.0, Latency(10, 0.5, 1.0, (0.5,)), Latency(10, 1.5, 9.0, (1.5,))),
        memory=[Memory(100, 10, 1, 50_000_000, 60_000_000), Memory(1000, 10, 1, 70_000_000, 70_000_000)],
        rebalance=Rebalances(
            300.0,
            2.0,
            joins={0: joins[:5], 30_000: joins},
            kills={"no consumer": [Kill(0.0, 1.0, 1.5, 21)], "heartbeat": [Kill(2.0, 0.1, 2.5, 21)]},
        ),
    )


def test_a_message_has_a_body_of_700_bytes_and_its_key_in_header_and_body() -> None:
    raw = messages.message("queue", "a-key", sent=12345)
    header = raw.index(b"\xce\x02") + 1
    body = raw[raw.index(b"{") : raw.rindex(b"}") + 1]
    assert len(body) == messages.BODY_SIZE
    assert json.loads(body)["sent"] == 12345
    for rule in (KeyRule("header", messages.KEY_HEADER), KeyRule("body", messages.BODY_KEY)):
        assert make_finder(rule).find(raw, header, len(raw), b"") == b"a-key"


def test_the_keys_are_distinct_and_the_same_every_time() -> None:
    assert len(set(messages.keys(1000))) == 1000
    assert messages.keys(10) == messages.keys(1000)[:10]


def test_a_stock_gives_exactly_as_many_messages_as_asked_for() -> None:
    stock = messages.Stock(lambda _key: "queue", 7)
    one = len(messages.message("queue", messages.keys(1)[0]))
    assert sum(map(len, stock.chunks(1003))) == 1003 * one


def test_the_median_of_a_candidates_runs_counts() -> None:
    found = {one.name: one for one in figures(all_results().forwarding)}
    assert found["partymq-full"].router_cpu == 0.6
    assert found["partymq-full"].share == pytest.approx(0.06)
    assert found["shovel"].router_cpu is None
    assert found["shovel"].share is None


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(number) for number in range(1, 21)], 99) == 20.0
    assert percentile([1.0], 99) == 1.0


def test_every_target_is_judged() -> None:
    reached = {(one.what, one.target): (one.measured, one.reached) for one in verdicts(all_results())}
    words = [f"{what} {target}: {measured} {yes}" for (what, target), (measured, yes) in reached.items()]
    assert words == [
        "router CPU, header key, everything on, members consume ≤ 0.8 s / 100k messages: 0.60 s True",
        "router CPU, header key, nobody consumes ≤ 0.8 s / 100k messages: 0.70 s True",
        "router CPU, body key, everything on, members consume ≤ 1.6 s / 100k messages: 1.70 s False",
        "router's CPU as a part of the broker's, members consume ≤ 8%: 6.0% True",
        "router's CPU as a part of the broker's, nobody consumes ≤ 8%: 7.0% True",
        "throughput beside the shovel's, nobody consumes ≥ 1.4 ×: 1.50 × True",
        "added latency, median at 1,000 messages/s ≤ 2 ms: 1.00 ms True",
        "memory of the server, from 100 to 1,000 keys grows by < 10 MB: +20.0 MB False",
        "a newcomer's first message after `ready`, p99 of 5, no backlog ≤ 1.5 s: 0.50 s True",
        "a newcomer's share within 5 s, the least of 5, no backlog ≥ 80% of its fair share: 90% True",
        "a newcomer's first message after `ready`, p99 of 20, backlog of 30,000 ≤ 1.5 s: 2.00 s False",
        "a newcomer's share within 5 s, the least of 20, backlog of 30,000 ≥ 80% of its fair share: 90% True",
        "a killed member's messages go on, all its partitions, the longest of 1 "
        "≤ 2 s after the broker saw no consumer: 1.50 s True",
        "a killed member's messages go on, all its partitions, the longest of 1 "
        "≤ 2 s after its heartbeat expired: 2.50 s False",
    ]


def test_what_was_not_measured_is_not_judged_and_not_shown() -> None:
    results = Results(replace(QUICK, parts=("memory",)), memory=all_results().memory)
    assert [one.what for one in verdicts(results)] == ["memory of the server, from 100 to 1,000 keys"]
    assert "Forwarding" not in markdown(results)
    assert "only shows that it runs" in markdown(results)


def test_the_tables_are_whole() -> None:
    blocks = markdown(all_results()).split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) == 6
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1


def test_all_that_was_measured_is_in_the_json() -> None:
    found = json.loads(json.dumps(all_results().as_json()))
    assert len(found["forwarding"]) == 6
    assert found["forwarding_medians"]["partymq-full"]["router_cpu"] == 0.6
    assert found["rebalance"]["kills"]["heartbeat"][0]["last"] == 2.5


def group(owners: str, **more: object) -> dict[str, object]:
    members = [{"hostname": name, "state": "ready"} for name in sorted(set(owners))]
    partitions = [{"owner": owner, "target": owner} for owner in owners]
    return {"members": members, "partitions": partitions, "rebalancing": False, "leftovers": [], **more}


def test_a_group_is_balanced_when_its_members_share_evenly_and_nothing_moves() -> None:
    assert is_balanced(group("aabb"), 2)
    assert is_balanced(group("aab"), 2)
    assert not is_balanced(group("aab"), 3)
    assert not is_balanced(group("aaab"), 2)
    assert not is_balanced(group("aabb", rebalancing=True), 2)
    assert not is_balanced(group("aabb", leftovers=[{"queue": "gone"}]), 2)
    assert not is_balanced(group("aabb", partitions=[{"owner": "a", "target": "b"}]), 2)
