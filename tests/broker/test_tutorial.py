"""docs/tutorial.md, followed word for word in an empty folder: every file as it stands there, every command
in its order, with the output that is shown. Packages are not installed, and the broker has a free port.
"""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partymq.broker.ports import free_ports

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
DEADLINE = 90.0
BLOCK = re.compile(r"(?:`(\w+\.py)`:\n\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who follows the tutorial. A block that is not the next one in the text is an error."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._port = str(port)
        self._blocks = [match.groups() for match in BLOCK.finditer(TUTORIAL.read_text(encoding="utf-8"))]
        self._terminals: list[subprocess.Popen[bytes]] = []
        here = str(Path(sys.executable).parent)
        self._environment = {
            **os.environ,
            "PATH": here + os.pathsep + os.environ["PATH"],
            "PARTYMQ_RABBIT_CS": f"amqp://guest:guest@localhost:{port}",
            "TMPDIR": str(folder),
        }

    def reads(self, language: str, text: str) -> None:
        """The next block is this one; written files are saved as they come by."""
        while self._blocks and self._blocks[0][0] is not None:
            name, _, code = self._blocks.pop(0)
            (self.folder / name).write_text(code.replace("5672", self._port), encoding="utf-8")
        assert self._blocks, f"the tutorial has ended, and not: {text}"
        _, found, code = self._blocks.pop(0)
        assert (found, code.rstrip("\n")) == (language, text)

    def terminal(self, command: str) -> "subprocess.Popen[bytes]":
        """The command runs in a terminal of its own; `interrupt` ends it."""
        self.reads("sh", command)
        with (self.folder / f"terminal-{len(self._terminals)}.log").open("wb") as output:
            running = subprocess.Popen(
                shlex.split(command.replace("5672", self._port)),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._terminals.append(running)
        return running

    def runs(self, *commands: str) -> str:
        """The commands run, one after the other; what they print."""
        self.reads("sh", "\n".join(commands))
        return "".join(self.does(command) for command in commands)

    def does(self, command: str) -> str:
        """A command that stands in no block of its own."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def sees(self, shown: str, printed: str) -> None:
        """The next block is this output, and these lines were printed; only numbers may be others."""
        self.reads("text", shown)
        for line in shown.splitlines():
            words = (re.sub(r"\d+", r"\\d+", re.escape(word)) for word in line.split())
            assert re.search(r"^\s*" + r"\s+".join(words) + r"\s*$", printed, re.MULTILINE), printed

    def interrupt(self, terminal: "subprocess.Popen[bytes]") -> None:
        terminal.send_signal(signal.SIGINT)
        assert terminal.wait(DEADLINE) == 0, self.said()

    def said(self) -> str:
        return "\n".join(
            log.read_text(errors="replace") for log in sorted(self.folder.glob("terminal-*.log"))
        )

    def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def handled(self) -> list[list[str]]:
        """The lines of handled.txt, as words; the last one may be half written."""
        file = self.folder / "handled.txt"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def numbers(self) -> set[str]:
        return {line[1] for line in self.handled() if len(line) > 1}

    def has_read_all(self) -> bool:
        return not self._blocks

    def close(self) -> None:
        for terminal in reversed(self._terminals):
            if terminal.poll() is None:
                terminal.terminate()
                terminal.wait()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    (port,) = free_ports(1, random.Random())
    following = Reader(tmp_path, port)
    yield following
    following.close()


@pytest.mark.timeout(600)
def test_the_tutorial_can_be_followed_word_for_word(reader: Reader) -> None:
    reader.reads("sh", "apt-get update\napt-get install -y python3-venv rabbitmq-server")
    reader.reads("sh", "python3 -m venv env\n. env/bin/activate\npip install ../partymq")
    broker = reader.terminal("partymq dev --broker-only --amqp-port 5672")
    reader.until(lambda: "A broker is running" in reader.said())
    reader.sees("A broker is running.  Ctrl-C ends it.", reader.said())

    printed = reader.runs("""echo '{"apple": 3}' > prices.json""", "python publish.py 0 2000 apple")
    reader.sees("2000 published", printed)
    described = reader.runs("partymq group describe orders | head -n 12")
    assert re.search(r"^ready +2000$", described, re.MULTILINE)
    worker = reader.terminal("partymq worker worker")
    reader.until(lambda: len(reader.numbers()) == 2000)
    reader.interrupt(worker)
    assert len(reader.handled()) == 2000

    workers = reader.terminal("partymq worker worker --processes 4")
    reader.until(lambda: len(set(re.findall(r"\bgained\b.* member=(\S+)", reader.said()))) == 5)
    reader.runs("python publish.py 2000 20000 apple")
    reader.until(lambda: len({line[4] for line in reader.handled() if len(line) > 4}) == 5)
    reader.runs("kill -9 $(tail -n 1 handled.txt | cut -d ' ' -f 5)")
    reader.until(lambda: len(reader.numbers()) == 22_000)
    checked = reader.runs("python check.py")
    assert ", 0 out of order" in checked
    reader.sees("500 customers, 6 members; 8 repeated, 0 out of order", checked)

    printed = reader.runs(
        "python publish.py 22000 5000 apple",
        "partymq group resize orders --partitions 128",
        "python publish.py 27000 5000 apple",
    )
    reader.sees(
        "5000 published\n"
        "group orders: publishers use 128 partitions from now on\n"
        "4316 messages ready in the 64 old partitions, 64 of them consumed\n"
        "group orders: 128 partitions; nothing is left of the old ones\n"
        "5000 published",
        printed,
    )
    reader.until(lambda: len(reader.numbers()) == 32_000)
    checked = reader.runs("python check.py")
    assert ", 0 out of order" in checked
    reader.sees("500 customers, 6 members; 8 repeated, 0 out of order", checked)

    reader.runs("python publish.py 32000 1 pear")
    reader.until(lambda: "1 of 1 dead letters" in reader.does("partymq dlq list orders"))
    listed = reader.runs("partymq dlq list orders")
    reader.sees(
        "place  key         partition  reason  error             attempts  replayed  bytes\n"
        "1      customer-0  107        failed  KeyError: 'pear'  3         0         30\n"
        "1 of 1 dead letters",
        listed,
    )
    shown = reader.runs("partymq dlq show orders 1")
    assert "worker.py" in shown
    assert '{"number":32000,"item":"pear"}' in shown
    printed = reader.runs("""echo '{"apple": 3, "pear": 4}' > prices.json""", "partymq dlq replay orders")
    reader.sees("1 dead letters are in their partitions again", printed)
    reader.until(lambda: "32000" in reader.numbers())
    reader.sees("customer-0 32000 pear 4 9176", reader.runs("tail -n 1 handled.txt"))

    reader.interrupt(workers)
    deleted = reader.runs("partymq group delete orders --yes")
    reader.sees("group orders is deleted, with 0 messages", deleted)
    assert reader.has_read_all()
    reader.interrupt(broker)
