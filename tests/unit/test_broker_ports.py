"""Ports for private nodes."""

import random
import socket
from concurrent.futures import ThreadPoolExecutor

from partymq.broker.ports import free_ports, is_free


def test_nodes_that_start_at_once_are_not_given_the_same_port() -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: free_ports(4, random.Random(7)), range(8)))
    ports = [port for some in found for port in some]
    assert len(set(ports)) == len(ports) == 32


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not is_free(server.getsockname()[1])
