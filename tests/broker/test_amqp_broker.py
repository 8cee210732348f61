"""The AMQP layer against a real RabbitMQ: what the broker says and does, and bytes that stay as they are."""

import asyncio
import random
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from amqp_loops import both_loops
from amqp_stream import content_of, entries_of
from pamqp.commands import Basic

from partymq import amqp
from partymq.amqp import content
from partymq.broker import PrivateNode
from partymq.broker.ports import free_ports
from partymq.errors import (
    CallTimeout,
    ChannelClosed,
    ConfigError,
    ConnectionLost,
    LoginRefused,
    ProtocolError,
    Unroutable,
)
from tests.broker.conftest import Vhost
from tests.broker.tcp_proxy import TcpProxy


@asynccontextmanager
async def connected(url: str, name: str = "test", **arguments: Any) -> AsyncIterator[amqp.Connection]:
    connection = await amqp.connect(amqp.BrokerUrl.parse(url), name=name, **arguments)
    try:
        yield connection
    finally:
        await connection.close()


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


# Calls -------------------------------------------------------------------------------------------


@both_loops
async def test_declare_publish_confirm_consume_ack(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url) as connection:
        assert connection.server_properties["product"] == "RabbitMQ"
        assert (connection.frame_max, connection.channel_max, connection.heartbeat) == (131_072, 2047, 10)
        channel = await connection.open_channel()
        queue = "täglich[1]"
        assert await channel.declare_queue(queue, durable=True) == (queue, 0, 0)
        await channel.declare_exchange("ex", "topic", durable=True)
        await channel.declare_exchange("front", "fanout")
        await channel.bind_exchange("ex", "front")
        await channel.bind_queue(queue, "ex", "a.*", {"note": 1})
        await channel.select_confirms()
        for number in range(3):
            await channel.publish("front", "a.b", b"m%d" % number, Basic.Properties(headers={"n": number}))
        assert await channel.declare_queue(queue, passive=True) == (queue, 3, 0)

        messages: list[amqp.Message] = []
        await channel.qos(2)
        tag = await channel.consume(
            queue, lambda buf, spans: messages.extend(content.decode(buf, span) for span in spans)
        )
        await until(lambda: len(messages) == 2)
        channel.ack(2, multiple=True)
        await until(lambda: len(messages) == 3)
        assert [(m.tag, m.body, m.exchange, m.routing_key) for m in messages] == [
            (number + 1, b"m%d" % number, "front", "a.b") for number in range(3)
        ]
        assert messages[2].properties.headers == {"n": 2}
        await channel.cancel(tag)
        channel.nack(3, requeue=True)
        got = await channel.get(queue)
        assert got is not None
        assert (got.body, got.redelivered) == (b"m2", True)
        channel.ack(got.tag)
        assert await channel.get(queue) is None
        await channel.publish("", queue, b"")
        assert await channel.purge_queue(queue) == 1
        await channel.unbind_queue(queue, "ex", "a.*", {"note": 1})
        with pytest.raises(Unroutable, match="312 NO_ROUTE"):
            await channel.publish("front", "a.b", b"x", mandatory=True)
        await channel.publish("front", "a.b", b"x")
        assert await channel.delete_queue(queue) == 0
        await channel.delete_exchange("ex")
        assert connection.error is None


@both_loops
async def test_a_passive_declare_of_nothing_closes_the_channel_alone(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url) as connection:
        channel = await connection.open_channel()
        with pytest.raises(ChannelClosed, match="404 NOT_FOUND - no queue 'nothing'") as closed:
            await channel.declare_queue("nothing", passive=True)
        assert closed.value.code == 404
        with pytest.raises(ChannelClosed):
            await channel.declare_queue("q")
        assert connection.error is None
        assert connection.channel_numbers == frozenset()
        again = await connection.open_channel()
        assert again.number == channel.number
        assert (await again.declare_queue()).name.startswith("amq.gen-")


