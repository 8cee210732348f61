"""The ledger acks what is confirmed, never twice, and never what is not."""

from random import Random

import pytest
from pamqp import frame

from partymq.errors import ProtocolError
from partymq.router.lane import Lane
from partymq.router.ledger import Ledger


def acked(raw: bytes) -> list[tuple[int, bool]]:
    tags = []
    while raw:
        used, _, ack = frame.unmarshal(raw)
        tags.append((ack.delivery_tag, ack.multiple))
        raw = raw[used:]
    return tags


def publish(ledger: Ledger, lane: Lane, *tags: int) -> None:
    for tag in tags:
        ledger.tags.append(tag)
        ledger.lanes.append(lane)
        lane.before += 1


@pytest.fixture
def lane() -> Lane:
    return Lane("a", "a")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(1, 2000)


def test_the_confirmed_prefix_is_acked_at_once(ledger: Ledger, lane: Lane) -> None:
    publish(ledger, lane, 1, 2, 3, 4)
    ledger.confirm([(2, False, True)])
    assert acked(ledger.acks(False)) == []
    ledger.confirm([(1, False, True), (4, False, True)])
    assert acked(ledger.acks(False)) == [(2, True)]
    ledger.confirm([(3, False, True)])
    assert acked(ledger.acks(False)) == [(4, True)]
    assert ledger.outstanding == lane.outstanding == 0


def test_a_multiple_confirm_stands_for_all_before(ledger: Ledger, lane: Lane) -> None:
    publish(ledger, lane, 1, 2, 3)
    ledger.confirm([(3, True, True)])
    assert acked(ledger.acks(False)) == [(3, True)]


def test_behind_a_held_message_each_is_acked_alone(ledger: Ledger, lane: Lane) -> None:
    publish(ledger, lane, 2, 3)  # 1 is held
    ledger.confirm([(2, True, True)])
    assert acked(ledger.acks(True)) == [(2, False), (3, False)]
    publish(ledger, lane, 1, 4)
    ledger.out_of_order()
    publish(ledger, lane, 5)
    ledger.confirm([(5, True, True)])
    assert acked(ledger.acks(False)) == [(1, False), (4, False), (5, False)]
    publish(ledger, lane, 6)
    ledger.confirm([(6, False, True)])
    assert acked(ledger.acks(False)) == [(6, True)]


def test_a_tag_acked_alone_is_not_named_by_a_multiple_ack(ledger: Ledger, lane: Lane) -> None:
    publish(ledger, Lane("b", "b"), 1)
    publish(ledger, lane, 2, 3)
    ledger.confirm([(2, False, True), (3, False, True)])
    assert acked(ledger.tick(10.0)) == []
    assert acked(ledger.tick(10.1)) == []
    assert acked(ledger.tick(10.6)) == [(2, False), (3, False)]
    ledger.confirm([(1, False, True)])
    assert acked(ledger.acks(False)) == [(1, True)]


def test_a_late_confirm_does_not_stop_the_flow() -> None:
    ledger, lane = Ledger(1, 8), Lane("a", "a")
    publish(ledger, Lane("b", "b"), 1)
    publish(ledger, lane, *range(2, 9))
    ledger.confirm([(seq, False, True) for seq in range(2, 6)])
    assert acked(ledger.acks(False)) == []
    ledger.confirm([(6, False, True)])
    assert acked(ledger.acks(False)) == [(seq, False) for seq in range(2, 7)]


def test_a_message_is_not_acked_while_an_older_one_of_the_same_lane_may_come_back(ledger: Ledger) -> None:
    a, b = Lane("a", "a"), Lane("b", "b")
    publish(ledger, a, 2, 3)  # 1 is held
    publish(ledger, b, 4)
    ledger.confirm([(2, False, True), (3, False, True)])
    assert acked(ledger.acks(True)) == []
    ledger.tick(10.0)
    assert acked(ledger.tick(11.0)) == [(4, False)]
    assert acked(ledger.last_acks()) == []
    ledger.confirm([(1, False, True)])
    assert acked(ledger.acks(True)) == [(2, False), (3, False)]


def test_what_is_refused_is_never_acked_nor_what_followed_it_to_the_same_member(ledger: Ledger) -> None:
    a, b = Lane("a", "a"), Lane("b", "b")
    publish(ledger, a, 1, 2)
    publish(ledger, b, 3)
    publish(ledger, a, 4, 5)
    assert ledger.confirm([(2, False, False), (1, False, True), (3, False, True), (4, False, True)]) == [a]
    assert acked(ledger.last_acks()) == [(1, False), (3, False)]
    assert a.outstanding == 1


def test_a_nack_can_stand_for_all_before(ledger: Ledger) -> None:
    a, b = Lane("a", "a"), Lane("b", "b")
    publish(ledger, a, 1, 2)
    publish(ledger, b, 3)
    assert set(ledger.confirm([(1, False, True), (3, True, False)])) == {a, b}
    assert acked(ledger.last_acks()) == [(1, False)]


