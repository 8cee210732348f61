"""Everything that one run of the benchmark found."""

from dataclasses import asdict, dataclass, field
from typing import Any

from bench.forwarding import Figures, Run, figures
from bench.latency import Latencies
from bench.memory import Memory
from bench.plan import Plan
from bench.rebalance import Rebalances


@dataclass(slots=True)
class Results:
    """What was found; a part that was not measured is empty or None."""

    plan: Plan
    facts: dict[str, str] = field(default_factory=dict)
    forwarding: list[Run] = field(default_factory=list)
    latency: Latencies | None = None
    memory: list[Memory] = field(default_factory=list)
    rebalance: Rebalances | None = None
    invalid: dict[str, str] = field(default_factory=dict)
    """Parts whose figures count for nothing, and why."""
    seconds: float = 0.0

    def figures(self) -> dict[str, Figures]:
        """The medians of the forwarding runs, by candidate."""
        return {one.name: one for one in figures(self.forwarding)}

    def as_json(self) -> dict[str, Any]:
        """Plain values, every single measurement in them."""
        medians = {name: asdict(one) for name, one in self.figures().items()}
        return {**asdict(self), "forwarding_medians": medians}
