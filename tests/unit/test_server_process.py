"""A server process: sockets, signals, exit codes. The groups are fake, all else is real."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partymq.config import HttpSettings
from partymq.errors import ListenError
from partymq.server.lifecycle import listen

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0


class Server:
    """A running `tests.unit.fake_server`."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.fake_server", *arguments],
            cwd=ROOT,
            env={**os.environ, "PARTYMQ_HTTP_HOST": "127.0.0.1", "PARTYMQ_HTTP_PORT": "0", **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, object]] = []
        self.port = 0

    def until(self, event: str) -> dict[str, object]:
        """The next log line with that event."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"no {event} in {self.lines}")

    def started(self) -> "Server":
        self.port = int(str(self.until("started")["port"]))
        return self

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, object]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, body, headers)  # type: ignore[arg-type]
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def end(self, *signals: signal.Signals) -> int:
        for number in signals:
            self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        assert self.process.stderr is not None
        self.lines += [json.loads(line) for line in self.process.stderr]
        return code

    def events(self) -> list[object]:
        return [line["event"] for line in self.lines]


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def starting(*arguments: str, **environ: str) -> Server:
        servers.append(Server(*arguments, **environ))
        return servers[-1]

    yield starting
    for server in servers:
        server.process.kill()
        server.process.wait()
        if server.process.stderr is not None:
            server.process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_gracefully_with_0(start, number):
    server = start("0.2").started()
    assert server.ask("GET", "/health") == (200, {"status": "ok"})
    assert server.end(number) == 0
    assert server.events()[-2:] == ["stopping", "stopped"]


def test_while_it_stops_it_still_answers_but_takes_no_calls(start):
    answered = []
    for takes in ("1.5", "5", "15"):  # on a slow machine the first may be over before we have asked
        server = start(takes).started()
        server.process.send_signal(signal.SIGTERM)
        server.until("stopping")
        with contextlib.suppress(OSError, http.client.HTTPException):
            asked = (("GET", "/health"), ("GET", "/ready"), ("POST", "/clients/a/bind"))
            answered = [server.ask(*each)[0] for each in asked]
        assert server.end() == 0
        if answered:
            break
    assert answered == [200, 503, 503]


def test_a_second_signal_ends_it_at_once(start):
    server = start("60").started()
    server.process.send_signal(signal.SIGTERM)
    server.until("stopping")
    assert server.end(signal.SIGTERM) == 128 + signal.SIGTERM


def test_a_group_that_does_not_stop_is_cut_off(start):
    server = start("60", PARTYMQ_SHUTDOWN_TIMEOUT="300ms").started()
    began = time.monotonic()
    assert server.end(signal.SIGTERM) == 1
    assert time.monotonic() - began < 50
    assert server.events()[-1] == "shutdown_timed_out"


def test_a_contradiction_found_in_the_broker_ends_it_with_2(start):
    server = start("0", "config")
    assert server.end() == 2
    assert any("64 partitions are saved" in str(line.get("reason")) for line in server.lines)


def test_a_bug_in_a_group_ends_it_with_1_and_tells_no_secrets(start):
    server = start("0", "bug")
    assert server.end() == 1
    text = json.dumps(server.lines)
    assert "ZeroDivisionError" in text
    assert "s3cret" not in text


def test_slashes_in_hostnames_survive_a_real_socket(start):
    server = start().started()
    for encoded, hostname in (("a%2Fb", "a/b"), ("%C3%BC", "ü"), ("%2E%2E", ".."), ("a%20b", "a b")):
        status, answer = server.ask("POST", f"/clients/{encoded}/bind")
        assert (status, answer["routingKey"]) == (200, f"partymq.partition-{hostname}")
    assert server.ask("POST", "/groups/default/clients/a%2Fb/ready", b'{"queue":"q"}')[0] == 200
    assert server.ask("POST", "/clients/%FF/bind")[0] == 422


@pytest.mark.parametrize("size", [64 * 1024 + 1, 1_000_000])
def test_a_large_body_is_answered_413_also_in_chunks(start, size):
    server = start().started()

    def chunks() -> Iterator[bytes]:
        for _ in range(0, size, 50_000):
            yield b" " * min(size, 50_000)
        yield b" " * 50_000

    assert server.ask("POST", "/clients/a/bind", b" " * size)[0] == 413
    assert server.ask("POST", "/clients/a/bind", chunks())[0] == 413
    assert server.ask("POST", "/clients/a/bind", b" " * 64 * 1024)[0] == 200


def test_a_large_body_that_waits_for_leave_is_never_sent(start):
    server = start().started()
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as plain:
        plain.sendall(
            b"POST /clients/a/bind HTTP/1.1\r\nHost: x\r\n"
            b"Content-Length: 900000\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = b""
        while chunk := plain.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_goes_away_in_the_middle_does_no_harm(start):
    server = start().started()
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as plain:
        plain.sendall(b"POST /clients/a/bind HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    assert server.ask("GET", "/health")[0] == 200
    assert server.end(signal.SIGTERM) == 0
    assert "request_failed" not in server.events()


def test_a_busy_port_is_told_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            listen(HttpSettings(host="127.0.0.1", port=port))
    assert str(caught.value).startswith(f"HTTP cannot listen on 127.0.0.1:{port}: Address already in use")


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "x" * 70 + ".invalid"])
def test_an_address_that_is_not_ours_is_told_in_one_line(host):
    with pytest.raises(ListenError, match="HTTP cannot listen on"):
        listen(HttpSettings(host=host, port=0))


def test_ipv6_works():
    try:
        listener = listen(HttpSettings(host="::1", port=0))
    except ListenError:
        pytest.skip("no IPv6 here")
    listener.close()
