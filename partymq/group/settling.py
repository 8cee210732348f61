"""When members that join one after the other are taken for joining together.

Pure. Whoever shares partitions out among them waits for the last one: so each partition moves once, not with
each of them. Who comes alone hardly waits; who comes shortly after another is probably one of many, and is
waited for twice as long.
"""

from typing import Final

_CROWD: Final = 1.0
"""Seconds in which another member has joined, so that there may be more."""


class Settling:
    """Args:
    quiet: seconds without another join after which those that have joined are all; 0 = no waiting.
    most: seconds after the first join that may be waited at most.
    """

    def __init__(self, quiet: float, most: float) -> None:
        self._quiet = quiet
        self._most = most
        self._since: float | None = None
        self._until = 0.0
        self._last = ("", float("-inf"))
        self._crowded = False

    def __repr__(self) -> str:
        return f"<Settling since={self._since} until={self._until} crowded={self._crowded}>"

    def joined(self, hostname: str, now: float) -> None:
        """A member is joining; may be said several times of one."""
        if self.over(now):
            self._since = now
        assert self._since is not None
        before, at = self._last
        if hostname != before:
            self._crowded = now - at < _CROWD
        self._last = hostname, now
        wait = self._quiet * 2 if self._crowded else self._quiet
        self._until = min(now + wait, self._since + self._most)

    def over(self, now: float) -> bool:
        """Whether nobody is waited for."""
        if now >= self._until:
            self._since = None
        return self._since is None
