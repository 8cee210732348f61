"""Reads the notes that workers and publisher write while they run.

The layout is told in `outsider/worker.py` and `outsider/publisher.py`, which import nothing of ours, so it
stands here a second time; a test holds them together.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

READY, BEGIN, END, LEFT = 1, 2, 3, 4
REDELIVERED, STALE = 1, 2
_WORKER = struct.Struct("<BBHIq")
_PUBLISHER = struct.Struct("<Iq")


@dataclass(frozen=True, slots=True)
class Note:
    """One record of a worker; `at` in nanoseconds of CLOCK_MONOTONIC."""

    kind: int
    flags: int
    number: int
    at: int


@dataclass(frozen=True, slots=True)
class Progress:
    """One record of the publisher: at `at` (ns) the first `confirmed` messages were in the broker."""

    confirmed: int
    at: int


class Growing:
    """A file of records to which another process appends; tells what has come since the last look."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._read = 0

    def more(self) -> bytes:
        """Whole records only; nothing while the file is not there yet."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return b""
        data = data[: len(data) - len(data) % self._size]
        self._read += len(data)
        return data


class WorkerNotes:
    """What one worker process has noted so far."""

    def __init__(self, path: Path) -> None:
        self._file = Growing(path, _WORKER.size)
        self.notes: list[Note] = []
        self.ready_at: int | None = None
        self.ended = 0

    def refresh(self) -> list[Note]:
        """Read what is new, and return it."""
        new = [
            Note(kind, flags, number, at)
            for kind, flags, _, number, at in _WORKER.iter_unpack(self._file.more())
        ]
        self.notes += new
        for note in new:
            if note.kind == END:
                self.ended += 1
            elif note.kind == READY and self.ready_at is None:
                self.ready_at = note.at
        return new


class PublisherNotes:
    """What the publisher has noted so far."""

    def __init__(self, path: Path) -> None:
        self._file = Growing(path, _PUBLISHER.size)
        self.progress: list[Progress] = []

    @property
    def confirmed(self) -> int:
        return self.progress[-1].confirmed if self.progress else 0

    def refresh(self) -> None:
        """Read what is new."""
        self.progress.extend(Progress(count, at) for count, at in _PUBLISHER.iter_unpack(self._file.more()))


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message in a worker's hands from `begin` to `end` (ns); `end` is None when that was never noted."""

    worker: str
    number: int
    begin: int
    end: int | None
    redelivered: bool = False
    stale: bool = False


def deliveries(worker: str, notes: Iterable[Note], *, concurrent: bool = False) -> list[Delivery]:
    """The deliveries to one worker process, in the order in which they ended, those that did not last.

    Args:
        concurrent: it works on several messages at the same time; otherwise on one.

    Raises:
        ValueError: the notes are not in that order, so they prove nothing.
    """
    found = []
    unended: list[Delivery] = []
    opened: dict[int, Note] = {}
    for note in notes:
        if note.kind == BEGIN:
            if opened and not concurrent:
                raise ValueError(f"{worker} began {note.number} before it ended {next(iter(opened))}")
            if note.number in opened:
                unended.append(_unended(worker, opened[note.number]))
            opened[note.number] = note
        elif note.kind == END:
            begun = opened.pop(note.number, None)
            if begun is None or note.at < begun.at:
                raise ValueError(f"{worker} ended {note.number}, which it had not begun")
            flags = note.flags
            found.append(
                Delivery(
                    worker, note.number, begun.at, note.at, bool(flags & REDELIVERED), bool(flags & STALE)
                )
            )
    return found + unended + [_unended(worker, note) for note in opened.values()]


def _unended(worker: str, begun: Note) -> Delivery:
    return Delivery(worker, begun.number, begun.at, None, bool(begun.flags & REDELIVERED))
