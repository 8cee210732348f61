"""The broker's management API, as far as it is needed: depths of queues, and which queue is bound to a key.

Counts are asked for in the one form in which they are fresh for classic queues (measured, RabbitMQ 3.10):
`disable_stats=true&enable_queue_totals=true`. For quorum queues they lag by about five seconds.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from partymq.amqp.url import HOSTS
from partymq.errors import ManagementUnavailable

_T = TypeVar("_T")
_PAGE: Final = 500
_NAMES_IN_A_FILTER: Final = 40
"""More names than this, and all queues of the virtual host are asked for: the filter goes into the URL."""


@dataclass(frozen=True, slots=True)
class ManagedQueue:
    """What the API says of a queue. Counts are None while the queue is down."""

    ready: int | None
    unacked: int | None
    kind: str
    exclusive: bool
    auto_delete: bool
    durable: bool


class _Queue(msgspec.Struct):
    name: str
    type: str = "classic"
    messages_ready: int | None = None
    messages_unacknowledged: int | None = None
    exclusive: bool | None = None
    auto_delete: bool = False
    durable: bool = True


class _Page(msgspec.Struct):
    items: list[_Queue]
    page_count: int = 1


class _Binding(msgspec.Struct):
    destination: str
    destination_type: str
    routing_key: str


class _Overview(msgspec.Struct):
    cluster_name: str = ""


class _Node(msgspec.Struct):
    name: str


class _Exchange(msgspec.Struct):
    type: str = ""


_PAGES = msgspec.json.Decoder(_Page)
_OVERVIEWS = msgspec.json.Decoder(_Overview)
_NODES = msgspec.json.Decoder(list[_Node])
_EXCHANGES = msgspec.json.Decoder(_Exchange)
_BINDINGS = msgspec.json.Decoder(list[_Binding])


class Management:
    """A client of the management API of one virtual host. `close` it, or use it as a context manager.

    Args:
        url: `http://user:password@host:15672`; of a cluster, `…@host1:15672,host2:15672`. A node is asked as
            long as it answers, then the next one.
        virtual_host: the one all questions are about.
        timeout: seconds for one node's answer.

    All methods raise ManagementUnavailable when there is no answer in time or not the one hoped for.
    """

    def __init__(self, url: str, virtual_host: str, *, timeout: float = 3.0) -> None:
        self._bases = _nodes(url.rstrip("/"))
        self._virtual_host = quote(virtual_host, safe="")
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Management":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def cluster_name(self) -> str:
        """Which broker this is, as that also says on AMQP connections; empty where it does not say."""
        return (await self._read(_OVERVIEWS, "overview")).cluster_name

    async def has_node(self, name: str) -> bool:
        """Whether a cluster of that name may be this one, which was never given a name: then each of its
        nodes has one of its own, made of the node's."""
        made_of, _, at = name.partition("@")
        for node in await self._read(_NODES, "nodes"):
            own, _, host = node.name.partition("@")
            if own == made_of and f"{at}.".startswith(f"{host}."):
                return True
        return False

    async def queues(self, names: Collection[str]) -> dict[str, ManagedQueue]:
        """The queues of these names that exist. Exact at once for classic queues."""
        wanted = set(names)
        query = f"disable_stats=true&enable_queue_totals=true&page_size={_PAGE}"
        if len(wanted) <= _NAMES_IN_A_FILTER:
            pattern = "^(" + "|".join(re.escape(name) for name in sorted(wanted)) + ")$"
            query += f"&use_regex=true&name={quote(pattern, safe='')}"
        found: dict[str, ManagedQueue] = {}
        page = pages = 1
        while page <= pages:
            answer = await self._read(_PAGES, f"queues/{self._virtual_host}?{query}&page={page}")
            for queue in answer.items:
                if queue.name in wanted:
                    found[queue.name] = ManagedQueue(
                        queue.messages_ready,
                        queue.messages_unacknowledged,
                        queue.type,
                        bool(queue.exclusive),
                        queue.auto_delete,
                        queue.durable,
                    )
            pages = answer.page_count
            page += 1
        return found

    async def bindings(self, exchange: str) -> dict[str, list[str]]:
        """Queues bound to an exchange, by routing key; empty where there is no such exchange."""
        path = f"exchanges/{self._virtual_host}/{quote(exchange, safe='')}/bindings/source"
        bound: dict[str, list[str]] = {}
        for binding in await self._read(_BINDINGS, path, missing=b"[]"):
            if binding.destination_type == "queue":
                bound.setdefault(binding.routing_key, []).append(binding.destination)
        return bound

    async def is_unbound(self, exchange: str, key: str) -> bool:
        """Whether it is certain that nothing published to a direct exchange with this key gets anywhere."""
        path = f"exchanges/{self._virtual_host}/{quote(exchange, safe='')}"
        described = await self._read(_EXCHANGES, path, missing=b"{}")
        if described.type != "direct":
            return False
        bound = await self._read(_BINDINGS, f"{path}/bindings/source", missing=b"[]")
        return all(binding.routing_key != key for binding in bound)

    async def _read(self, decoder: msgspec.json.Decoder[_T], path: str, missing: bytes | None = None) -> _T:
        try:
            return decoder.decode(await self._get(path, missing))
        except msgspec.DecodeError as error:
            raise ManagementUnavailable(f"{_shown(self._bases[0])} is no management API: {error}") from error

    async def _get(self, path: str, missing: bytes | None) -> bytes:
        """Asks the nodes in turn until one answers, which is then the first."""
        failures: list[str] = []
        for base in self._bases:
            try:
                answer = await self._get_from(base, path, missing)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failures.append(f"{_shown(base)} ({error or type(error).__name__})")
            else:
                self._bases = [base, *(other for other in self._bases if other != base)]
                return answer
        raise ManagementUnavailable(
            f"no management API at {', '.join(failures)}:"
            " enable the plugin rabbitmq_management, or name its address in `management_url`"
        )

    async def _get_from(self, base: str, path: str, missing: bytes | None) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        async with self._session.get(URL(f"{base}/api/{path}", encoded=True)) as answer:
            if answer.status == 404 and missing is not None:
                return missing
            if answer.status != 200:
                raise ManagementUnavailable(
                    f"the management API at {_shown(base)} answered {answer.status} {answer.reason}:"
                    " a user with the tag `monitoring` (or `management` for its own queues) is needed"
                )
            return await answer.read()


def _shown(base: str) -> str:
    return re.sub(r"//[^/@]*@", "//", base)


def _nodes(url: str) -> list[str]:
    """A URL for each of the nodes that it names."""
    found = HOSTS.search(url)
    if found is None:
        return [url]
    begin, end = found.span(1)
    return [f"{url[:begin]}{node}{url[end:]}" for node in url[begin:end].split(",")]
