"""The demo's worker and publisher do what they say, and what they note is what they did."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pika
import pytest

from partymq.demo.flights import Flight, write_lines
from partymq.demo.notes import BEGIN, END, LEFT, READY, PublisherNotes, WorkerNotes, deliveries
from partymq.demo.run import OUTSIDER
from tests.conftest import Vhost

EXCHANGE = "partymq.ex.write"
KEY = "partymq.partition-w"
QUEUE = "flights.w"


class Api:
    """Stands for the server's HTTP API: notes the calls, answers as it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.refusals: dict[str, list[int]] = {}
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                what = self.path.removeprefix("/clients/w/")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                api.calls.append((what, json.loads(body) if body else None))
                refusals = api.refusals.get(what)
                status = refusals.pop(0) if refusals else 200
                answer = {"exchange": EXCHANGE, "routingKey": KEY} if what == "bind" else {}
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer if status == 200 else {"error": "no"}).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def named(self, what: str) -> list[Any]:
        return [body for call, body in self.calls if call == what]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def api() -> Iterator[Api]:
    fake = Api()
    yield fake
    fake.close()


@pytest.fixture
def channel(vhost: Vhost) -> Iterator[Any]:
    connection = pika.BlockingConnection(pika.URLParameters(vhost.amqp_url))
    opened = connection.channel()
    opened.confirm_delivery()
    opened.exchange_declare(EXCHANGE, "direct", durable=True)
    yield opened
    connection.close()


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[bytes]] = []

    def run(script: str, *arguments: str) -> "subprocess.Popen[bytes]":
        running.append(subprocess.Popen([sys.executable, str(OUTSIDER / script), *arguments]))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.wait()


