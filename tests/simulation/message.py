"""The messages that are followed through a schedule."""

from dataclasses import dataclass

SOURCE = "source"
"""The queue they come from."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the source: the `number`th of its key. A key has a partition of its own."""

    partition: int
    number: int

    def __str__(self) -> str:
        return f"p{self.partition}/{self.number}"
