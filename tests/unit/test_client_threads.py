"""Handlers that do not end: neither their threads nor their tasks keep the process."""

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress

import pytest

from partymq.client.running import run_bounded
from partymq.client.threads import Threads


def test_so_many_threads_are_started_as_are_needed() -> None:
    threads = Threads(2, "worker")
    assert threads.submit(lambda: threading.current_thread().name).result(60) == "worker_0"
    go_on = threading.Event()
    both = threading.Barrier(3)

    def wait(name: str, *, more: str) -> str:
        with suppress(threading.BrokenBarrierError):
            both.wait(60)
        go_on.wait(60)
        return name + more

    waiting = [threads.submit(wait, "a", more="b"), threads.submit(wait, "c", more="d")]
    both.wait(60)  # So they run at the same time.
    third = threads.submit(str, 3)
    assert not third.done()
    go_on.set()
    assert [future.result(60) for future in waiting] == ["ab", "cd"]
    assert third.result(60) == "3"
    threads.shutdown()


def test_what_is_raised_in_a_thread_is_told_and_what_was_not_begun_is_cancelled() -> None:
    threads = Threads(1, "worker")
    go_on, begun = threading.Event(), threading.Event()

    def fail() -> None:
        begun.set()
        go_on.wait(60)
        raise SystemExit(3)

    failing, waiting = threads.submit(fail), threads.submit(str, 1)
    begun.wait(60)
    threads.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(60)
    go_on.set()
    with pytest.raises(SystemExit):
        failing.result(60)


def test_a_thread_that_does_not_end_does_not_keep_the_process() -> None:
    program = """
import time
from partymq.client.threads import Threads
Threads(1, "worker").submit(time.sleep, 3600)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_a_task_that_is_not_to_be_cancelled_does_not_keep_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    told = contextvars.ContextVar("told", default="nothing")
    told.set("the context")
    over = False

    async def stubborn() -> None:
        while not over:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def main() -> str:
        main.task = asyncio.create_task(stubborn())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        return told.get()

    began = time.monotonic()
    assert run_bounded(main(), 0.05) == "the context"
    assert time.monotonic() - began < 60
    assert "do not let themselves be cancelled" in caplog.text
    over = True


def test_what_ends_the_main_coroutine_goes_through_and_others_end_before() -> None:
    ended: list[str] = []

    async def other() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("other")

    async def main() -> None:
        main.task = asyncio.create_task(other())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_bounded(main(), 60)
    assert ended == ["other"]
