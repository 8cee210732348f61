"""Which of several addresses of a broker are tried, and what is told when none lets us in."""

import asyncio
import socket
from typing import Any

import pytest

from partymq import amqp
from partymq.amqp.dialing import first_that_answers
from partymq.amqp.url import BrokerUrl
from partymq.errors import BrokerError, ConfigError, ConnectionLost, LoginRefused, ProtocolError
from tests.unit.amqp_fake_broker import Peer, fake_broker
from tests.unit.amqp_loops import both_loops

CLUSTER = BrokerUrl.parse("amqp://10.0.0.1,10.0.0.2:7,10.0.0.3/v?heartbeat=5")


class Nodes:
    """What an attempt at each of them comes to: an error, or itself. Silent ones never answer."""

    def __init__(self, **errors: BrokerError | ConfigError | None) -> None:
        self.errors = errors
        self.tried: list[tuple[str, str]] = []

    async def attempt(self, node: BrokerUrl, address: str) -> str:
        self.tried.append((node.host, address))
        error = self.errors.get("n" + address.rpartition(".")[2])
        if error is None:
            await asyncio.sleep(3600)
        if isinstance(error, ConnectionLost) and str(error) == "none":
            return address
        assert error is not None
        raise error


THERE = ConnectionLost("none")


@pytest.fixture
async def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes by only while there is nothing to do, and addresses are their own names."""
    loop: Any = asyncio.get_running_loop()
    now, select = loop.time(), loop._selector.select

    def nothing_to_do(seconds: float | None) -> Any:
        nonlocal now
        now += seconds or 0.0
        return select(0)

    async def itself(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", (host, port))]

    monkeypatch.setattr(loop._selector, "select", nothing_to_do)
    monkeypatch.setattr(loop, "time", lambda: now)
    monkeypatch.setattr(loop, "getaddrinfo", itself)


in_time = pytest.mark.usefixtures("any_machine")


@in_time
async def test_every_node_is_tried_until_one_lets_us_in() -> None:
    firsts = set()
    for _ in range(200):
        nodes = Nodes(n1=ConnectionLost("refused"), n2=THERE, n3=ProtocolError("no broker"))
        assert await first_that_answers(CLUSTER, 5, nodes.attempt) == "10.0.0.2"
        assert nodes.tried[-1][0] == "10.0.0.2"
        assert len(set(nodes.tried)) == len(nodes.tried)
        firsts.add(nodes.tried[0][0])
    assert firsts == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


@in_time
async def test_what_goes_with_the_address_is_the_same_for_each_node() -> None:
    seen = []

    async def attempt(node: BrokerUrl, address: str) -> str:
        seen.append((node.host, node.port, node.vhost, node.heartbeat, node.others, address))
        raise ConnectionLost("refused")

    with pytest.raises(ConnectionLost):
        await first_that_answers(CLUSTER, 5, attempt)
    assert sorted(seen) == [
        ("10.0.0.1", 5672, "v", 5, (), "10.0.0.1"),
        ("10.0.0.2", 7, "v", 5, (), "10.0.0.2"),
        ("10.0.0.3", 5672, "v", 5, (), "10.0.0.3"),
    ]


@in_time
async def test_nodes_that_are_silent_leave_time_for_the_one_that_answers() -> None:
    for _ in range(5):
        nodes = Nodes(n3=THERE)
        assert await first_that_answers(CLUSTER, 0.15, nodes.attempt) == "10.0.0.3"


@in_time
async def test_the_time_holds_for_all_nodes_together() -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    with pytest.raises(ConnectionLost) as failure:
        await first_that_answers(CLUSTER, 0.3, Nodes().attempt)
    assert clock() - began == pytest.approx(0.3)
    for where in ("10.0.0.1:5672", "10.0.0.2:7", "10.0.0.3:5672"):
        assert f"{where}: no connection within 0.1 s" in str(failure.value)


@in_time
async def test_the_error_names_every_node_and_why_it_failed() -> None:
    nodes = Nodes(n1=ConnectionLost("one is away"), n2=ProtocolError("two is no broker"))
    with pytest.raises(ConnectionLost) as failure:
        await first_that_answers(CLUSTER, 0.2, nodes.attempt)
    text = str(failure.value)
    assert text.startswith("no connection to 10.0.0.1:5672,10.0.0.2:7,10.0.0.3:5672: ")
    assert "one is away" in text
    assert "two is no broker" in text
    assert "10.0.0.3:5672: no connection within" in text


@in_time
async def test_a_refused_login_counts_when_no_other_node_lets_us_in() -> None:
    nodes = Nodes(n1=ConnectionLost("away"), n2=LoginRefused("who are you"), n3=ConnectionLost("away"))
    with pytest.raises(LoginRefused, match="who are you"):
        await first_that_answers(CLUSTER, 5, nodes.attempt)
    assert len(nodes.tried) == 3
    nodes = Nodes(n1=THERE, n2=LoginRefused("my users are not there yet"), n3=THERE)
    assert await first_that_answers(CLUSTER, 5, nodes.attempt) in ("10.0.0.1", "10.0.0.3")


@in_time
async def test_a_wrong_setting_is_not_tried_at_the_next_node() -> None:
    wrong = ConfigError("no such file")
    nodes = Nodes(n1=wrong, n2=wrong, n3=wrong)
    with pytest.raises(ConfigError):
        await first_that_answers(CLUSTER, 5, nodes.attempt)
    assert len(nodes.tried) == 1


@in_time
async def test_the_addresses_of_a_name_are_tried_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(_host: Any, port: Any, **_: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", (f"10.0.0.{last}", port)) for last in (1, 2, 2)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
    nodes = Nodes(n2=THERE)
    assert await first_that_answers(BrokerUrl.parse("amqp://broker"), 0.2, nodes.attempt) == "10.0.0.2"
    assert nodes.tried == [("broker", "10.0.0.1"), ("broker", "10.0.0.2")]


async def test_a_name_that_is_not_known_is_told() -> None:
    with pytest.raises(ConnectionLost, match=r"nobody\.invalid:5672: connecting failed: "):
        await first_that_answers(BrokerUrl("nobody.invalid"), 60, Nodes().attempt)


@both_loops
async def test_a_real_connection_goes_to_the_node_that_is_there() -> None:
    async def script(peer: Peer) -> None:
        await peer.login()
        await peer.until_closed()

    async with fake_broker(script) as url:
        several = BrokerUrl.parse(f"amqp://127.0.0.1:1,127.0.0.1:2,127.0.0.1:{url.port}")
        connection = await amqp.connect(several, name="test")
        assert f"127.0.0.1:{url.port}:" in repr(connection)
        await connection.close()
