"""The promises, checked on what the members have noted."""

from collections import Counter
from collections.abc import Iterable, Sequence
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

    @property
    def held(self) -> bool:
        """Whether every promise was."""
        return not (self.lost or self.disorder or self.gaps or self.overlaps)


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

    begun: dict[int, Note] = {}
    for note in notes:
        if note.kind == "B":
            begun[note.key] = note
        elif note.kind == "C":
            for begin in begun.values():
                add(begin, note.at, finished=False)
            begun.clear()
        elif note.kind in "EXAF" and note.key in begun:
            add(begun.pop(note.key), note.at, finished=note.kind in "EX")
    for begin in begun.values():
        add(begin, max(begin.at, died), finished=False)
    return works


def check(counts: Sequence[int], works: Iterable[Work]) -> Verdict:
    """Checks all work of all members. `counts`: by key, how many messages there were."""
    verdict = Verdict(messages=sum(counts))
    by_key: dict[int, list[Work]] = {}
    for work in works:
        verdict.by_member[work.member] += work.finished
        verdict.handled += work.finished
        verdict.by_zombies += work.zombie
        by_key.setdefault(work.key, []).append(work)
    for key, count in enumerate(counts):
        _check_key(key, count, sorted(by_key.get(key, []), key=lambda work: work.began), verdict)
    return verdict


def _check_key(key: int, count: int, works: list[Work], verdict: Verdict) -> None:
    finished: set[int] = set()
    waiting = sorted((work for work in works if work.finished), key=lambda work: work.ended)
    newest = 0
    at = 0
    by_zombies = {work.seq for work in works if work.zombie and work.finished}
    real = [work for work in works if not work.zombie]
    for work in real:
        while at < len(waiting) and waiting[at].ended <= work.began:
            finished.add(waiting[at].seq)
            at += 1
        while newest in finished:
            newest += 1
        if work.seq > newest:
            verdict.disorder.append(f"{work}, but {key}/{newest} was not finished")
    for earlier, later in pairwise(real):
        if later.seq > earlier.seq + 1 and later.seq - 1 not in by_zombies:
            verdict.gaps.append(f"{earlier} was followed by {later}")
    for index, work in enumerate(real):
        for later in real[index + 1 :]:
            if later.began >= work.ended:
                break
            if later.member != work.member:
                verdict.overlaps.append(f"{work} and {later}")
    done = {work.seq for work in works if work.finished}
    verdict.lost += [f"{key}/{seq}" for seq in range(count) if seq not in done]
