"""AMQP 0-9-1 for the data path and the control plane: a sans-IO codec and a thin asyncio transport.

The rare methods are coded by pamqp; content of messages is copied raw.
"""

from partymq.amqp.channel import Channel
from partymq.amqp.codec import Confirm
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Message, Returned, Span
from partymq.amqp.topology import QueueInfo
from partymq.amqp.url import BrokerUrl

__all__ = [
    "BrokerUrl",
    "Channel",
    "Confirm",
    "Connection",
    "Message",
    "QueueInfo",
    "Returned",
    "Span",
    "connect",
]
