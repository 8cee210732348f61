"""A running `partymq serve` on an empty vhost, and what an outsider needs beside it."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import pytest

from partymq.broker.ports import free_ports
from tests.blackbox.crowd import Crowd
from tests.blackbox.outsider import Api, Diary, Member, until
from tests.conftest import Vhost

SOURCE = "partymq.q.source"


class Served:
    """`partymq serve` in a process of its own, with the environment as its only settings."""

    def __init__(self, vhost: Vhost, log: Path, **environ: str) -> None:
        (self.port,) = free_ports(1, random.Random())
        self.api = Api(f"http://127.0.0.1:{self.port}")
        self.log = log
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PARTYMQ_")}
        self._environ = {
            **kept,
            "PARTYMQ_RABBIT_CS": vhost.amqp_url,
            "PARTYMQ_MANAGEMENT_URL": vhost.management_url,
            "PARTYMQ_HTTP_HOST": "127.0.0.1",
            "PARTYMQ_HTTP_PORT": str(self.port),
            "PARTYMQ_HEART_BEAT_CONFIG_CHECK_INTERVAL": "250ms",
            "PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER": "3s",
            **environ,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def member(self, hostname: str) -> Any:
        """What the group says of a member; empty where it is none."""
        answer = self.api.get("/groups/default")
        members = answer.body.get("members", []) if answer.status == 200 else []
        return next((member for member in members if member["hostname"] == hostname), {})

    def start(self) -> "Served":
        """Returns at once; see `ready`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "partymq", "serve"], env=self._environ, stderr=log, stdout=log
            )
        return self

    def ready(self) -> "Served":
        """Returns when it can route."""
        said: list[Any] = []

        def can_route() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            try:
                answer = self.api.get("/ready")
            except OSError as failure:
                said[:] = [failure]
                return False
            said[:] = [answer.body]
            return answer.status == 200

        until(can_route, what=lambda: f"ready; last answer: {said}")
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(120)


@pytest.fixture
def serve(vhost: Vhost, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`serve(**environ)`: an instance that has been started."""
    instances: list[Served] = []

    def start(**environ: str) -> Served:
        instances.append(Served(vhost, tmp_path / f"serve-{len(instances)}.log", **environ).start())
        return instances[-1]

    yield start
    for instance in instances:
        if instance.process is not None and instance.process.poll() is None:
            instance.process.kill()
            instance.process.wait()


@pytest.fixture
def channel(vhost: Vhost) -> Iterator[Any]:
    """A channel with the source queue declared, as it stands where PartyMQ is brought in."""
    connection = pika.BlockingConnection(pika.URLParameters(vhost.amqp_url))
    opened = connection.channel()
    opened.queue_declare(SOURCE, durable=True)
    opened.confirm_delivery()
    yield opened
    with suppress(pika.exceptions.AMQPError):  # the broker may have been killed meanwhile
        connection.close()


@pytest.fixture
def publish(channel: Any) -> Callable[..., None]:
    """`publish(numbers, keys)`: messages of some keys, each with its number as body, to the source queue."""

    def publishing(numbers: range, keys: int = 20) -> None:
        for number in numbers:
            properties = pika.BasicProperties(
                delivery_mode=2, headers={"partitionKey": f"key-{number % keys}"}
            )
            channel.basic_publish("", SOURCE, str(number).encode(), properties)

    return publishing


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def members(vhost: Vhost, diary: Diary) -> Iterator[Callable[..., Member]]:
    """`members(api, hostname, **options)`: a member that is ready."""
    joined: list[Member] = []

    def join(api: Api, hostname: str, **options: Any) -> Member:
        joined.append(Member(api, vhost.amqp_url, hostname, diary, **options))
        return joined[-1].join()

    yield join
    for member in joined:
        member.die()


@pytest.fixture
def crowd(vhost: Vhost, tmp_path: Path, channel: Any) -> Iterator[Crowd]:
    """Members as processes, with messages for them; the source queue is there."""
    gathered = Crowd(vhost.amqp_url, tmp_path / "crowd")
    yield gathered
    gathered.end()
