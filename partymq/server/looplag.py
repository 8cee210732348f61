"""How late the event loop is: a small task that measures how much longer its naps take than they should."""

import asyncio
from bisect import bisect_left
from typing import Final

_NAP: Final = 0.1


class LoopLag:
    """Samples ten times a second, into buckets (see `face.Durations`)."""

    bounds: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Counts one sample."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    async def run(self) -> None:
        """Samples until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _NAP
            await asyncio.sleep(_NAP)
            self.add(max(0.0, loop.time() - due))
