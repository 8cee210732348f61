"""What was published, by the publisher's notes: what has to arrive, and what may."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from verify.notes import Note

Name = tuple[int, int]
"""A message: its key, and its number of that key."""


def numbered(names: Collection[Name]) -> list[int]:
    """By key, the number that comes next."""
    counts = [0] * (1 + max((key for key, _ in names), default=-1))
    for key, seq in names:
        counts[key] = max(counts[key], seq + 1)
    return counts


@dataclass(slots=True)
class Published:
    """Attributes:
    put: when each message was given to the publisher.
    confirmed: when its confirm was noted.
    doubtful: by process that was killed and key, the end of its messages that was not confirmed by then: it
        may have arrived or not. What has is the beginning of it. It may lie in the broker's sockets for a
        while, beside what the next process sends, so between these two there is no order.
    """

    put: dict[Name, float] = field(default_factory=dict)
    confirmed: dict[Name, float] = field(default_factory=dict)
    doubtful: list[list[Name]] = field(default_factory=list)

    @classmethod
    def of(cls, notes: Iterable[Note]) -> "Published":
        """By the notes of all its processes, one after the other."""
        published = cls()
        put: list[Name] = []

        def killed() -> None:
            open_then: dict[int, list[Name]] = defaultdict(list)
            for name in put:
                if name in published.confirmed:
                    open_then.pop(name[0], None)  # what was sent before has arrived, too
                else:
                    open_then[name[0]].append(name)
            published.doubtful += open_then.values()
            put.clear()

        for note in notes:
            name = note.key, note.seq
            if note.kind == "K":
                killed()
            elif note.kind == "P":
                published.put[name] = note.at
                put.append(name)
            elif note.kind == "Q":
                published.confirmed[name] = note.at
        return published

    @property
    def counts(self) -> list[int]:
        """By key, how many numbers were given out."""
        return numbered(self.put)

    def required(self) -> set[Name]:
        """What has to arrive."""
        return set(self.put) - {name for names in self.doubtful for name in names}

    def absent(self, handled: Collection[Name]) -> set[Name]:
        """What has not arrived, and need not."""
        return {name for names in self.doubtful for name in names} - set(handled)

    def holes(self, handled: Collection[Name]) -> list[str]:
        """What has not arrived although something behind it, of the same process and key, has."""
        found = []
        for names in self.doubtful:
            arrived = [at for at, name in enumerate(names) if name in handled]
            for key, seq in names[: arrived[-1]] if arrived else ():
                if (key, seq) not in handled:
                    last = names[arrived[-1]][1]
                    found.append(f"{key}/{seq} (not confirmed, but {key}/{last} behind it has arrived)")
        return found
