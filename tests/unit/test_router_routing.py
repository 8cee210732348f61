"""What the core does with one message or a few: keys, users, sizes, holding, giving way, faults."""

from collections.abc import Callable
from typing import Any

import pytest
from pamqp.commands import Basic
from router_model import deliver_frame, frames, split_by_channel

from partymq.amqp.content import body_of, encode_content, properties_of
from partymq.group.key import KeyRule
from partymq.group.names import member_key
from partymq.group.partitioner import partition_of
from partymq.group.state import SetAside
from partymq.router import outlet
from partymq.router.core import Core
from partymq.router.events import Depth, HoldExhausted, Unroutable
from partymq.router.settings import RouterSettings
from partymq.router.statistics import Histogram, Statistics

CHANNEL, LEFTOVER = 5, 9
PARTITIONS = 4


class Bench:
    """A core with a session, two members, and what it has published."""

    def __init__(self, *, frame_max: int = 131_072, source_frame_max: int = 131_072, **settings: Any) -> None:
        settings = {"window": 0.0, "partitions": PARTITIONS, **settings}
        self.settings = RouterSettings(
            group="g", source_queue="source", exchange="ex", dead_letter_queue="dead", **settings
        )
        self.core = Core(self.settings, Statistics(), 0.0)
        self.now = 0.0
        self.tags = {CHANNEL: 0, LEFTOVER: 0}
        self.core.traffic.assign({0: "a", 1: "b", 2: "a", 3: "b"}, False, 0.0)
        self.stream = self.core.begin(CHANNEL, "guest", frame_max, source_frame_max, 0.0)

    def deliver(
        self, *messages: tuple[bytes, Basic.Properties], channel: int = CHANNEL, routing_key: str = "rk"
    ) -> None:
        buf, spans = b"", []
        for body, properties in messages:
            self.tags[channel] += 1
            start = len(buf)
            buf += deliver_frame(channel, self.tags[channel], "in", routing_key)
            header_at = len(buf)
            buf += encode_content(channel, body, properties)
            spans.append((self.tags[channel], start, header_at, len(buf)))
        (self.core.deliveries if channel == CHANNEL else self.core.fetched)(buf, spans, self.now)

    def keyed(self, *keys: str, channel: int = CHANNEL) -> None:
        """Messages with these keys, which are their bodies too."""
        messages = [(key.encode(), Basic.Properties(headers={"partitionKey": key})) for key in keys]
        self.deliver(*messages, channel=channel)

    def published(self, channel: int = CHANNEL) -> list[tuple[str, str, Basic.Properties, bytes]]:
        """Exchange, routing key, properties and body of what was published since the last call."""
        raw = split_by_channel(b"".join(self.core.take(self.now))).get(channel, b"")
        result, at = [], 0
        pieces = frames(raw, channel)
        while at < len(pieces):
            kind, method, _ = pieces[at]
            assert kind == "publish"
            content = b""
            at += 1
            while at < len(pieces) and pieces[at][0] != "publish":
                content += pieces[at][2]
                at += 1
            assert isinstance(method, Basic.Publish)
            assert method.mandatory
            result.append(
                (
                    method.exchange,
                    method.routing_key,
                    properties_of(content),
                    body_of(content, 0, len(content)),
                )
            )
        return result

    def bodies(self, channel: int = CHANNEL) -> list[tuple[str, str]]:
        """Member and body of what was published."""
        names = {member_key(name): name for name in "abcd"}
        return [(names[key], body.decode()) for _, key, _, body in self.published(channel)]


def key_of(partition: int, number: int = 0) -> str:
    """A key of this partition."""
    found = (f"k{n}" for n in range(10_000) if partition_of(f"k{n}".encode(), PARTITIONS) == partition)
    for _ in range(number):
        next(found)
    return next(found)


A, B, A2, B2 = key_of(0), key_of(1), key_of(2), key_of(3)


