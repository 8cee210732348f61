"""The TCP proxy that the other tests rely on."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.broker.tcp_proxy import DOWN, UP, TcpProxy


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.ends: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while block := connection.recv(65_536):
                    connection.sendall(block)
                self.ends.append("eof")
            except OSError:
                self.ends.append("reset")


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    echo = Echo()
    with TcpProxy("127.0.0.1", echo.port) as proxy:
        yield proxy
    echo.listener.close()


def dial(proxy: TcpProxy) -> socket.socket:
    connection = socket.create_connection((proxy.host, proxy.port), timeout=60)
    connection.settimeout(60)
    return connection


def receive(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        block = connection.recv(count - len(got))
        assert block, f"ended after {len(got)} of {count} bytes"
        got += block
    return got


def test_what_is_sent_comes_through_both_ways(proxy: TcpProxy) -> None:
    sent = bytes(range(256)) * 4_000
    with dial(proxy) as connection:
        writer = threading.Thread(target=connection.sendall, args=(sent,))
        writer.start()
        assert receive(connection, len(sent)) == sent
        writer.join()
        assert proxy.connections == 1
        assert proxy.bytes_up == proxy.bytes_down == len(sent)


def test_a_half_closed_connection_is_passed_on(proxy: TcpProxy) -> None:
    with dial(proxy) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, 10) == b"last words"
        assert connection.recv(1) == b""


def test_cut_resets_open_connections_and_takes_new_ones(proxy: TcpProxy) -> None:
    with dial(proxy) as first, dial(proxy) as second:
        for connection in (first, second):
            connection.sendall(b"x")
            receive(connection, 1)
        assert proxy.cut() == 2
        for connection in (first, second):
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    assert proxy.connections == 0
    with dial(proxy) as third:
        third.sendall(b"y")
        assert receive(third, 1) == b"y"
    assert proxy.accepted == 3


def test_a_paused_proxy_forwards_nothing_until_resumed(proxy: TcpProxy) -> None:
    with dial(proxy) as connection:
        proxy.pause()
        connection.sendall(b"held")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.resume()
        connection.settimeout(60)
        assert receive(connection, 4) == b"held"


def test_one_direction_can_be_paused_alone(proxy: TcpProxy) -> None:
    with dial(proxy) as connection:
        proxy.pause(DOWN)
        connection.sendall(b"there")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        while proxy.bytes_up < 5:
            time.sleep(0.01)
        assert proxy.bytes_down == 0
        proxy.resume(DOWN)
        connection.settimeout(60)
        assert receive(connection, 5) == b"there"


def test_a_paused_connection_can_be_cut(proxy: TcpProxy) -> None:
    with dial(proxy) as connection:
        connection.sendall(b"x")
        receive(connection, 1)
        proxy.pause()
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_refused_connections_can_be_made_again_after_resume(proxy: TcpProxy) -> None:
    with dial(proxy) as open_before:
        port = proxy.port
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            dial(proxy)
        open_before.sendall(b"still")
        assert receive(open_before, 5) == b"still"
        proxy.resume()
        assert proxy.port == port
        with dial(proxy) as connection:
            connection.sendall(b"x")
            assert receive(connection, 1) == b"x"


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_cut_after_lets_just_so_many_bytes_through(proxy: TcpProxy, direction: str) -> None:
    with dial(proxy) as connection:
        proxy.cut_after(7, direction)
        connection.sendall(b"0123456789")
        if direction == DOWN:
            assert receive(connection, 7) == b"0123456"
            assert connection.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                receive(connection, 10)
        assert (proxy.bytes_up if direction == UP else proxy.bytes_down) == 7
    with dial(proxy) as connection:
        connection.sendall(b"0123456789")
        assert receive(connection, 10) == b"0123456789"


def test_an_url_keeps_all_but_the_address() -> None:
    with TcpProxy("127.0.0.1", 1) as proxy:
        there = proxy.url("amqp://guest:p%40ss@127.0.0.1:5672/v%2Fh?heartbeat=5")
        assert there == f"amqp://guest:p%40ss@127.0.0.1:{proxy.port}/v%2Fh?heartbeat=5"
