"""How many messages may lie in a member's queue: what the member gets through in a given time.

A member's rate is not known beforehand, and is seen only while it has work all the time. A window begins
small; whenever the queue turns out to have run dry it grows by a factor, as long as that can't mean much
more than the given time; when the member was seen to be busy throughout, its rate is known and the window
is set by it. Between two looks at the queue the member is taken to go on at its rate.

Pure: counts and the time are passed in.
"""

from math import ceil, exp
from typing import Final

from partymq.router.events import Depth

_LARGEST: Final = 1_000_000
_UNSEEN: Final = 2.0
"""Seconds without any look at the queue after which nobody is expected to look, and nothing is limited."""
_OUT_OF_SIGHT: Final = 10.0
"""The same after the last look."""
_ENOUGH: Final = 10
"""Messages by which a rate is measured."""
_LONG_ENOUGH: Final = 2.0
"""Seconds after which a rate is measured with fewer messages than that."""
_FORGETTING: Final = 0.5
"""Seconds in which a rate falls by 1/e where nothing is got through any more."""


class Window:
    """The window of one member.

    Attributes:
        size: messages.
        rate: messages a second that the member gets through, as far as is known.

    Args:
        seconds: the work that may lie in the queue, in the member's own time.
        minimum: messages that may always lie there.
        now: monotonic seconds.
    """

    __slots__ = (
        "_at",
        "_busy",
        "_done",
        "_fresh",
        "_minimum",
        "_queued",
        "_seconds",
        "_seen",
        "_sent",
        "_since",
        "_was_queued",
        "_went",
        "rate",
        "size",
    )

    def __init__(self, seconds: float, minimum: int, now: float) -> None:
        self.size = minimum
        self.rate = 0.0
        self._seconds = seconds
        self._minimum = minimum
        self._seen = False
        # The queue as it was at the last look.
        self._at = now
        self._queued = 0
        self._sent = 0
        # The measurement under way: since when, what was done in it, whether the member was busy throughout.
        self._since = now
        self._done = 0
        self._went = 0
        self._was_queued = 0
        self._busy = True
        self._fresh = True

    def __repr__(self) -> str:
        return f"<Window size={self.size} rate={self.rate:.3g}/s queued={self._queued}>"

    def estimate(self, sent: int, now: float) -> float:
        """Messages in the queue now, probably, with `sent` ever sent to it; 0 while nobody looks at it."""
        if self._unseen(now):
            return 0.0
        return max(0.0, self._queued + sent - self._sent - self.rate * (now - self._at))

    def free(self, sent: int, now: float) -> int:
        """Messages that may be sent now; a large number while nobody looks at the queue at all."""
        if not self._seen and not sent:
            self._at = self._since = now  # patience begins with the first message
        if self._unseen(now):
            return _LARGEST
        return max(0, int(self.size - self.estimate(sent, now)))

    def begin_anew(self) -> None:
        """What was on its way may have been lost, so the next look says nothing about the member's rate."""
        self._fresh = False

    def observe(self, depth: Depth, sent: int, on_the_way: int, short: bool, now: float) -> None:
        """A look at the queue.

        Args:
            depth: what was seen.
            sent: messages ever sent.
            on_the_way: of these, messages that the broker has not confirmed yet.
            short: whether more would have been sent since the last look, had the window been larger.
            now: monotonic seconds.
        """
        queued = depth.ready + (depth.unacked or 0)
        done = sent - on_the_way - queued
        went = max(0, done - self._went)
        before, elapsed = self._was_queued, now - self._at
        self._went, self._was_queued = done, queued
        self._at, self._queued, self._sent = now, queued + on_the_way, sent

        if not self._fresh:
            self._fresh = self._seen = True
            self._since, self._done, self._busy = now, 0, True
            return
        busy = queued > 0 and (went <= before or (short and 2 * queued >= self.size))
        self._busy = self._busy and busy
        size = self.size
        self._measure(went, now)
        if short and 4 * queued <= size and depth.consumers != 0:
            self._grow(size, elapsed)
        self._seen = True

    def _unseen(self, now: float) -> bool:
        return now - self._at > (_OUT_OF_SIGHT if self._seen else _UNSEEN)

    def _measure(self, went: int, now: float) -> None:
        self._done += went
        elapsed = now - self._since
        if elapsed <= 0:
            return
        evidence = max(self._done, self.rate * elapsed)
        if evidence < _ENOUGH and elapsed < _LONG_ENOUGH:
            return
        measured = self._done / elapsed
        if self._busy:
            if measured < self.rate:
                measured += (self.rate - measured) * exp(-elapsed / _FORGETTING)
            self.rate = measured
            self.size = self._fitting()
        elif measured > self.rate:
            self.rate = measured
            self.size = max(self.size, self._fitting())
        self._since, self._done, self._busy = now, 0, True

    def _fitting(self) -> int:
        return min(_LARGEST, max(self._minimum, ceil(self.rate * self._seconds)))

    def _grow(self, size: int, elapsed: float) -> None:
        # It got through all of it in `elapsed` or less: so much more is at most twice what is wanted.
        factor = min(8.0, max(2.0, 2 * self._seconds / elapsed)) if elapsed > 0 else 2.0
        self.size = min(_LARGEST, max(self.size, int(size * factor)))
