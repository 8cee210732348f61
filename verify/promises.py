"""The promises, checked on what the members have noted."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

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


def check(
    counts: Sequence[int],
    works: Iterable[Work],
    *,
    absent: Collection[tuple[int, int]] = (),
    excuse: Excuse = no_zombies,
) -> Verdict:
    """Checks all work of all members.

    Args:
        counts: by key, how many messages there were.
        absent: which of them never came into the group, by key and number.
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
    for key, count in enumerate(counts):
        mine = sorted(by_key.get(key, []), key=lambda work: work.began)
        done = {work.seq for work in mine if work.finished} | missing[key]
        verdict.lost += [f"{key}/{seq}" for seq in range(count) if seq not in done]
        sound = [work for work in mine if not work.zombie]
        _check_order(key, mine if excuse is fenced else sound, mine, missing[key], verdict)
        _check_gaps(sound, mine, missing[key], verdict)
        _check_overlaps(mine, excuse, verdict)
    return verdict


def _check_order(
    key: int, checked: list[Work], works: list[Work], absent: set[int], verdict: Verdict
) -> None:
    """Whatever is begun: all before it were finished by then, by anybody."""
    finished = set(absent)
    ends = sorted((work for work in works if work.finished), key=lambda work: work.ended)
    newest = 0
    at = 0
    for work in checked:
        while at < len(ends) and ends[at].ended <= work.began:
            finished.add(ends[at].seq)
            at += 1
        while newest in finished:
            newest += 1
        if work.seq > newest:
            verdict.disorder.append(f"{work}, but {key}/{newest} was not finished")


def _check_gaps(sound: list[Work], works: list[Work], absent: set[int], verdict: Verdict) -> None:
    by_zombies = {work.seq for work in works if work.zombie and work.finished}
    for earlier, later in pairwise(sound):
        before = later.seq - 1
        while before in absent:
            before -= 1
        if before > earlier.seq and before not in by_zombies:
            verdict.gaps.append(f"{earlier} was followed by {later}")


def _check_overlaps(works: list[Work], excuse: Excuse, verdict: Verdict) -> None:
    running: list[Work] = []
    for work in works:
        running = [earlier for earlier in running if earlier.ended > work.began]
        verdict.overlaps += [f"{earlier} and {work}" for earlier in running if not excuse(earlier, work)]
        running.append(work)
