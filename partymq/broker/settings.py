"""The files and the environment that make a node private."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

# Erlang's schedulers don't spin while they wait: this distorts less what else is measured on the machine.
_ERLANG_ARGUMENTS = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"


_FIRST_ERRORS = 12
_LAST_LINES = 6
_LINE_LENGTH = 300


def new_name() -> str:
    """One for an Erlang node that no other has."""
    return f"partymq-{secrets.token_hex(4)}@localhost"


class NodeFiles:
    """Where the parts of a node lie below its one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "mnesia"
        self.logs = root / "log"
        self.log_file = self.logs / "node.log"
        self.console = self.logs / "console.log"
        self.config = root / "rabbitmq.conf"
        self.advanced = root / "advanced.config"
        self.plugins = root / "enabled_plugins"
        self.environment = root / "rabbitmq-env.conf"
        self.cookie = root / ".erlang.cookie"
        self.pid = root / "node.pid"
        self._name = root / "node.name"
        self._lock: int | None = None

    def name(self, wanted: str | None = None) -> str:
        """Of the Erlang node. The database belongs to the name, so the folder remembers it."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not self._name.exists():
            self._name.write_text(wanted or new_name())
        return self._name.read_text().strip()

    def lock(self) -> bool:
        """Keep other nodes off the folder until `unlock()` or our end; False: another has it."""
        if self._lock is None:
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(
        self,
        plugins: Sequence[str],
        config: Mapping[str, str],
        management_port: int,
        cookie: str | None = None,
    ) -> None:
        """Lay out the folder; the cookie (one by chance if None), once there, stays."""
        for folder in (self.database, self.logs):
            folder.mkdir(exist_ok=True)
        if not self.cookie.exists():
            self.cookie.write_text(cookie or secrets.token_hex(16))
            self.cookie.chmod(0o400)
        settings = {
            "disk_free_limit.absolute": "50MB",
            "log.file": self.log_file.name,
            "log.file.level": "info",
        }
        if "rabbitmq_management" in plugins:
            settings["management.tcp.ip"] = "127.0.0.1"
            settings["management.tcp.port"] = str(management_port)
        settings.update(config)
        self.config.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        self.advanced.write_text("[].\n")
        self.plugins.write_text(f"[{','.join(plugins)}].\n")
        self.environment.write_text("")
        for stale in (self.pid, self.log_file, self.console):
            with contextlib.suppress(FileNotFoundError):
                if stale is self.pid:
                    stale.unlink()
                else:
                    stale.replace(stale.with_suffix(".log.old"))

    def written_pid(self) -> int | None:
        """What the node says is its process id; None while it has said nothing."""
        try:
            return int(self.pid.read_text())
        except (OSError, ValueError):
            return None

    def complaints(self) -> list[str]:
        """What the logs say went wrong: the first errors (later ones follow from them), the last lines."""
        lines: list[str] = []
        for path in (self.log_file, self.console):
            with contextlib.suppress(OSError):
                lines += [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        chosen = [line for line in lines if "[error]" in line or "rror:" in line][:_FIRST_ERRORS]
        return list(dict.fromkeys(line[:_LINE_LENGTH] for line in chosen + lines[-_LAST_LINES:]))


def node_environment(
    files: NodeFiles, name: str, *, port: int, dist_port: int, epmd_port: int, erlang_arguments: str = ""
) -> dict[str, str]:
    """Environment of the node's programs: ours, without what would point them at another RabbitMQ."""
    foreign = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment.update(
        HOME=str(files.root),
        ERL_EPMD_PORT=str(epmd_port),
        ERL_EPMD_ADDRESS="127.0.0.1",
        ERL_CRASH_DUMP_SECONDS="0",
        RABBITMQ_NODENAME=name,
        RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
        RABBITMQ_NODE_PORT=str(port),
        RABBITMQ_DIST_PORT=str(dist_port),
        RABBITMQ_MNESIA_BASE=str(files.database),
        RABBITMQ_LOG_BASE=str(files.logs),
        RABBITMQ_PID_FILE=str(files.pid),
        RABBITMQ_ENABLED_PLUGINS_FILE=str(files.plugins),
        RABBITMQ_CONFIG_FILE=str(files.config),
        RABBITMQ_ADVANCED_CONFIG_FILE=str(files.advanced),
        RABBITMQ_CONF_ENV_FILE=str(files.environment),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=f"{_ERLANG_ARGUMENTS} {erlang_arguments}".rstrip(),
        # Lets the start script become the Erlang VM instead of staying in front of it.
        RUNNING_UNDER_SYSTEMD="true",
    )
    return environment
