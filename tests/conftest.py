"""Fixtures of the tests against a real broker: a node for the session, a fresh vhost for every test."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from partymq.broker import PrivateNode
from tests.broker.management import add_vhost, api, delete_vhost
from tests.broker.tcp_proxy import TcpProxy

_WITH_BROKER = tuple(Path(__file__).parent / room for room in ("broker", "blackbox"))


# How long an example takes is the machine's matter.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(room in item.path.parents for room in _WITH_BROKER):
            item.add_marker(pytest.mark.broker)


@dataclass(frozen=True)
class Vhost:
    """A vhost of a node, empty when the test begins.

    Attributes:
        amqp_url, management_url: with user and password; the management URL is the node's.
    """

    name: str
    amqp_url: str
    management_url: str
    node: PrivateNode

    def api(self, method: str, path: str, body: object = None) -> Any:
        """`METHOD /api/PATH` of the management API, decoded."""
        return api(self.management_url, method, path, body)


def new_vhost(node: PrivateNode) -> Vhost:
    """A new, empty vhost on the node; it stays until `delete_vhost` or the node's end."""
    name = f"test-{secrets.token_hex(4)}"
    add_vhost(node.management_url, name)
    return Vhost(name, node.amqp_url + name, node.management_url, node)


@pytest.fixture(scope="session")
def node() -> Iterator[PrivateNode]:
    """The node that all tests share: to be left as found, never killed or restarted."""
    with PrivateNode() as shared:
        yield shared


@pytest.fixture
def vhost(node: PrivateNode) -> Iterator[Vhost]:
    fresh = new_vhost(node)
    yield fresh
    delete_vhost(fresh.management_url, fresh.name)


@pytest.fixture
def own_node() -> Iterator[Callable[..., PrivateNode]]:
    """`own_node(**arguments of PrivateNode)`: a started node that this test may kill and restart."""
    nodes: list[PrivateNode] = []

    def start(**arguments: Any) -> PrivateNode:
        own = PrivateNode(**arguments)
        nodes.append(own)
        own.start()
        return own

    yield start
    for own in nodes:
        own.close()


@pytest.fixture
def proxies() -> Iterator[Callable[[str], TcpProxy]]:
    """`proxies(url)`: a new TCP proxy to the host and port of that URL; `.url(url)` is the way through it."""
    running: list[TcpProxy] = []

    def start(url: str) -> TcpProxy:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        proxy = TcpProxy(parts.hostname, parts.port).start()
        running.append(proxy)
        return proxy

    yield start
    for proxy in running:
        proxy.close()


@pytest.fixture
def tcp_proxy(vhost: Vhost, proxies: Callable[[str], TcpProxy]) -> TcpProxy:
    """A TCP proxy in front of the broker; `tcp_proxy.url(vhost.amqp_url)` leads through it."""
    return proxies(vhost.amqp_url)
