"""Saying that nobody coordinates a group, neither at once nor again and again."""

from typing import Final

from partymq.log import get_logger

_LONGEST_PAUSE: Final = 300.0

_log = get_logger(__name__)


class Silence:
    """For how long nobody has coordinated: told in the log once it has lasted, then the rarer the longer.

    Args:
        group: the group's name.
        coordinator: who is to coordinate it, `embedded` or `server`: that decides what the hint is.
        patience: seconds of which nothing is said.
    """

    def __init__(self, group: str, coordinator: str, patience: float) -> None:
        self._group = group
        self._patience = self._next = patience
        if coordinator == "server":
            self._hint = (
                f'`partymq serve` coordinates it, with [groups.{group}] and mode = "pull" in its file: start'
                ' one, or leave coordinator="server" out in members, which then do it themselves'
            )
        else:
            self._hint = "members elect one of themselves; the one they have may hang, or its machine be gone"

    def lasts(self, event: str, seconds: float) -> None:
        """Nobody has answered for so long; `event` says what that means just now."""
        if seconds < self._next:
            return
        self._next = seconds + min(max(seconds, self._patience), _LONGEST_PAUSE)
        _log.warning(event, group=self._group, seconds=round(seconds, 1), hint=self._hint)

    def over(self) -> None:
        """Somebody has answered."""
        if self._next > self._patience:
            _log.info("the group is coordinated again", group=self._group)
        self._next = self._patience