def test_messages_go_to_the_owners_of_their_partitions() -> None:
    bench = Bench()
    bench.keyed(A, B, A2, B2, A)
    assert bench.bodies() == [("a", A), ("b", B), ("a", A2), ("b", B2), ("a", A)]
    assert bench.core.outlet.counts == [2, 1, 1, 1]


def test_lanes_may_be_partitions_with_routing_keys_of_their_own() -> None:
    bench = Bench(routing_key=lambda name: f"to-{name}", lane="partition")
    bench.core.traffic.assign({number: str(number) for number in range(PARTITIONS)}, False, 0.0)
    bench.keyed(B2, A, B)
    assert [key for _, key, _, _ in bench.published()] == ["to-3", "to-0", "to-1"]
    bench.core.returned(bench.stream, "to-0", "312 NO_ROUTE")
    assert bench.core.fault == "partition '0': its queue is missing or not bound to the exchange"
    # What went to others is acked at the end, what went to this one goes back.
    bench.core.confirms(bench.stream, [(3, True, True)], 0.0)
    acks = [method.delivery_tag for _, method, _ in frames(bench.stream.ledger.last_acks(), CHANNEL)]
    assert acks == [1, 3]


def test_properties_and_body_stay_as_they_are() -> None:
    bench = Bench()
    properties = Basic.Properties(
        content_type="text/x",
        headers={"partitionKey": A, "n": {"deep": [1, 2]}},
        delivery_mode=2,
        app_id="me",
    )
    bench.deliver((b"body", properties))
    ((exchange, routing_key, got, body),) = bench.published()
    assert (exchange, routing_key, body) == ("ex", member_key("a"), b"body")
    assert list(got) == list(properties)


def test_a_message_without_a_key_is_spread_over_all_partitions() -> None:
    bench = Bench()
    bench.deliver(*[(b"x", Basic.Properties())] * 8)
    assert bench.core.outlet.counts == [2, 2, 2, 2]
    assert bench.core.statistics.spread == 8


def test_a_message_without_a_key_goes_to_one_partition_if_that_is_set() -> None:
    bench = Bench(key=KeyRule(missing="fixed"))
    bench.deliver(*[(b"x", Basic.Properties())] * 8)
    assert bench.core.outlet.counts == [8, 0, 0, 0]


def test_a_message_without_a_key_is_rejected_with_the_reason_if_that_is_set() -> None:
    bench = Bench(key=KeyRule(missing="reject"))
    own = Basic.Properties(headers={"partitionKey": None, "own": 1}, expiration="1000")
    bench.deliver((b"x", own), routing_key="rk")
    ((exchange, routing_key, properties, body),) = bench.published()
    assert (exchange, routing_key, body) == ("", "dead", b"x")
    assert properties.headers == {
        "partitionKey": None,
        "own": 1,
        "x-partymq-reason": "wrong type: void",
        "x-partymq-exchange": "in",
        "x-partymq-routing-key": "rk",
        "x-partymq-group": "g",
        "x-partymq-expiration": "1000",
    }
    assert properties.expiration is None
    assert bench.core.statistics.rejects == {"wrong type: void": 1}


def test_a_rejected_message_that_comes_back_is_told_as_that() -> None:
    bench = Bench(key=KeyRule(missing="reject"))
    bench.deliver((b"x", Basic.Properties()))
    bench.published()
    bench.core.returned(bench.stream, "dead", "312 NO_ROUTE")
    assert bench.core.fault is not None
    assert "dead-letter queue 'dead'" in bench.core.fault
    assert bench.core.events == []


def test_a_foreign_user_is_moved_to_a_header_and_ones_own_stays() -> None:
    bench = Bench()
    for user in ("guest", "somebody"):
        bench.deliver((b"x", Basic.Properties(headers={"partitionKey": A}, user_id=user)))
    (_, _, own, _), (_, _, foreign, _) = bench.published()
    assert own.user_id == "guest"
    assert own.headers == {"partitionKey": A}
    assert foreign.user_id is None
    assert foreign.headers == {"partitionKey": A, "x-partymq-user-id": "somebody"}


