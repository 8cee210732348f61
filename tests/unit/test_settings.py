"""Reading settings: precedence, forms of values, derived defaults."""

from pathlib import Path

import pytest

from partymq.config import load
from partymq.config.kinds import duration_text, parse_duration


def settings(tmp_path: Path, toml: str = "", **environ: str):
    file = None
    if toml:
        file = tmp_path / "partymq.toml"
        file.write_text(toml)
    return load(file, environ).settings


def test_without_anything_the_defaults_are_those_of_existing_deployments(tmp_path):
    found = settings(tmp_path)
    group = found.groups["default"]
    assert list(found.groups) == ["default"]
    assert (found.http.host, found.http.port) == ("0.0.0.0", 8085)
    assert (found.broker.url.host, found.broker.url.port) == ("localhost", 5672)
    assert (group.source_queue, group.exchange) == ("partymq.q.source", "partymq.ex.write")
    assert (group.key.source, group.key.name, group.key.missing) == ("header", "partitionKey", "spread")
    assert (group.heartbeat.check_interval, group.heartbeat.expires_after) == (30.0, 120.0)
    assert (group.partitions, group.prefetch, group.hold_messages) == (64, 2000, 1000)
    assert found.broker.max_hold == 1200.0


def test_the_environment_of_an_existing_deployment_is_understood(tmp_path):
    found = settings(
        tmp_path,
        PARTYMQ_RABBIT_CS="amqps://user:p%40ss@rabbit.example:5671/orders",
        PARTYMQ_SOURCE_QUEUE="orders.q",
        PARTYMQ_KEY_CONFIG_SOURCE="body",
        PARTYMQ_KEY_CONFIG_KEY="customer.id",
        PARTYMQ_HEART_BEAT_CONFIG_CHECK_INTERVAL="1m30s",
        PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER="250ms",
    )
    group = found.groups["default"]
    assert found.broker.url.host == "rabbit.example"
    assert found.broker.url.password == "p@ss"
    assert group.source_queue == "orders.q"
    assert (group.key_rule.source, group.key_rule.name) == ("body", "customer.id")
    assert (group.heartbeat.check_interval, group.heartbeat.expires_after) == (90.0, 0.25)


def test_the_environment_goes_over_the_file_and_the_file_over_the_default(tmp_path):
    toml = """
        [http]
        port = 9000
        [groups.default]
        prefetch = 500
        partitions = 16
    """
    found = settings(tmp_path, toml, PARTYMQ_PREFETCH="700")
    group = found.groups["default"]
    assert (found.http.port, group.prefetch, group.partitions, group.window) == (9000, 700, 16, 0.5)


def test_a_variable_set_to_nothing_counts_as_not_set(tmp_path):
    assert settings(tmp_path, PARTYMQ_PREFETCH=" ").groups["default"].prefetch == 2000


def test_several_groups_each_have_their_own_settings(tmp_path):
    toml = """
        [groups.default]
        [groups.orders]
        source_queue = "orders"
        [groups.orders.key]
        source = "routing_key"
        [groups.mail]
        source_exchange = "mail.ex"
        source_binding_keys = ["mail.*", "post"]
    """
    groups = settings(tmp_path, toml, PARTYMQ_PARTITIONS="8").groups
    assert [group.partitions for group in groups.values()] == [8, 64, 64]
    assert groups["orders"].exchange == "partymq.orders.ex.write"
    assert groups["orders"].key_rule.source == "routing_key"
    assert groups["mail"].source_queue == "partymq.mail.q.source"
    assert groups["mail"].source_binding_keys == ("mail.*", "post")
    assert groups["mail"].declares_source


def test_what_depends_on_other_settings_follows_them(tmp_path):
    toml = """
        [groups.default]
        prefetch = 100
        [groups.default.heartbeat]
        expires_after = "7s"
    """
    group = settings(tmp_path, toml).groups["default"]
    assert (group.hold_messages, group.heartbeat.pending_expires_after) == (50, 7.0)


@pytest.mark.parametrize(
    ("broker", "management", "expected"),
    [
        ("amqp://u:p@host", "", "http://u:p@host:15672"),
        ("amqps://u:p@host", "", "https://u:p@host:15671"),
        ("amqp://u:p%2F@[::1]", "", "http://u:p%2F@[::1]:15672"),
        ("amqp://u:p@host", "https://mgmt.example/rabbit/", "https://u:p@mgmt.example/rabbit"),
        ("amqp://u:p@host", "http://a:b@mgmt:80", "http://a:b@mgmt:80"),
        ("amqp://u:p@a:1,b,[::1]", "", "http://u:p@a:15672,b:15672,[::1]:15672"),
        ("amqp://u:p@a:1,a:2", "", "http://u:p@a:15672"),
        ("amqp://u:p@a", "https://x,y:81,[::2]:7/mq/", "https://u:p@x,y:81,[::2]:7/mq"),
    ],
)
def test_the_management_api_is_where_the_broker_is_unless_it_is_set(tmp_path, broker, management, expected):
    found = settings(tmp_path, PARTYMQ_RABBIT_CS=broker, PARTYMQ_MANAGEMENT_URL=management)
    assert found.broker.management_url.with_credentials() == expected


def test_the_management_api_can_be_done_without(tmp_path):
    assert settings(tmp_path, PARTYMQ_MANAGEMENT_URL="off").broker.management_url is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("1m30s", 90), ("1h", 3600), ("1.5h", 5400), ("0", 0), ("2h0m5s", 7205)],
)
def test_durations_are_read_and_written(text, seconds):
    assert parse_duration(text) == seconds
    assert parse_duration(duration_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1d", "1 s", "1m 30s", "1e3s", "ms30"])
def test_what_is_no_duration_is_not_read(text):
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65536), ("64KiB", 65536), ("1MB", 1_000_000), ("2 MiB", 2 << 20)]
)
def test_sizes_are_read(tmp_path, text, size):
    assert settings(tmp_path, PARTYMQ_HTTP_BODY_LIMIT=text).http.body_limit == size


def test_settings_cannot_be_changed(tmp_path):
    found = settings(tmp_path)
    with pytest.raises(AttributeError):
        found.http.port = 1
    with pytest.raises(TypeError):
        found.groups["other"] = found.groups["default"]