def test_what_was_pending_when_a_message_came_back_is_not_acked(ledger: Ledger) -> None:
    a, b = Lane("a", "a"), Lane("b", "b")
    publish(ledger, a, 1)
    publish(ledger, b, 2)
    publish(ledger, a, 3)
    ledger.confirm([(1, False, True)])
    ledger.taint(a)
    ledger.confirm([(3, True, True)])
    assert acked(ledger.last_acks()) == [(1, False), (2, False)]


def test_a_confirm_of_nothing_is_an_error(ledger: Ledger, lane: Lane) -> None:
    publish(ledger, lane, 1)
    with pytest.raises(ProtocolError, match="confirms publish 2"):
        ledger.confirm([(2, False, True)])


@pytest.mark.parametrize("ends_with", ["ack", "multiple ack", "nack", "multiple nack"])
def test_a_publish_that_waits_very_long_costs_no_memory(ends_with: str) -> None:
    ledger, slow, fast = Ledger(1, 100), Lane("slow", "s"), Lane("fast", "f")
    publish(ledger, slow, 1)
    tag, now = 1, 0.0
    seen: list[int] = []
    for _ in range(60):
        for _ in range(50):
            tags = range(tag + 1, tag + 21)
            tag += 20
            publish(ledger, fast, *tags)
            first = ledger.next_seq - 20
            ledger.confirm([(seq, False, True) for seq in range(first, first + 20)])
            seen += [each for each, multiple in acked(ledger.acks(False)) if not multiple]
        now += 0.1
        seen += [each for each, _ in acked(ledger.tick(now))]
    assert len(ledger.tags) < 20_000
    assert ledger.outstanding == 1
    assert slow.outstanding == 1
    assert ledger.stuck_for(now) > 5
    refused = ledger.confirm([(1, "multiple" in ends_with, "nack" not in ends_with)])
    seen += [each for each, _ in acked(ledger.last_acks())]
    assert slow.outstanding == ledger.outstanding == 0
    if "nack" in ends_with:
        assert slow in refused
        assert sorted(seen) == list(range(2, tag + 1))
    else:
        assert sorted(seen) == list(range(1, tag + 1))


@pytest.mark.parametrize("seed", range(60))
def test_every_tag_is_acked_exactly_once_whatever_the_order_of_confirms(seed: int) -> None:
    random = Random(seed)
    ledger = Ledger(1, random.choice([4, 40, 400]))
    lanes = [Lane(name, name) for name in "abc"]
    next_tag, now = 1, 0.0
    held: list[int] = []
    unacked: set[int] = set()
    pending: dict[int, int] = {}
    confirmed: set[int] = set()
    sent: list[tuple[int, int, Lane]] = []

    def blocked() -> set[int]:
        """Confirmed, but behind one of the same lane that is not."""
        waiting: set[str] = set()
        behind = set()
        for seq, tag, lane in sent:
            if seq in pending:
                waiting.add(lane.hostname)
            elif lane.hostname in waiting:
                behind.add(tag)
        return behind

    def settle(raw: bytes) -> None:
        behind = blocked()
        for tag, multiple in acked(raw):
            assert tag in unacked, "unknown delivery tag"
            gone = {each for each in unacked if each <= tag} if multiple else {tag}
            assert gone <= confirmed
            assert not gone & behind
            unacked.difference_update(gone)
        sent[:] = [each for each in sent if each[1] in unacked]

    def send(tag: int) -> None:
        lane = random.choice(lanes)
        sent.append((ledger.next_seq, tag, lane))
        pending[ledger.next_seq] = tag
        publish(ledger, lane, tag)

    for _ in range(400):
        for _ in range(random.randint(0, 30)):
            unacked.add(next_tag)
            if random.random() < 0.02:
                held.append(next_tag)
            else:
                send(next_tag)
            next_tag += 1
        if held and random.random() < 0.2:
            for tag in held[: random.randint(1, len(held))]:
                held.remove(tag)
                send(tag)
            ledger.out_of_order()
        confirms = []
        for _ in range(random.randint(0, 30)):
            if not pending:
                break
            seq = random.choice(list(pending)) if random.random() < 0.8 else min(pending)
            multiple = random.random() < 0.1
            confirms.append((seq, multiple, True))
            for each in [each for each in pending if each == seq or (multiple and each < seq)]:
                confirmed.add(pending.pop(each))
        if confirms:
            ledger.confirm(confirms)
        settle(ledger.acks(bool(held)))
        if random.random() < 0.1:
            now += random.choice([0.1, 0.6])
            settle(ledger.tick(now))
        assert ledger.outstanding == len(pending) == sum(lane.outstanding for lane in lanes)
    settle(ledger.last_acks())
    assert unacked == set(held) | set(pending.values()) | blocked()