def test_a_user_as_key_is_found_again_in_a_leftover() -> None:
    bench = Bench(key=KeyRule("property", "user_id"))
    bench.core.begin_leftover(LEFTOVER, "guest", 131_072, 131_072)
    bench.deliver((b"x", Basic.Properties(headers={"x-partymq-user-id": B})), channel=LEFTOVER)
    bench.deliver((b"y", Basic.Properties(user_id=A)), channel=LEFTOVER)
    assert bench.bodies(LEFTOVER) == [("b", "x"), ("a", "y")]


def test_a_routing_key_as_key_is_added_once_and_found_again() -> None:
    bench = Bench(key=KeyRule("routing_key"))
    bench.deliver((b"x", Basic.Properties()), routing_key=B)
    ((_, routing_key, properties, _),) = bench.published()
    assert routing_key == member_key("b")
    assert properties.headers == {"x-partymq-routing-key": B}
    bench.core.begin_leftover(LEFTOVER, "guest", 131_072, 131_072)
    bench.deliver((b"x", properties), channel=LEFTOVER, routing_key=routing_key)
    ((_, routing_key, again, _),) = bench.published(LEFTOVER)
    assert routing_key == member_key("b")
    assert list(again) == list(properties)


def test_bodies_are_split_anew_where_frames_are_smaller() -> None:
    bench = Bench(frame_max=4096)
    body = bytes(range(256)) * 100
    bench.deliver((body, Basic.Properties(headers={"partitionKey": A})))
    raw = b"".join(bench.core.take(0.0))
    pieces = frames(raw, CHANNEL)
    assert max(len(piece) for _, _, piece in pieces) <= 4096
    assert b"".join(value for kind, value, _ in pieces if kind == "body") == body  # type: ignore[misc]


def test_a_message_that_cannot_be_published_ends_the_session() -> None:
    bench = Bench(frame_max=4096)
    bench.deliver((b"x", Basic.Properties(headers={"partitionKey": A, "big": "x" * 5000})))
    assert bench.published() == []
    assert bench.core.fault is not None
    assert "can't be published" in bench.core.fault


def test_large_messages_are_not_copied_together() -> None:
    bench = Bench()
    bench.deliver((bytes(2**20), Basic.Properties(headers={"partitionKey": A})))
    pieces = bench.core.take(0.0)
    assert len(pieces) == 2
    assert bench.core.statistics.bytes == sum(map(len, pieces))
    bench.keyed(A)
    assert len(bench.core.take(0.0)) == 1


def test_what_is_held_goes_before_what_comes_later() -> None:
    bench = Bench()
    bench.core.traffic.pause("a")
    bench.keyed(A, B, A2)
    assert bench.bodies() == [("b", B)]
    bench.keyed(A)
    bench.core.traffic.resume("a", 0.0)
    bench.keyed(A2)
    assert bench.bodies() == [("a", A), ("a", A2), ("a", A), ("a", A2)]
    assert bench.core.statistics.holds == 3
    assert bench.core.statistics.held_messages == bench.core.statistics.held_bytes == 0


def test_what_is_held_moves_with_its_partition() -> None:
    bench = Bench()
    bench.core.traffic.pause("a")
    bench.keyed(A, A2, A)
    bench.core.traffic.assign({0: "c"}, False, 0.0)
    assert bench.bodies() == [("c", A), ("c", A)]
    bench.core.traffic.resume("a", 0.0)
    assert bench.bodies() == [("a", A2)]


def test_a_locked_partition_waits_while_its_leftover_goes_ahead() -> None:
    bench = Bench()
    bench.core.traffic.assign({0: "c"}, True, 0.0)
    bench.core.begin_leftover(LEFTOVER, "guest", 131_072, 131_072)
    bench.keyed(A, A2)
    assert bench.bodies() == [("a", A2)]
    bench.keyed(A, channel=LEFTOVER)
    assert bench.bodies(LEFTOVER) == [("c", A)]
    bench.core.traffic.unlock([0], 0.0)
    assert bench.bodies() == [("c", A)]


