"""The promises of a pull group, beyond those of every group: what fencing tokens must be good for, and that
nothing is repeated without a cause."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from verify.promises import Verdict, Work, check, fenced
from verify.pull.published import Name, Published

_SLACK: float = 0.5
"""Seconds by which a fault may be noted too late."""
_LONGEST_PAUSE: float = 10.0
"""Seconds for which a publisher may be cut off until its connection breaks, and it sends again."""
_WAITS_TOLD: int = 5
Disturbed = Sequence[tuple[float, str | None]]


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a message waited for its handler: from its confirm to its first beginning, by that member.
    Monotonic seconds."""

    seconds: float
    since: float
    key: int
    seq: int
    member: str

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.key}/{self.seq} since {self.since:.1f}, begun by {self.member})"


@dataclass(slots=True)
class PullVerdict:
    """What was found; `general` is what is true of push groups, too.

    Attributes:
        refused: writes of members held for dead that a database refuses by their tokens.
        unfenced: tokens that go back, and what they let happen to a database.
        unexplained: repeats without a fault that they come from.
        longest: waits of messages, of keys never parked; the longest, and the longest of other times.
        dead_letters: messages given up for good, and not missing in their queue.
        absent: messages that a killed publisher had no confirm for, and that have not arrived.
    """

    general: Verdict
    refused: int = 0
    unfenced: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    longest: list[Wait] = field(default_factory=list)
    dead_letters: int = 0
    absent: int = 0

    @property
    def repeats(self) -> int:
        """Messages that were handled again."""
        return self.general.repeats

    @property
    def held(self) -> bool:
        """Whether every promise was."""
        return not any(self.violations().values())

    def violations(self) -> dict[str, list[str]]:
        """By promise. Every text begins with the key that it is about, or names it behind a member."""
        return {
            **self.general.violations(),
            "not fenced": self.unfenced,
            "repeated without a cause": self.unexplained,
        }


def check_pull(
    published: Published,
    works: Sequence[Work],
    disturbed: Disturbed,
    given_up: Collection[Name],
    dead_letters: Collection[Name],
    *,
    routed: bool = False,
) -> PullVerdict:
    """Checks all work of all members.

    Args:
        disturbed: when there was a fault, and whose.
        given_up: messages whose handler failed for good, to be dead-lettered.
        dead_letters: what is in the dead-letter queue.
        routed: a router fills the group.
    """
    arrived = {(work.key, work.seq) for work in works}
    absent = published.absent(arrived)
    general = check(published.counts, works, absent=absent, strays=published.doubtful, excuse=fenced)
    verdict = PullVerdict(general, absent=len(absent))
    general.lost += published.holes(arrived)
    passed_over: dict[int, set[int]] = defaultdict(set)
    for stray in published.doubtful:
        passed_over[stray[0][0]].update(seq for _, seq in stray)
    by_key: dict[int, list[Work]] = defaultdict(list)
    for work in works:
        by_key[work.key].append(work)
    parked = {work.key for work in works if not work.finished and (work.key, work.seq) not in given_up}
    for key, mine in by_key.items():
        mine.sort(key=lambda work: work.began)
        _Row(key, passed_over[key], verdict).apply(mine)
        _check_repeats(mine, published, disturbed, key in parked, routed, verdict)
    verdict.longest = _longest_waits([work for work in works if work.key not in parked], published)
    handled = {(work.key, work.seq) for work in works if work.finished}
    missing = (set(given_up) & handled) - set(dead_letters)
    general.lost += [f"{key}/{seq} (not in the dead-letter queue)" for key, seq in sorted(missing)]
    verdict.dead_letters = len(set(given_up) & set(dead_letters))
    return verdict


class _Row:
    """The row of a key in a database, written as docs/fencing.md does it: whoever begins a message reads the
    number of the latest one written, passes over what is not above it, and writes at its end, if its token is
    not below the one that is there.

    Args:
        passed_over: numbers that are not written, as they need not come, and not in their place.
    """

    def __init__(self, key: int, passed_over: set[int], verdict: PullVerdict) -> None:
        self._key = key
        self._passed_over = passed_over
        self._verdict = verdict
        self._latest, self._token = -1, 0
        self._highest = 0

    def apply(self, works: list[Work]) -> None:
        """Everything that was done to it, in the order of time."""
        read: dict[int, int] = {}
        events = [(work.began, 1, at) for at, work in enumerate(works)]
        events += [(work.ended, 0, at) for at, work in enumerate(works) if work.finished]
        for _, begins, at in sorted(events):
            work = works[at]
            if begins:
                read[at] = self._latest
                self._look_at_token(work)
            elif work.seq > read[at] and work.seq not in self._passed_over:
                self._write(work, read[at])

    def _look_at_token(self, work: Work) -> None:
        if work.token < self._highest and not work.zombie:
            self._wrong(f"{work} with token {work.token}, after {self._highest}")
        self._highest = max(self._highest, work.token)

    def _write(self, work: Work, read: int) -> None:
        if work.token < self._token:
            self._verdict.refused += work.zombie
            return
        before = work.seq - 1
        while before in self._passed_over:
            before -= 1
        if before > read:
            self._wrong(f"{work} was written on {self._key}/{read}")
        if work.seq < self._latest and work.token == self._token:
            self._wrong(f"{work} was written over {self._key}/{self._latest}, which has the same token")
        self._latest, self._token = work.seq, work.token

    def _wrong(self, text: str) -> None:
        self._verdict.unfenced.append(text)


def _check_repeats(
    works: list[Work],
    published: Published,
    disturbed: Disturbed,
    was_parked: bool,
    routed: bool,
    verdict: PullVerdict,
) -> None:
    """A message that was parked may have been so twice, by a fault of whoever did that, long before; and one
    that was routed, by a fault of a server or the broker, as nobody notes when that is over."""
    last: dict[int, Work] = {}
    for work in works:
        earlier = last.get(work.seq)
        if work.finished:
            last[work.seq] = work
        if earlier is None:
            continue
        name = work.key, work.seq
        came = published.put.get(name, 0.0)
        sure = published.confirmed.get(name, float("inf"))
        # Who was held for dead and wakes goes on with what it has, until it learns that others have done it.
        if not fenced(earlier, work) and not any(
            (whom in (None, earlier.member) and earlier.began - _SLACK <= at <= work.began)
            or (whom in (None, "publisher") and came - _LONGEST_PAUSE <= at <= sure)
            or (routed and whom in (None, "servers") and came - _LONGEST_PAUSE <= at <= work.began)
            or (was_parked and came - _SLACK <= at <= work.began)
            for at, whom in disturbed
        ):
            verdict.unexplained.append(f"{work}, was done by {earlier}")


def _longest_waits(works: list[Work], published: Published) -> list[Wait]:
    first: dict[Name, Work] = {}
    for work in sorted(works, key=lambda work: work.began):
        first.setdefault((work.key, work.seq), work)
    waits = [
        Wait(work.began - since, since, *name, work.member)
        for name, work in first.items()
        if (since := published.confirmed.get(name)) is not None
    ]
    longest: list[Wait] = []
    for wait in sorted(waits, key=lambda wait: -wait.seconds):
        if len(longest) == _WAITS_TOLD:
            break
        if all(
            wait.since + wait.seconds < other.since or other.since + other.seconds < wait.since
            for other in longest
        ):
            longest.append(wait)
    return longest
