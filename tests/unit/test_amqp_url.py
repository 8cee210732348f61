"""What a broker URL means, and which are refused."""

import pytest

from partymq.amqp import BrokerUrl
from partymq.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://", BrokerUrl()),
        ("amqp://localhost", BrokerUrl()),
        ("amqp://guest:guest@localhost:5672", BrokerUrl()),
        ("amqp://guest:guest@localhost:5672/", BrokerUrl()),
        ("amqp://localhost/%2f", BrokerUrl()),
        ("amqp://localhost//", BrokerUrl()),
        (" amqp://localhost ", BrokerUrl()),
        ("amqps://localhost", BrokerUrl(port=5671, tls=True)),
        ("amqp://h:1/v", BrokerUrl("h", 1, vhost="v")),
        ("amqp:///v", BrokerUrl(vhost="v")),
        ("amqp://h/a%2Fb", BrokerUrl("h", vhost="a/b")),
        ("amqp://u@h", BrokerUrl("h", username="u", password="")),
        ("amqp://u%40x:p%3a%2f%C3%A4@h", BrokerUrl("h", username="u@x", password="p:/ä")),
        ("amqp://[::1]:5673/v", BrokerUrl("::1", 5673, vhost="v")),
        ("amqp://[fe80::1%25eth0]", BrokerUrl("fe80::1%eth0")),
        ("amqp://h?heartbeat=0", BrokerUrl("h", heartbeat=0)),
        ("amqp://a,b:2,c/v", BrokerUrl("a", others=(("b", 2), ("c", 5672)), vhost="v")),
        ("amqps://a:1,b", BrokerUrl("a", 1, others=(("b", 5671),), tls=True)),
        (
            "amqp://u:x%2cy@[::1]:2,[::2],b?heartbeat=5",
            BrokerUrl("::1", 2, "u", "x,y", others=(("::2", 5672), ("b", 5672)), heartbeat=5),
        ),
        ("amqp://u,v:a,b@h,i", BrokerUrl("h", username="u,v", password="a,b", others=(("i", 5672),))),
        ("amqp://h,[::1]:3?heartbeat=0", BrokerUrl("h", others=(("::1", 3),), heartbeat=0)),
        (
            "amqp://h/v?heartbeat=5&connection_timeout=1500&channel_max=8&frame_max=8192&auth_mechanism=PLAIN",
            BrokerUrl("h", vhost="v", heartbeat=5, connection_timeout=1.5, channel_max=8, frame_max=8192),
        ),
        (
            "amqps://h?cacertfile=/ca&certfile=/c&keyfile=/k&password=s&verify=verify_none"
            "&server_name_indication=name",
            BrokerUrl(
                "h",
                5671,
                tls=True,
                cacertfile="/ca",
                certfile="/c",
                keyfile="/k",
                key_password="s",
                verify="verify_none",
                server_name="name",
            ),
        ),
    ],
)
def test_a_url_means(text: str, expected: BrokerUrl) -> None:
    url = BrokerUrl.parse(text)
    assert url == expected
    again = BrokerUrl.parse(url.masked().replace("***", "x"))
    assert again.masked() == url.masked()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://u:secret@h", "scheme 'http'"),
        ("h:5672", "scheme"),
        ("u:secret@h", "scheme"),
        ("amqp:h", "no //"),
        ("", "scheme ''"),
        ("amqp://u:secret@h:99999", "host and port"),
        ("amqp://u:secret@h:port", "host and port"),
        ("amqp://u:secret/x@h", "host and port"),
        ("amqp://u:secret@[::1", "host and port"),
        ("amqp://u:secret@h:0", "port 0"),
        ("amqp://u:secret@h/v#x", "'#'"),
        ("amqp://u:secret@h,i:port", "host and port"),
        ("amqp://u:secret@h,i:0", "port 0"),
        ("amqp://u:secret@h,", "a comma without a host"),
        ("amqp://u:secret@,h", "a comma without a host"),
        ("amqp://u:secret@h,:5673,i", "a comma without a host"),
        ("amqp://u:secret@h?heartbeat=-1", "heartbeat='-1'; allowed are 0 to 65535"),
        ("amqp://u:secret@h?heartbeat=fast", "heartbeat='fast'"),
        ("amqp://u:secret@h?heartbeat", "options"),
        ("amqp://u:secret@h?heartbeat=1&heartbeat=2", "twice"),
        ("amqp://u:secret@h?frame_max=100", "frame_max=100"),
        ("amqp://u:secret@h?wrong=1", "unknown option 'wrong'; allowed are heartbeat"),
        ("amqp://u:secret@h?auth_mechanism=external", "auth_mechanism='external'; allowed is plain"),
        ("amqp://u:secret@h?verify=verify_peer", "amqps only"),
        ("amqps://u:secret@h?verify=maybe", "verify_peer, verify_none"),
        ("amqps://u:secret@h?keyfile=/k", "without certfile"),
        (f"amqp://u:secret@h/{'v' * 256}", "longer than 255 bytes"),
    ],
)
def test_a_url_is_refused_with_the_reason_and_without_the_password(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        BrokerUrl.parse(text)
    assert why in str(refused.value)
    assert "secret" not in str(refused.value)


def test_each_node_of_a_cluster_has_a_url_of_its_own() -> None:
    url = BrokerUrl.parse("amqps://u:hidden@a,b:2,[::1]/v?heartbeat=5&server_name_indication=broker")
    assert [(node.host, node.port, node.others) for node in url.nodes()] == [
        ("a", 5671, ()),
        ("b", 2, ()),
        ("::1", 5671, ()),
    ]
    rest = {(node.username, node.password, node.vhost, node.tls, node.heartbeat) for node in url.nodes()}
    assert rest == {("u", "hidden", "v", True, 5)}
    assert url.where == "a:5671,b:2,[::1]:5671"
    assert url.masked().startswith("amqps://u:***@a:5671,b:2,[::1]:5671/v?heartbeat=5&")


def test_no_text_form_shows_a_password() -> None:
    url = BrokerUrl.parse("amqps://u:hidden@h?certfile=/c&keyfile=/k&password=hidden")
    assert "hidden" not in repr(url) + str(url) + url.masked()
    assert url.masked() == "amqps://u:***@h:5671/%2F?certfile=/c&keyfile=/k"


def test_tls_files_that_cannot_be_used_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match="/no/such/file"):
        BrokerUrl.parse("amqps://h?cacertfile=/no/such/file").ssl_context()
    assert BrokerUrl.parse("amqp://h").ssl_context() is None
