"""What monitoring asks of a consumer: is it alive, is it a member, what has it done. Over HTTP, or as a
Prometheus collector for a program that has a registry of its own."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.registry import Collector

from partymq.client.consumer import Consumer
from partymq.errors import ConfigError

_BLOCKED_AFTER: Final = 5.0
"""Seconds in which an event loop that lives has answered."""
_COUNTERS: Final = (
    ("handled", "Messages whose handlers have returned."),
    ("retried", "Handlers that failed and are tried again."),
    ("failed", "Messages whose handlers failed for good."),
)
_GAUGES: Final = (
    ("running", "Handlers that run now."),
    ("keys", "Keys of which the member has messages."),
    ("partitions", "Partitions that the member owns."),
    ("joined", "1 while it is a member of its group."),
    ("coordinates", "1 while it coordinates its group."),
)
_StartResponse = Callable[[str, list[tuple[str, str]]], object]


class ConsumerCollector(Collector):
    """Numbers of a consumer for `prometheus_client`, read when somebody scrapes; with the label `group`.

    prometheus_client.REGISTRY.register(ConsumerCollector(consumer))
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        told = self._consumer.describe()
        told["partitions"] = len(told["partitions"])
        labels = [told["group"]]
        for name, meaning in _COUNTERS:
            counter = CounterMetricFamily(f"partymq_consumer_{name}", meaning, labels=["group"])
            counter.add_metric(labels, told[name])
            yield counter
        for name, meaning in _GAUGES:
            gauge = GaugeMetricFamily(f"partymq_consumer_{name}", meaning, labels=["group"])
            gauge.add_metric(labels, int(told[name]))
            yield gauge


class Monitor:
    """Answers `GET /health`, `/ready` and `/metrics` for a consumer, in threads of its own, while it is open.

    `/health` is 503 when the consumer's event loop has not answered for 5 s: a handler that should be a plain
    function blocks it, and the group will take the member for dead. `/ready` is 503 while it is no member.

        with Monitor(consumer, 9400):
            consumer.run()

    Args:
        consumer: it may run already, or be started later.
        port: to listen on; 0 = a free one.
        host: address to listen on.

    Attributes:
        port: on which it listens.

    Raises:
        ConfigError: it can't listen there.
    """

    def __init__(self, consumer: Consumer, port: int, host: str = "0.0.0.0") -> None:
        self._consumer = consumer
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        registry.register(ConsumerCollector(consumer))
        self._metrics = make_wsgi_app(registry)
        try:
            self._server = make_server(host, port, self._answer, _Server, _Quiet)
        except OSError as error:
            raise ConfigError(
                f"monitoring can't listen on {host}, port {port}: {error.strerror}; take another port"
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="partymq monitoring", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                answer: Iterable[bytes] = self._metrics(environ, start_response)
                return answer
            case "/health":
                return _say(start_response, self._trouble())
            case "/ready":
                joined = self._consumer.joined
                return _say(start_response, None if joined else "no member of its group (yet)")
            case _:
                start_response(_status(HTTPStatus.NOT_FOUND), [("Content-Type", "text/plain")])
                return [b"there are /health, /ready and /metrics\n"]

    def _trouble(self) -> str | None:
        loop = self._consumer.loop
        if loop is None or loop.is_closed():
            return None  # It is not started yet, or over: the process says which.
        answered: concurrent.futures.Future[None] = concurrent.futures.Future()
        try:
            loop.call_soon_threadsafe(answered.set_result, None)
            answered.result(_BLOCKED_AFTER)
        except TimeoutError:
            return f"the event loop has not answered for {_BLOCKED_AFTER:g} s: a handler blocks it"
        except RuntimeError:
            return None  # It was closed just now.
        return None


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the look for the address's name in the DNS that its parent takes."""
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds."""


def _status(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


def _say(start_response: _StartResponse, trouble: str | None) -> list[bytes]:
    status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
    start_response(_status(status), [("Content-Type", "text/plain")])
    return [f"{trouble or 'ok'}\n".encode()]
