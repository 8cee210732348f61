"""A window lets a member have about half a second of work in its queue, whatever the member's speed."""

from dataclasses import dataclass, field

import pytest

from partymq.router.events import Depth
from partymq.router.window import Window

SECONDS = 0.5
TICK = 0.05


@dataclass
class Member:
    """A member that works at a fixed rate, its queue, and a router that always has more for it."""

    rate: float
    window: Window = field(default_factory=lambda: Window(SECONDS, 2, 0.0))
    now: float = 0.0
    sent: int = 0
    done: float = 0.0
    idle: float = 0.0
    supply: int = 10**9
    unacked_known: bool = True
    prefetch: int = 0

    @property
    def queued(self) -> int:
        return self.sent - int(self.done)

    def depth(self) -> Depth:
        if self.unacked_known:
            return Depth(self.queued, 0, 1)
        return Depth(max(0, self.queued - self.prefetch), None, 1)

    def run(self, seconds: float, observed_every: float = 0.25) -> "Member":
        """Let time pass. The most that lay in the queue is in `most`, seconds without work in `idle`."""
        self.idle, self.most = 0.0, 0
        steps = round(seconds / TICK)
        observe_steps = max(1, round(observed_every / TICK)) if observed_every else 0
        for step in range(1, steps + 1):
            free = min(self.window.free(self.sent, self.now), self.supply)
            self.supply -= free
            self.sent += free
            self.most = max(self.most, self.queued)
            self.now += TICK
            could = self.rate * TICK
            does = min(could, self.sent - self.done)
            self.done += does
            if could:
                self.idle += TICK * (1 - does / could)
            if observe_steps and step % observe_steps == 0:
                self.window.observe(self.depth(), self.sent, 0, self.supply > 0, self.now)
        return self


@pytest.mark.parametrize("observed_every", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.1, 3, 30, 450, 3000, 20_000])
def test_the_window_converges_to_half_a_second_of_work(rate: float, observed_every: float) -> None:
    member = Member(rate).run(20, observed_every)
    member.run(10, observed_every)
    assert member.most <= max(3, 1.3 * rate * SECONDS + 2), member.window
    if rate >= 3:
        assert member.idle <= 1.0, member.window
    assert member.window.size >= 2


@pytest.mark.parametrize("rate", [450, 3000])
def test_a_new_member_is_busy_within_two_seconds(rate: float) -> None:
    member = Member(rate).run(2.0, 0.25)
    assert member.run(1.0, 0.25).idle < 0.25, member.window


@pytest.mark.parametrize("rate", [0.1, 1, 3])
def test_a_slow_member_never_gets_many(rate: float) -> None:
    assert Member(rate).run(60, 0.25).most <= 4


def test_overshoot_while_the_window_grows_is_bounded() -> None:
    for rate in (20, 100, 450, 2000, 10_000):
        assert Member(rate).run(10, 0.25).most <= 3 * rate * SECONDS + 8, rate


def test_a_member_that_hangs_gets_little_more() -> None:
    member = Member(450).run(20)
    member.rate = 0
    assert member.run(30).most <= 2.5 * 450 * SECONDS
    assert member.window.size == 2


def test_a_member_that_gets_slower_is_followed() -> None:
    member = Member(2000).run(20)
    member.rate = 100
    member.run(20)
    assert member.run(5).most <= 1.5 * 100 * SECONDS


def test_a_member_that_gets_faster_is_followed() -> None:
    member = Member(100).run(20)
    member.rate = 3000
    member.run(3)
    assert member.run(5).idle < 0.25


def test_a_member_with_little_to_do_keeps_its_window() -> None:
    member = Member(450).run(20)
    size = member.window.size
    member.supply = 0
    member.run(5)
    for _ in range(100):
        member.supply = 5
        member.run(0.25)
    assert member.window.size >= 0.8 * size


def test_where_unacked_is_unknown_what_is_ready_is_kept_small() -> None:
    member = Member(450, unacked_known=False, prefetch=100).run(20)
    assert member.run(10).idle < 0.5
    assert member.most - 100 <= 1.5 * 450 * SECONDS


def test_a_queue_without_a_consumer_does_not_get_more() -> None:
    window = Window(SECONDS, 2, 0.0)
    sent = 0
    for step in range(1, 400):
        now = step * 0.05
        sent += window.free(sent, now)
        if step % 5 == 0:
            window.observe(Depth(sent, 0, 0), sent, 0, True, now)
    assert sent == window.size == 2


def test_a_queue_at_which_nobody_looks_is_not_limited() -> None:
    window = Window(SECONDS, 2, 0.0)
    assert window.free(0, 100.0) == 2
    assert window.free(2, 101.0) == 0
    assert window.free(2, 102.5) > 10_000
    window.observe(Depth(2, 0, 1), 2, 0, True, 103.0)
    assert window.free(2, 103.1) == 0


def test_messages_lost_with_a_session_are_not_taken_for_work_done() -> None:
    member = Member(10).run(20)
    size = member.window.size
    member.window.begin_anew()
    member.sent += 500
    member.done += 500  # never arrived
    member.run(5)
    assert member.window.size <= 2 * size


def test_what_another_router_left_in_the_queue_counts() -> None:
    window = Window(SECONDS, 2, 0.0)
    window.observe(Depth(5000, 10, 1), 0, 0, False, 0.2)
    assert window.free(0, 0.25) == 0
