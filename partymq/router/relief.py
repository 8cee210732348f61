"""What gives way when no more can be held and somebody would starve for it.

Windows are soft: they overflow first, a step at a time, oldest messages first. Where a step did not help
(perhaps the source holds nothing for the starving ones), the next comes later. Pauses are not ours to end:
that is told to the coordinator.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from partymq.router.lane import Lane
from partymq.router.settings import RouterSettings

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
_TELL_EVERY: Final = 1.0
"""All in seconds."""


class Outcome(NamedTuple):
    """Lanes with the number of messages that go beyond their windows; members to be told about."""

    overflow: list[tuple[Lane, int]]
    exhausted: tuple[str, ...]


_NOTHING: Final = Outcome([], ())


class Relief:
    """Looks at the lanes from time to time. `check` decides, the caller acts."""

    def __init__(self, settings: RouterSettings) -> None:
        self._step = max(1, min(settings.hold_messages, settings.prefetch) // 8)
        self._starving: dict[Lane, int] = {}
        self._wait = 0.0
        self._next_step = 0.0
        self._next_telling = 0.0

    def check(self, lanes: Iterable[Lane], exhausted: bool, now: float) -> Outcome:
        """What has to give way now. A lane counts as starving when it did so at the last check too."""
        if not exhausted:
            self._starving = {}
            self._wait = 0.0
            return _NOTHING
        members = [lane for lane in lanes if lane.owned]
        idle = {lane: lane.sent for lane in members if lane.is_idle(now)}
        before, self._starving = self._starving, idle
        if any(lane.sent > sent for lane, sent in before.items()):
            self._wait = 0.0
        if not any(before.get(lane) == sent for lane, sent in idle.items()):
            return _NOTHING
        full = [lane for lane in members if lane.held and not lane.paused]
        if full:
            if now < self._next_step:
                return _NOTHING
            self._wait = min(_LONGEST_WAIT, max(_FIRST_WAIT, 2 * self._wait))
            self._next_step = now + self._wait
            return Outcome(self._oldest(full), ())
        paused = sorted((lane for lane in members if lane.held), key=_held, reverse=True)
        if not paused or now < self._next_telling:
            return _NOTHING
        self._next_telling = now + _TELL_EVERY
        return Outcome([], tuple(lane.hostname for lane in paused))

    def _oldest(self, full: list[Lane]) -> list[tuple[Lane, int]]:
        tags = sorted((message.tag, number) for number, lane in enumerate(full) for message in lane.held)
        counts: dict[int, int] = {}
        for _, number in tags[: self._step]:
            counts[number] = counts.get(number, 0) + 1
        return [(full[number], count) for number, count in counts.items()]


def _held(lane: Lane) -> int:
    return len(lane.held)
