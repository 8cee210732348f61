"""The promises, checked on what the members have noted."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from verify.notes import Note

_HEARTBEAT = 2.0
"""Seconds: a member that stands still for less is not held for dead."""
_AFTERLIFE = 5.0
"""Seconds within which a member that was held for dead notices that its connection has gone."""


@dataclass(frozen=True, slots=True)
class Work:
    """One message in the hands of one member, from `began` to `ended` (monotonic seconds)."""

    member: str
    key: int
    seq: int
    began: float
    ended: float
    finished: bool
    zombie: bool
    """The broker held the member for dead meanwhile: nothing can be promised about what it does then."""
    token: int = 0
    """The fencing token, in a pull group."""

    def __str__(self) -> str:
        end = f"{self.ended:.4f}" if self.finished else f"{self.ended:.4f} (unfinished)"
        return f"{self.member} {self.key}/{self.seq} {self.began:.4f}–{end}{' zombie' if self.zombie else ''}"


@dataclass(slots=True)
class Verdict:
    """What was found."""

    messages: int = 0
    handled: int = 0
    lost: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    by_member: Counter[str] = field(default_factory=Counter)
    by_zombies: int = 0

    @property
    def repeats(self) -> int:
        return self.handled - (self.messages - len(self.lost))

    def violations(self) -> dict[str, list[str]]:
        """By promise."""
        return {
            "lost": self.lost,
            "out of order": self.disorder,
            "repeated with a gap": self.gaps,
            "two at one key at once": self.overlaps,
        }

    @property
    def held(self) -> bool:
        """Whether every promise was."""
        return not any(self.violations().values())


def work_of(
    member: str,
    notes: Iterable[Note],
    *,
    stops: Sequence[tuple[float, float]] = (),
    died: float = float("inf"),
    patience: float = _HEARTBEAT,
) -> list[Work]:
    """A member's work by its notes.

    Args:
        stops: from when until when it was stopped, or cut off.
        died: when it was killed.
        patience: seconds for which it may stand still without being held for dead.
    """
    notes = list(notes)
    connected = [note.at for note in notes if note.kind in "CJ"]
    dead: list[tuple[float, float]] = []
    for since, until in stops:
        noticed = next((at for at in connected if since <= at <= until + _AFTERLIFE), None)
        if until - since < patience:
            continue
        if noticed is not None or died <= until + _AFTERLIFE:
            dead.append((since, died if noticed is None else noticed))

    works: list[Work] = []

    def add(begin: Note, ended: float, finished: bool) -> None:
        zombie = any(ended >= since and begin.at <= until for since, until in dead)
        works.append(Work(member, begin.key, begin.seq, begin.at, ended, finished, zombie, begin.token))

    begun: dict[tuple[int, int, int], list[Note]] = defaultdict(list)
    for note in notes:
        mine = begun[note.key, note.seq, note.token]
        if note.kind == "B":
            mine.append(note)
        elif note.kind == "C":
            for begin in (begin for begins in begun.values() for begin in begins):
                add(begin, note.at, finished=False)
            begun.clear()
        elif note.kind in "EXAF" and mine:
            add(mine.pop(0), note.at, finished=note.kind in "EX")
    for begin in (begin for begins in begun.values() for begin in begins):
        add(begin, max(begin.at, died), finished=False)
    return works


Excuse = Callable[[Work, Work], bool]
"""Whether two may have had one key at once."""


def no_zombies(one: Work, other: Work) -> bool:
    """Members held for dead, of push groups: they have nothing that would tell them from others. What one
    process does at once is its own matter."""
    return one.zombie or other.zombie or one.member == other.member


def fenced(one: Work, other: Work) -> bool:
    """Members held for dead, of pull groups: their fencing tokens have to be the lower ones."""
    return (one.zombie and one.token < other.token) or (other.zombie and other.token < one.token)


Stray = Sequence[tuple[int, int]]
"""Messages of one key, by key and number, in order. They come behind all before the first of them, and in no
order with those behind the last: who sent them was killed before it heard that they had arrived."""


def check(
    counts: Sequence[int],
    works: Iterable[Work],
    *,
    absent: Collection[tuple[int, int]] = (),
    strays: Sequence[Stray] = (),
    excuse: Excuse = no_zombies,
) -> Verdict:
    """Checks all work of all members.

    Args:
        counts: by key, how many messages there were.
        absent: which of them never came into the group, by key and number.
        strays: which of them may have come later than those that follow them.
        excuse: whether two may have had one key at once.
    """
    verdict = Verdict(messages=sum(counts) - len(absent))
    by_key: dict[int, list[Work]] = {}
    for work in works:
        verdict.by_member[work.member] += work.finished
        verdict.handled += work.finished
        verdict.by_zombies += work.zombie
        by_key.setdefault(work.key, []).append(work)
    missing: dict[int, set[int]] = defaultdict(set)
    for key, seq in absent:
        missing[key].add(seq)
    lines: dict[int, list[list[int]]] = defaultdict(list)
    for stray in strays:
        lines[stray[0][0]].append([seq for _, seq in stray])
    for key, count in enumerate(counts):
        mine = sorted(by_key.get(key, []), key=lambda work: work.began)
        done = {work.seq for work in mine if work.finished} | missing[key]
        verdict.lost += [f"{key}/{seq}" for seq in range(count) if seq not in done]
        sound = [work for work in mine if not work.zombie]
        order = _Order(count, lines[key], missing[key])
        _check_order(key, mine if excuse is fenced else sound, mine, order, verdict)
        _check_gaps(sound, mine, order, verdict)
        _check_overlaps(mine, excuse, verdict)
    return verdict


class _Order:
    """Which messages of a key have to be finished before another one is begun."""

    def __init__(self, count: int, strays: list[list[int]], absent: set[int]) -> None:
        astray = {seq for stray in strays for seq in stray}
        self._main = [seq for seq in range(count) if seq not in absent and seq not in astray]
        self._line = dict.fromkeys(self._main, 0)
        self._before: dict[int, int | None] = dict(zip(self._main, [None, *self._main], strict=False))
        for number, stray in enumerate(strays, 1):
            there = [seq for seq in stray if seq not in absent]
            for before, seq in zip([None, *there], there, strict=False):
                self._line[seq] = number
                self._before[seq] = self._last_before(stray[0]) if before is None else before

    def before(self, seq: int) -> int | None:
        """The message right before this one; None: there is none."""
        return self._before.get(seq)

    def line(self, seq: int) -> int:
        """Messages of one line follow one another."""
        return self._line.get(seq, 0)

    def _last_before(self, seq: int) -> int | None:
        at = bisect_left(self._main, seq)
        return self._main[at - 1] if at else None


def _check_order(key: int, checked: list[Work], works: list[Work], order: _Order, verdict: Verdict) -> None:
    """Whatever is begun: the one before it was finished by then, by anybody, and so all before that."""
    finished: set[int] = set()
    ends = sorted((work for work in works if work.finished), key=lambda work: work.ended)
    at = 0
    for work in checked:
        while at < len(ends) and ends[at].ended <= work.began:
            finished.add(ends[at].seq)
            at += 1
        before = order.before(work.seq)
        if before is not None and before not in finished:
            verdict.disorder.append(f"{work}, but {key}/{before} was not finished")


def _check_gaps(sound: list[Work], works: list[Work], order: _Order, verdict: Verdict) -> None:
    by_zombies = {work.seq for work in works if work.zombie and work.finished}
    last: dict[int, Work] = {}
    for work in sound:
        line = order.line(work.seq)
        earlier, last[line] = last.get(line), work
        before = order.before(work.seq)
        if earlier is None or before is None or before in by_zombies:
            continue
        if before > earlier.seq:
            verdict.gaps.append(f"{earlier} was followed by {work}")


def _check_overlaps(works: list[Work], excuse: Excuse, verdict: Verdict) -> None:
    running: list[Work] = []
    for work in works:
        running = [earlier for earlier in running if earlier.ended > work.began]
        verdict.overlaps += [f"{earlier} and {work}" for earlier in running if not excuse(earlier, work)]
        running.append(work)