async def test_a_second_exclusive_consumer_is_refused_with_403(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url) as connection:
        channel, other = await connection.open_channel(), await connection.open_channel()
        await channel.declare_queue("q")
        await channel.consume("q", lambda *_: None, exclusive=True)
        with pytest.raises(ChannelClosed) as refused:
            await other.consume("q", lambda *_: None, exclusive=True)
        assert refused.value.code == 403
        assert (await channel.declare_queue("q", passive=True)).consumers == 1


async def test_other_attributes_of_what_is_there_are_refused_with_406(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url) as connection:
        channel = await connection.open_channel()
        await channel.declare_queue("q", durable=True)
        with pytest.raises(ChannelClosed) as refused:
            await channel.declare_queue("q", durable=True, arguments={"x-max-length": 1})
        assert refused.value.code == 406


async def test_a_deleted_queue_cancels_its_consumer(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url) as connection:
        channel, other = await connection.open_channel(), await connection.open_channel()
        await channel.declare_queue("q")
        cancelled = asyncio.Event()
        await channel.consume("q", lambda *_: None, on_cancel=cancelled.set)
        await other.delete_queue("q")
        await asyncio.wait_for(cancelled.wait(), 60)
        assert channel.error is None


async def test_closing_a_channel_gives_unacked_messages_back_in_order(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url) as connection:
        channel, consuming = await connection.open_channel(), await connection.open_channel()
        await channel.declare_queue("q")
        await channel.select_confirms()
        await asyncio.gather(*(channel.publish("", "q", b"%d" % number) for number in range(300)))
        seen: list[int] = []
        await consuming.qos(200)
        await consuming.consume("q", lambda _, spans: seen.extend(span[0] for span in spans))
        await until(lambda: len(seen) == 200)
        consuming.ack_many([2, 4])
        consuming.ack(3)
        await consuming.close()
        bodies: list[bytes] = []
        await channel.consume(
            "q", lambda buf, spans: bodies.extend(content.decode(buf, span).body for span in spans)
        )
        await until(lambda: len(bodies) == 297)
        assert bodies == [b"%d" % number for number in range(300) if number not in (1, 2, 3)]


async def test_raw_confirms_and_returns_come_in_stream_order(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url) as connection:
        channel = await connection.open_channel()
        await channel.declare_queue("q")
        events: list[Any] = []
        await channel.select_confirms(events.extend, events.append)
        raw = content.encode_content(channel.number, b"body", Basic.Properties(message_id="m"))
        routed = content.publish_frame(channel.number, "", "q", mandatory=True) + raw
        lost = content.publish_frame(channel.number, "", "nowhere", mandatory=True) + raw
        connection.write(routed * 100 + lost + routed * 100)

        def confirmed() -> set[int]:
            numbers: set[int] = set()
            for seq, multiple, is_ack in (event for event in events if isinstance(event, tuple)):
                assert is_ack
                numbers |= set(range(1, seq + 1)) if multiple else {seq}
            return numbers

        await until(lambda: len(confirmed()) == 201)
        [message] = [event for event in events if isinstance(event, amqp.Returned)]
        assert (message.code, message.exchange, message.routing_key) == (312, "", "nowhere")
        assert message.content == raw
        events[events.index(message) :] = []
        assert 101 not in confirmed()


# Connections -------------------------------------------------------------------------------------


async def test_wrong_credentials_and_vhosts_are_refused_with_the_brokers_words(vhost: Vhost) -> None:
    url = amqp.BrokerUrl.parse(vhost.amqp_url)
    with pytest.raises(LoginRefused, match="403 ACCESS_REFUSED") as refused:
        await amqp.connect(replace(url, password="wrong"), name="test")
    assert "wrong" not in str(refused.value)
    with pytest.raises(LoginRefused, match="530 NOT_ALLOWED - vhost nowhere not found"):
        await amqp.connect(replace(url, vhost="nowhere"), name="test")


async def test_the_management_api_shows_the_connections_name(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url, "the name"):
        shown: list[Any] = []
        await until(lambda: shown.append(1) or _names(vhost))  # type: ignore[func-returns-value]
        assert _names(vhost) == ["the name"]


