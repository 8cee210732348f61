"""Calls about queues, exchanges and bindings; a channel has them all.

Arguments are encoded as pamqp does it: an `int` in the smallest integer type that holds it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from pamqp import base
from pamqp.commands import Exchange, Queue

from partymq.amqp.methods import make

_ReplyT = TypeVar("_ReplyT")
Arguments = Mapping[str, Any]


class QueueInfo(NamedTuple):
    """What the broker says of a queue; `messages` are the ready ones."""

    name: str
    messages: int
    consumers: int


class Topology(ABC):
    """Timeouts are in seconds. Every call raises ChannelClosed, ConnectionLost or CallTimeout; ValueError
    where a name or an argument can't be encoded."""

    @abstractmethod
    async def _call(self, method: base.Frame, kind: type[_ReplyT], timeout: float) -> _ReplyT:
        """Sends a method, and waits for its answer."""

    async def declare_queue(
        self,
        name: str = "",
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Arguments | None = None,
        timeout: float = 10.0,
    ) -> QueueInfo:
        """Declares a queue; with `passive` only asks for it. Without a name the broker makes one."""
        ok = await self._call(
            make(
                Queue.Declare,
                queue=name,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                passive=passive,
                arguments=dict(arguments or {}),
            ),
            Queue.DeclareOk,
            timeout,
        )
        return QueueInfo(ok.queue or name, ok.message_count or 0, ok.consumer_count or 0)

    async def delete_queue(
        self, name: str, if_unused: bool = False, if_empty: bool = False, *, timeout: float = 10.0
    ) -> int:
        """Deletes a queue (without an error where there is none); the number of messages it had."""
        method = make(Queue.Delete, queue=name, if_unused=if_unused, if_empty=if_empty)
        return (await self._call(method, Queue.DeleteOk, timeout)).message_count or 0

    async def purge_queue(self, name: str, *, timeout: float = 10.0) -> int:
        """Drops a queue's ready messages; their number."""
        method = make(Queue.Purge, queue=name)
        return (await self._call(method, Queue.PurgeOk, timeout)).message_count or 0

    async def declare_exchange(
        self,
        name: str,
        kind: str = "direct",
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        passive: bool = False,
        arguments: Arguments | None = None,
        timeout: float = 10.0,
    ) -> None:
        """Declares an exchange; with `passive` only asks for it (then `kind` does not matter)."""
        method = make(
            Exchange.Declare,
            exchange=name,
            exchange_type=kind,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            passive=passive,
            arguments=dict(arguments or {}),
        )
        await self._call(method, Exchange.DeclareOk, timeout)

    async def delete_exchange(self, name: str, if_unused: bool = False, *, timeout: float = 10.0) -> None:
        """Deletes an exchange (without an error where there is none)."""
        method = make(Exchange.Delete, exchange=name, if_unused=if_unused)
        await self._call(method, Exchange.DeleteOk, timeout)

    async def bind_queue(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        timeout: float = 10.0,
    ) -> None:
        """Binds a queue to an exchange."""
        ends = {"queue": queue, "exchange": exchange}
        await self._bind(Queue.Bind, Queue.BindOk, ends, routing_key, arguments, timeout)

    async def unbind_queue(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        timeout: float = 10.0,
    ) -> None:
        """Takes a binding of a queue away (without an error where there is none)."""
        ends = {"queue": queue, "exchange": exchange}
        await self._bind(Queue.Unbind, Queue.UnbindOk, ends, routing_key, arguments, timeout)

    async def bind_exchange(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        timeout: float = 10.0,
    ) -> None:
        """Binds an exchange to another, so that it gets messages of `source`."""
        ends = {"destination": destination, "source": source}
        await self._bind(Exchange.Bind, Exchange.BindOk, ends, routing_key, arguments, timeout)

    async def unbind_exchange(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        timeout: float = 10.0,
    ) -> None:
        """Takes a binding between exchanges away (without an error where there is none)."""
        ends = {"destination": destination, "source": source}
        await self._bind(Exchange.Unbind, Exchange.UnbindOk, ends, routing_key, arguments, timeout)

    async def _bind(
        self,
        method: type[base.Frame],
        ok: type[base.Frame],
        ends: Mapping[str, str],
        routing_key: str,
        arguments: Arguments | None,
        timeout: float,
    ) -> None:
        made = make(method, **ends, routing_key=routing_key, arguments=dict(arguments or {}))
        await self._call(made, ok, timeout)
