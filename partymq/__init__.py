"""PartyMQ: consumer groups for RabbitMQ."""

__version__ = "0.1.0"
