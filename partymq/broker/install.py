"""Where this machine keeps RabbitMQ's and Erlang's programs."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from partymq.errors import BrokerNotInstalled

SERVER_VARIABLE = "PARTYMQ_RABBITMQ_SERVER"

_KNOWN_PLACES = (
    "/usr/lib/rabbitmq/bin",  # Debian, Ubuntu, RPM
    "/opt/rabbitmq/sbin",  # the generic build in containers
    "/usr/local/sbin",
    "/opt/homebrew/sbin",
)
_EPMD_PLACES = ("/usr/lib/erlang", "/usr/local/lib/erlang", "/opt/erlang/lib/erlang")
_HOW_TO_GET_IT = (
    "install it with `apt-get install rabbitmq-server` (or `make setup` in a clone of PartyMQ), "
    f"or set {SERVER_VARIABLE} to the path of the script"
)


@dataclass(frozen=True)
class Installation:
    """Paths of the programs that make up a node."""

    server: Path
    ctl: Path
    epmd: Path

    def epmd_command(self, port: int) -> list[str]:
        """Erlang's port mapper, on the loopback address."""
        return [str(self.epmd), "-port", str(port), "-address", "127.0.0.1"]


def find_installation(environ: Mapping[str, str] = os.environ) -> Installation:
    """The RabbitMQ of this machine.

    `PARTYMQ_RABBITMQ_SERVER` (the `rabbitmq-server` script or the folder it lies in) comes before the usual
    places and the search path.

    Raises:
        BrokerNotInstalled: with the words what is missing and how to get it.
    """
    server = _find_server(environ)
    ctl = server.with_name("rabbitmqctl")
    if not ctl.is_file():
        raise BrokerNotInstalled(f"no rabbitmqctl beside {server}: {_HOW_TO_GET_IT}")
    return Installation(server, ctl, _find_epmd(environ))


def _find_server(environ: Mapping[str, str]) -> Path:
    chosen = environ.get(SERVER_VARIABLE)
    if chosen:
        server = Path(chosen)
        if server.is_dir():
            server = server / "rabbitmq-server"
        if not server.is_file():
            raise BrokerNotInstalled(
                f"{SERVER_VARIABLE}={chosen}: there is no rabbitmq-server script; {_HOW_TO_GET_IT}"
            )
        return server
    for place in _KNOWN_PLACES:
        server = Path(place, "rabbitmq-server")
        if server.is_file():
            return server
    found = shutil.which("rabbitmq-server", path=environ.get("PATH", ""))
    if found:
        # Debian's /usr/sbin/rabbitmq-server is a wrapper that switches to the user rabbitmq; the script
        # proper lies beside the wrapper's target.
        server = Path(found).resolve().with_name("rabbitmq-server")
        return server if server.is_file() else Path(found)
    raise BrokerNotInstalled(f"rabbitmq-server was not found on this machine: {_HOW_TO_GET_IT}")


def _find_epmd(environ: Mapping[str, str]) -> Path:
    found = shutil.which("epmd", path=environ.get("PATH", ""))
    if found:
        return Path(found)
    for place in _EPMD_PLACES:
        for epmd in sorted(Path(place).glob("erts-*/bin/epmd"), reverse=True):
            return epmd
    raise BrokerNotInstalled(f"Erlang's epmd was not found on this machine: {_HOW_TO_GET_IT}")
