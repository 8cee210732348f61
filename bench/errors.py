"""What makes a run worth nothing."""

from partymq.errors import PartyMQError


class InvalidRun(PartyMQError):
    """A run did not do its job (a message is missing, a process died): its figures count for nothing."""
