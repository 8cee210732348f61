"""Free TCP ports on the loopback address."""

import errno
import random
import socket

# Below Linux's range for outgoing connections (32768 and up): a port that is free now is not taken by
# somebody's connect() while the node that is to listen on it boots.
_LOWEST = 20_000
_HIGHEST = 32_000
_TRIES = 1_000


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
    """`count` different ports on which nothing listens now.

    Raises:
        OSError: when no free port was met in a thousand tries.
    """
    ports: list[int] = []
    for _ in range(_TRIES):
        if len(ports) == count:
            return ports
        port = chooser.randrange(_LOWEST, _HIGHEST)
        if port not in ports and is_free(port):
            ports.append(port)
    raise OSError(errno.EADDRNOTAVAIL, f"no {count} free ports between {_LOWEST} and {_HIGHEST}")