def test_what_several_members_were_not_sent_goes_in_the_same_order_each_time() -> None:
    for _ in range(20):
        bench = Bench()
        bench.core.traffic.assign({0: "a", 1: "b", 2: "c", 3: "d"}, True, 0.0)
        bench.keyed(B2, A, B, A2)
        bench.core.traffic.unlock(range(PARTITIONS), 0.0)
        assert bench.bodies() == [("a", A), ("b", B), ("c", A2), ("d", B2)]


def test_a_lock_without_a_new_owner_holds_and_lets_go() -> None:
    bench = Bench()
    bench.core.traffic.lock([0], 0.0)
    bench.keyed(A, A2)
    assert bench.bodies() == [("a", A2)]
    bench.core.traffic.unlock([0], 0.0)
    assert bench.bodies() == [("a", A)]


def test_a_leftover_waits_for_a_paused_owner_in_front() -> None:
    bench = Bench()
    bench.core.begin_leftover(LEFTOVER, "guest", 131_072, 131_072)
    bench.core.traffic.pause("a")
    bench.keyed(A2)
    bench.keyed(A, channel=LEFTOVER)
    bench.core.traffic.resume("a", 0.0)
    names = [list(split_by_channel(piece)) for piece in bench.core.take(0.0)]
    assert names == [[LEFTOVER, CHANNEL]]


def test_a_dropped_leftover_is_routed_no_more() -> None:
    bench = Bench()
    stream = bench.core.begin_leftover(LEFTOVER, "guest", 131_072, 131_072)
    bench.core.traffic.pause("a")
    bench.keyed(A, channel=LEFTOVER)
    bench.core.drop_leftover(0.0)
    bench.keyed(B, channel=LEFTOVER)
    bench.core.traffic.resume("a", 0.0)
    assert bench.bodies(LEFTOVER) == []
    assert stream.is_settled
    assert bench.core.statistics.held_messages == 0


def test_no_more_is_let_go_at_once_than_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "BURST", 100)
    bench = Bench()
    bench.core.traffic.pause("a")
    bench.keyed(*[A] * 10)
    bench.core.take(0.0)
    bench.core.traffic.resume("a", 0.0)
    first = len(bench.bodies())
    assert 0 < first < 10
    assert bench.core.outlet.more
    bench.keyed(A)
    assert bench.bodies() == []
    sent = first
    while bench.core.outlet.more:
        bench.core.go_on(0.0)
        sent += len(bench.bodies())
    assert sent == 11


def test_nothing_held_is_let_go_while_the_write_buffer_is_full() -> None:
    bench = Bench()
    bench.core.traffic.pause("a")
    bench.keyed(A)
    bench.core.outlet.choked = True
    bench.core.traffic.resume("a", 0.0)
    assert bench.bodies() == []
    bench.core.outlet.choked = False
    bench.core.go_on(0.0)
    assert bench.bodies() == [("a", A)]


def test_giving_way_sends_what_is_held_and_holds_what_comes_later() -> None:
    bench = Bench()
    bench.core.traffic.pause("a")
    bench.core.traffic.lock([2], 0.0)
    bench.keyed(A, A2)
    bench.core.traffic.give_way("a", 0.0)
    bench.keyed(A)
    assert bench.bodies() == [("a", A)]
    assert bench.core.statistics.held_messages == 2


def test_a_full_window_holds_and_a_look_at_the_queue_opens_it() -> None:
    bench = Bench(window=0.5, minimum_window=2)
    bench.keyed(*[A] * 5)
    assert len(bench.bodies()) == 2
    bench.core.confirms(bench.stream, [(2, True, True)], 0.2)
    bench.core.traffic.observe("a", Depth(0, 0, 1), 0.25)
    assert len(bench.bodies()) == 3


