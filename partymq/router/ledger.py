"""Which delivery every publish belongs to, what is confirmed, and so what may be acked.

Publishes are numbered by the broker in the order in which they are written, from 1. The ledger has a line for
each: the delivery's tag, the lane it went to, and how it stands. Confirms come singly or for all up to a
number, in any order. The acks that follow:

* Normally the tags of the lines ascend, and one ack with `multiple` stands for all up to the first line that
  is not confirmed. That needs every older delivery to be settled, so:
* while older messages are held, or have been released late (their tags are out of order), confirmed lines are
  acked one by one, up to the first that is not confirmed;
* where a line waits so long for its confirm that the others would stop the flow, or at the end of all, lines
  behind it are acked, too. Not those that went to the same lane: the confirms of one queue may come out of
  order, and what is given back must not come without what followed it.

A tag that was acked is never named again: the broker closes the channel for it. An ack with `multiple` may
stand for lines before it that were acked alone, but its own line must not be one.
"""

from typing import Final, NamedTuple

from partymq.amqp.content import ack_frame, ack_frames
from partymq.errors import ProtocolError
from partymq.router.lane import Lane

_PENDING: Final = 0
_CONFIRMED: Final = 1
_ACKED: Final = 2
_REFUSED: Final = 3
"""States of a line. One that an ack with `multiple` stands for stays `_CONFIRMED`, but behind `_mark`."""

_LONG: Final = 0.5
"""Seconds after which a line that waits for its confirm does not keep back the acks of others any more."""

_TRIM: Final = 4096
"""Finished lines after which the lists are cut."""


class _Late(NamedTuple):
    tag: int
    lane: Lane
    since: float


