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
    wait = _FIRST_WAIT
    while True:
        began = monotonic()
        try:
            await serve()
        except final:
            raise
        except BrokerError as error:
            if monotonic() - began >= _LIVED:
                wait = _FIRST_WAIT
            pause = wait * random.uniform(0.5, 1.0)
            wait = min(2 * wait, longest)
            failed(error, pause)
            await asyncio.sleep(pause)
