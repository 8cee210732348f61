"""Looking at a node from outside: does it answer, what has it used."""

import contextlib
import os
import socket
from pathlib import Path

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
# type 1 (method), channel 0, then after the size: class 10 (connection), method 10 (start)
_FRAME_START = b"\x01\x00\x00"
_CONNECTION_START = b"\x00\x0a\x00\x0a"
_SECONDS = 2.0


def speaks_amqp(port: int) -> bool:
    """Whether 127.0.0.1:port answers AMQP 0-9-1's protocol header with connection.start."""
    answer = _exchange(port, _PROTOCOL_HEADER, 11)
    return answer[:3] == _FRAME_START and answer[7:] == _CONNECTION_START


def management_answers(port: int) -> bool:
    """Whether the management API at 127.0.0.1:port knows the default user."""
    request = (
        b"GET /api/whoami HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n"
        b"Connection: close\r\n\r\n"
    )
    status = _exchange(port, request, 12)
    # 401 too: a node may have been given another default user.
    return status[:7] == b"HTTP/1." and status[9:] in (b"200", b"401")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process since its start, in seconds.

    Raises:
        OSError: there is no such process.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _exchange(port: int, request: bytes, wanted: int) -> bytes:
    answer = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection,
    ):
        connection.settimeout(_SECONDS)
        connection.sendall(request)
        while len(answer) < wanted:
            got = connection.recv(wanted - len(answer))
            if not got:
                break
            answer += got
    return answer
