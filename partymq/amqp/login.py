"""Logging in to the broker: who we are, and what both sides agree on (AMQP 0-9-1, section 2.2.4).

Start ─► StartOk ─► Tune ─► TuneOk, Open ─► OpenOk
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pamqp import base
from pamqp.commands import Connection as Method

from partymq.amqp.methods import PROTOCOL_HEADER, encode_method, make
from partymq.amqp.url import BrokerUrl
from partymq.errors import BrokerError, ConnectionLost, LoginRefused, ProtocolError

_UNLIMITED: Final = 0xFFFF_FFFF
_CAPABILITIES: Final = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}
_MethodT = TypeVar("_MethodT", bound=base.Frame)


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a login has led to; see `Connection` for the attributes."""

    server_properties: dict[str, Any]
    channel_max: int
    frame_max: int
    heartbeat: int


class Login:
    """One login.

    Args:
        url: the credentials, and our own limits.
        name: what the broker shows as the connection's name.
        write: sends bytes.
    """

    def __init__(self, url: BrokerUrl, name: str, write: Callable[[bytes], None]) -> None:
        self._url = url
        self._name = name
        self._write = write
        self._heard: asyncio.Queue[base.Frame | BrokerError] = asyncio.Queue()

    def heard(self, what: base.Frame | BrokerError) -> None:
        """A method of the broker's on channel 0, or why there will be no other."""
        self._heard.put_nowait(what)

    async def run(self) -> Agreed:
        """Logs in. Has no bound of its own.

        Raises LoginRefused (credentials, virtual host), ConnectionLost, ProtocolError.
        """
        url = self._url
        self._write(PROTOCOL_HEADER)
        start = await self._expect(Method.Start)
        if "PLAIN" not in (start.mechanisms or "").split():
            raise LoginRefused(f"{url.masked()}: the broker offers no PLAIN login, only {start.mechanisms!r}")
        self._send(
            make(
                Method.StartOk,
                client_properties={
                    "product": "PartyMQ",
                    "platform": "Python",
                    "connection_name": self._name,
                    "capabilities": dict(_CAPABILITIES),
                },
                mechanism="PLAIN",
                response=f"\0{url.username}\0{url.password}",
                locale="en_US",
            )
        )
        tune = await self._expect(Method.Tune)
        agreed = Agreed(
            server_properties=dict(start.server_properties or {}),
            channel_max=_least(tune.channel_max, url.channel_max, 65_535),
            frame_max=_least(tune.frame_max, url.frame_max, _UNLIMITED),
            heartbeat=_least(tune.heartbeat, url.heartbeat, 0) if url.heartbeat else 0,
        )
        self._send(
            make(
                Method.TuneOk,
                channel_max=agreed.channel_max,
                frame_max=0 if agreed.frame_max == _UNLIMITED else agreed.frame_max,
                heartbeat=agreed.heartbeat,
            )
        )
        self._send(make(Method.Open, virtual_host=url.vhost))
        await self._expect(Method.OpenOk)
        return agreed

    async def _expect(self, kind: type[_MethodT]) -> _MethodT:
        frame = await self._heard.get()
        if isinstance(frame, ConnectionLost | ProtocolError) and not isinstance(frame, LoginRefused):
            raise type(frame)(f"{self._url.masked()}: no login: {frame}") from frame
        if isinstance(frame, BrokerError):
            raise frame
        if not isinstance(frame, kind):
            raise ProtocolError(f"{self._url.masked()}: {frame.name} instead of {kind.__name__}")
        return frame

    def _send(self, method: base.Frame) -> None:
        self._write(encode_method(0, method))


def _least(one: int | None, other: int, unlimited: int) -> int:
    """The lower of two limits, where 0 is no limit."""
    return min((limit for limit in (one or 0, other) if limit), default=unlimited)
