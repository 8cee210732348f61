"""From one number of partitions to another: two layouts for a while, until the one before is empty.

Pure. Partitions of the layout before stay with their owners until they are idle; then nobody consumes them,
which shows whether they are empty. Those of the new layout that can have their keys get owners only then.

    Resized ─► Idle ─► nobody owns it ─► Retired ─► ... all of them ─► Save, Remove ─► ResizeOver
                              └─ Occupied: it gets an owner again
"""

from partymq.group.state import GroupState


class Resizing:
    """The resize of a group, in one term. Sets `changed` whenever there is something to save.

    Attributes:
        emptied: partitions of the layout before that were idle; nobody consumes them until it is seen
            whether they are empty.
    """

    def __init__(self, state: GroupState) -> None:
        self._state = state
        self.emptied: set[int] = set()
        self.changed = False

    def begin(self, partitions: int, common: int) -> None:
        """The group has another number of partitions; without effect while the last one is not done with."""
        if not self._state.retiring:
            self._state.resize(partitions, common)
            self.changed = True

    def idle(self, number: int) -> None:
        """Its owner has nothing of it."""
        if number < self._state.retiring and not self._state.partitions[number].retired:
            self.emptied.add(number)

    def occupied(self, number: int) -> None:
        """There is something in it after all."""
        self.emptied.discard(number)

    def retired(self, number: int) -> bool:
        """It is empty, and stays so; True when it was the last one of the layout before."""
        if number not in self.emptied or self._state.partitions[number].owner is not None:
            return False
        self.emptied.discard(number)
        self._state.partitions[number].retired = True
        self.changed = True
        return self._state.all_retired

    def over(self) -> bool:
        """What was of the layout before is no more: partitions have other indices now. False where that is
        no news."""
        if not self._state.all_retired:
            return False
        self._state.resized()
        self.emptied.clear()
        self.changed = True
        return True
