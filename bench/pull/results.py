"""Everything that one run of the benchmark of pull groups found."""

from dataclasses import asdict, dataclass, field
from typing import Any

from bench.pull.consuming import Cost, Round
from bench.pull.plan import Plan
from bench.pull.publishing import Rate
from bench.pull.reactions import Death, Restart


@dataclass(slots=True)
class Results:
    """What was found; a part that was not measured is empty."""

    plan: Plan
    facts: dict[str, str] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    joins: list[float] = field(default_factory=list)
    kills: list[Death] = field(default_factory=list)
    stops: dict[float, list[Death]] = field(default_factory=dict)
    """By session timeout."""
    restarts: list[Restart] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    invalid: dict[str, str] = field(default_factory=dict)
    """Parts whose figures count for nothing, and why."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values, every single measurement in them."""
        return asdict(self)

    def groups(self) -> dict[tuple[str, int, str], list[Round]]:
        """Rounds by the type of the queues, the size of the group and where the messages were."""
        found: dict[tuple[str, int, str], list[Round]] = {}
        for one in self.rounds:
            found.setdefault((one.queue_type, one.members, one.messages), []).append(one)
        return found
