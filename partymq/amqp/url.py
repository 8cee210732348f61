"""Where a broker is and how to log in, as one URL (the broker's own URI scheme and query options).

Of a cluster the URL may name several nodes, `amqp://user:password@host1:5672,host2:5672,host3/vhost`; all
else holds for each of them.
"""

import re
import ssl
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NoReturn
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from partymq.errors import ConfigError

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_GUEST: Final = "guest"
_HEARTBEAT: Final = 10
Verify = Literal["verify_peer", "verify_none"]
_VERIFY: Final[dict[str, Verify]] = {"verify_peer": "verify_peer", "verify_none": "verify_none"}
_TLS_OPTIONS: Final = ("cacertfile", "certfile", "keyfile", "password", "verify", "server_name_indication")
_IGNORED: Final = ("fail_if_no_peer_cert", "depth", "auth_mechanism", "locale")
_NUMBERS: Final = {
    "heartbeat": (0, 65_535),
    "connection_timeout": (1, 3_600_000),
    "channel_max": (0, 65_535),
    "frame_max": (0, 0xFFFF_FFFF),
}
_OPTIONS: Final = (*_NUMBERS, *_TLS_OPTIONS, *_IGNORED)
HOSTS: Final = re.compile(r"//(?:[^/?#]*@)?([^/?#]*)")
"""The hosts of a URL, without the credentials."""
Address = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """A broker's address and what goes with it.

    Attributes:
        host, port: of the node that is named first.
        others: the further nodes of a cluster.
        heartbeat: seconds between heartbeats that we ask for; the broker may make it less. 0 = none.
        connection_timeout: seconds for the whole of connecting, to all nodes together; None = the caller's.
        channel_max: the most channels on a connection, 0 = the broker's limit.
        frame_max: bytes of a frame at most, 0 = the broker's limit.
        verify: whether the broker's certificate has to be valid (`verify_peer`) or not.
        server_name: the name that the broker's certificate is for, where it is not `host`.
    """

    host: str = "localhost"
    port: int = 5672
    username: str = _GUEST
    password: str = field(default=_GUEST, repr=False)
    vhost: str = "/"
    tls: bool = False
    heartbeat: int = _HEARTBEAT
    connection_timeout: float | None = None
    channel_max: int = 0
    frame_max: int = 0
    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    key_password: str | None = field(default=None, repr=False)
    verify: Verify = "verify_peer"
    server_name: str | None = None
    others: tuple[Address, ...] = ()

    @classmethod
    def of(cls, url: "str | BrokerUrl") -> "BrokerUrl":
        """Itself, or what `parse` makes of a text."""
        if isinstance(url, BrokerUrl):
            return url
        if not isinstance(url, str):
            raise ConfigError(f"broker URL {url!r}: allowed is a text such as amqp://localhost")
        return cls.parse(url)

    @classmethod
    def parse(cls, text: str) -> "BrokerUrl":
        """The broker that a URL means; ConfigError (without the password) where it means none.

        `amqp://user:password@host:port/vhost?options`, or `amqps`; several nodes of a cluster as
        `host1:port,host2:port`, each with the usual port where it has none. All parts are percent-decoded.
        A missing or empty vhost is `/`, which is written `%2f`. Options are those of the broker's URI
        specification: heartbeat (seconds), connection_timeout (milliseconds), channel_max, frame_max,
        cacertfile, certfile, keyfile, password (of the key), verify, server_name_indication; and
        auth_mechanism, which can only be `plain`.
        """
        given = text.strip()
        found = HOSTS.search(given)
        begin, end = found.span(1) if found else (0, 0)
        try:
            # Not every version of Python takes commas beside brackets.
            parts = urlsplit(given[:begin] + given[end:])
            nodes = [_node(node) for node in given[begin:end].split(",")]
        except ValueError:
            _refuse(text, "host and port can't be read; write / ? # @ in a password as %2f %3f %23 %40")
        if parts.scheme not in _PORTS:
            _refuse(text, f"scheme {parts.scheme!r}; allowed are amqp and amqps")
        if "://" not in text:
            _refuse(text, "no //; write amqp://host/vhost")
        if parts.fragment:
            _refuse(text, "a '#' in it; write %23")
        if any(port == 0 for _, port in nodes):
            _refuse(text, "port 0; allowed are 1 to 65535")
        if len(nodes) > 1 and not all(host for host, _ in nodes):
            _refuse(text, "a comma without a host beside it; write host1:port,host2:port (%2c in a password)")
        (host, port), *others = ((host or "localhost", port or _PORTS[parts.scheme]) for host, port in nodes)
        url = cls(
            host=host,
            port=port,
            others=tuple(others),
            username=_GUEST if parts.username is None else unquote(parts.username),
            password=_GUEST if parts.username is None else unquote(parts.password or ""),
            vhost=unquote(parts.path[1:]) or "/",
            tls=parts.scheme == "amqps",
        )
        if any(len(name.encode()) > 255 for name in (url.username, url.vhost)):
            _refuse(text, "a name longer than 255 bytes")
        return _with_options(url, text, parts)

    def masked(self) -> str:
        """The URL without its passwords: for logs and error messages."""
        options = {
            name: value
            for name, value in (
                ("heartbeat", self.heartbeat if self.heartbeat != _HEARTBEAT else None),
                ("connection_timeout", self.connection_timeout and round(self.connection_timeout * 1000)),
                ("channel_max", self.channel_max or None),
                ("frame_max", self.frame_max or None),
                ("cacertfile", self.cacertfile),
                ("certfile", self.certfile),
                ("keyfile", self.keyfile),
                ("verify", self.verify if self.verify != "verify_peer" else None),
                ("server_name_indication", self.server_name),
            )
            if value is not None
        }
        return (
            f"{'amqps' if self.tls else 'amqp'}://{quote(self.username, safe='')}:***@{self.where}"
            f"/{quote(self.vhost, safe='')}{'?' if options else ''}{urlencode(options, safe='/')}"
        )

    def __str__(self) -> str:
        return self.masked()

    @property
    def where(self) -> str:
        """Hosts and ports as the URL has them."""
        return ",".join(
            f"[{host}]:{port}" if ":" in host else f"{quote(host, safe='')}:{port}"
            for host, port in ((self.host, self.port), *self.others)
        )

    def nodes(self) -> list["BrokerUrl"]:
        """For each node a URL of its own, in the order in which they are named."""
        return [
            replace(self, host=host, port=port, others=())
            for host, port in ((self.host, self.port), *self.others)
        ]

    def ssl_context(self) -> ssl.SSLContext | None:
        """The context for TLS, None where the URL asks for none. ConfigError where a file is not usable."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.cacertfile)
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile, lambda: self.key_password or "")
        except OSError as error:
            files = ", ".join(file for file in (self.cacertfile, self.certfile, self.keyfile) if file)
            raise ConfigError(f"{self.masked()}: can't use the TLS files ({files}): {error}") from error
        if self.verify == "verify_none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _node(text: str) -> tuple[str, int | None]:
    """Host (empty where there is none) and port of one node. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    return unquote(parts.hostname or ""), parts.port