def eventually(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def worker_arguments(vhost: Vhost, api: Api, notes: Path, *more: str) -> list[str]:
    return ["--name=w", f"--api={api.url}", f"--amqp={vhost.amqp_url}", f"--notes={notes}", *more]


def publish(channel: Any, numbers: range, key: str = KEY) -> None:
    for number in numbers:
        body = {
            "number": number,
            "aircraft": f"N{number % 3}",
            "flight": "UA1",
            "origin": "JFK",
            "dest": "LAX",
        }
        properties = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish(
            EXCHANGE, key, json.dumps({**body, "delay": None}).encode(), properties, mandatory=True
        )


def ended(notes: WorkerNotes) -> int:
    notes.refresh()
    return notes.ended


def test_a_worker_joins_works_in_order_and_leaves(
    vhost: Vhost, channel: Any, api: Api, start: Start, tmp_path: Path
) -> None:
    notes = WorkerNotes(tmp_path / "notes")
    worker = start("worker.py", *worker_arguments(vhost, api, tmp_path / "notes", "--heartbeat-s=0.1"))
    eventually(lambda: bool(api.named("ready")), "ready")
    publish(channel, range(30))
    eventually(lambda: ended(notes) == 30, "30 flights")
    eventually(lambda: bool(api.named("heartbeat")), "a heartbeat")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0

    assert [what for what, _ in api.calls if what != "heartbeat"] == ["bind", "ready", "unbind"]
    assert api.named("ready") == [{"queue": QUEUE}]
    notes.refresh()
    kinds = [note.kind for note in notes.notes]
    assert kinds == [READY, *([BEGIN, END] * 30), LEFT]
    story = deliveries("w", notes.notes)
    assert [one.number for one in story] == list(range(30))
    assert not any(one.stale or one.redelivered for one in story)
    times = [note.at for note in notes.notes]
    assert times == sorted(times)
    queue = channel.queue_declare(QUEUE, passive=True)
    assert queue.method.message_count == 0


def test_a_worker_that_is_told_to_stop_finishes_what_it_has_in_hand_and_leaves_the_rest(
    vhost: Vhost, channel: Any, api: Api, start: Start, tmp_path: Path
) -> None:
    notes = WorkerNotes(tmp_path / "notes")
    worker = start("worker.py", *worker_arguments(vhost, api, tmp_path / "notes", "--work-ms=20"))
    eventually(lambda: bool(api.named("ready")), "ready")
    publish(channel, range(200))
    eventually(lambda: ended(notes) >= 5, "some flights")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0

    notes.refresh()
    story = deliveries("w", notes.notes)
    assert all(one.end is not None for one in story)
    rest = [json.loads(channel.basic_get(QUEUE, auto_ack=True)[2])["number"] for _ in range(200 - len(story))]
    assert rest == list(range(len(story), 200))
    assert channel.basic_get(QUEUE)[0] is None


def test_a_killed_worker_leaves_an_open_delivery(
    vhost: Vhost, channel: Any, api: Api, start: Start, tmp_path: Path
) -> None:
    notes = WorkerNotes(tmp_path / "notes")
    worker = start("worker.py", *worker_arguments(vhost, api, tmp_path / "notes", "--work-ms=60000"))
    eventually(lambda: bool(api.named("ready")), "ready")
    publish(channel, range(1))

    def begun() -> bool:
        notes.refresh()
        return any(note.kind == BEGIN for note in notes.notes)

    eventually(begun, "a flight begun")
    worker.kill()
    worker.wait()
    notes.refresh()
    (only,) = deliveries("w", notes.notes)
    assert (only.number, only.end) == (0, None)
    eventually(lambda: channel.basic_get(QUEUE)[0] is not None, "the flight back in the queue")


def test_a_worker_that_was_forgotten_joins_again(
    vhost: Vhost, channel: Any, api: Api, start: Start, tmp_path: Path
) -> None:
    api.refusals["heartbeat"] = [404]
    arguments = worker_arguments(vhost, api, tmp_path / "notes", "--heartbeat-s=0.1")
    start("worker.py", *arguments)
    eventually(lambda: len(api.named("ready")) == 2, "ready again")
    publish(channel, range(3))
    notes = WorkerNotes(tmp_path / "notes")
    eventually(lambda: ended(notes) == 3, "flights after that")


def test_a_worker_tries_again_while_the_server_refuses(
    vhost: Vhost, channel: Any, api: Api, start: Start, tmp_path: Path
) -> None:
    api.refusals = {"bind": [503, 409], "ready": [503], "unbind": [503], "heartbeat": [503] * 3}
    worker = start("worker.py", *worker_arguments(vhost, api, tmp_path / "notes", "--heartbeat-s=0.1"))
    eventually(lambda: len(api.named("heartbeat")) >= 4, "heartbeats")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    calls = [what for what, _ in api.calls if what != "heartbeat"]
    assert calls == ["bind", "bind", "bind", "ready", "bind", "ready", "unbind", "unbind"]


def test_a_flight_behind_a_later_one_of_its_aircraft_is_noted_as_stale(
    vhost: Vhost, channel: Any, api: Api, start: Start, tmp_path: Path
) -> None:
    notes = WorkerNotes(tmp_path / "notes")
    start("worker.py", *worker_arguments(vhost, api, tmp_path / "notes"))
    eventually(lambda: bool(api.named("ready")), "ready")
    for number in (3, 6, 0, 1):  # 3, 6 and 0 are one aircraft's
        publish(channel, range(number, number + 1))
    eventually(lambda: ended(notes) == 4, "four flights")
    assert [one.number for one in deliveries("w", notes.notes) if one.stale] == [0]


def publisher_arguments(vhost: Vhost, folder: Path, rate: float) -> list[str]:
    return [
        f"--amqp={vhost.amqp_url}", "--exchange=flights", f"--flights={folder / 'flights'}",
        f"--notes={folder / 'notes'}", f"--rate={rate}",
    ]  # fmt: skip


def flights(count: int) -> list[Flight]:
    return [Flight("2013-01-01T05:15", f"N{n % 7}", "UA", str(n), "EWR", "IAH", "3") for n in range(count)]


def test_the_publisher_publishes_persistent_keyed_messages_in_order_at_its_rate(
    vhost: Vhost, channel: Any, start: Start, tmp_path: Path
) -> None:
    channel.exchange_declare("flights", "topic", durable=True)
    channel.queue_declare("all", durable=True)
    channel.queue_bind("all", "flights", "#")
    write_lines(flights(500), tmp_path / "flights")
    began = time.monotonic()
    assert start("publisher.py", *publisher_arguments(vhost, tmp_path, 500.0)).wait(20) == 0
    assert time.monotonic() - began >= 0.95

    notes = PublisherNotes(tmp_path / "notes")
    notes.refresh()
    assert notes.confirmed == 500
    counts = [step.confirmed for step in notes.progress]
    assert counts == sorted(counts)
    for number in range(500):
        _, properties, body = channel.basic_get("all", auto_ack=True)
        flight = json.loads(body)
        assert (flight["number"], flight["flight"]) == (number, f"UA{number}")
        assert properties.headers == {"partitionKey": f"N{number % 7}"}
        assert properties.delivery_mode == 2


def test_the_publisher_fails_when_nothing_takes_its_messages(
    vhost: Vhost, channel: Any, start: Start, tmp_path: Path
) -> None:
    channel.exchange_declare("flights", "topic", durable=True)
    write_lines(flights(5), tmp_path / "flights")
    assert start("publisher.py", *publisher_arguments(vhost, tmp_path, 500.0)).wait(20) == 1


def test_the_publisher_stops_when_it_is_told_to(
    vhost: Vhost, channel: Any, start: Start, tmp_path: Path
) -> None:
    channel.exchange_declare("flights", "topic", durable=True)
    channel.queue_declare("all", durable=True)
    channel.queue_bind("all", "flights", "#")
    write_lines(flights(500), tmp_path / "flights")
    publisher = start("publisher.py", *publisher_arguments(vhost, tmp_path, 10.0))
    notes = PublisherNotes(tmp_path / "notes")

    def under_way() -> bool:
        notes.refresh()
        return notes.confirmed > 0

    eventually(under_way, "a confirm")
    publisher.send_signal(signal.SIGTERM)
    assert publisher.wait(60) == 1
