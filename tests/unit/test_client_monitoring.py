"""Monitoring: probes and metrics of a consumer, over HTTP."""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from partymq.client import monitoring
from partymq.client.consumer import Consumer
from partymq.client.monitoring import Monitor
from partymq.errors import ConfigError
from tests.unit.owns_nothing import OwnsNothing


def get(monitor: Monitor, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{monitor.port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def ask(monitor: Monitor, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(get, monitor, path)


async def handle(message: Any) -> None: ...


async def test_ready_is_who_is_a_member_and_metrics_say_what_it_does() -> None:
    alone = OwnsNothing(coordinates=True)
    consumer = Consumer("amqp://localhost", group="orders", ownership=alone)
    consumer.handler(handle)
    with Monitor(consumer, 0, "127.0.0.1") as monitor:
        assert await ask(monitor, "/health") == (200, "ok\n"), "it is not started yet"
        assert await ask(monitor, "/ready") == (503, "no member of its group (yet)\n")
        async with consumer:
            alone.joined = True
            assert await ask(monitor, "/ready") == (200, "ok\n")
            assert await ask(monitor, "/health") == (200, "ok\n")
            status, text = await ask(monitor, "/metrics")
        assert status == 200
        lines = text.splitlines()
        for expected in (
            'partymq_consumer_handled_total{group="orders"} 0.0',
            'partymq_consumer_partitions{group="orders"} 0.0',
            'partymq_consumer_joined{group="orders"} 1.0',
            'partymq_consumer_coordinates{group="orders"} 1.0',
        ):
            assert expected in lines
        assert any(line.startswith("process_cpu_seconds_total") for line in lines)
        assert (await ask(monitor, "/other"))[0] == 404


def test_a_loop_that_a_handler_blocks_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "_BLOCKED_AFTER", 0.2)
    answers: list[tuple[int, str]] = []

    async def main() -> None:
        consumer = Consumer("amqp://localhost", group="orders", ownership=OwnsNothing(coordinates=True))
        consumer.handler(handle)
        with Monitor(consumer, 0, "127.0.0.1") as monitor:
            async with consumer:
                asking = asyncio.create_task(asyncio.to_thread(_first, monitor, answers.append))
                await asyncio.sleep(0)
                deadline = time.monotonic() + 30
                while not answers and time.monotonic() < deadline:
                    time.sleep(0.05)  # noqa: ASYNC251 - that is what is tested
                await asking
                monkeypatch.setattr(monitoring, "_BLOCKED_AFTER", 60.0)
                assert await ask(monitor, "/health") == (200, "ok\n")

    asyncio.run(main())
    assert answers[0] == (503, "the event loop has not answered for 0.2 s: a handler blocks it\n")


def _first(monitor: Monitor, told: Callable[[tuple[int, str]], None]) -> None:
    told(get(monitor, "/health"))


def test_a_port_that_is_taken_is_said() -> None:
    async def main() -> None:
        consumer = Consumer("amqp://localhost", group="orders", ownership=OwnsNothing(coordinates=True))
        with Monitor(consumer, 0, "127.0.0.1") as monitor, pytest.raises(ConfigError, match="take another"):
            Monitor(consumer, monitor.port, "127.0.0.1")

    asyncio.run(main())
