"""Kinds of settings: how a value is read from the environment or a TOML file, and how it is shown.

Every kind says in one phrase what it allows; that phrase ends the line with which a wrong setting stops the
start, and stands in the documentation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from partymq.amqp.url import HOSTS, BrokerUrl
from partymq.errors import ConfigError

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"(\d+)\s*([KMG]i?B|B)?", re.IGNORECASE)


class Kind(Protocol):
    """A kind of value.

    Both readers raise ValueError with the phrase of what is allowed, or a more exact reason.
    """

    @property
    def allowed(self) -> str:
        """What is allowed, as a phrase."""

    def from_text(self, text: str) -> Any:
        """Reads an environment variable."""

    def from_toml(self, value: object) -> Any:
        """Reads a value of a TOML file."""

    def to_toml(self, value: Any) -> str:
        """The value as a TOML literal, secrets masked."""


def quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = "".join(
        f"\\u{ord(char):04x}" if ord(char) < 0x20 or ord(char) == 0x7F else char
        for char in text.replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'


def _string(kind: Kind, value: object) -> Any:
    """For kinds that are written as a string in either place."""
    if not isinstance(value, str):
        raise ValueError(kind.allowed)
    return kind.from_text(value)


@dataclass(frozen=True, slots=True)
class Name:
    """A name in the broker, or any text that is not empty."""

    what: str
    longest: int = 255

    @property
    def allowed(self) -> str:
        return f"{self.what} of 1 to {self.longest} bytes"

    def from_text(self, text: str) -> str:
        if not 1 <= len(text.encode()) <= self.longest:
            raise ValueError(self.allowed)
        return text

    def from_toml(self, value: object) -> Any:
        return _string(self, value)

    def to_toml(self, value: str) -> str:
        return quoted(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words; upper and lower case are the same."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "allowed are " + ", ".join(self.words)

    def from_text(self, text: str) -> str:
        word = text.strip().lower()
        if word not in self.words:
            raise ValueError(self.allowed)
        return word

    def from_toml(self, value: object) -> Any:
        return _string(self, value)

    def to_toml(self, value: str) -> str:
        return quoted(value)


@dataclass(frozen=True, slots=True)
class Duration:
    """A time span in seconds."""

    least: float = 0.001
    zero: str = ""
    """What 0 means, where it is allowed below `least`."""

    @property
    def allowed(self) -> str:
        zero = f"; 0s: {self.zero}" if self.zero else ""
        return f"allowed are durations from {duration_text(self.least)} such as 250ms, 30s, 1m30s, 1h{zero}"

    def from_text(self, text: str) -> float:
        seconds = parse_duration(text)
        if seconds is None or (seconds < self.least and not (self.zero and seconds == 0)):
            raise ValueError(self.allowed)
        return seconds

    def from_toml(self, value: object) -> Any:
        return _string(self, value)

    def to_toml(self, value: float) -> str:
        return quoted(duration_text(value))


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes."""

    least: int
    most: int
    allowed: str

    def from_text(self, text: str) -> int:
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ValueError(self.allowed)
        return self._checked(int(match[1]) * _SIZES[(match[2] or "").upper()])

    def from_toml(self, value: object) -> int:
        if isinstance(value, str):
            return self.from_text(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(self.allowed)
        return self._checked(value)

    def to_toml(self, value: int) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if value and value % _SIZES[unit.upper()] == 0:
                return quoted(f"{value // _SIZES[unit.upper()]}{unit}")
        return str(value)

    def _checked(self, size: int) -> int:
        if not self.least <= size <= self.most:
            raise ValueError(self.allowed)
        return size


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number."""

    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"allowed are whole numbers from {self.least} to {self.most}"

    def from_text(self, text: str) -> int:
        if re.fullmatch(r"[0-9]{1,18}", text.strip()) is None:
            raise ValueError(self.allowed)
        return self.from_toml(int(text))

    def from_toml(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            raise ValueError(self.allowed)
        return value

    def to_toml(self, value: int) -> str:
        return str(value)


class Flag:
    """Yes or no."""

    allowed = "allowed are true and false"

    def from_text(self, text: str) -> bool:
        word = text.strip().lower()
        if word in ("true", "1", "yes", "on"):
            return True
        if word in ("false", "0", "no", "off"):
            return False
        raise ValueError(self.allowed)

    def from_toml(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(self.allowed)
        return value

    def to_toml(self, value: bool) -> str:
        return "true" if value else "false"


class RoutingKeys:
    """Several routing keys: a TOML array (or one string), in the environment separated by commas."""

    allowed = "allowed are routing keys of up to 255 bytes, as an array, or separated by commas"

    def from_text(self, text: str) -> tuple[str, ...]:
        return self._checked([part.strip() for part in text.split(",")])

    def from_toml(self, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not value or not all(isinstance(key, str) for key in value):
            raise ValueError(self.allowed)
        return self._checked(value)

    def to_toml(self, value: tuple[str, ...]) -> str:
        return "[" + ", ".join(quoted(key) for key in value) + "]"

    def _checked(self, keys: Sequence[str]) -> tuple[str, ...]:
        if any(len(key.encode()) > 255 for key in keys):
            raise ValueError(self.allowed)
        return tuple(dict.fromkeys(keys))


class Broker:
    """A broker's URL."""

    allowed = (
        "allowed are URLs such as amqp://user:password@host:5672/vhost and amqps://… "
        "(special characters percent-encoded)"
    )

    def from_text(self, text: str) -> BrokerUrl:
        try:
            return BrokerUrl.parse(text.strip())
        except ConfigError as error:
            raise ValueError(f"{error}; {self.allowed}") from None

    def from_toml(self, value: object) -> Any:
        return _string(self, value)

    def to_toml(self, value: BrokerUrl) -> str:
        return quoted(value.masked())


@dataclass(frozen=True, slots=True)
class ManagementUrl:
    """Where the broker's management API is.

    Attributes:
        base: scheme, host, port and path prefix without a slash at the end: `http://host:15672`. Of a cluster
            it may have the addresses of several nodes: `http://host1:15672,host2:15672`.
        username: decoded.
        password: decoded; not shown by `repr`.
    """

    base: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"ManagementUrl({self.masked()!r})"

    def with_credentials(self) -> str:
        """The whole URL. Not for logs."""
        return self._written(quote(self.password, safe=""))

    def masked(self) -> str:
        """The URL with its password masked."""
        return self._written("***")

    def _written(self, password: str) -> str:
        scheme, rest = self.base.split("://", 1)
        return f"{scheme}://{quote(self.username, safe='')}:{password}@{rest}"


class Management:
    """The management API's URL; None is `off`. Credentials left out are those of the broker's URL."""

    allowed = "allowed are off, and URLs such as http://user:password@host:15672 and https://…"

    def from_text(self, text: str) -> ManagementUrl | None:
        text = text.strip()
        if text.lower() == "off":
            return None
        found = HOSTS.search(text)
        begin, end = found.span(1) if found else (0, 0)
        try:
            parts = urlsplit(text[:begin] + text[end:])
            nodes = [urlsplit(f"//{node}") for node in text[begin:end].split(",")]
            addresses = [(node.hostname, node.port) for node in nodes]
        except ValueError:
            raise ValueError(self.allowed) from None
        if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise ValueError(self.allowed)
        ats = []
        for hostname, port in addresses:
            if not hostname:
                raise ValueError(self.allowed)
            host = f"[{hostname}]" if ":" in hostname else hostname
            ats.append(f"{host}:{port}" if port is not None else host)
        return ManagementUrl(
            f"{parts.scheme}://{','.join(ats)}{parts.path.rstrip('/')}",
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )

    def from_toml(self, value: object) -> Any:
        return _string(self, value)

    def to_toml(self, value: ManagementUrl | None) -> str:
        return quoted("off" if value is None else value.masked())


def parse_duration(text: str) -> float | None:
    """Seconds of `250ms`, `30s`, `1m30s`, `1.5h`, `0`; None where it is no duration."""
    text = text.strip()
    if text == "0":
        return 0.0
    if _DURATION.fullmatch(text) is None:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))


def duration_text(seconds: float) -> str:
    """Inverse of `parse_duration`, to the millisecond: `1h`, `1m30s`, `250ms`, `0s`."""
    left = round(seconds * 1000)
    parts = []
    for unit, milliseconds in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, milliseconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def masked(text: str) -> str:
    """A text without the credentials of any URL in it, also of one that is not valid."""
    text = re.sub(r"(\w+://)[^\s]*@", r"\1***@", text)
    return re.sub(r"([?&]password=)[^&\s\"']*", r"\1***", text)