def _names(vhost: Vhost) -> list[str]:
    connections = vhost.api("GET", f"vhosts/{vhost.name}/connections")
    return [str(known.get("client_properties", {}).get("connection_name")) for known in connections]


@both_loops
async def test_a_cut_connection_is_noticed_and_a_hanging_one_by_its_heartbeat(
    vhost: Vhost, tcp_proxy: TcpProxy
) -> None:
    async with connected(tcp_proxy.url(vhost.amqp_url) + "?heartbeat=600") as connection:
        tcp_proxy.cut()
        await asyncio.wait_for(connection.wait_lost(), 60)
    url = tcp_proxy.url(vhost.amqp_url) + "?heartbeat=1"
    for tries_left in reversed(range(5)):
        # For the broker, a machine that stands still is a client that hangs.
        async with connected(url) as connection:
            await asyncio.sleep(3)
            if connection.error is None:
                break
            assert tries_left, connection.error
    async with connected(url) as connection:
        tcp_proxy.pause()
        assert "heartbeat" in str(await asyncio.wait_for(connection.wait_lost(), 60))
        tcp_proxy.resume()


async def test_a_closed_vhost_closes_the_connection_with_the_brokers_words(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url) as connection:
        vhost.api("DELETE", f"vhosts/{vhost.name}")
        assert "320 CONNECTION_FORCED" in str(await asyncio.wait_for(connection.wait_lost(), 60))


# Bytes -------------------------------------------------------------------------------------------

_LONG = b"\x00\x00\x00\x03abc"
FIELDS = [
    ("bool", b"t\x01"),
    ("int8", b"b\x80"),
    ("uint8", b"B\xff"),
    ("int16", b"s\x80\x00"),
    ("uint16", b"u\xff\xff"),
    ("int32", b"I\x80\x00\x00\x00"),
    ("uint32", b"i\xff\xff\xff\xff"),
    ("int64", b"l\x00\x00\x00\x00\x00\x00\x00\x05"),
    ("float", b"f" + struct.pack(">f", 1.5)),
    ("double", b"d" + struct.pack(">d", 0.1)),
    ("decimal", b"D\x02\x00\x00\x00\x05"),
    ("text", b"S" + _LONG),
    ("not UTF-8", b"S\x00\x00\x00\x02\xff\xfe"),
    ("bytes", b"x" + _LONG),
    ("time", b"T\x00\x00\x00\x00\x50\x00\x00\x00"),
    ("void", b"V"),
    ("array", b"A\x00\x00\x00\x08t\x01b\x05Vs\x00\x01"),
    ("same", b"b\x01"),
    ("same", b"b\x02"),
]
_INNER = entries_of(FIELDS)
ALL_FIELDS = entries_of([*FIELDS, ("table", b"F" + struct.pack(">I", len(_INNER)) + _INNER)])
TABLE = struct.pack(">I", len(ALL_FIELDS)) + ALL_FIELDS


def every_property() -> tuple[int, bytes]:
    """Flags and raw properties: all of them but user_id."""
    texts = [bytes([len(text)]) + text for text in (b"type/x", b"enc", b"corr", b"reply", b"600000", b"id")]
    written = texts[0] + texts[1] + TABLE + b"\x02" + b"\x09" + b"".join(texts[2:])
    return 0xFFE8, written + struct.pack(">Q", 1_700_000_000) + b"\x04kind" + b"\x03app"


MESSAGES: list[tuple[int, bytes, bytes]] = [
    (0, b"", b""),
    (0, b"", b"x"),
    (*every_property(), b""),
    (*every_property(), b'{"a": 1}\xce\x00\xff' * 60),
    (0x2000, TABLE, b"y" * (131_064 - 1)),
    (0x2000, TABLE, b"y" * 131_064),
    (0x2000, TABLE, b"y" * (131_064 + 1)),
    (0x1000, b"\x02", sha256(b"seed").digest() * 31_250),
]


