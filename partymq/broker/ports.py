"""Free TCP ports on the loopback address."""

import errno
import random
import socket
import threading
from collections import deque

# Below Linux's range for outgoing connections (32768 and up): a port that is free now is not taken by
# somebody's connect() while the node that is to listen on it boots.
_LOWEST = 20_000
_HIGHEST = 32_000
_TRIES = 1_000
_REMEMBERED = 1_000

_lock = threading.Lock()
_given: deque[int] = deque(maxlen=_REMEMBERED)
"""Ports that were found last: nothing may listen on them yet."""


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as failure:
            if failure.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def free_ports(count: int, chooser: random.Random) -> list[int]:
    """`count` different ports on which nothing listens now, and that nobody in this process was given lately.

    Raises:
        OSError: when no free port was met in a thousand tries.
    """
    ports: list[int] = []
    for _ in range(_TRIES):
        if len(ports) == count:
            return ports
        port = chooser.randrange(_LOWEST, _HIGHEST)
        with _lock:
            if port in _given or not is_free(port):
                continue
            _given.append(port)
        ports.append(port)
    raise OSError(errno.EADDRNOTAVAIL, f"no {count} free ports between {_LOWEST} and {_HIGHEST}")
