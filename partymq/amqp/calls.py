"""The calls of one channel that wait for their answer. Answers come in the order of the calls."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pamqp import base

from partymq.amqp.codec import Got
from partymq.errors import BrokerError, ProtocolError


@dataclass(slots=True)
class Call:
    """One call. `late` gets the answer when the caller has gone."""

    kinds: tuple[type, ...]
    future: "asyncio.Future[Any]"
    late: Callable[[Any], None] | None

    def give_up(self) -> None:
        """The caller has gone, perhaps in the very moment in which its answer came."""
        if self.future.cancel() or self.future.cancelled() or self.future.exception():
            return
        if self.late is not None:
            self.late(self.future.result())


class Calls:
    """Those under way."""

    def __init__(self) -> None:
        self._waiting: deque[Call] = deque()

    def begin(self, kinds: tuple[type, ...], late: Callable[[Any], None] | None) -> Call:
        """Counts a call that was sent, or is about to be."""
        call = Call(kinds, asyncio.get_running_loop().create_future(), late)
        self._waiting.append(call)
        return call

    def answer(self, frame: base.Frame | Got, where: str) -> None:
        """Gives an answer to its call. Raises ProtocolError where it belongs to none."""
        name = frame.name if isinstance(frame, base.Frame) else "a message of basic.get"
        if not self._waiting:
            raise ProtocolError(f"{where}: {name}, which nobody asked for")
        call = self._waiting[0]
        if not isinstance(frame, call.kinds):
            expected = " or ".join(kind.__name__ for kind in call.kinds)
            raise ProtocolError(f"{where}: {name} instead of {expected}")
        self._waiting.popleft()
        if not call.future.done():
            call.future.set_result(frame)
        elif call.late is not None:
            call.late(frame)

    def end(self, error: BrokerError) -> None:
        """Ends all with an error."""
        for call in self._waiting:
            if not call.future.done():
                call.future.set_exception(error)
        self._waiting.clear()
