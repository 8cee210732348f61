"""How long the group took to react, from the workers' notes. Pure; times in ns, results in seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from partymq.demo.notes import Delivery

_SECOND = 1e9
_LOOK_NS = 30_000_000_000


@dataclass(frozen=True, slots=True)
class Takeover:
    """The partitions of a worker that went; seconds until others had the first, half, the last of them."""

    partitions: int
    first: float
    half: float
    last: float


def first_message(story: Sequence[Delivery], worker: str, ready_at: int) -> float | None:
    """Seconds from the answer to `ready` to the first message of a new worker; None when it never had one."""
    begin = min((one.begin for one in story if one.worker == worker), default=None)
    return None if begin is None else max(0.0, (begin - ready_at) / _SECOND)


def takeover(
    story: Sequence[Delivery], worker: str, gone_at: int, partition: Callable[[int], int]
) -> Takeover | None:
    """When the partitions that were `worker`'s at `gone_at` were worked on again.

    Those are the ones whose latest message until then began at `worker`. One that had no message afterwards
    does not count. None when there is none.

    Args:
        story: of all workers, in the order in which they began.
        partition: of a message, by its number.
    """
    owner: dict[int, str] = {}
    again: dict[int, float] = {}
    for one in story:
        where = partition(one.number)
        if one.begin <= gone_at:
            owner[where] = one.worker
        elif owner.get(where) == worker and one.worker != worker and where not in again:
            again[where] = (one.begin - gone_at) / _SECOND
    if not again:
        return None
    waits = sorted(again.values())
    return Takeover(len(waits), waits[0], waits[len(waits) // 2], waits[-1])


def flowing_again(story: Sequence[Delivery], since: int) -> float | None:
    """Seconds from `since` to the end of the longest silence (no worker begins anything) of the next 30 s.

    None when there was nothing any more. (The first message published after `since` would tell less: it waits
    for all that is ahead of it in the source.)

    Args:
        story: of all workers, in the order in which they began.
    """
    begins = [one.begin for one in story if since <= one.begin <= since + _LOOK_NS]
    if not begins:
        return None
    before = [since, *begins]
    _, end = max((end - begin, end) for begin, end in zip(before, begins, strict=False))
    return (end - since) / _SECOND