@dataclass
class Copier:
    """Copies raw content from a queue to another, over two connections with one channel number."""

    source: amqp.Channel
    target: amqp.Channel
    to: str
    limit: int
    copied: int = 0

    def on_deliveries(self, connection: amqp.Connection, buf: bytes, spans: list[amqp.Span]) -> None:
        number = self.target.number
        publish = content.publish_frame(number, "", self.to, mandatory=True)
        for tag, _, header_at, end in spans:
            raw = buf[header_at:end]
            if number != self.source.number or self.limit != 131_072:
                raw = content.refit(raw, number, self.limit)
            connection.write(publish + raw)
            self.copied += 1
            self.source.ack(tag)


@pytest.mark.parametrize(("limit", "number"), [(131_072, 5), (131_072, 6), (4096, 5)])
@both_loops
async def test_raw_copies_are_the_same_byte_for_byte(vhost: Vhost, limit: int, number: int) -> None:
    originals = [content_of(5, *message, 131_064) for message in MESSAGES]
    async with (
        connected(vhost.amqp_url) as source,
        connected(f"{vhost.amqp_url}?frame_max={limit}") as target,
    ):
        assert target.frame_max == limit
        consuming, publishing = await source.open_channel(5), await target.open_channel(number)
        for queue in ("from", "to"):
            await consuming.declare_queue(queue)
        first = content.publish_frame(5, "", "from")
        source.write(b"".join(first + raw for raw in originals))
        copier = Copier(consuming, publishing, "to", limit)
        await consuming.consume("from", lambda buf, spans: copier.on_deliveries(target, buf, spans))
        await until(lambda: copier.copied == len(originals))
        arrived: list[bytes] = []
        checking = await source.open_channel(7)
        await checking.consume(
            "to",
            lambda buf, spans: arrived.extend(buf[header_at:end] for _, _, header_at, end in spans),
        )
        await until(lambda: len(arrived) == len(originals))
        assert [content.refit(raw, 5, 131_072) for raw in arrived] == originals


@both_loops
async def test_a_body_of_20_megabytes_arrives_byte_for_byte(vhost: Vhost) -> None:
    body = b"".join(sha256(struct.pack(">I", number)).digest() for number in range(655_360))
    async with connected(vhost.amqp_url) as connection:
        channel = await connection.open_channel()
        await channel.declare_queue("q")
        await channel.select_confirms()
        await channel.publish("", "q", body)
        await channel.publish("", "q", b"after")
        bodies: list[bytes] = []
        await channel.consume(
            "q", lambda buf, spans: bodies.extend(content.decode(buf, span).body for span in spans)
        )
        await until(lambda: len(bodies) == 2)
        assert bodies == [body, b"after"]


async def test_a_foreign_user_id_is_refused_and_as_a_header_it_is_not(vhost: Vhost) -> None:
    async with connected(vhost.amqp_url) as connection:
        channel = await connection.open_channel(3)
        await channel.declare_queue("q")
        properties = Basic.Properties(user_id="somebody", headers={"a": 1}, app_id="app")
        raw = content.encode_content(3, b"body", properties)
        publish = content.publish_frame(3, "", "q")
        assert content.user_id(raw) == "somebody"
        moved = content.add_headers(content.without_user_id(raw), {"x-partymq-user-id": "somebody"}, 3)
        connection.write(publish + moved)
        got = await channel.get("q")
        while got is None:
            got = await channel.get("q")
        assert got.properties == Basic.Properties(
            app_id="app", headers={"a": 1, "x-partymq-user-id": "somebody"}
        )
        connection.write(publish + raw)
        error = await asyncio.wait_for(channel.wait_closed(), 60)
        assert isinstance(error, ChannelClosed)
        assert error.code == 406


