"""Processes of the demo end when they are told to, when they don't listen, and when the demo is killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from partymq.demo.children import Child

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def wait_for_log(path: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_ends_when_it_is_asked_to(tmp_path: Path):
    child = Child("sleeper", ["sleep", "600"], tmp_path / "log")
    assert child.status is None
    child.stop(60.0)
    assert child.status == -signal.SIGTERM


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path):
    child = Child("deaf", [sys.executable, "-c", DEAF], tmp_path / "log")
    wait_for_log(child.log, "deaf")
    child.stop(0.2)
    assert child.status == -signal.SIGKILL
    assert child.last_words() == "deaf"


def test_a_kill_tells_between_which_times_it_happened(tmp_path: Path):
    child = Child("sleeper", ["sleep", "600"], tmp_path / "log")
    before = time.monotonic_ns()
    begin, end = child.kill()
    assert before <= begin <= end <= time.monotonic_ns()
    assert child.status == -signal.SIGKILL


def test_the_environment_is_the_one_given(tmp_path: Path):
    child = Child("env", ["/usr/bin/env"], tmp_path / "log", {"ONLY": "this"})
    wait_for_log(child.log, "ONLY=this")
    child.stop(60.0)
    assert child.last_words() == "ONLY=this"


def test_a_child_does_not_outlive_a_demo_that_is_killed(tmp_path: Path):
    program = (
        "import sys, time; from pathlib import Path; from partymq.demo.children import Child\n"
        f"child = Child('sleeper', ['sleep', '60'], Path({str(tmp_path / 'log')!r}))\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    demo = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    pid = int(demo.stdout.readline())
    os.kill(pid, 0)
    demo.kill()
    demo.wait()
    demo.stdout.close()
    deadline = time.monotonic() + 60
    with suppress(FileNotFoundError, ProcessLookupError):
        while " Z " not in Path(f"/proc/{pid}/stat").read_text():
            assert time.monotonic() < deadline, "the child lives on"
            time.sleep(0.01)
