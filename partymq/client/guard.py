"""Whether a member may go by what it was told some time ago. Pure: the time is an argument.

Theory. A group gives a member's partitions to others when it has not heard it for `session_timeout`. Whoever
stood still for so long (the process was stopped, a handler blocked the event loop, the network stalled) finds
old assignments and messages in its socket when it goes on, and may be asked by nobody to forget them: the
coordinator may be gone just then. Every heartbeat is a question: it says when it was asked, by the member's
own clock, and the assignment that answers it gives that time back. Two things are decided by that.

*Standing still.* `look` is called again and again. More than a quarter of `session_timeout` between two looks
is too long: the guard is closed, no handler is to be started, and the coordinator is asked. It opens with the
answer to a question that was asked after that. Who stood still for less has missed one heartbeat at most
(there are three in a `session_timeout`), and the broker has not missed two of its own: neither has given it
up. Where nobody coordinates, it stays closed; members that never stood still go on with what they have.

*Proof.* Who is answered as a member is not given up for `session_timeout` from the question on (unless
another process takes its name). A partition whose consumer the broker has known since before the end of that
stands in the broker's line before every later owner's, which it keeps waiting. So no handler of it ever has a
fencing token older than one that was seen, however long the member stands still after that, and whoever
coordinates. Of what is consumed since later there is no proof: its messages are to wait for the next answer.
"""

from math import inf
from typing import Final

_SHARE: Final = 1 / 4
_LOOKS: Final = 20
"""Looks in a session timeout."""


class Guard:
    """Of one membership on one connection; nothing is closed, and nothing is proven, at first.

    Args:
        session_timeout: seconds without a word after which the group gives the member up; infinite where
            there is nothing that could.
        now: seconds of a clock that never goes back, here as everywhere.

    Attributes:
        closed: no handler is to be started.
        asks: the coordinator is to be asked: an answer would open it, or prove something.
        until: later than that, a look would close it.
        every: seconds between two looks.
    """

    __slots__ = ("_patience", "_proven", "_session_timeout", "_since", "asks", "closed", "every", "until")

    def __init__(self, session_timeout: float, now: float) -> None:
        self._session_timeout = session_timeout
        self._patience = session_timeout * _SHARE
        self._since = now
        self._proven = -inf
        self.closed = self.asks = False
        self.every = session_timeout / _LOOKS
        self.until = now + self._patience

    def __repr__(self) -> str:
        return f"<Guard {'closed' if self.closed else 'open'}, answered as of {self._proven:g}>"

    def look(self, now: float) -> float:
        """The event loop has come here. For how many seconds it stood still, where that is too long and the
        guard is closed now, or again; 0 else."""
        stood = now - (self.until - self._patience)
        self.until = now + self._patience
        if stood <= self._patience:
            return 0.0
        self.closed = self.asks = True
        self._since = now
        return stood

    def answered(self, asked: float | None, now: float) -> float | None:
        """The coordinator takes us for a member, in answer to the question of a time: 0 where it was not
        asked, None where it does not say (as those of earlier versions): then anything is an answer.

        For how many seconds it was closed, where it opens; None else.
        """
        if asked == 0:
            return None
        self._proven = max(self._proven, now if asked is None else asked)
        if not self.closed:
            self.asks = False
        elif self._proven >= self._since:
            self.closed = self.asks = False
            return now - self._since
        return None

    def prove(self, since: float) -> bool:
        """Whether it is certain that a partition, of which the broker has known the consumer since then, was
        nobody else's before. Where not, the next answer may be the proof."""
        if since < self._proven + self._session_timeout:
            return True
        self.asks = True
        return False