async def test_a_busy_connection_with_coalesced_reads_loses_and_reorders_nothing(vhost: Vhost) -> None:
    total = 20_000
    async with connected(vhost.amqp_url, coalesce=0.001) as connection:
        channel = await connection.open_channel()
        await channel.declare_queue("q")
        confirms: list[amqp.Confirm] = []
        tags: list[int] = []
        reads: list[int] = []

        def deliver(_: bytes, spans: list[amqp.Span]) -> None:
            reads.append(len(spans))
            tags.extend(span[0] for span in spans)
            channel.ack(spans[-1][0], multiple=True)

        await channel.select_confirms(confirms.extend)
        await channel.qos(1000)
        await channel.consume("q", deliver)
        one = content.publish_frame(1, "", "q") + content.encode_content(1, b"x" * 700)
        for _ in range(total // 100):
            connection.write(one * 100)
            await asyncio.sleep(0)
        await until(lambda: len(tags) == total, 60)
        assert tags == list(range(1, total + 1))
        assert len(reads) < total
        await until(lambda: max((seq for seq, _, _ in confirms), default=0) == total)


# TLS and alarms, on a node of their own ------------------------------------------------------------


@dataclass(frozen=True)
class TlsNode:
    node: PrivateNode
    port: int
    authority: Path


@pytest.fixture(scope="module")
def tls_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsNode]:
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    new_key = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
    openssl("req", *new_key, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=localhost")
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    openssl(
        "x509", "-req", "-in", "node.csr", *authority, "-out", "node.pem", "-days", "2", "-extfile", "names"
    )
    [port] = free_ports(1, random.Random())
    config = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(folder / "ca.pem"),
        "ssl_options.certfile": str(folder / "node.pem"),
        "ssl_options.keyfile": str(folder / "node.key"),
    }
    with PrivateNode(plugins=(), config=config) as node:
        yield TlsNode(node, port, folder / "ca.pem")


@both_loops
async def test_tls_carries_messages_and_checks_the_certificate(tls_node: TlsNode) -> None:
    base = f"amqps://127.0.0.1:{tls_node.port}/"
    async with connected(f"{base}?cacertfile={tls_node.authority}") as connection:
        channel = await connection.open_channel()
        queue = (await channel.declare_queue(exclusive=True)).name
        await channel.select_confirms()
        body = b"x" * 3_000_000
        await channel.publish("", queue, body)
        bodies: list[bytes] = []
        connection.pause_reading("a reason")
        consuming = asyncio.create_task(
            channel.consume(queue, lambda buf, spans: bodies.append(content.decode(buf, spans[0]).body))
        )
        await asyncio.sleep(0.1)
        assert bodies == []
        connection.resume_reading("a reason")
        await consuming
        await until(lambda: bodies == [body])
    async with connected(f"{base}?verify=verify_none"):
        pass
    with pytest.raises(ConnectionLost, match="TLS failed"):
        await amqp.connect(amqp.BrokerUrl.parse(base), name="test")
    wrong_name = f"{base}?cacertfile={tls_node.authority}&server_name_indication=other.example"
    with pytest.raises(ConnectionLost, match="TLS failed"):
        await amqp.connect(amqp.BrokerUrl.parse(wrong_name), name="test")
    with pytest.raises(ConfigError, match="/nowhere"):
        await amqp.connect(amqp.BrokerUrl.parse(f"{base}?cacertfile=/nowhere"), name="test")
    with pytest.raises(ProtocolError, match="speaks TLS"):
        await amqp.connect(amqp.BrokerUrl.parse(f"amqp://127.0.0.1:{tls_node.port}"), name="test", timeout=60)


async def test_a_memory_alarm_blocks_publishers_and_is_told(tls_node: TlsNode) -> None:
    node = tls_node.node
    async with connected(node.amqp_url + "?heartbeat=2") as connection:
        channel = await connection.open_channel()
        queue = (await channel.declare_queue(exclusive=True)).name
        await channel.select_confirms()
        told: list[str | None] = []
        connection.on_blocked(told.append)
        try:
            await node.ctl_async("set_vm_memory_high_watermark", "0.0000001")
            # A connection is blocked when it publishes.
            with pytest.raises(CallTimeout, match="blocks publishers: low on memory"):
                await channel.publish("", queue, b"x", timeout=5)
            assert connection.blocked == "low on memory"
            assert connection.error is None
        finally:
            await node.ctl_async("set_vm_memory_high_watermark", "0.4")
        await until(lambda: connection.blocked is None)
        assert told == ["low on memory", None]
        await channel.publish("", queue, b"y")
        assert (await channel.declare_queue(queue, passive=True)).messages == 2