def starving(bench: Bench, *, rounds: int = 200) -> list[HoldExhausted]:
    """Time passes; the broker answers everything."""
    events: list[HoldExhausted] = []
    confirmed = bench.stream.ledger.next_seq - 1
    for _ in range(rounds):
        bench.now += 0.05
        last = bench.stream.ledger.next_seq - 1
        if last > confirmed:
            bench.core.confirms(bench.stream, [(last, True, True)], bench.now)
            confirmed = last
        bench.core.tick(bench.now)
        events += [event for event in bench.core.events if isinstance(event, HoldExhausted)]
        bench.core.events.clear()
    return events


def test_windows_overflow_when_others_would_starve() -> None:
    bench = Bench(window=0.5, prefetch=100, hold_messages=40)
    bench.keyed(*[A] * 42)
    assert len(bench.bodies()) == 2
    bench.core.confirms(bench.stream, [(2, True, True)], 0.0)
    for name in "ab":
        bench.core.traffic.observe(name, Depth(2 if name == "a" else 0, 0, 1), 0.0)
    assert starving(bench, rounds=10) == []
    assert bench.core.statistics.gave_way == 5
    assert len(bench.bodies()) == 5
    assert bench.core.statistics.held_messages == 35  # below the limit: no reason to go on


def test_windows_do_not_overflow_while_everybody_has_work() -> None:
    bench = Bench(window=0.5, prefetch=100, hold_messages=40)
    bench.keyed(*[A] * 42, *[B] * 3)
    bench.bodies()
    assert starving(bench, rounds=10) == []
    assert bench.core.statistics.gave_way == 0


def test_a_pause_that_would_starve_others_is_told_once_a_second() -> None:
    bench = Bench(prefetch=100, hold_messages=40)
    bench.core.traffic.pause("a")
    bench.keyed(*[A] * 39)
    assert starving(bench, rounds=60) == []
    bench.keyed(A)
    assert starving(bench, rounds=59) == [HoldExhausted(("a",))] * 3


def test_locked_partitions_never_give_way() -> None:
    bench = Bench(prefetch=100, hold_messages=40)
    bench.core.traffic.lock([0], 0.0)
    bench.keyed(*[A] * 50)
    assert starving(bench) == []
    assert bench.bodies() == []


def test_a_message_that_comes_back_pauses_the_member_and_freezes_the_session() -> None:
    bench = Bench()
    bench.keyed(A, B)
    bench.published()
    bench.core.returned(bench.stream, member_key("a"), "312 NO_ROUTE")
    assert bench.core.confirms(bench.stream, [(2, True, True)], 0.0) == b""
    assert bench.core.events == [Unroutable("a", SetAside.RETURNED, "312 NO_ROUTE")]
    bench.keyed(B)
    bench.core.traffic.resume("b", 0.0)
    assert bench.bodies() == []
    assert [ack.delivery_tag for _, ack, _ in frames(bench.stream.ledger.last_acks(), CHANNEL)] == [2]  # type: ignore[attr-defined]
    bench.core.end()
    bench.core.begin(CHANNEL, "guest", 131_072, 131_072, 1.0)
    bench.keyed(A, B)
    assert bench.bodies() == [("b", B)]


def test_several_messages_that_come_back_are_told_once() -> None:
    bench = Bench()
    bench.keyed(*[A] * 5)
    bench.published()
    for _ in range(5):
        bench.core.returned(bench.stream, member_key("a"), "312 NO_ROUTE")
    assert len(bench.core.events) == bench.core.statistics.returns == 1


def test_a_refused_message_pauses_the_member() -> None:
    bench = Bench()
    bench.keyed(A, B)
    bench.published()
    bench.core.confirms(bench.stream, [(1, False, False)], 0.0)
    (event,) = bench.core.events
    assert isinstance(event, Unroutable)
    assert (event.hostname, event.reason) == ("a", SetAside.REJECTED)
    assert bench.core.frozen


