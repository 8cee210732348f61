"""What a consumer has done so far, noted in a file again and again for whoever measures it."""

import argparse
import asyncio
import os
import struct
import time
from collections.abc import Callable

TICK_SECONDS = 0.01
RECORD = struct.Struct("<QQQQ")
"""Messages, partitions that it consumes, nanoseconds of CLOCK_MONOTONIC, nanoseconds of the process's CPU."""


class Tally:
    """Attributes:
    count: messages so far.
    partitions: that are consumed.
    is_open: whether messages may be let go.
    """

    def __init__(self, path: str, gate: str) -> None:
        self.count = 0
        self.partitions = 0
        self.is_open = False
        self._gate = gate
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def tick(self) -> bool:
        """To be called every 10 ms. Whether the gate has been opened since the last call."""
        now, cpu = time.monotonic_ns(), time.process_time_ns()
        os.write(self._file, RECORD.pack(self.count, self.partitions, now, cpu))
        if self.is_open or not os.path.exists(self._gate):
            return False
        self.is_open = True
        return True

    async def ticking(self, opened: Callable[[], object]) -> None:
        """Tick until cancelled; `opened` is called at once when the gate is open."""
        while True:
            if self.tick():
                opened()
            await asyncio.sleep(TICK_SECONDS)


def parser(description: str) -> argparse.ArgumentParser:
    """With the arguments that all programs have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--amqp", required=True, help="URL of the broker")
    made.add_argument("--tally", required=True, help="file for the notes on what is done")
    made.add_argument("--gate", required=True, help="file; messages are held back until it is there")
    return made


def plain_parser(description: str) -> argparse.ArgumentParser:
    """The same, for consumers that are told what to consume."""
    made = parser(description)
    made.add_argument("--prefetch", required=True, type=int, help="of each queue")
    made.add_argument("queues", nargs="+")
    return made
