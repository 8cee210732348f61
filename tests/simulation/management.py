"""The broker's management API, as far as it can be away."""

from dataclasses import dataclass


@dataclass(slots=True)
class Management:
    """Whether the broker can be asked for unacked messages and bindings, and how long that takes."""

    exists: bool = True
    up: bool = True
    slow: float = 0.0

    @property
    def sighted(self) -> bool:
        """Whether it can be asked now."""
        return self.exists and self.up

    def lose(self, slow: float) -> None:
        """It does not answer any more; when it does again, late for a while."""
        self.up, self.slow = False, slow

    def regain(self) -> None:
        """All is well."""
        self.up, self.slow = True, 0.0
