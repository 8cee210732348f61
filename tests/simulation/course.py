"""What every schedule has in common: its dice and its clock, traps, and that it has to end well."""

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from partymq.group.state import GroupState
from tests.simulation.oracle import Oracle, PromiseBroken
from tests.simulation.world import World

PATIENCE = 600.0
"""Seconds, after the faults, within which all has to be well."""


@dataclass(slots=True)
class Result:
    """How a schedule went."""

    seed: int
    failure: str | None
    story: list[str] = field(default_factory=list)
    steps: int = 0
    messages: int = 0
    repeats: int = 0
    seconds: float = 0.0
    effects: Counter[str] = field(default_factory=Counter)
    gaps: list[str] = field(default_factory=list)
    """See `Oracle`."""


class Course(ABC):
    """A schedule, made of its seed. Attributes:

    healed: nothing goes wrong any more. calm: all is well.
    traps: what happens in the moment of an effect.
    patience: seconds, after the faults, within which all has to be well.
    """

    oracle: Oracle
    patience = PATIENCE

    def __init__(self, seed: int, *, telling: bool) -> None:
        self.seed = seed
        self.world = World(seed, telling=telling)
        self.rng = self.world.rng
        self.effects: Counter[str] = Counter()
        self.traps: list[tuple[type, Callable[[], None]]] = []
        self.healed = self.calm = False

    @abstractmethod
    def plan(self) -> float:
        """Put messages and events into the calendar; when the last of them happens."""

    @abstractmethod
    def heal(self) -> None:
        """From now on nothing goes wrong, and there is somebody to do the work."""

    @abstractmethod
    def whats_left(self) -> str | None:
        """What is not yet as it should be; None at the good end."""

    def performed(self, effect: object) -> None:
        """Count it, and spring the traps set for it."""
        kind = type(effect)
        self.effects[kind.__name__] += 1
        for trap in [trap for trap in self.traps if trap[0] is kind]:
            self.traps.remove(trap)
            self.world.after(
                self.rng.choice((0.0, 0.01, 0.1, 0.5)) * self.rng.random(), self.unless_healed, trap[1]
            )

    def unless_healed(self, action: Callable[[], None]) -> None:
        """Do it while things may go wrong."""
        if not self.healed:
            action()

    def play(self) -> Result:
        """Play it to its end."""
        world = self.world
        failure: str | None = None
        try:
            length = self.plan()
            world.after(length, self.heal)
            world.after(length, self._begin_to_look)
            while not self.calm and world.now < length + self.patience and world.step():
                pass
            if not self.calm:
                failure = f"not well after {self.patience:g} s: {self.whats_left()}"
                world.tell("schedule", "%s", failure)
        except PromiseBroken as broken:
            failure = str(broken)
        return Result(
            self.seed,
            failure,
            world.story,
            steps=world.steps,
            messages=self.oracle.begun,
            repeats=self.oracle.repeats,
            seconds=world.now,
            effects=self.effects,
            gaps=self.oracle.gaps,
        )

    def _begin_to_look(self) -> None:
        self.calm = self.whats_left() is None
        self.world.after(0.5, self._begin_to_look)


def not_balanced(state: GroupState, ready: list[str]) -> str | None:
    """Who has what, where the ready members do not have all, and the same number each, but for one."""
    counts = Counter(partition.owner for partition in state.partitions)
    sizes = [counts[name] for name in ready]
    if sum(sizes) == len(state.partitions) and max(sizes) - min(sizes) <= 1:
        return None
    return f"not balanced: {dict(counts)}"


def random_seeds(count: int) -> list[int]:
    """Seeds nobody has chosen."""
    return [random.SystemRandom().randrange(2**32) for _ in range(count)]
