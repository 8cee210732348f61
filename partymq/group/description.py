"""A group as plain values, for people and programs that look at it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partymq.group.state import GroupState, Member


@dataclass(frozen=True, slots=True)
class View:
    """What there is to describe.

    Attributes:
        targets: the owner that each partition should have.
        locked: partitions of which something older has to come first.
        paused: members that nothing is sent to.
        handovers: members of which a hand-over is under way, and whether it is a reclaim.
        heard: when a member was last heard, monotonic seconds.
        wall_offset: Unix seconds minus monotonic seconds.
    """

    state: GroupState
    targets: Sequence[str | None]
    locked: Collection[int]
    paused: Collection[str]
    handovers: Mapping[str, bool]
    heard: Mapping[str, float]
    wall_offset: float
    rebalancing: bool

    def describe(self, now: float) -> dict[str, Any]:
        """Members and partitions; times in Unix seconds, ages in seconds."""
        state = self.state
        return {
            "generation": state.generation,
            "rebalancing": self.rebalancing,
            "members": [self._member(member, now) for _, member in sorted(state.members.items())],
            "partitions": [
                {
                    "partition": number if number < state.retiring else number - state.retiring,
                    **({"layout": state.layout - (number < state.retiring)} if state.retiring else {}),
                    "owner": partition.owner,
                    "target": target,
                    "fencing_token": partition.fencing_token,
                    "state": self._partition(number, partition.owner, target),
                }
                for number, (partition, target) in enumerate(zip(state.partitions, self.targets, strict=True))
            ],
            "leftovers": [
                {
                    "queue": left.queue,
                    "hostname": left.hostname,
                    "partitions": left.partitions,
                    "state": "moved" if left.moved else "moving",
                }
                for left in state.leftovers
            ],
        }

    def _member(self, member: Member, now: float) -> dict[str, Any]:
        heard = self.heard[member.hostname]
        return {
            "hostname": member.hostname,
            "state": member.state.value,
            "reason": member.reason.value or None,
            "since": member.since,
            "incarnation": member.incarnation,
            "queue": member.queue,
            "last_heartbeat": heard + self.wall_offset,
            "heartbeat_age": round(now - heard, 3),
            "drain": self._drain(member),
            "partitions": [
                number - self.state.retiring
                for number in self.state.owned_by(member.hostname)
                if number >= self.state.retiring
            ],
            **self._retiring(member.hostname),
        }

    def _retiring(self, hostname: str) -> dict[str, list[int]]:
        """What a member has of the layout before, while the group is being resized."""
        if not self.state.retiring:
            return {}
        owned = self.state.owned_by(hostname)
        return {"retiring": [number for number in owned if number < self.state.retiring]}

    def _drain(self, member: Member) -> str:
        if member.queue is None:
            return "unknown"
        reclaim = self.handovers.get(member.hostname)
        if reclaim is None:
            return "none"
        return "reclaiming" if reclaim else "draining"

    def _partition(self, number: int, owner: str | None, target: str | None) -> str:
        if number in self.locked:
            return "fetching"
        if self.state.partitions[number].retired:
            return "retired"
        if owner is None:
            return "unowned"
        if owner in self.handovers and owner != target:
            return "moving"
        return "paused" if owner in self.paused else "routed"
