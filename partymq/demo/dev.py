"""`partymq dev`: a private broker and a server to play with, or the broker alone, until Ctrl-C."""

import shlex
import sys
import tempfile
import time
from pathlib import Path
from string import Template

from rich.console import Console

from partymq.broker import PrivateNode
from partymq.demo.endings import termination_interrupts
from partymq.demo.flights import read_flights, write_lines
from partymq.demo.plan import EXCHANGE, SOURCE_QUEUE, Plan
from partymq.demo.run import OUTSIDER, DemoError
from partymq.demo.topology import Broker
from partymq.demo.ways import PartyMQ

_START_SECONDS = 60.0
_LOOK_SECONDS = 0.2
_PLUGINS = ("rabbitmq_management", "rabbitmq_consistent_hash_exchange", "rabbitmq_sharding")
_BROKER = Template("""
A broker is running.  Ctrl-C ends it.

  AMQP         $amqp
  management   $management   (guest, guest)
""")
_GUIDE = Template("""
PartyMQ is running.  Ctrl-C ends everything.

  HTTP API     $api        (described in $api/docs)
  AMQP         $amqp
  management   $management   (guest, guest)

Publish to the exchange $exchange, with the key in the header partitionKey; it feeds the queue $queue.

A worker (start several, in other terminals, and end some with Ctrl-C or kill -9):
  $worker

Flights of 2013 to work on, five a second:
  $publisher

The same by hand: the four calls of a client, its queue, a message, and what the group looks like:
  curl -X POST $api/clients/me/bind
  curl -u guest:guest -X PUT $management/api/queues/%2F/me -d '{"durable": true}'
  curl -u guest:guest -X POST $management/api/bindings/%2F/e/partymq.ex.write/q/me \\
    -d '{"routing_key": "partymq.partition-me"}'
  curl -X POST $api/clients/me/ready -H 'Content-Type: application/json' -d '{"queue": "me"}'
  curl -u guest:guest -X POST $management/api/exchanges/%2F/$exchange/publish \\
    -d '{"routing_key": "any", "properties": {"headers": {"partitionKey": "N14228"}},
         "payload": "hello", "payload_encoding": "string"}'
  curl -X POST $api/clients/me/heartbeat
  curl -X POST $api/clients/me/unbind
  curl $api/groups/default
  curl $api/metrics

Its log:
""")


def run_dev(console: Console, *, http_port: int | None, amqp_port: int | None, data_dir: Path | None) -> int:
    """Start broker and server, say how to use them, show the server's log until interrupted.

    Args:
        http_port, amqp_port: None: free ones.
        data_dir: of the broker, kept. None: a temporary one, removed at the end.

    Returns:
        The exit status: 0 when interrupted, 1 when the server ended by itself.

    Raises:
        NodeError: the broker could not be started.
        DemoError: the server could not.
    """
    with termination_interrupts(), tempfile.TemporaryDirectory(prefix="partymq-dev-") as temporary:
        folder = Path(temporary)
        try:
            console.print("starting a private broker")
            with PrivateNode(data_dir, port=amqp_port, plugins=_PLUGINS) as node:
                way = PartyMQ(
                    Broker(node.amqp_url, node.management_url), Plan(expires_after=15.0), folder, http_port
                )
                try:
                    console.print("starting the server")
                    way.start()
                    _wait(way)
                    write_lines(read_flights(), folder / "flights.csv")
                    console.print(guide(node, way, folder), highlight=False, markup=False, soft_wrap=True)
                    _follow(way, console)
                finally:
                    way.stop()
        except KeyboardInterrupt:
            console.print("\nended: server, broker and their data" if data_dir is None else "\nended")
            return 0
        console.print("the server ended by itself", style="red")
        return 1


def run_broker(console: Console, *, amqp_port: int | None, data_dir: Path | None) -> int:
    """The broker alone, until interrupted; see `run_dev`."""
    with termination_interrupts():
        try:
            console.print("starting a private broker")
            with PrivateNode(data_dir, port=amqp_port, plugins=_PLUGINS) as node:
                text = _BROKER.substitute(amqp=node.amqp_url, management=_management(node))
                console.print(text, highlight=False, markup=False, soft_wrap=True)
                while node.running:
                    time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            console.print("\nended: the broker and its data" if data_dir is None else "\nended")
            return 0
        console.print("the broker ended by itself", style="red")
        return 1


def guide(node: PrivateNode, way: PartyMQ, folder: Path) -> str:
    """How to use what runs."""
    worker = [sys.executable, str(OUTSIDER / "worker.py"), "--show", "--work-ms=50", "--heartbeat-s=3"]
    worker += ["--api", way.url, "--amqp", node.amqp_url, "--name", "worker-1"]
    publisher = [sys.executable, str(OUTSIDER / "publisher.py"), "--rate=5"]
    publisher += ["--amqp", node.amqp_url, "--exchange", EXCHANGE, "--flights", str(folder / "flights.csv")]
    return _GUIDE.substitute(
        api=way.url,
        amqp=node.amqp_url,
        management=_management(node),
        exchange=EXCHANGE,
        queue=SOURCE_QUEUE,
        worker=shlex.join(worker),
        publisher=shlex.join(publisher),
    )


def _management(node: PrivateNode) -> str:
    return f"http://127.0.0.1:{node.management_port}"


def _wait(way: PartyMQ) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not way.ready():
        (server,) = way.processes()
        if server.status is not None or time.monotonic() >= deadline:
            raise DemoError(f"the server did not get ready:\n{server.last_words()}")
        time.sleep(_LOOK_SECONDS)


def _follow(way: PartyMQ, console: Console) -> None:
    """Print what the server logs for as long as it runs."""
    (server,) = way.processes()
    with way.log.open(encoding="utf-8", errors="replace") as log:
        while server.status is None:
            if text := log.read():
                console.out(text, end="", highlight=False)
            time.sleep(_LOOK_SECONDS)
        console.out(log.read(), end="", highlight=False)
