"""What a member of a pull group has to do next: what it holds against what it is told to hold.

Pure. `take` an assignment, then do what `next` says and report it with `held` and `gave_up`, until it says
None. Several things may be done at once: what has `begun` is passed over until it is reported, so that each
partition goes its own way, one thing after the other.
"""

from collections.abc import Collection
from dataclasses import dataclass

from partymq.group.wire import Assignment, Standing


@dataclass(frozen=True, slots=True)
class Take:
    """Consume these partitions; the fencing token of each."""

    partitions: dict[int, int]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Settle what is running of these partitions and consume them no more."""

    partitions: tuple[int, ...]


class Duties:
    """One membership, from the first `bind` until the connection is lost."""

    def __init__(self) -> None:
        self.epoch = 0
        self.generation = 0
        self.standing = Standing.MEMBER
        self.leaving = False
        self._wanted: dict[int, int] = {}
        self._revoke: dict[int, list[int]] = {}
        self._retiring: list[int] = []
        self._held: dict[int, int] = {}
        self._moving: set[int] = set()
        self._piecewise = False

    def __repr__(self) -> str:
        return f"<Duties epoch={self.epoch} held={sorted(self._held)} wanted={sorted(self._wanted)}>"

    @property
    def partitions(self) -> list[int]:
        """What is held."""
        return sorted(self._held)

    @property
    def nothing_left(self) -> bool:
        """Whether nothing is held, and nothing is on its way to be."""
        return not self._held and not self._moving

    @property
    def retiring(self) -> list[int]:
        """What is held, is to be held, and is of the layout before."""
        return [number for number in self._retiring if number in self._held and number in self._wanted]

    def take(self, assignment: Assignment) -> bool:
        """Note an assignment; False where it is of an earlier coordinator, and void."""
        if assignment.epoch < self.epoch:
            return False
        self.epoch, self.generation = assignment.epoch, assignment.generation
        self.standing = assignment.standing
        self._wanted = {} if self.leaving else dict(assignment.partitions)
        self._revoke = dict(assignment.revoke)
        self._retiring = assignment.retiring
        self._piecewise = assignment.piecewise
        return True

    def joins(self) -> None:
        """It is about to join: what an earlier try has brought counts no more."""
        self._wanted = {}
        self._revoke = {}
        self.standing = Standing.MEMBER

    def joined(self) -> None:
        """It is a member now: a refusal was of before that. One that is meant comes again."""
        self.standing = Standing.MEMBER

    def leave(self) -> None:
        """Nothing is wanted any more, whatever comes."""
        self.leaving = True
        self._wanted = {}

    def next(self) -> Take | GiveUp | None:
        """The next thing to do. New partitions first: they take no time, and others may wait for them."""
        moving, held, wanted = self._moving, self._held, self._wanted
        new = {n: token for n, token in wanted.items() if n not in held and n not in moving}
        if new:
            return Take(new)
        # Another token means that it was somebody else's meanwhile.
        ending = [n for n, token in held.items() if wanted.get(n) != token and n not in moving]
        return GiveUp(tuple(sorted(ending))) if ending else None

    def begun(self, step: Take | GiveUp) -> None:
        """This is being done: `next` says nothing about these partitions until they are reported."""
        self._moving.update(step.partitions)

    def held(self, partitions: dict[int, int]) -> None:
        """These are consumed now."""
        self._held.update(partitions)
        self._moving.difference_update(partitions)

    def gave_up(self, partitions: Collection[int]) -> None:
        """These are not consumed any more, and settled."""
        for number in partitions:
            self._held.pop(number, None)
            self._moving.discard(number)

    def released(self) -> list[tuple[int, tuple[int, ...]]]:
        """The hand-overs that are to be reported, each with what of it is not consumed any more; as often as
        it is asked for.

        A report may be lost with a coordinator, so it is sent again with every assignment that asks for it.
        """
        reports = []
        for handover, partitions in self._revoke.items():
            ended = tuple(n for n in partitions if n not in self._held and n not in self._moving)
            if len(ended) == len(partitions) or (ended and self._piecewise):
                reports.append((handover, ended))
        return reports
