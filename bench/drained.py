"""A process that consumes queues and counts (`drain.py`), as seen from here."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.broker import Vhost
from bench.errors import InvalidRun
from bench.waiting import until
from partymq.demo.children import Child

_PROGRAM = Path(__file__).parent / "drain.py"
_STARTED_WITHIN = 20.0
_STOP_WITHIN = 10.0


class Drain:
    """Consumers of some queues."""

    def __init__(self, child: Child, count: Path) -> None:
        self._child = child
        self._count = count

    @property
    def count(self) -> int:
        """Messages consumed since the start. Raises InvalidRun where the process has ended."""
        if self._child.status is not None:
            raise InvalidRun(f"the consumers ended with {self._child.status}:\n{self._child.last_words()}")
        return int.from_bytes(self._count.read_bytes())


@asynccontextmanager
async def drain(vhost: Vhost, folder: Path, *queues: str) -> AsyncIterator[Drain]:
    """Declares the queues, and consumes them while the block runs."""
    await vhost.declare(*queues)
    count = folder / f"drain-{vhost.name}.count"
    count.write_bytes(bytes(4))
    command = [sys.executable, str(_PROGRAM), f"--amqp={vhost.url}", f"--count={count}", *queues]
    child = Child("drain", command, folder / f"drain-{vhost.name}.log")
    consumers = Drain(child, count)

    async def consuming() -> bool:
        assert consumers.count == 0
        return all([await vhost.consumers(queue) for queue in queues])

    try:
        await until(consuming, "consumers", _STARTED_WITHIN)
        yield consumers
    finally:
        child.stop(_STOP_WITHIN)
