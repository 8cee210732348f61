"""Members as processes that can be killed and stopped, messages for them, the promises checked on both."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pika
import pika.exceptions

from tests.blackbox.outsider import DEADLINE, until
from verify.promises import Verdict, check
from verify.stage import Pod
from verify.world import member_command

SOURCE = "partymq.q.source"


class Crowd:
    """Members of one group, and all messages that are for them.

    Args:
        urls: of the servers' APIs; members call any that answers. May grow.
        source: where messages are published.
    """

    def __init__(self, amqp_url: str, folder: Path, urls: Iterable[str] = (), source: str = SOURCE) -> None:
        self.urls = list(urls)
        self.pods: list[Pod] = []
        self.counts: list[int] = []
        self._amqp_url, self._folder, self._source = amqp_url, folder, source
        folder.mkdir(exist_ok=True)

    def join(self, name: str, *options: str, ready: bool = True) -> Pod:
        """A member; returns when it is ready."""
        joiner = "&" if "?" in self._amqp_url else "?"
        command = member_command(
            name, f"{self._amqp_url}{joiner}heartbeat=2", self.urls, "--heartbeat=0.3", *options
        )
        pod = Pod(name, command, self._folder, len(self.pods))
        self.pods.append(pod)
        if ready:
            self.is_ready(pod)
        return pod

    def is_ready(self, pod: Pod) -> None:
        """Wait until a member is ready."""

        def said() -> bool:
            assert pod.runs, pod.process.last_words()
            pod.look()
            return any(note.kind == "R" for note in pod.read)

        until(said, what=lambda: f"{pod.name} ready: {pod.process.last_words()}")

    def publish(self, count: int, *, keys: int = 20, size: int = 0, **properties: Any) -> None:
        """So many messages, one after the other, to all keys in turn; each until it is confirmed."""
        for _ in self._published(count, keys, size, properties):
            pass

    @contextmanager
    def flow(self, rate: float, *, keys: int = 20, size: int = 0) -> Iterator[None]:
        """Messages flow while the block runs, `rate` a second at most."""
        stop = threading.Event()
        failures: list[BaseException] = []

        def publish() -> None:
            try:
                for _ in self._published(10**9, keys, size, {}):
                    if stop.wait(1 / rate):
                        return
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(DEADLINE)
        assert not thread.is_alive()
        assert not failures, failures

    def _published(self, count: int, keys: int, size: int, properties: dict[str, Any]) -> Iterator[None]:
        """The message in hand is published again after a fault, and is then in the source twice at most."""
        self.counts += [0] * (keys - len(self.counts))
        turn, number = 0, 0
        ends = time.monotonic() + DEADLINE
        while number < count:
            try:
                with pika.BlockingConnection(pika.URLParameters(self._amqp_url)) as connection:
                    channel = connection.channel()
                    channel.confirm_delivery()
                    while number < count:
                        key = turn % keys
                        channel.basic_publish(
                            "",
                            self._source,
                            f"{key} {self.counts[key]} ".encode() + b"x" * size,
                            pika.BasicProperties(
                                **{
                                    "delivery_mode": 2,
                                    "headers": {"partitionKey": f"key-{key}"},
                                    **properties,
                                }
                            ),
                            mandatory=True,
                        )
                        self.counts[key] += 1
                        turn, number = turn + 1, number + 1
                        ends = time.monotonic() + DEADLINE
                        yield
            except (pika.exceptions.AMQPError, OSError):
                if time.monotonic() > ends:
                    raise
                time.sleep(0.1)

    def finished(self, pods: Iterable[Pod] | None = None) -> int:
        """Different messages that have been finished: by these, or by all."""
        done: set[tuple[int, int]] = set()
        for pod in self.pods if pods is None else pods:
            pod.look()
            done.update((note.key, note.seq) for note in pod.read if note.kind == "E")
        return len(done)

    def more(self, count: int, *pods: Pod, deadline: float = DEADLINE) -> None:
        """Wait until so many more have been finished, by these or by all."""
        goal = self.finished(pods or None) + count
        until(
            lambda: self.finished(pods or None) >= goal,
            deadline,
            what=lambda: f"{goal - self.finished(pods or None)} of {count} more messages",
        )

    def all_finished(self, deadline: float = 2 * DEADLINE, *, check_order: bool = True) -> Verdict:
        """Wait until every message has been finished; the verdict. Fails on a broken promise."""
        until(
            lambda: self.finished() >= sum(self.counts),
            deadline,
            what=lambda: f"{sum(self.counts)} messages finished, only {self.finished()} are",
        )
        verdict = check(self.counts, [work for pod in self.pods for work in pod.work()])
        assert verdict.held or not check_order, verdict
        return verdict

    def end(self) -> None:
        for pod in self.pods:
            if pod.runs:
                pod.kill()


def queue_size(channel: Any, queue: str) -> int:
    """Ready messages; -1 where there is no such queue."""
    with suppress(pika.exceptions.ChannelClosedByBroker), channel.connection.channel() as other:
        return int(other.queue_declare(queue, passive=True).method.message_count)
    return -1
