"""Which addresses to try when one connects to a broker, in which order, and for how long each.

The nodes of a cluster come in random order, so that clients spread over them; the addresses of one name in
the order in which the resolver gives them. Those that are left share the time that is left: one that does not
answer leaves enough of it to the others.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from partymq.amqp.url import BrokerUrl
from partymq.errors import BrokerError, ConnectionLost, LoginRefused, ProtocolError

_T = TypeVar("_T")
_STREAM: Final = 1
Attempt = Callable[[BrokerUrl, str], Awaitable[_T]]
"""Connects to one node (a URL that names no other) at this address."""


async def first_that_answers(url: BrokerUrl, seconds: float, attempt: Attempt[_T]) -> _T:
    """What the attempt at the first node that lets us in comes to.

    Args:
        seconds: for all of it.

    Raises LoginRefused where a node refused us and none let us in; else ConnectionLost, or ProtocolError
    where what answers is no broker. With several addresses all reasons are in the text. What else an attempt
    raises ends it at once.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    nodes = url.nodes()
    random.shuffle(nodes)
    failures: list[BrokerError] = []
    for at, node in enumerate(nodes):
        until = clock() + (deadline - clock()) / (len(nodes) - at)
        addresses = await _addresses(node, until, failures)
        for number, address in enumerate(addresses):
            share = max(0.0, until - clock()) / (len(addresses) - number)
            try:
                async with asyncio.timeout(share):
                    return await attempt(node, address)
            except TimeoutError:
                failures.append(ConnectionLost(f"{node.where}: no connection within {round(share, 2):g} s"))
            except (ConnectionLost, ProtocolError) as error:
                failures.append(error)
    raise _together(url, failures)


async def _addresses(node: BrokerUrl, until: float, failures: list[BrokerError]) -> list[str]:
    """Those of a node's name, one at least; where it has only one, that is the name itself."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(until):
            found = await loop.getaddrinfo(node.host, node.port, type=_STREAM)
    except TimeoutError:
        failures.append(ConnectionLost(f"{node.where}: its name was not resolved in time"))
        return []
    except (OSError, UnicodeError) as error:
        failures.append(ConnectionLost(f"{node.where}: connecting failed: {error}"))
        return []
    numbers = list(dict.fromkeys(str(address[4][0]) for address in found))
    return numbers if len(numbers) > 1 else [node.host]


def _together(url: BrokerUrl, failures: list[BrokerError]) -> BrokerError:
    """One error of all. A refused login counts most: the nodes of a cluster have the same users."""
    worst = next(
        (
            error
            for kind in (LoginRefused, ConnectionLost, ProtocolError)
            for error in failures
            if isinstance(error, kind)
        ),
        failures[0],
    )
    if len(failures) == 1:
        return worst
    told = "; ".join(dict.fromkeys(str(error) for error in failures))
    together = type(worst)(f"no connection to {url.where}: {told}")
    together.__cause__ = worst
    return together
