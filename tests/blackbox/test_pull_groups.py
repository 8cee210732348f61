"""Pull groups that servers coordinate; members are processes with the library."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from partymq import SyncPublisher
from tests.blackbox.conftest import Served
from tests.blackbox.outsider import until
from tests.conftest import Vhost

BOTH = """
[groups.default]
partitions = 8
[groups.orders]
mode = "pull"
partitions = 8
queue_type = "classic"
"""
WORKER = """
import os
from partymq import Consumer

consumer = Consumer(os.environ["BROKER"], group="orders", coordinator="server")

@consumer.handler
async def handle(message):
    with open(os.environ["DONE"], "a") as done:
        done.write(f"{os.getpid()} {message.key} {message.body.decode()}\\n")
"""


class Workers:
    """Members of the group, each a process; what they have handled is in one file."""

    def __init__(self, url: str, folder: Path) -> None:
        (folder / "orders_worker.py").write_text(WORKER)
        self._folder = folder
        self._done = folder / "done.txt"
        self._done.touch()
        self._environ = os.environ | {"BROKER": url, "DONE": str(self._done)}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> int:
        """Another one; its process id."""
        with (self._folder / "workers.log").open("ab") as log:
            command = [sys.executable, "-m", "partymq", "worker", "orders_worker"]
            process = subprocess.Popen(command, cwd=self._folder, env=self._environ, stdout=log, stderr=log)
        self.processes.append(process)
        return process.pid

    def handled(self) -> list[tuple[int, str, int]]:
        """Who handled which number of which key, in that order."""
        lines = [line.split() for line in self._done.read_text().splitlines()]
        return [(int(process), key, int(number)) for process, key, number in lines]

    def until_handled(self, messages: int) -> None:
        until(
            lambda: len(self.handled()) >= messages,
            what=lambda: (
                f"{messages} messages: {len(self.handled())}; {(self._folder / 'workers.log').read_text()}"
            ),
        )

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def workers(vhost: Vhost, tmp_path: Path) -> Iterator[Workers]:
    members = Workers(vhost.amqp_url, tmp_path)
    yield members
    members.end()


def orders(served: Served) -> dict[str, Any]:
    """The group as an instance shows it; empty while it can't."""
    answer = served.api.get("/groups/orders")
    return dict(answer.body) if answer.status == 200 else {}


def shares(served: Served) -> list[int]:
    """How many partitions each of its members has."""
    return [len(member["partitions"]) for member in orders(served).get("members", ())]


def test_another_server_goes_on_coordinating_when_one_is_killed(
    serve: Callable[..., Served],
    tmp_path: Path,
    vhost: Vhost,
    workers: Workers,
    members: Any,
    publish: Any,
    diary: Any,
) -> None:
    file = tmp_path / "partymq.toml"
    file.write_text(BOTH)
    first_worker = workers.start()  # before the group is there: it is created as the file says
    servers = [serve(PARTYMQ_CONFIG=str(file)) for _ in range(2)]
    for served in servers:
        served.ready()
    until(lambda: shares(servers[0]) == [8], what="the first worker has all")
    told = [orders(served) for served in servers]
    assert told[0]["coordinator"] == told[1]["coordinator"]
    assert (told[0]["mode"], told[0]["routing"]) == ("pull", True)
    pids = [str(served.process.pid) for served in servers if served.process is not None]
    coordinating = pids.index(told[0]["coordinator"].rpartition("/")[2])
    killed, survivor = servers[coordinating], servers[1 - coordinating]

    with SyncPublisher(vhost.amqp_url, group="orders") as publisher:

        def more(numbers: range) -> None:
            publisher.publish_many((number, f"key-{number % 40}") for number in numbers)

        more(range(200))
        killed.end(signal.SIGKILL)
        more(range(200, 400))
        workers.until_handled(400)
        until(lambda: orders(survivor).get("coordinator") not in (None, told[0]["coordinator"]))
        assert orders(survivor)["epoch"] > told[0]["epoch"]
        second_worker = workers.start()
        until(lambda: shares(survivor) == [4, 4], what=lambda: f"two share: {orders(survivor)}")
        more(range(400, 600))
        workers.until_handled(600)

    handled = workers.handled()
    assert {process for process, _, number in handled if number >= 400} == {first_worker, second_worker}
    for key in {key for _, key, _ in handled}:
        numbers = [number for _, its, number in handled if its == key]
        assert numbers == list(range(int(key.removeprefix("key-")), 600, 40))

    members(survivor.api, "pod-1")
    publish(range(40))
    until(lambda: len(diary.of("pod-1")) == 40, what="the push group beside it works")
    refused = survivor.api.post("/groups/orders/clients/pod-1/bind")
    assert refused.status == 409
    assert "pull group" in refused.body["error"]
    assert survivor.end() == 0


def test_a_server_does_not_start_where_the_group_is_another_than_its_file_says(
    serve: Callable[..., Served], tmp_path: Path, vhost: Vhost
) -> None:
    with SyncPublisher(vhost.amqp_url, group="orders", partitions=4, queue_type="classic"):
        pass  # it has created the group
    file = tmp_path / "partymq.toml"
    file.write_text(BOTH)
    served = serve(PARTYMQ_CONFIG=str(file))
    assert served.process is not None
    assert served.process.wait(120) == 2
    assert (
        "partitions = 8 is set here, but the group was created with partitions = 4" in served.log.read_text()
    )
