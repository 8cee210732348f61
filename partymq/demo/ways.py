"""The ways from the publisher to the workers that the demo compares: PartyMQ, a pull group, a plain queue."""

import http.client
import json
import os
import random
import re
import sys
from pathlib import Path
from typing import Protocol

from partymq.broker.ports import free_ports
from partymq.demo.children import Child
from partymq.demo.plan import (
    CONCURRENCY,
    EXCHANGE,
    GROUP,
    PARTITIONS,
    PLAIN_QUEUE,
    SOURCE_QUEUE,
    Plan,
)
from partymq.demo.topology import Broker

_PROBE_SECONDS = 2.0
_STOP_SECONDS = 30.0
_KEPT_VARIABLES = ("PARTYMQ_RABBITMQ_SERVER",)


class Way(Protocol):
    """What a run has to know of how messages reach the workers."""

    title: str
    has_owners: bool
    """Whether partitions belong to workers, so that it can be told how fast they moved."""
    concurrent: bool
    """Whether a worker has several flights in hand at a time."""
    worker_script: str
    publisher_script: str

    def worker_arguments(self, plan: Plan) -> list[str]:
        """What a worker is told besides its name, the broker and where to note."""

    def publisher_arguments(self) -> list[str]:
        """What the publisher is told of where to publish."""

    def processes(self) -> list[Child]:
        """Which have to be alive."""


class PlainQueue:
    """One durable queue, all workers compete for its messages."""

    title = "one plain queue"
    has_owners = False
    concurrent = False
    worker_script = "worker.py"
    publisher_script = "publisher.py"

    def __init__(self, broker: Broker) -> None:
        """Declares exchange and queue."""
        broker.declare(PLAIN_QUEUE, PLAIN_QUEUE)

    def worker_arguments(self, plan: Plan) -> list[str]:
        return ["--queue", PLAIN_QUEUE, *_pace(plan)]

    def publisher_arguments(self) -> list[str]:
        return [f"--exchange={PLAIN_QUEUE}"]

    def processes(self) -> list[Child]:
        return []


class PullGroup:
    """A pull group: publisher and workers use the library, and no other process runs.

    Whoever comes first creates the group's queues; the workers elect the one that coordinates.
    """

    title = "PartyMQ, pull"
    has_owners = True
    concurrent = True
    worker_script = "pull_worker.py"
    publisher_script = "pull_publisher.py"

    def worker_arguments(self, plan: Plan) -> list[str]:
        return [
            f"--group={GROUP}",
            f"--concurrency={CONCURRENCY}",
            f"--work-ms={plan.work_ms * CONCURRENCY}",
            f"--settings={json.dumps({'partitions': PARTITIONS, 'session_timeout': plan.session_timeout})}",
        ]

    def publisher_arguments(self) -> list[str]:
        return [f"--group={GROUP}"]

    def processes(self) -> list[Child]:
        return []


def coordinator_epoch(log: str) -> int:
    """The epoch of the latest term that the worker with this log began; 0 where it never coordinated."""
    return max((int(epoch) for epoch in re.findall(r"coordinating .*\bepoch=(\d+)", log)), default=0)


class PartyMQ:
    """`partymq serve` as a process of its own, set up by environment variables as in a deployment."""

    title = "PartyMQ"
    has_owners = True
    concurrent = False
    worker_script = "worker.py"
    publisher_script = "publisher.py"

    def __init__(self, broker: Broker, plan: Plan, folder: Path, port: int | None = None) -> None:
        """Declares exchange and source queue; `start` starts the server, on `port` or a free one."""
        broker.declare(EXCHANGE, SOURCE_QUEUE)
        self.port = port or free_ports(1, random.Random())[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self.settings = {
            "PARTYMQ_RABBIT_CS": broker.amqp_url,
            "PARTYMQ_MANAGEMENT_URL": broker.management_url,
            "PARTYMQ_SOURCE_QUEUE": SOURCE_QUEUE,
            "PARTYMQ_PARTITIONS": str(PARTITIONS),
            "PARTYMQ_KEY_CONFIG_SOURCE": "header",
            "PARTYMQ_KEY_CONFIG_KEY": "partitionKey",
            "PARTYMQ_HEART_BEAT_CONFIG_CHECK_INTERVAL": "200ms",
            "PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER": f"{plan.expires_after * 1000:.0f}ms",
            "PARTYMQ_HTTP_HOST": "127.0.0.1",
            "PARTYMQ_HTTP_PORT": str(self.port),
            "PARTYMQ_LOG_FORMAT": "console",
        }
        self._server: Child | None = None

    def worker_arguments(self, plan: Plan) -> list[str]:
        return ["--api", self.url, *_pace(plan)]

    def publisher_arguments(self) -> list[str]:
        return [f"--exchange={EXCHANGE}"]

    def processes(self) -> list[Child]:
        return [self._server] if self._server else []

    def start(self) -> None:
        """Start the server; it is ready when `ready` says so."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PARTYMQ_") or name in _KEPT_VARIABLES
        }
        command = [sys.executable, "-m", "partymq", "serve"]
        self._server = Child("server", command, self.log, {**inherited, **self.settings})

    def ready(self) -> bool:
        """Whether the server says that it can route."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PROBE_SECONDS)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> tuple[int, int]:
        """As a crash would; returns the times around it, as `Child.kill`."""
        assert self._server is not None
        server, self._server = self._server, None
        return server.kill()

    def kill_if_running(self) -> None:
        """Leave nothing behind."""
        if self._server is not None:
            self.kill()

    def stop(self) -> int | None:
        """End it in an orderly way; its exit status, None when it was not running."""
        if self._server is None:
            return None
        server, self._server = self._server, None
        server.stop(_STOP_SECONDS)
        return server.status


def _pace(plan: Plan) -> list[str]:
    return [
        f"--prefetch={plan.prefetch}",
        f"--work-ms={plan.work_ms}",
        f"--heartbeat-s={plan.heartbeat}",
    ]
