"""Doing something on a connection for as long as it lasts, and again on the next one."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from partymq.errors import BrokerError

_FIRST_WAIT: Final = 0.1
_LIVED: Final = 10.0
"""Seconds after which a connection counts as having worked: the next failure is a new one."""


class Backoff:
    """How long to wait after a failure: two tries begin the further apart the more there were in a row. What
    the last one has lived counts, so that a connection that worked for some seconds is made anew at once.

    Args:
        longest: seconds between the beginnings of two tries at most.
        first: seconds after a first failure, at most; half of it at least after any.
    """

    def __init__(self, longest: float, first: float = _FIRST_WAIT) -> None:
        self._longest = longest
        self._first = self._wait = first

    def pause(self, lived: float, chance: float) -> float:
        """Seconds until the next try.

        Args:
            lived: seconds from the beginning of the last try until it failed.
            chance: 0 to 1, by chance, so that not all come at once.
        """
        if lived >= _LIVED:
            self._wait = self._first
        share = 0.5 + chance / 2
        pause = max(self._wait * share - lived, self._first * share)
        self._wait = min(2 * self._wait, self._longest)
        return pause


async def again_and_again(
    serve: Callable[[], Awaitable[None]],
    *,
    longest: float,
    failed: Callable[[BrokerError, float], None],
    final: tuple[type[BrokerError], ...] = (),
) -> None:
    """Serve until cancelled; after a failure again, the later the more there were in a row.

    Args:
        serve: ends with a BrokerError; what else it raises ends the whole.
        longest: seconds between two tries at most.
        failed: told each failure, and after how many seconds the next try comes.
        final: errors after which there is no further try; they are raised.
    """
    backoff = Backoff(longest)
    while True:
        began = monotonic()
        try:
            await serve()
        except final:
            raise
        except BrokerError as error:
            pause = backoff.pause(monotonic() - began, random.random())
            failed(error, pause)
            await asyncio.sleep(pause)
