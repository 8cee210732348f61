"""The faults of a cluster's nodes: one of them at a time, so that the others are always the majority."""

import random
import time
from collections.abc import Callable
from typing import Final

from partymq.broker import PrivateNode
from verify.servers import Server, ServerFaults
from verify.stage import NET_TICKTIME, Stage

_LEARNT_WITHIN: Final = 2.0
"""Seconds in which whoever is connected to a node that dies learns of it, or a little later."""
_EVERY: Final = 0.4
"""Seconds between two notes that a node is away."""
_DOWN: Final = 15.0
"""Seconds for which a node is away, at most."""


class NodeFaults(ServerFaults):
    """The faults of a cluster, for those who have one."""

    def __init__(self, stage: Stage, chooser: random.Random, servers: list[Server]) -> None:
        super().__init__(stage, chooser, servers)
        self._away: PrivateNode | None = None
        self.split: PrivateNode | None = None
        """A node that may have another idea of what there is than the others."""

    def tick(self) -> None:
        """See `Schedule`. What follows from a node's absence comes at any moment of it."""
        super().tick()
        if self._away is not None and time.monotonic() - self.disturbed[-1][0] > _EVERY:
            self._disturbs()

    def _quiet_node(self) -> PrivateNode | None:
        """One of those that can be disturbed: any, while all of them are well."""
        return self._random.choice(self._stage.nodes) if self._quiet_broker() else None

    def _which(self, node: PrivateNode) -> str:
        return f"node {self._stage.nodes.index(node)}"

    def _goes(self, node: PrivateNode) -> None:
        self._away = node
        self._disturbs()

    def _end_node(self, end: Callable[[], None]) -> None:
        """End a node. The others learn it at once; whoever is connected to it perhaps a little later, and is
        held for dead meanwhile."""
        since = time.monotonic()
        end()
        for pod in self._stage.pods:
            if pod.runs:
                pod.stops.append((since, since + _LEARNT_WITHIN))

    def _start_node(self, node: PrivateNode) -> None:
        node.start()
        self._is_back(node)

    def _is_back(self, node: PrivateNode) -> None:
        """It has to find out what it has missed, and perhaps that it was in the minority."""
        self._tell(f"{self._which(node)} is there again")
        self._later(NET_TICKTIME, NET_TICKTIME, self._is_well, self._stage.node)

    def _is_well(self) -> None:
        self._away = None

    def kill_node(self) -> bool:
        return self._take_down(PrivateNode.kill, "is killed")

    def restart_node(self) -> bool:
        return self._take_down(PrivateNode.stop, "is stopped in order")

    def _take_down(self, end: Callable[[PrivateNode], None], how: str) -> bool:
        node = self._quiet_node()
        if node is None:
            return False
        self._goes(node)
        self._end_node(lambda: end(node))
        seconds = self._later(0.0, _DOWN, lambda: self._start_node(node), self._stage.node)
        return self._tell(f"{self._which(node)} {how}, and started after {seconds:.1f} s")

    def freeze_node_briefly(self) -> bool:
        """The other nodes do not notice it."""
        return self._freeze(0.2, 0.7 * NET_TICKTIME, self._is_back)

    def freeze_node(self) -> bool:
        """The other nodes take it for dead. When it goes on, the cluster is split: RabbitMQ (3.10) does not
        put that right, so the node is started anew, as an operator has to."""
        return self._freeze(1.3 * NET_TICKTIME, 2.5 * NET_TICKTIME, self._heal)

    def _heal(self, node: PrivateNode) -> None:
        self.split = node
        self._later(0.0, 4.0, self._restart_split, self._stage.node)

    def _restart_split(self) -> None:
        node, self.split = self.split, None
        if node is not None:
            self._end_node(node.kill)
            self._start_node(node)

    def end_all(self) -> None:
        """See `Schedule`."""
        super().end_all()
        self._restart_split()

    def _freeze(self, low: float, high: float, then: Callable[[PrivateNode], None]) -> bool:
        node = self._quiet_node()
        if node is None:
            return False
        self._goes(node)
        node.freeze()
        self._stage.frozen = node

        def thaw() -> None:
            self._stage.frozen = None
            node.thaw()
            then(node)

        seconds = self._later(low, high, thaw, self._stage.node)
        return self._tell(f"{self._which(node)} stands still for {seconds:.1f} s")
