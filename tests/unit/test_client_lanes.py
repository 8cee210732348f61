"""The scheduler of a member's messages: examples that read as sentences, then every order of events."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from partymq.client.lanes import Item, Lanes, State, Stream


def items(stream: Stream, *keys: str | None) -> list[Item]:
    return [Item(stream, tag, key.encode() if key else None) for tag, key in enumerate(keys, start=1)]


def added(lanes: Lanes, *keys: str | None) -> tuple[Stream, list[Item]]:
    stream = Stream()
    new = items(stream, *keys)
    for item in new:
        lanes.add(item)
    return stream, new


def started(lanes: Lanes) -> list[int]:
    tags = []
    while (item := lanes.start()) is not None:
        tags.append(item.tag)
    return tags


def test_one_message_of_a_key_runs_and_other_keys_run_beside_it():
    lanes = Lanes(10)
    _, (first, *_rest) = added(lanes, "a", "a", "b", "a", None, None)
    assert started(lanes) == [1, 3, 5, 6]
    lanes.finish(first)
    assert started(lanes) == [2]


def test_no_more_run_than_the_limit():
    lanes = Lanes(2)
    _, (first, *_rest) = added(lanes, "a", "b", "c")
    assert started(lanes) == [1, 2]
    lanes.finish(first)
    assert started(lanes) == [3]


def test_a_message_that_is_held_keeps_its_key_and_gives_its_place_to_another():
    lanes = Lanes(1)
    _, (first, _, third) = added(lanes, "a", "a", "b")
    assert started(lanes) == [1]
    assert lanes.hold(first)
    assert started(lanes) == [3]
    lanes.finish(third)
    assert started(lanes) == []
    lanes.resume(first)
    assert started(lanes) == [1]
    assert first.attempt == 2
    lanes.finish(first)
    assert started(lanes) == [2]


def test_what_is_done_in_a_row_is_acknowledged_at_once():
    lanes = Lanes(10)
    stream, (one, two, three) = added(lanes, "a", "b", "c")
    started(lanes)
    lanes.finish(two)
    lanes.finish(one)
    assert stream.acks() == (2, [])
    lanes.finish(three)
    assert stream.acks() == (3, [])
    assert len(stream) == 0
    assert not stream.done


def test_what_is_done_behind_a_slow_key_is_acknowledged_alone_the_second_time():
    lanes = Lanes(10)
    stream, (slow, two, three) = added(lanes, "a", "b", "c")
    started(lanes)
    lanes.finish(two)
    lanes.finish(three)
    assert stream.acks() == (0, [])
    assert stream.done
    assert stream.acks() == (0, [2, 3])
    assert not stream.done
    lanes.finish(slow)
    assert stream.acks() == (1, [])


def test_everything_done_is_acknowledged_when_a_partition_is_given_up():
    lanes = Lanes(2)
    stream, (slow, two, three, four) = added(lanes, "a", "b", "b", "c")
    started(lanes)
    lanes.finish(two)
    lanes.drop(stream)
    assert started(lanes) == []
    lanes.finish(slow)
    assert stream.acks(all_now=True) == (2, [])
    assert {three.state, four.state} == {State.LEFT}
    assert stream.running == lanes.running == len(lanes) == 0


def test_a_dropped_stream_lets_other_streams_of_its_keys_go_on():
    lanes = Lanes(10)
    old, (running, *_rest) = added(lanes, "a", "a", "b")
    assert started(lanes) == [1, 3]
    lanes.hold(running)
    new, _ = added(lanes, "a", "b")
    lanes.drop(old)
    assert [(item.stream is new, item.tag) for item in iter(lanes.start, None)] == [(True, 1)]
    lanes.resume(running)
    assert started(lanes) == []


def test_a_handler_of_a_lost_stream_holds_its_key_until_it_has_ended():
    lanes = Lanes(10)
    old, _ = added(lanes, "a")
    started(lanes)
    (zombie,) = lanes.forget(old)
    new, _ = added(lanes, "a")
    assert started(lanes) == []
    lanes.finish(zombie)
    assert started(lanes) == [1]
    assert old.acks(all_now=True) == (0, [])
    assert len(new) == 1


def test_nothing_is_left_of_a_key_without_messages():
    lanes = Lanes(10)
    _, all_items = added(lanes, *(f"key-{number}" for number in range(100)))
    assert len(lanes) == 100
    for _ in range(10):
        started(lanes)
        for item in all_items:
            if item.state == State.RUNNING:
                lanes.finish(item)
    assert len(lanes) == 0


def test_an_event_that_does_not_fit_raises_and_changes_nothing():
    lanes = Lanes(10)
    _, (item, waiting) = added(lanes, "a", "a")
    for event in (lanes.finish, lanes.hold, lanes.resume):
        with pytest.raises(AssertionError):
            event(item)
    started(lanes)
    for event in (lanes.finish, lanes.hold, lanes.resume):
        with pytest.raises(AssertionError):
            event(waiting)
    with pytest.raises(AssertionError):
        lanes.leave(item)
    assert (item.state, waiting.state, lanes.running) == (State.RUNNING, State.WAITING, 1)


KEYS = [None, b"a", b"b", b"c"]


class EveryOrder(RuleBasedStateMachine):
    """Two streams at a time, any order of events; what the broker would do is modelled beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes(3)
        self.streams = [Stream(0), Stream(1)]
        self.tags = {0: 0, 1: 0}
        self.unacked: dict[Stream, set[int]] = {stream: set() for stream in self.streams}
        self.finished: set[tuple[int, int]] = set()
        self.running: list[Item] = []
        self.held: list[Item] = []
        self.begun: dict[tuple[Stream, bytes], int] = {}

    @rule(which=st.integers(0, 1), keys=st.lists(st.sampled_from(KEYS), max_size=5))
    def deliver(self, which: int, keys: list[bytes | None]) -> None:
        stream = self.streams[which]
        if stream.dropped:
            return
        for key in keys:
            self.tags[which] += 1
            self.unacked[stream].add(self.tags[which])
            self.lanes.add(Item(stream, self.tags[which], key))

    @rule()
    def start(self) -> None:
        while (item := self.lanes.start()) is not None:
            assert not item.stream.dropped
            if item.key is not None:
                assert item.key not in [other.key for other in self.running + self.held]
                before = self.begun.get((item.stream, item.key), 0)
                assert item.tag > before or (item.tag == before and item.attempt > 1)
                self.begun[item.stream, item.key] = item.tag
            self.running.append(item)
        assert len(self.running) <= 3

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["finish", "finish", "hold", "end"]))
    def end(self, data: st.DataObject, how: str) -> None:
        item = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if how == "hold":
            if self.lanes.hold(item):
                self.held.append(item)
        elif how == "end" and item.stream.dropped:
            self.lanes.leave(item)
        else:
            self.lanes.finish(item)
            self.finished.add((id(item.stream), item.tag))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        item = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.lanes.resume(item)

    @rule(which=st.integers(0, 1), all_now=st.booleans())
    def flush(self, which: int, all_now: bool) -> None:
        stream = self.streams[which]
        upto, alone = stream.acks(all_now=all_now)
        unacked = self.unacked[stream]
        if upto:
            assert upto in unacked, "the broker knows a multiple ack only by a tag that is not acknowledged"
        settled = {tag for tag in unacked if tag <= upto} | set(alone)
        assert len(alone) == len(set(alone))
        assert settled <= unacked
        assert all((id(stream), tag) in self.finished for tag in settled)
        unacked -= settled
        if all_now:
            assert not any((id(stream), tag) in self.finished for tag in unacked)

    @rule(which=st.integers(0, 1))
    def drop(self, which: int) -> None:
        self.lanes.drop(self.streams[which])
        self.held = [item for item in self.held if not item.stream.dropped]

    @rule(which=st.integers(0, 1))
    def lose(self, which: int) -> None:
        stream = self.streams[which]
        assert set(self.lanes.forget(stream)) == {item for item in self.running if item.stream is stream}
        self.held = [item for item in self.held if item.stream is not stream]
        self.unacked[stream] = set()
        self.renew(which)

    @precondition(lambda self: any(stream.dropped and not stream.running for stream in self.streams))
    @rule()
    def close(self) -> None:
        for which, stream in enumerate(self.streams):
            if stream.dropped and not stream.running:
                self.renew(which)

    def renew(self, which: int) -> None:
        self.streams[which] = Stream(which)
        self.unacked[self.streams[which]] = set()
        self.tags[which] = 0

    @invariant()
    def counts_are_right(self) -> None:
        assert self.lanes.running == len(self.running)
        for stream in self.streams:
            assert stream.running == sum(item.stream is stream for item in self.running)

    @invariant()
    def no_key_is_kept_without_messages(self) -> None:
        live = {
            item.key
            for stream in self.streams
            for item in stream.items()
            if item.state not in (State.DONE, State.LEFT)
        }
        live |= {item.key for item in self.running}
        assert len(self.lanes) == len(live - {None})

    def teardown(self) -> None:
        """In the end everything that was not dropped is handled."""
        for item in self.held:
            self.lanes.resume(item)
        while True:
            self.held = []
            self.start()
            if not self.running:
                break
            self.lanes.finish(self.running.pop())
        for stream in self.streams:
            if not stream.dropped:
                stream.acks(all_now=True)
                assert len(stream) == 0
        assert len(self.lanes) == 0


EveryOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestEveryOrder = EveryOrder.TestCase
