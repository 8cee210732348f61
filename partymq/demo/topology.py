"""Exchanges and queues for the demo, made through the broker's management API."""

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from partymq.errors import BrokerError

_SECONDS = 10.0
# The node is on this machine: no proxy that the environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Broker:
    """Where the demo's broker is.

    Attributes:
        amqp_url: its path is the vhost, none means `/`.
        management_url: with name and password.
    """

    def __init__(self, amqp_url: str, management_url: str) -> None:
        self.amqp_url = amqp_url
        self.management_url = management_url
        parts = urllib.parse.urlsplit(management_url)
        self._base = f"{parts.scheme}://{parts.hostname}:{parts.port}/api"
        credentials = f"{parts.username}:{parts.password}".encode()
        self._authorization = "Basic " + base64.b64encode(credentials).decode()
        vhost = urllib.parse.unquote(urllib.parse.urlsplit(amqp_url).path[1:]) or "/"
        self._vhost = _quoted(vhost)

    def declare(self, exchange: str, *queues: str) -> None:
        """A durable topic exchange and durable queues, each bound to it with every routing key. Blocks.

        Raises:
            BrokerError: the broker refused or did not answer.
        """
        self._call("PUT", f"/exchanges/{self._vhost}/{_quoted(exchange)}", {"type": "topic", "durable": True})
        for queue in queues:
            self._call("PUT", f"/queues/{self._vhost}/{_quoted(queue)}", {"durable": True})
            path = f"/bindings/{self._vhost}/e/{_quoted(exchange)}/q/{_quoted(queue)}"
            self._call("POST", path, {"routing_key": "#"})

    def _call(self, method: str, path: str, body: dict[str, Any]) -> None:
        request = urllib.request.Request(
            self._base + path,
            data=json.dumps(body).encode(),
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
            method=method,
        )
        try:
            with _DIRECT.open(request, timeout=_SECONDS) as answer:
                answer.read()
        except OSError as failure:
            raise BrokerError(f"{method} {path} at the management API: {failure}") from failure


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
