"""Workers: a consumer is found by name; processes are started again, started anew, and ended together."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from partymq.client.workers import load_consumer
from partymq.errors import ConfigError

WORKER = """
import os, signal, sys, time
def told(*_):
    open("stopped", "a").write(f"{os.getpid()}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, told)
open("started", "a").write(f"{os.getpid()}\\n")
open("numbers", "a").write(f"{sys.argv[1]}\\n")
while not os.path.exists("fail"):
    time.sleep(0.02)
sys.exit(3)
"""
RUN = """
import sys
from pathlib import Path
from partymq.client.workers import Workers
watched = Path.cwd() if sys.argv[1] == "reload" else None
sys.exit(Workers([[sys.executable, "worker.py", str(number)] for number in range(2)], watched).run())
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids(folder: Path, what: str) -> list[int]:
    file = folder / what
    return [int(line) for line in file.read_text().split()] if file.exists() else []


NAMED = """
import signal
from partymq import Consumer
from partymq.log import get_logger
class Named(Consumer):
    def run(self, handle=None):
        get_logger("partymq.client").info("runs", as_=self.name)
        open("names", "a").write(f"{self.name}\\n")
        signal.pause()
consumer = Named("amqp://localhost", name="pod-7", rejoin_grace=30)
"""


@contextmanager
def worker_command(folder: Path, module: str, *options: str) -> Iterator["subprocess.Popen[str]"]:
    (folder / "named.py").write_text(module)
    process = subprocess.Popen(
        [sys.executable, "-m", "partymq", "worker", "named", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()


def lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def test_each_process_of_a_named_consumer_has_a_name_of_its_own_that_stays(tmp_path: Path) -> None:
    with worker_command(tmp_path, NAMED, "--processes=2", "--log-format=json") as process:
        until(lambda: len(lines(tmp_path / "names")) == 2)
        process.terminate()
        printed, said = process.communicate(timeout=60)
    assert sorted(lines(tmp_path / "names")) == ["pod-7-0", "pod-7-1"]
    assert printed == ""
    told = [json.loads(line) for line in said.splitlines()]
    assert sorted(line["as_"] for line in told if line["event"] == "runs") == ["pod-7-0", "pod-7-1"]


def test_each_process_has_a_port_for_its_monitoring(tmp_path: Path) -> None:
    port = free_ports(2)
    with worker_command(tmp_path, NAMED, "--processes=2", f"--monitor-port={port}"):
        until(lambda: len(lines(tmp_path / "names")) == 2)
        for number in range(2):
            with pytest.raises(urllib.error.HTTPError, match="503") as refused:
                urllib.request.urlopen(f"http://127.0.0.1:{port + number}/ready", timeout=60)
            assert b"no member" in refused.value.read()


def free_ports(count: int) -> int:
    """The first of so many ports in a row of which nobody listens on any just now."""
    while True:
        first = random.randrange(20_000, 30_000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("", port)))
            except OSError:
                continue
        return first


def test_one_process_has_the_name_as_it_is_and_logs_as_the_module_wants(tmp_path: Path) -> None:
    module = f"import logging\nlogging.basicConfig(level='INFO', format='mine: %(message)s'){NAMED}"
    with worker_command(tmp_path, module) as process:
        until(lambda: len(lines(tmp_path / "names")) == 1)
        process.terminate()
        printed, said = process.communicate(timeout=60)
    assert lines(tmp_path / "names") == ["pod-7"]
    assert (printed, said) == ("", "mine: runs as_='pod-7'\n")


@pytest.fixture
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "run").write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "run", request.param], cwd=tmp_path, env=environment)
    until(lambda: len(pids(tmp_path, "started")) == 2)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("workers", ["plain"], indirect=True)
def test_all_are_stopped_and_a_killed_one_is_replaced(
    workers: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    first, second = pids(tmp_path, "started")
    os.kill(first, signal.SIGKILL)
    until(lambda: len(pids(tmp_path, "started")) == 3)
    third = pids(tmp_path, "started")[2]
    until(lambda: len(pids(tmp_path, "numbers")) == 3)
    numbers = pids(tmp_path, "numbers")
    assert set(numbers[:2]) == {0, 1}
    workers.send_signal(signal.SIGINT)
    assert workers.wait(60) == 0
    assert set(pids(tmp_path, "stopped")) == {second, third}


@pytest.mark.parametrize("workers", ["plain"], indirect=True)
def test_one_that_ends_by_itself_ends_all(workers: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    assert workers.wait(60) == 3


@pytest.mark.parametrize("workers", ["plain"], indirect=True)
def test_they_end_with_the_process_that_started_them(
    workers: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    workers.kill()
    until(lambda: set(pids(tmp_path, "stopped")) == set(pids(tmp_path, "started")))


@pytest.mark.parametrize("workers", ["reload"], indirect=True)
def test_all_are_started_anew_when_a_file_changes(workers: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(f"{WORKER}\n# changed")
    until(lambda: len(pids(tmp_path, "started")) == 4)
    assert set(pids(tmp_path, "stopped")) == set(pids(tmp_path, "started")[:2])
    workers.terminate()
    assert workers.wait(60) == 0


def test_a_consumer_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "found_by_name.py").write_text(
        "from partymq import Consumer\nconsumer = Consumer('amqp://localhost', group='one')\n"
        "other = Consumer('amqp://localhost', group='two')\nnumber = 3\n"
    )
    (tmp_path / "runs_itself.py").write_text(
        "from partymq import Consumer\nconsumer = Consumer('amqp://localhost', group='one')\n"
        "consumer.handler(print)\nconsumer.run()\n"
    )
    (tmp_path / "misses_one.py").write_text("import there_is_no_such_module\n")
    assert load_consumer("found_by_name").group == "one"
    assert load_consumer("found_by_name:other").group == "two"
    with pytest.raises(ConfigError, match=r"number has to be a partymq\.Consumer, there is int"):
        load_consumer("found_by_name:number")
    with pytest.raises(
        ConfigError, match="there is nothing; there are found_by_name:consumer, found_by_name:other"
    ):
        load_consumer("found_by_name:missing")
    with pytest.raises(ConfigError, match="no module never_written"):
        load_consumer("never_written:consumer")
    for target, meant in (
        ("found_by_name.py", "found_by_name"),
        ("./found_by_name", "found_by_name"),
        ("folder/found_by_name.py:other", "folder.found_by_name:other"),
    ):
        with pytest.raises(ConfigError, match=rf"is a file: name the module, {meant}$"):
            load_consumer(target)
    for target in ("", ":consumer", "..found_by_name"):
        with pytest.raises(ConfigError, match=r"allowed are MODULE and MODULE:NAME"):
            load_consumer(target)
    with pytest.raises(ConfigError, match='below `if __name__ == "__main__":`'):
        load_consumer("runs_itself")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        load_consumer("misses_one")