def _with_options(url: BrokerUrl, text: str, parts: SplitResult) -> BrokerUrl:
    try:
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        _refuse(text, f"options can't be read: {error}")
    numbers: dict[str, int] = {}
    texts: dict[str, str] = {}
    for name, value in options:
        if name in numbers or name in texts:
            _refuse(text, f"option {name!r} is there twice")
        if name in _NUMBERS:
            low, high = _NUMBERS[name]
            if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
                _refuse(text, f"option {name}={value!r}; allowed are {low} to {high}")
            numbers[name] = int(value)
        elif name in _TLS_OPTIONS or name in _IGNORED:
            texts[name] = value
        else:
            _refuse(text, f"unknown option {name!r}; allowed are {', '.join(_OPTIONS)}")
    if 0 < numbers.get("frame_max", 0) < 4096:
        _refuse(text, f"option frame_max={numbers['frame_max']}; allowed are 0 and 4096 or more")
    if texts.get("auth_mechanism", "plain").lower() != "plain":
        _refuse(text, f"option auth_mechanism={texts['auth_mechanism']!r}; allowed is plain")
    if not url.tls and (odd := [name for name in _TLS_OPTIONS if name in texts]):
        _refuse(text, f"option {odd[0]!r} is for amqps only")
    if texts.get("verify", url.verify) not in _VERIFY:
        _refuse(text, f"option verify={texts['verify']!r}; allowed are {', '.join(_VERIFY)}")
    if "keyfile" in texts and "certfile" not in texts:
        _refuse(text, "option keyfile without certfile")
    timeout = numbers.get("connection_timeout")
    server_name = texts.get("server_name_indication") or None
    return replace(
        url,
        heartbeat=numbers.get("heartbeat", url.heartbeat),
        connection_timeout=timeout / 1000 if timeout else None,
        channel_max=numbers.get("channel_max", 0),
        frame_max=numbers.get("frame_max", 0),
        cacertfile=texts.get("cacertfile"),
        certfile=texts.get("certfile"),
        keyfile=texts.get("keyfile"),
        key_password=texts.get("password"),
        verify=_VERIFY[texts.get("verify", url.verify)],
        server_name=None if server_name == "disable" else server_name,
    )


def _refuse(text: str, why: str) -> NoReturn:
    shown = text.strip()
    scheme, slashes, rest = shown.partition("://") if "://" in shown else ("", "", shown)
    credentials, at, address = rest.rpartition("@")
    if at:
        shown = f"{scheme}{slashes}{credentials.partition(':')[0]}:***@{address}"
    shown = shown.partition("?")[0]
    raise ConfigError(f"broker URL {shown!r}: {why}") from None