class Ledger:
    """The ledger of one publish channel and one consume channel of the same number.

    Attributes:
        number: of both channels.
        tags, lanes: of the lines. Whoever publishes appends to both, one line a message.
        tainted: numbers of publishes that must not be acked, though they may have been confirmed.

    Args:
        number: the channels' number.
        prefetch: unacked deliveries at most.
    """

    __slots__ = (
        "_base",
        "_flags",
        "_half",
        "_head",
        "_late",
        "_mark",
        "_most_lines",
        "_singles",
        "_stuck",
        "_stuck_since",
        "_unordered_until",
        "lanes",
        "number",
        "tags",
        "tainted",
    )

    def __init__(self, number: int, prefetch: int) -> None:
        self.number = number
        self.tags: list[int] = []
        self.lanes: list[Lane] = []
        self.tainted: set[int] = set()
        self._flags = bytearray()
        self._base = 1  # the number of the publish in the first line
        self._head = 0  # the first line that is pending; all before are not
        self._mark = 0  # no line before this one has to be acked any more
        self._unordered_until = 1  # publishes before this one may have tags out of order
        self._late: dict[int, _Late] = {}  # pending publishes whose lines were cut off
        self._singles: list[int] = []  # tags of late ones, confirmed
        self._half = max(1, prefetch // 2)
        self._most_lines = max(8192, 4 * prefetch)
        self._stuck = 0
        self._stuck_since = 0.0

    def __repr__(self) -> str:
        return (
            f"<Ledger channel={self.number} next={self.next_seq} oldest_pending={self._base + self._head}"
            f" outstanding={self.outstanding} late={len(self._late)}>"
        )

    @property
    def next_seq(self) -> int:
        """The number of the next publish."""
        return self._base + len(self.tags)

    @property
    def outstanding(self) -> int:
        """Publishes that are not confirmed."""
        flags = self._flags
        return len(self.tags) - len(flags) + flags.count(_PENDING, self._head) + len(self._late)

    def is_settled(self, seq: int) -> bool:
        """Whether this publish is confirmed (or refused)."""
        line = seq - self._base
        if line < self._head:
            return seq not in self._late
        return line < len(self._flags) and self._flags[line] != _PENDING

    def out_of_order(self) -> None:
        """The lines up to here may have tags that are older than those before them."""
        self._unordered_until = self.next_seq

    def confirm(self, confirms: list[tuple[int, bool, bool]]) -> list[Lane]:
        """Enter the broker's answers: (number, whether for all up to it, whether it is an ack).

        Answers the lanes of which a message was refused. Raises ProtocolError where nothing of that number
        was published.
        """
        flags, lanes, base = self._flags, self.lanes, self._base
        flags.extend(bytes(len(lanes) - len(flags)))
        lines = len(flags)
        head = self._head
        refused: dict[Lane, int] = {}
        for seq, multiple, is_ack in confirms:
            line = seq - base
            if line >= lines:
                raise ProtocolError(f"the broker confirms publish {seq}; {base + lines - 1} was the last")
            if not is_ack:
                self._refuse(line, multiple, refused)
            elif multiple:
                at = flags.find(_PENDING, head, line + 1)
                while at >= 0:
                    flags[at] = _CONFIRMED
                    lanes[at].confirmed += 1
                    at = flags.find(_PENDING, at + 1, line + 1)
                if line >= head:
                    head = line + 1
                if self._late:
                    for number in [number for number in self._late if number <= seq]:
                        self._confirm_late(number)
            elif line < head:
                self._confirm_late(seq)
            elif flags[line] == _PENDING:
                flags[line] = _CONFIRMED
                lanes[line].confirmed += 1
        head = flags.find(_PENDING, head)
        self._head = head if head >= 0 else lines
        for lane, first in refused.items():
            self.taint(lane, first)
        return list(refused)

    def acks(self, older_held: bool) -> bytes:
        """Acks for what is confirmed, as frames. `older_held`: older deliveries may be in our hands."""
        flags, head = self._flags, self._head
        if older_held or self._late or self._singles or self._base + self._mark < self._unordered_until:
            return self._single_acks()
        if len(flags) - head > self._half and flags.count(_CONFIRMED, head) > self._half:
            return self._acks_of_free_lanes()
        last = flags.rfind(_CONFIRMED, self._mark, head)
        if last < 0:
            return b""
        self._mark = head
        acks = ack_frame(self.number, self.tags[last], multiple=True)
        if head > _TRIM:
            self._cut(head)
        return acks

    def last_acks(self) -> bytes:
        """Acks for all that may be acked of what is confirmed and not tainted; for the end."""
        return self._acks_of_free_lanes()

    def taint(self, lane: Lane, after: int | None = None) -> None:
        """Never ack what went to the lane and is pending; with `after`, what came later and is not acked."""
        flags, lanes = self._flags, self.lanes
        flags.extend(bytes(len(lanes) - len(flags)))
        for line in range(self._mark, len(flags)):
            if lanes[line] is lane:
                pending, seq = flags[line] == _PENDING, self._base + line
                if pending if after is None else seq > after and (pending or flags[line] == _CONFIRMED):
                    self.tainted.add(seq)
        for seq, late in self._late.items():
            if late.lane is lane and (after is None or seq > after):
                self.tainted.add(seq)

    def tick(self, now: float) -> bytes:
        """Acks for what has been confirmed for a while behind a line that is not. To be called now and then.

        `now`: monotonic seconds.
        """
        oldest = self._base + self._head
        if oldest != self._stuck or self._head == len(self.tags):
            self._stuck, self._stuck_since = oldest, now
        if now - self._stuck_since < _LONG:
            return b""
        if len(self._flags) - self._head > self._most_lines:
            self._cut_off_late(len(self._flags) - self._most_lines // 2)
        return self._acks_of_free_lanes()

    def stuck_for(self, now: float) -> float:
        """Seconds for which the oldest pending publish has been waiting at least."""
        for late in self._late.values():
            return now - late.since
        return now - self._stuck_since if self._head < len(self.tags) else 0.0

    # Inside --------------------------------------------------------------------------------------------

    def _single_acks(self) -> bytes:
        """Single acks for the lines before the first pending one."""
        if self._late:
            return self._acks_of_free_lanes()
        flags, tags, head = self._flags, self.tags, self._head
        singles, self._singles = self._singles, []
        line = flags.find(_CONFIRMED, self._mark, head)
        while line >= 0:
            flags[line] = _ACKED
            singles.append(tags[line])
            line = flags.find(_CONFIRMED, line + 1, head)
        self._mark = head
        if head > _TRIM:
            self._cut(head)
        return ack_frames(self.number, singles) if singles else b""

    def _acks_of_free_lanes(self) -> bytes:
        """Single acks for all confirmed lines that have no unacked one of the same lane before them."""
        flags, lanes, base, tainted = self._flags, self.lanes, self._base, self.tainted
        singles, self._singles = self._singles, []
        blocked = {late.lane for late in self._late.values()}
        left = self._head
        for line in range(self._mark, len(flags)):
            flag, lane = flags[line], lanes[line]
            if flag == _ACKED:
                continue
            if flag == _CONFIRMED and lane not in blocked and base + line not in tainted:
                flags[line] = _ACKED
                singles.append(self.tags[line])
            else:
                blocked.add(lane)
                left = min(left, line)
        self._mark = left
        if left > _TRIM:
            self._cut(left)
        return ack_frames(self.number, singles) if singles else b""

    def _cut(self, lines: int) -> None:
        del self.tags[:lines], self.lanes[:lines], self._flags[:lines]
        self._base += lines
        self._head -= lines
        self._mark -= lines

    def _confirm_late(self, seq: int) -> None:
        late = self._late.pop(seq, None)
        if late is not None:
            late.lane.confirmed += 1
            if seq not in self.tainted:
                self._singles.append(late.tag)

    def _cut_off_late(self, lines: int) -> None:
        flags = self._flags
        line = flags.find(_PENDING, self._head, lines)
        while line >= 0:
            self._late[self._base + line] = _Late(self.tags[line], self.lanes[line], self._stuck_since)
            flags[line] = _ACKED
            line = flags.find(_PENDING, line + 1, lines)
        head = flags.find(_PENDING, lines)
        self._head = head if head >= 0 else len(flags)

    def _refuse(self, line: int, multiple: bool, refused: dict[Lane, int]) -> None:
        flags, seq = self._flags, self._base + line
        for number in [number for number in self._late if number == seq or (multiple and number < seq)]:
            lane = self._late.pop(number).lane
            lane.confirmed += 1
            refused.setdefault(lane, number)
        for at in range(self._head if multiple else max(line, 0), line + 1):
            if flags[at] == _PENDING:
                flags[at] = _REFUSED
                self.lanes[at].confirmed += 1
                refused.setdefault(self.lanes[at], self._base + at)
