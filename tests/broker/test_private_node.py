"""The private node: it starts, answers, survives what is done to it, and leaves nothing behind."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pika
import pytest

from partymq.broker import BrokerNotInstalled, NodeError, PrivateNode
from partymq.broker.install import find_installation
from tests.broker.conftest import Vhost
from tests.broker.tcp_proxy import TcpProxy

CHILD = """
import sys, time
from partymq.broker import PrivateNode
node = PrivateNode(plugins=())
node.start()
print(node.pid, node.port, node.epmd_port, node.data_dir, flush=True)
{then}
"""


def publish(url: str, queue: str, body: bytes) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
    connection.close()


def get(url: str, queue: str) -> bytes | None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    body: bytes | None = connection.channel().basic_get(queue, auto_ack=True)[2]
    connection.close()
    return body


def is_gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def processes_naming(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found.append(f"{entry.name} {command}")
    return found


def test_a_vhost_is_ready_for_use(vhost: Vhost) -> None:
    publish(vhost.amqp_url, "q", b"hello")
    assert get(vhost.amqp_url, "q") == b"hello"
    assert [queue["name"] for queue in vhost.api("GET", f"queues/{vhost.name}")] == ["q"]


def test_a_vhost_starts_empty(vhost: Vhost) -> None:
    assert vhost.api("GET", f"queues/{vhost.name}") == []


def test_the_proxy_leads_to_the_vhost(vhost: Vhost, tcp_proxy: TcpProxy) -> None:
    publish(tcp_proxy.url(vhost.amqp_url), "q", b"round about")
    assert get(vhost.amqp_url, "q") == b"round about"


def test_rabbitmqctl_speaks_to_this_node(node: PrivateNode, vhost: Vhost) -> None:
    assert vhost.name in node.ctl("list_vhosts").split()


def test_a_failing_rabbitmqctl_raises_with_its_words(node: PrivateNode) -> None:
    with pytest.raises(NodeError, match="no-such-vhost"):
        node.ctl("delete_vhost", "no-such-vhost")


def test_cpu_seconds_grow(node: PrivateNode) -> None:
    before = node.cpu_seconds()
    assert before > 0
    node.ctl("list_vhosts")
    assert node.cpu_seconds() >= before


def test_only_loopback_addresses_listen(node: PrivateNode) -> None:
    ports = {node.port, node.management_port, node.dist_port, node.epmd_port}
    loopback = {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1, ::1
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and int(port, 16) in ports:
                listening.add(int(port, 16))
                assert address in loopback
    assert listening == ports


def test_persistent_messages_survive_a_kill_and_an_orderly_restart(
    own_node: Callable[..., PrivateNode],
) -> None:
    own = own_node(plugins=())
    first, port = own.pid, own.port
    publish(own.amqp_url, "q", b"one")
    own.sync_metadata()
    own.kill()
    assert not own.running
    assert is_gone(first)
    assert not listens(port)
    own.start()
    assert own.pid != first
    assert own.port == port
    publish(own.amqp_url, "q", b"two")
    own.restart()
    assert own.port == port
    assert get(own.amqp_url, "q") == b"one"
    assert get(own.amqp_url, "q") == b"two"


def test_nothing_is_left_after_close(own_node: Callable[..., PrivateNode]) -> None:
    own = own_node()
    folder = own.data_dir
    ports = (own.port, own.management_port, own.dist_port, own.epmd_port)
    assert all(listens(port) for port in ports)
    assert processes_naming(str(folder))
    own.close()
    assert not folder.exists()
    assert processes_naming(str(folder)) == []
    assert not any(listens(port) for port in ports)
    own.close()


def test_a_given_folder_is_kept_and_can_be_used_again(tmp_path: Path) -> None:
    with PrivateNode(tmp_path / "data", plugins=()) as first:
        publish(first.amqp_url, "q", b"kept")
        with pytest.raises(NodeError, match="runs already"):
            first.start()
        with pytest.raises(NodeError, match="used by another node"):
            PrivateNode(tmp_path / "data", plugins=()).start()
    with PrivateNode(tmp_path / "data", plugins=(), port=first.port) as second:
        assert second.port == first.port
        assert get(second.amqp_url, "q") == b"kept"


@pytest.mark.parametrize(
    ("then", "ended_by"),
    [
        ("sys.stdin.read()", signal.SIGKILL),
        ("sys.stdin.read()", signal.SIGTERM),
        ("import os; os.fork(); time.sleep(60)", signal.SIGKILL),
        ("raise SystemExit(3)", None),
    ],
    ids=["killed", "terminated", "killed while a fork of it lives", "forgot to stop"],
)
def test_the_node_does_not_outlive_its_parent(then: str, ended_by: signal.Signals | None) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(then=then)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        pid, port, epmd_port, folder = child.stdout.readline().split()
        try:
            if ended_by is not None:
                assert not is_gone(int(pid))
                child.send_signal(ended_by)
            child.wait(60)
            assert eventually(lambda: is_gone(int(pid)))
            assert eventually(lambda: not Path(folder).exists())
            assert eventually(lambda: processes_naming(folder) == [])
            assert not listens(int(port))
            assert not listens(int(epmd_port))
        finally:
            if "fork" in then:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)


def test_the_node_does_not_outlive_a_killed_guard(own_node: Callable[..., PrivateNode]) -> None:
    own = own_node(plugins=())
    pid = own.pid
    guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guard, signal.SIGKILL)
    assert eventually(lambda: is_gone(pid))
    assert eventually(lambda: not listens(own.epmd_port))
    assert not own.running


def test_a_node_that_cannot_start_says_why(own_node: Callable[..., PrivateNode]) -> None:
    with pytest.raises(NodeError, match="no_such_setting"):
        own_node(plugins=(), config={"no_such_setting": "1"}, start_timeout=3600)


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    own = PrivateNode(tmp_path / "data", plugins=(), start_timeout=0.3)
    with pytest.raises(NodeError, match=r"did not answer on its AMQP port within 0\.3 s"):
        own.start()
    assert not own.running
    assert processes_naming(str(tmp_path)) == []


def test_a_taken_port_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        own = PrivateNode(tmp_path / "data", plugins=(), port=port)
        with pytest.raises(NodeError, match=f"port {port} is taken"):
            own.start()
    assert not own.running
    own.start()
    assert own.port == port
    own.kill()


async def test_the_async_face_does_the_same(tmp_path: Path) -> None:
    async with PrivateNode(tmp_path / "data", plugins=()) as own:
        assert own.running
        assert (await own.ctl_async("list_vhosts")).split() == ["name", "/"]
        await own.kill_async()
        assert not own.running
        await own.start_async()
        assert own.running
    assert not own.running


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    own = PrivateNode(tmp_path / "data", plugins=())
    starting = asyncio.create_task(own.start_async())
    await asyncio.sleep(0.5)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not own.running
    assert processes_naming(str(tmp_path)) == []


def test_without_rabbitmq_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BrokerNotInstalled, match="apt-get install rabbitmq-server"):
        find_installation({"PARTYMQ_RABBITMQ_SERVER": str(tmp_path)})


def test_the_variable_names_the_script_or_its_folder() -> None:
    usual = find_installation()
    for named in (usual.server, usual.server.parent):
        found = find_installation({"PARTYMQ_RABBITMQ_SERVER": str(named), "PATH": os.environ["PATH"]})
        assert found == usual
