"""Which members are sent nothing for the time being; what is meant for them is held.

Pure. Nothing is sent to an owner that can't receive, nor while it is to be proven that its queue is empty.
"""

from partymq.group.events import Effect, Pause, Resume
from partymq.group.handovers import Handovers
from partymq.group.state import GroupState
from partymq.group.targets import Targets


class Pauses:
    """The pauses of a group, in one term.

    Attributes:
        paused: members that are sent nothing.
    """

    def __init__(self, state: GroupState, handovers: Handovers, targets: Targets) -> None:
        self._state = state
        self._handovers = handovers
        self._targets = targets
        self.paused: set[str] = set()

    def begin(self, now: float) -> list[Effect]:
        """Pause those owners that have to be and are not."""
        effects: list[Effect] = []
        owners = {p.owner for p in self._state.partitions if p.owner is not None}
        for hostname in sorted(owners - self.paused):
            if self._needed(hostname, now):
                self.paused.add(hostname)
                effects.append(Pause(hostname))
        return effects

    def end(self, now: float) -> list[Effect]:
        """Let those go on that need not be paused any more."""
        effects: list[Effect] = []
        for hostname in sorted(self.paused):
            if not self._needed(hostname, now):
                self.paused.discard(hostname)
                if hostname in self._state.members:
                    effects.append(Resume(hostname))
        return effects

    def _needed(self, hostname: str, now: float) -> bool:
        member = self._state.members.get(hostname)
        if member is None:
            return False
        handover = self._handovers.of(hostname)
        if handover is not None and (handover.reclaim or handover.purpose.queue is not None):
            return True
        return not self._targets.receives(member, now)
