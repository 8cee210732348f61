"""Publishes that wait one by one for their confirm: for rare use. Pure but for the futures.

A returned message does not say which publish it was; it comes before that one's confirm. The first one
under way that equals it is taken for it.
"""

import asyncio
from dataclasses import dataclass

from partymq.amqp.codec import Confirm
from partymq.amqp.content import Returned, body_of
from partymq.errors import BrokerError, Nacked, Unroutable


@dataclass(slots=True)
class _Sent:
    exchange: str
    routing_key: str
    body: bytes
    mandatory: bool
    future: "asyncio.Future[None]"
    returned: Returned | None = None


class Publishing:
    """The publishes of one channel that are not confirmed yet."""

    def __init__(self) -> None:
        self._seq = 0
        self._sent: dict[int, _Sent] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def sent(self, exchange: str, routing_key: str, body: bytes, mandatory: bool) -> "asyncio.Future[None]":
        """Counts a publish; the future ends with its confirm, or with Unroutable or Nacked."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seq += 1
        self._sent[self._seq] = _Sent(exchange, routing_key, body, mandatory, future)
        return future

    def returned(self, message: Returned) -> bool:
        """Notes that a message came back; whether it is one of these."""
        body = body_of(message.content, 0, len(message.content))
        for sent in self._sent.values():
            if (
                sent.mandatory
                and sent.returned is None
                and sent.exchange == message.exchange
                and sent.routing_key == message.routing_key
                and sent.body == body
            ):
                sent.returned = message
                return True
        return False

    def confirmed(self, confirms: list[Confirm]) -> None:
        """Ends the publishes that these confirms are for."""
        for seq, multiple, is_ack in confirms:
            if multiple:
                for earlier in [number for number in self._sent if number <= seq]:
                    _settle(self._sent.pop(earlier), is_ack)
            elif seq in self._sent:
                _settle(self._sent.pop(seq), is_ack)

    def end(self, error: BrokerError) -> None:
        """Ends all with an error."""
        for sent in self._sent.values():
            if not sent.future.done():
                sent.future.set_exception(error)
        self._sent.clear()


def _settle(sent: _Sent, is_ack: bool) -> None:
    if sent.future.done():
        return
    if not is_ack:
        sent.future.set_exception(Nacked(f"the broker did not take over a message to {sent.exchange!r}"))
    elif sent.returned is not None:
        back = sent.returned
        sent.future.set_exception(Unroutable(back.code, back.text, back.exchange, back.routing_key))
    else:
        sent.future.set_result(None)
