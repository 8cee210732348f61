"""A private RabbitMQ node, or a cluster of them, as child processes, for demo, development and tests.

It needs no root, touches nothing of a RabbitMQ that the machine runs, and never outlives its parent.
"""

from partymq.broker.cluster import PrivateCluster
from partymq.broker.node import DEFAULT_PLUGINS, PrivateNode
from partymq.errors import BrokerNotInstalled, NodeError

__all__ = ["DEFAULT_PLUGINS", "BrokerNotInstalled", "NodeError", "PrivateCluster", "PrivateNode"]
