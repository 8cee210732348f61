"""`partymq demo` and `partymq dev` as a person starts them: what they run ends with them in any case."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

START_SECONDS = 120.0
END_SECONDS = 120.0


class Command:
    """A `partymq` command under way; what it prints goes to a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.output = folder / "output"
        # Whatever it starts inherits this, so that it can be found.
        self._mark = f"DEMO_TEST_MARK={folder}"
        name, _, value = self._mark.partition("=")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "partymq", *arguments],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**os.environ, name: value, "TMPDIR": str(folder)},
                start_new_session=True,
            )

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, text: str) -> re.Match[str]:
        deadline = time.monotonic() + START_SECONDS
        while (match := re.search(text, self.said())) is None:
            assert self.process.poll() is None, f"it ended: {self.said()}"
            assert time.monotonic() < deadline, f"no {text!r} in: {self.said()}"
            time.sleep(0.05)
        return match

    def left_running(self) -> list[str]:
        """Command lines of its descendants, wherever they hang now."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in (os.getpid(), self.process.pid):
                try:
                    if self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                        found.append((entry / "cmdline").read_text().replace("\0", " "))
                except OSError:
                    continue
        return found

    def nothing_is_left(self) -> bool:
        deadline = time.monotonic() + END_SECONDS
        while self.left_running():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Command]:
    running = Command(tmp_path, *request.param)
    yield running
    running.close()


DEV = ["dev", "--http-port=0"]
DEMO = ["demo", "--messages=3000", "--rate=500", "--work-ms=2"]


@pytest.mark.parametrize("command", [DEV], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_answers_until_it_is_interrupted_and_leaves_nothing(command: Command, number: int) -> None:
    api = command.wait_for(r"HTTP API +(http://\S+)")[1]
    command.wait_for("Its log:")
    with urllib.request.urlopen(f"{api}/ready", timeout=60) as answer:
        assert answer.status == 200
    assert command.left_running()
    command.process.send_signal(number)
    assert command.process.wait(END_SECONDS) == 0
    assert command.nothing_is_left(), command.left_running()


@pytest.mark.parametrize("command", [DEMO], indirect=True)
def test_a_demo_that_is_interrupted_leaves_nothing(command: Command, tmp_path: Path) -> None:
    command.wait_for("publishing")
    assert any("worker.py" in line for line in command.left_running())
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(END_SECONDS) == 130
    assert command.nothing_is_left(), command.left_running()
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


@pytest.mark.parametrize("command", [DEMO], indirect=True)
def test_a_demo_that_is_killed_leaves_nothing_running(command: Command) -> None:
    command.wait_for("publishing")
    command.process.kill()
    command.process.wait()
    assert command.nothing_is_left(), command.left_running()


@pytest.mark.parametrize(
    "command", [[*DEMO, "--no-compare"], [*DEMO, "--no-compare", "--mode=pull"]], indirect=True
)
def test_a_small_demo_keeps_every_promise(command: Command) -> None:
    assert command.process.wait(280) == 0, command.said()
    assert "all promises kept" in command.said()
    assert command.nothing_is_left(), command.left_running()
