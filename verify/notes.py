"""What the processes note of their work, one line an event, at the time of the machine's monotonic clock.

    C            connected to the broker (what was prefetched before is void)
    R            said `ready`, and was answered
    B key seq    began to work on a message
    E key seq    finished it; the ack comes after that
    H key seq    hangs in it for a while
    A key seq    gave it up unfinished: the connection broke

Members of pull groups write their fencing token behind B, E, X and F, and besides:

    J            was told that all its partitions are lost
    F key seq    failed in it; it will be tried again, or was parked
    X key seq    failed in it for good: it goes to the dead-letter queue

and their publisher:

    P key seq    was asked to publish
    Q key seq    has the broker's confirm
    K            was killed; noted by whoever did that

Each line is one write(2), so that a kill loses nothing that was written.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple


class Note(NamedTuple):
    """One line. `at`: monotonic seconds. `key` and `seq` are -1 for `C`, `R`, `J` and `K`."""

    at: float
    kind: str
    key: int
    seq: int
    token: int = 0


class Notebook:
    """A process's own file of notes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, kind: str, key: int = -1, seq: int = -1, token: int = 0) -> None:
        os.write(self._file, f"{time.monotonic_ns()} {kind} {key} {seq} {token}\n".encode())


class Reader:
    """Reads a file of notes as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def more(self) -> list[Note]:
        """What has been written since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            block = file.read()
        block = block[: block.rfind(b"\n") + 1]
        self._at += len(block)
        notes = []
        for line in block.decode().splitlines():
            at, kind, key, seq, token = line.split()
            notes.append(Note(int(at) / 1e9, kind, int(key), int(seq), int(token)))
        return notes
