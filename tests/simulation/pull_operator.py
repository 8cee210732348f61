"""Somebody who resizes the group: the real steps, which may end anywhere, and are begun again."""

from partymq.coordinator.pull_topology import resize
from partymq.errors import ConfigError
from partymq.group.layout import GroupLayout
from tests.simulation.pull_loop import Loop
from tests.simulation.pull_scene import GROUP, Scene
from tests.simulation.pull_wire import Wire
from tests.simulation.world import Process

_AGAIN = 0.5


class Operator(Process):
    """Runs `partymq group resize`, one at a time.

    Attributes:
        done: how many were; refused: because another one was not over.
    """

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene.world, name)
        self.done = self.refused = 0
        self._scene = scene
        self._loop = Loop(self)
        self._wire: Wire | None = None

    def resize(
        self,
        partitions: int,
        prefetch: int | None = None,
        dies_after: float | None = None,
        dies_half: float | None = None,
    ) -> None:
        """Begin, if nothing is under way.

        `dies_after`: seconds after which the process is killed; `dies_half`: after the settings are written,
        when what was before is still bound.
        """
        if self._wire is not None:
            return
        connection = self._scene.broker.connect(self, lambda: wire.lost())
        if connection is None:
            self.timer(_AGAIN, self.resize, partitions, prefetch, dies_after, dies_half)
            return
        self.world.tell(self.name, "resizes to %d", partitions)
        wire = self._wire = Wire(self._loop, connection)
        self._loop.begin(
            resize(wire, GROUP, partitions, prefetch),  # type: ignore[arg-type]
            self._resized,
            lambda error: self._failed(partitions, prefetch, error),
        )
        if dies_after is not None:
            self.world.after(dies_after, self._die, wire)
        if dies_half is not None:
            wire.published = lambda: self.world.after(dies_half, self._die, wire)

    def cut(self, notice: float) -> None:
        """The broker closes its connection."""
        if self._wire is not None:
            self._wire.connection.cut(notice)

    def end(self) -> None:
        """SIGKILL."""
        if self._wire is not None:
            self._wire.abort()
            self._wire = None
        self.end_life()
        self._loop.end()
        self._loop = Loop(self)

    def _die(self, wire: Wire) -> None:
        if self._wire is wire:
            self.world.tell(self.name, "is killed")
            self.end()

    def _resized(self, layout: GroupLayout) -> None:
        assert self._wire is not None
        self.world.tell(self.name, "has resized to %d", layout.partitions)
        self.done += 1
        self._wire.connection.close()
        self._wire = None

    def _failed(self, partitions: int, prefetch: int | None, error: Exception) -> None:
        self.world.tell(self.name, "fails: %s", error)
        assert self._wire is not None
        self._wire.abort()
        self._wire = None
        if isinstance(error, ConfigError):
            self._scene.oracle.refused(partitions, str(error))
            self.refused += 1
        else:
            self.timer(_AGAIN, self.resize, partitions, prefetch)
