"""The messages that are followed through a schedule."""

from dataclasses import dataclass

SOURCE = "source"
"""The queue they come from."""


@dataclass(frozen=True, slots=True)
class Message:
    """The `number`th message of its key."""

    key: int
    number: int

    @property
    def partition(self) -> int:
        """In the schedules of push groups a key has a partition of its own."""
        return self.key

    def __str__(self) -> str:
        return f"p{self.key}/{self.number}"