def test_a_message_that_comes_back_unknown_taints_all() -> None:
    bench = Bench()
    bench.keyed(A, B)
    bench.published()
    bench.core.returned(bench.stream, "strange", "312 NO_ROUTE")
    bench.core.confirms(bench.stream, [(2, True, True)], 0.0)
    assert bench.core.fault is not None
    assert bench.stream.ledger.last_acks() == b""


def test_nothing_of_a_session_stays() -> None:
    bench = Bench()
    bench.core.traffic.pause("a")
    bench.core.traffic.lock([1], 0.0)
    bench.keyed(A, B, B2)
    bench.published()
    bench.core.end()
    assert bench.core.outstanding == 0
    assert bench.core.traffic.oldest(100.0) == 0
    bench.core.traffic.resume("a", 0.0)
    bench.tags[CHANNEL] = 0
    bench.stream = bench.core.begin(CHANNEL, "guest", 131_072, 131_072, 1.0)
    assert bench.bodies() == []
    bench.keyed(A, B, B2)
    assert bench.bodies() == [("a", A), ("b", B2)]
    assert bench.core.traffic.table.lanes["a"].outstanding == 1


def test_the_age_of_the_oldest_message_counts_held_and_unconfirmed_ones() -> None:
    bench = Bench()
    bench.core.traffic.pause("a")
    bench.now = 10.0
    bench.keyed(A)
    assert bench.core.oldest(15.0) == 5.0
    bench.core.traffic.resume("a", 20.0)
    bench.core.tick(20.0)
    bench.core.tick(20.1)
    assert bench.core.oldest(30.0) == pytest.approx(10.0)


def test_confirm_latency_is_sampled() -> None:
    bench = Bench()
    bench.keyed(A, B)
    bench.published()
    bench.core.confirms(bench.stream, [(1, False, True)], 0.05)
    assert sum(bench.core.statistics.confirm_latency.counts) == 0
    bench.core.confirms(bench.stream, [(2, False, True)], 0.06)
    assert sum(bench.core.statistics.confirm_latency.counts) == 1
    assert bench.core.statistics.confirm_latency.total == pytest.approx(0.06)


def test_a_histogram_counts_by_upper_bound() -> None:
    histogram = Histogram()
    for seconds in (0.0001, 0.0005, 0.0006, 11.0):
        histogram.observe(seconds)
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-1] == 1


def test_what_a_forgotten_member_owned_is_held_for_the_next_owner() -> None:
    bench = Bench()
    bench.core.begin_leftover(LEFTOVER, "guest", 131_072, 131_072)
    bench.core.traffic.pause("a")
    bench.keyed(A)
    bench.keyed(A2, channel=LEFTOVER)
    bench.core.traffic.forget("a", 0.0)
    assert "a" not in bench.core.traffic.table.lanes
    bench.core.traffic.forget("nobody", 0.0)
    bench.keyed(A)
    assert bench.core.statistics.held_messages == 3
    bench.core.traffic.assign({0: "c", 2: "c"}, False, 0.0)
    pieces = split_by_channel(b"".join(bench.core.take(0.0)))
    assert list(pieces) == [LEFTOVER, CHANNEL]
    assert len(frames(pieces[CHANNEL], CHANNEL)) == 6


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"partitions": 0}, "partitions"),
        ({"prefetch": 0}, "prefetch"),
        ({"prefetch": 65_536}, "prefetch"),
        ({"fetch_prefetch": 0}, "fetch_prefetch"),
        ({"hold_messages": 0}, "hold_messages"),
        ({"window": -1.0}, "window"),
        ({"minimum_window": 0}, "minimum_window"),
    ],
)
def test_settings_that_are_not_possible_are_refused(wrong: dict[str, Any], told: str) -> None:
    make: Callable[..., Bench] = Bench
    with pytest.raises(ValueError, match=told):
        make(**wrong)
