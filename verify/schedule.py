"""When faults begin and end, and those that befall the broker, whatever runs on it."""

import random
import time
from collections.abc import Callable

from verify.stage import Stage

End = tuple[float, Callable[[], None]]
"""When (monotonic seconds), and what to do then."""


class Schedule:
    """Chooses faults by a seed and does them.

    Attributes:
        done: how many there were of each kind.
        told: what happened, and when.
        disturbed: when there was one that may make messages come again, and to whom: a process's name, or
            None where it is everybody's.
    """

    def __init__(self, stage: Stage, chooser: random.Random) -> None:
        self._stage = stage
        self._random = chooser
        self._ends: list[End] = []
        self._busy: set[object] = set()
        self._actions: list[tuple[Callable[[], bool], int]] = []
        self.done: dict[str, int] = {}
        self.told: list[tuple[float, str]] = []
        self.disturbed: list[tuple[float, str | None]] = []

    def tick(self) -> None:
        """End what is due."""
        now = time.monotonic()
        for end in sorted((end for end in self._ends if end[0] <= now), key=lambda end: end[0]):
            self._ends.remove(end)
            end[1]()

    def begin(self) -> None:
        """Begin one fault, chosen by chance."""
        actions, weights = zip(*self._actions, strict=True)
        for _ in range(20):
            action = self._random.choices(actions, weights)[0]
            if action():
                name = action.__name__
                self.done[name] = self.done.get(name, 0) + 1
                return

    def join(self) -> bool:
        """Another member; whether there can be one now."""
        raise NotImplementedError

    def end_all(self) -> None:
        """End everything that has been begun."""
        for end in sorted(self._ends, key=lambda end: end[0]):
            end[1]()
        self._ends.clear()

    def _later(self, low: float, high: float, what: Callable[[], None], busy: object = None) -> float:
        seconds = self._random.uniform(low, high)
        if busy is not None:
            self._busy.add(busy)

        def end() -> None:
            self._busy.discard(busy)
            what()

        self._ends.append((time.monotonic() + seconds, end))
        return seconds

    def _tell(self, text: str) -> bool:
        self._stage.log(text)
        self.told.append((time.monotonic(), text))
        return True

    def _disturbs(self, whom: str | None = None) -> None:
        self.disturbed.append((time.monotonic(), whom))

    # The broker ---------------------------------------------------------------------------------------

    def _quiet_broker(self) -> bool:
        return self._stage.broker_up and self._stage.node not in self._busy

    def _start_broker(self) -> None:
        self._stage.start_broker()
        self._tell("the broker is up again")

    def kill_broker(self) -> bool:
        if not self._quiet_broker():
            return False
        self._disturbs()
        self._stage.kill_broker()
        self._later(0.0, 5.0, self._start_broker, self._stage.node)
        return self._tell("the broker is killed, and started again")

    def restart_broker(self) -> bool:
        if not self._quiet_broker():
            return False
        self._disturbs()
        self._stage.node.stop()
        self._stage.broker_up = False
        self._later(0.0, 5.0, self._start_broker, self._stage.node)
        return self._tell("the broker is restarted in order")

    def memory_alarm(self) -> bool:
        if not self._quiet_broker():
            return False
        node = self._stage.well_node
        node.ctl("set_vm_memory_high_watermark", "0.0000001")

        def enough() -> None:
            node.ctl("set_vm_memory_high_watermark", "0.4")

        seconds = self._later(1.0, 15.0, enough, self._stage.node)
        return self._tell(f"the broker is short of memory for {seconds:.1f} s")
