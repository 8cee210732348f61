"""Exchanges and queues for the demo, made through the broker's management API."""

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from partymq.errors import BrokerError

_SECONDS = 10.0


class Management:
    """The few calls of the management API that are needed here. Blocks; for the default vhost only."""

    def __init__(self, url: str) -> None:
        """`url` with name and password, as `PrivateNode.management_url`."""
        parts = urllib.parse.urlsplit(url)
        self._base = f"{parts.scheme}://{parts.hostname}:{parts.port}/api"
        credentials = f"{parts.username}:{parts.password}".encode()
        self._authorization = "Basic " + base64.b64encode(credentials).decode()

    def declare(self, exchange: str, *queues: str) -> None:
        """A durable topic exchange and durable queues, each bound to it with every routing key.

        Raises:
            BrokerError: the broker refused or did not answer.
        """
        self._call("PUT", f"/exchanges/%2F/{_quoted(exchange)}", {"type": "topic", "durable": True})
        for queue in queues:
            self._call("PUT", f"/queues/%2F/{_quoted(queue)}", {"durable": True})
            path = f"/bindings/%2F/e/{_quoted(exchange)}/q/{_quoted(queue)}"
            self._call("POST", path, {"routing_key": "#"})

    def _call(self, method: str, path: str, body: dict[str, Any]) -> None:
        request = urllib.request.Request(
            self._base + path,
            data=json.dumps(body).encode(),
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                answer.read()
        except OSError as failure:
            raise BrokerError(f"{method} {path} at the management API: {failure}") from failure


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
