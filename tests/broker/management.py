"""The management API for tests: one blocking call, and waiting for a condition on what it says."""

import base64
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit


def api(management_url: str, method: str, path: str, body: object = None, timeout: float = 60.0) -> Any:
    """The decoded answer of `METHOD /api/PATH` (None when it is empty).

    Args:
        management_url: with user and password, as `PrivateNode.management_url`.

    Raises:
        urllib.error.HTTPError: any status of 400 and up.
    """
    parts = urlsplit(management_url)
    request = urllib.request.Request(
        f"{parts.scheme}://{parts.hostname}:{parts.port}/api/{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
    )
    credentials = f"{parts.username}:{parts.password}".encode()
    request.add_header("Authorization", f"Basic {base64.b64encode(credentials).decode()}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        request, timeout=timeout
    ) as answer:
        said = answer.read()
    return json.loads(said) if said else None


def add_vhost(management_url: str, name: str) -> None:
    """Create a vhost in which `guest` may do everything."""
    api(management_url, "PUT", f"vhosts/{quote(name, safe='')}", {})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    api(management_url, "PUT", f"permissions/{quote(name, safe='')}/guest", everything)


def delete_vhost(management_url: str, name: str) -> None:
    """Delete a vhost with all in it (the broker closes its connections), if it is there."""
    try:
        api(management_url, "DELETE", f"vhosts/{quote(name, safe='')}")
    except urllib.error.HTTPError as refused:
        if refused.code != 404:
            raise
