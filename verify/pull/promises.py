"""The promises of a pull group, beyond those of every group: what fencing tokens must be good for, and that
nothing is repeated without a cause."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from verify.notes import Note
from verify.promises import Verdict, Work, check

_SLACK: float = 0.5
"""Seconds by which a fault may be noted too late."""
Disturbed = Sequence[tuple[float, str | None]]


@dataclass(slots=True)
class PullVerdict:
    """What was found; `general` is what is true of push groups, too.

    Attributes:
        refused: writes of members held for dead that a database refuses by their tokens.
        unfenced: writes that it takes although they break the order, or refuses although they must not be.
        unexplained: repeats without a fault that they come from.
        longest_wait: seconds from the confirm of a message until it was first begun, of keys never parked.
        longest_of: which message that was.
        dead_letters: messages given up for good, and not missing in their queue.
    """

    general: Verdict
    refused: int = 0
    unfenced: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    longest_wait: float = 0.0
    longest_of: str = ""
    dead_letters: int = 0

    @property
    def held(self) -> bool:
        """Whether every promise was."""
        return self.general.held and not (self.unfenced or self.unexplained)

    def violations(self) -> dict[str, list[str]]:
        """By promise. Every text begins with the key that it is about, or names it behind a member."""
        general = self.general
        return {
            "lost": general.lost,
            "out of order": general.disorder,
            "repeated with a gap": general.gaps,
            "two members at one key": general.overlaps,
            "not fenced": self.unfenced,
            "repeated without a cause": self.unexplained,
        }


def check_pull(
    counts: Sequence[int],
    works: Sequence[Work],
    published: Iterable[Note],
    disturbed: Disturbed,
    given_up: set[tuple[int, int]],
    dead_letters: set[tuple[int, int]],
) -> PullVerdict:
    """Checks all work of all members.

    Args:
        counts: by key, how many messages there were.
        published: the publisher's notes.
        disturbed: when there was a fault, and whose.
        given_up: messages whose handler failed for good, to be dead-lettered.
        dead_letters: what is in the dead-letter queue.
    """
    verdict = PullVerdict(check(counts, works))
    by_key: dict[int, list[Work]] = defaultdict(list)
    for work in works:
        by_key[work.key].append(work)
    put: dict[tuple[int, int], float] = {}
    confirmed: dict[tuple[int, int], float] = {}
    for note in published:
        (put if note.kind == "P" else confirmed)[note.key, note.seq] = note.at
    parked = {work.key for work in works if not work.finished and (work.key, work.seq) not in given_up}
    for key, mine in by_key.items():
        mine.sort(key=lambda work: work.began)
        _check_tokens(key, mine, verdict)
        _check_repeats(mine, put, confirmed, disturbed, key in parked, verdict)
        first: dict[int, float] = {}
        for work in mine:
            first.setdefault(work.seq, work.began)
        for seq, began in first.items():
            wait = began - confirmed.get((key, seq), began)
            if key not in parked and wait > verdict.longest_wait:
                verdict.longest_wait, verdict.longest_of = wait, f"{key}/{seq}"
    handled = {(work.key, work.seq) for work in works if work.finished}
    missing = (given_up & handled) - dead_letters
    verdict.general.lost += [f"{key}/{seq} (not in the dead-letter queue)" for key, seq in sorted(missing)]
    verdict.dead_letters = len(given_up & dead_letters)
    return verdict


def _check_tokens(key: int, works: list[Work], verdict: PullVerdict) -> None:
    """Write all that was handled to a database as docs/fencing.md does: its order must be kept."""
    highest, latest = 0, -1
    for work in sorted((work for work in works if work.finished), key=lambda work: work.ended):
        if work.token < highest:
            if work.zombie:
                verdict.refused += 1
            else:
                verdict.unfenced.append(f"{work} with token {work.token}, after {highest}")
            continue
        highest = work.token
        if work.seq > latest + 1:
            verdict.unfenced.append(f"{work} with token {work.token} was written after {key}/{latest}")
        latest = max(latest, work.seq)


def _check_repeats(
    works: list[Work],
    put: dict[tuple[int, int], float],
    confirmed: dict[tuple[int, int], float],
    disturbed: Disturbed,
    was_parked: bool,
    verdict: PullVerdict,
) -> None:
    """A message that was parked may have been so twice, by a fault of whoever did that, long before."""
    last: dict[int, Work] = {}
    for work in works:
        earlier = last.get(work.seq)
        if work.finished:
            last[work.seq] = work
        if earlier is None:
            continue
        message = work.key, work.seq
        came, sure = put.get(message, 0.0), confirmed.get(message, float("inf"))
        # Who was held for dead and wakes goes on with what it has, until it learns that others have done it.
        if not (work.zombie or earlier.zombie) and not any(
            (whom in (None, earlier.member) and earlier.began - _SLACK <= at <= work.began)
            or (whom in (None, "publisher") and came - 10.0 <= at <= sure)
            or (was_parked and came - _SLACK <= at <= work.began)
            for at, whom in disturbed
        ):
            verdict.unexplained.append(f"{work}, was done by {earlier}")
