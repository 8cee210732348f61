"""A process's way to the broker: a proxy before each of its nodes, disturbed together."""

from collections.abc import Iterable
from typing import Self

from partymq.broker import PrivateNode
from tests.broker.tcp_proxy import BOTH, TcpProxy


class Plug:
    """What it says and does is that of `TcpProxy`."""

    def __init__(self, nodes: Iterable[PrivateNode]) -> None:
        self._proxies = [TcpProxy("127.0.0.1", node.port) for node in nodes]

    def start(self) -> Self:
        """Begin to listen."""
        for proxy in self._proxies:
            proxy.start()
        return self

    def close(self) -> None:
        """Cut everything and end."""
        for proxy in self._proxies:
            proxy.close()

    @property
    def url(self) -> str:
        """Of the broker, through these proxies, with the default user and vhost."""
        return f"amqp://guest:guest@{','.join(f'127.0.0.1:{proxy.port}' for proxy in self._proxies)}/"

    def cut(self) -> int:
        """Cut all connections; how many."""
        return sum(proxy.cut() for proxy in self._proxies)

    def cut_one(self, number: int) -> bool:
        """Cut one of the connections to a node; whether a node has so many."""
        return any(proxy.cut_one(number) for proxy in self._proxies)

    def pause(self, direction: str = BOTH) -> None:
        """Nothing goes that way any more."""
        for proxy in self._proxies:
            proxy.pause(direction)

    def resume(self, direction: str = BOTH) -> None:
        """It goes again."""
        for proxy in self._proxies:
            proxy.resume(direction)
