"""PartyMQ: consumer groups for RabbitMQ."""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from partymq.client.consumer import Consumer
    from partymq.client.failure import RetryPolicy
    from partymq.client.message import Message
    from partymq.client.publisher import Outgoing, Publisher
    from partymq.client.sync import SyncPublisher

__version__ = "0.1.0"

__all__ = [
    "Consumer",
    "Message",
    "Outgoing",
    "Publisher",
    "RetryPolicy",
    "SyncPublisher",
    "__version__",
]

_LIBRARY: Final = {
    "Consumer": "partymq.client.consumer",
    "Message": "partymq.client.message",
    "Outgoing": "partymq.client.publisher",
    "Publisher": "partymq.client.publisher",
    "RetryPolicy": "partymq.client.failure",
    "SyncPublisher": "partymq.client.sync",
}


def __getattr__(name: str) -> Any:
    """The library's names are imported when they are first asked for: `partymq serve` needs none of them."""
    if name in _LIBRARY:
        from importlib import import_module

        return getattr(import_module(_LIBRARY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """For `help` and completion, which ask for what is not imported yet, too."""
    return sorted({*globals(), *_LIBRARY})
