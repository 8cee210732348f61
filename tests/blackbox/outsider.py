"""A client as somebody would write it who has read the API's description and nothing else: pika and urllib.

bind → declare a queue and bind it → ready → heartbeats → consume, ack → unbind
"""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pika

DEADLINE = 60.0


@dataclass(frozen=True)
class Answer:
    """What the API said."""

    status: int
    body: Any
    headers: dict[str, str]


class Api:
    """The HTTP API at a base URL."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request. OSError where nobody listens."""
        request = urllib.request.Request(self.base + path, body, headers or {}, method=method)
        try:
            with self._opener.open(request, timeout=DEADLINE) as answer:
                return _answer(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return _answer(refused)

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str, body: Any = None) -> Answer:
        if body is None:
            return self.ask("POST", path)
        return self.ask("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def call(self, hostname: str, verb: str, body: Any = None) -> Answer:
        return self.post(f"/clients/{quote(hostname, safe='')}/{verb}", body)


def _answer(answer: Any) -> Answer:
    text = answer.read()
    is_json = answer.headers.get_content_type() == "application/json"
    return Answer(answer.status, json.loads(text) if is_json else text.decode(), dict(answer.headers))


@dataclass(frozen=True)
class Handled:
    """A message that a member has worked on, from `began` to `ended` (monotonic seconds)."""

    member: str
    body: bytes
    properties: pika.BasicProperties
    redelivered: bool
    began: float
    ended: float


class Diary:
    """What all members have handled, in the order in which they finished it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handled: list[Handled] = []

    def note(self, handled: Handled) -> None:
        with self._lock:
            self._handled.append(handled)

    def entries(self) -> list[Handled]:
        with self._lock:
            return list(self._handled)

    def of(self, member: str) -> list[Handled]:
        return [handled for handled in self.entries() if handled.member == member]

    def by_key(self) -> dict[str, list[Handled]]:
        found: dict[str, list[Handled]] = {}
        for handled in sorted(self.entries(), key=lambda each: each.began):
            found.setdefault(handled.properties.headers["partitionKey"], []).append(handled)
        return found


class Member:
    """A consumer process, as a thread.

    Args:
        work: seconds for one message.
        names_its_queue: whether `ready` says which queue it is.
    """

    def __init__(
        self,
        api: Api,
        amqp_url: str,
        hostname: str,
        diary: Diary,
        *,
        work: float = 0.0,
        prefetch: int = 10,
        heartbeat: float = 0.5,
        names_its_queue: bool = True,
    ) -> None:
        self.api, self.hostname, self.queue = api, hostname, f"outsider.{hostname}"
        self._amqp_url, self._diary, self._work, self._prefetch = amqp_url, diary, work, prefetch
        self._heartbeat, self._names_its_queue = heartbeat, names_its_queue
        self._stop, self._joined = threading.Event(), threading.Event()
        self._vanish = False
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, name=hostname, daemon=True),
            threading.Thread(target=self._beat, name=f"{hostname} heartbeat", daemon=True),
        ]

    def join(self) -> "Member":
        """Start, and return when `ready` has been answered."""
        self._threads[0].start()
        until(lambda: self._joined.is_set() or self._failure is not None)
        if self._failure is not None:
            raise self._failure
        self._threads[1].start()
        return self

    def leave(self) -> None:
        """Unbind, handle what is in the queue until it stays empty, and go."""
        answer = self.api.call(self.hostname, "unbind")
        assert answer.status == 200, answer
        self._end()

    def die(self) -> None:
        """Vanish: the connection closes, the heartbeats end, nothing is said."""
        self._vanish = True
        self._end()

    def _end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(DEADLINE)
                assert not thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with pika.BlockingConnection(pika.URLParameters(self._amqp_url)) as connection:
                self._consume(connection)
        except Exception as failure:
            self._failure = failure

    def _consume(self, connection: Any) -> None:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=self._prefetch)
        bound = self.api.call(self.hostname, "bind")
        assert bound.status == 200, bound
        channel.queue_declare(self.queue, durable=True)
        channel.queue_bind(self.queue, bound.body["exchange"], bound.body["routingKey"])
        channel.basic_consume(self.queue, self._handle)
        ready = self.api.call(
            self.hostname, "ready", {"queue": self.queue} if self._names_its_queue else None
        )
        assert ready.status == 200, ready
        self._joined.set()
        quiet_since = time.monotonic()
        while not self._vanish:
            before = len(self._diary.of(self.hostname))
            connection.process_data_events(0.05)
            if not self._stop.is_set() or len(self._diary.of(self.hostname)) > before:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > 1.0:
                return

    def _handle(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if self._vanish:
            return
        began = time.monotonic()
        time.sleep(self._work)
        ended = time.monotonic()
        self._diary.note(Handled(self.hostname, body, properties, method.redelivered, began, ended))
        channel.basic_ack(method.delivery_tag)

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat):
            try:
                self.api.call(self.hostname, "heartbeat")
            except OSError:
                continue  # the server restarts; the next one will do


def until(
    condition: Callable[[], Any], deadline: float = DEADLINE, what: str | Callable[[], str] = ""
) -> Any:
    """Waits for a condition; its value. `what` it is, for when it does not come."""
    ends = time.monotonic() + deadline
    while True:
        if found := condition():
            return found
        if time.monotonic() > ends:
            raise AssertionError(
                f"not within {deadline} s: {what() if callable(what) else what or condition}"
            )
        time.sleep(0.02)
