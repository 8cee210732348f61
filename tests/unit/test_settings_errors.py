"""A wrong setting is one line that names it as it was written, its value, and what is allowed."""

import pytest

from partymq.config import load
from partymq.errors import ConfigError


def complaint(tmp_path, toml: str | bytes | None = None, **environ: str) -> str:
    file = None
    if toml is not None:
        file = tmp_path / "partymq.toml"
        file.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    with pytest.raises(ConfigError) as caught:
        load(file, environ)
    text = str(caught.value)
    assert "\n" not in text
    return text.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PARTYMQ_KEY_CONFIG_SOURCE", "headr", "allowed are header, body, routing_key, property"),
        ("PARTYMQ_PREFETCH", "many", "allowed are whole numbers from 2 to 65535"),
        ("PARTYMQ_PREFETCH", "1", "allowed are whole numbers from 2 to 65535"),
        ("PARTYMQ_PREFETCH", "-5", "allowed are whole numbers from 2 to 65535"),
        ("PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER", "120", "such as 250ms, 30s, 1m30s, 1h"),
        ("PARTYMQ_WINDOW", "x", "0s: no limit"),
        ("PARTYMQ_HTTP_BODY_LIMIT", "5", "sizes from 1KiB to 64MiB"),
        ("PARTYMQ_SOURCE_DECLARE", "maybe", "allowed are true and false"),
        ("PARTYMQ_MANAGEMENT_URL", "ftp://host", "allowed are off, and URLs such as http://"),
        ("PARTYMQ_HTTP_PORT", "70000", "allowed are whole numbers from 0 to 65535"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_is_allowed(tmp_path, name, value, allowed):
    text = complaint(tmp_path, **{name: value})
    assert text.startswith(f'{name}="{value}": ')
    assert allowed in text


@pytest.mark.parametrize(
    ("toml", "setting", "allowed"),
    [
        ("http.port = 'x'", 'http.port = "x"', "whole numbers"),
        ("http.port = true", "http.port = true", "whole numbers"),
        ("shutdown_timeout = 20", "shutdown_timeout = 20", "such as 250ms"),
        (
            "groups.orders.source_queue = 'q'\ngroups.orders.partitions = 0",
            "groups.orders.partitions = 0",
            "1 to 4096",
        ),
        ("groups.default.source_declare = 'yes'", 'groups.default.source_declare = "yes"', "true and false"),
        (
            "groups.default.key.missing = 'drop'",
            'groups.default.key.missing = "drop"',
            "spread, fixed, reject",
        ),
        ("groups.default.key = 'id'", 'groups.default.key = "id"', "has to be a table"),
        (
            "groups.default.source_binding_keys = [1]",
            "groups.default.source_binding_keys = [1]",
            "routing keys",
        ),
        ("http = 1", "http = 1", "has to be a table"),
        ("groups = 1", "groups", "tables such as [groups.orders]"),
        ("http.prot = 1", "http.prot = 1", "did you mean port?"),
        ("groups.default.key.path = 'x'", 'groups.default.key.path = "x"', "source, name, missing"),
        ("whatever = 1", "whatever = 1", "there is no such setting"),
    ],
)
def test_a_wrong_setting_in_the_file_is_named_by_its_path(tmp_path, toml, setting, allowed):
    text = complaint(tmp_path, toml)
    assert text.startswith(f"partymq.toml: {setting}")
    assert allowed in text


def test_a_wrong_broker_url_is_told_without_its_password(tmp_path):
    text = complaint(tmp_path, PARTYMQ_RABBIT_CS="http://user:s3cret@host:x")
    assert text.startswith("PARTYMQ_RABBIT_CS=")
    assert "allowed are URLs such as amqp://" in text
    assert "s3cret" not in text


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        (b"a = ", "not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"a = '\xff'", "not UTF-8"),
    ],
)
def test_a_broken_file_is_told_as_such(tmp_path, toml, part):
    assert part in complaint(tmp_path, toml)


def test_a_missing_file_is_told_as_such(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: the file cannot be read: No such file"):
        load(tmp_path / "none.toml", {})


def test_the_hold_budget_has_to_be_below_the_prefetch(tmp_path):
    text = complaint(tmp_path, PARTYMQ_PREFETCH="100", PARTYMQ_HOLD_MESSAGES="100")
    assert text == 'PARTYMQ_HOLD_MESSAGES="100": has to be below prefetch, which is 100'


def test_a_key_name_has_to_fit_its_source(tmp_path):
    text = complaint(tmp_path, PARTYMQ_KEY_CONFIG_SOURCE="property")
    assert text.startswith('groups.default.key.name = "partitionKey" (the default): ')
    assert "message_id" in text
    text = complaint(tmp_path, PARTYMQ_KEY_CONFIG_SOURCE="body", PARTYMQ_KEY_CONFIG_KEY="a..b")
    assert text.startswith('PARTYMQ_KEY_CONFIG_KEY="a..b": ')


def test_two_groups_cannot_have_one_source_or_one_exchange(tmp_path):
    text = complaint(tmp_path, "groups.a.source_queue = 'q'\ngroups.b.source_queue = 'q'")
    assert text.startswith('partymq.toml: groups.b.source_queue = "q": is the source of group a already')
    groups = "groups.a.source_queue='1'\ngroups.b.source_queue='2'\n"
    text = complaint(tmp_path, f"{groups}groups.a.exchange='x'\ngroups.b.exchange='x'")
    assert "is the exchange of group a already" in text


def test_a_group_that_is_not_the_default_one_has_to_say_its_source(tmp_path):
    assert "groups.orders has no source" in complaint(tmp_path, "[groups.orders]")


def test_binding_keys_need_an_exchange(tmp_path):
    text = complaint(tmp_path, PARTYMQ_SOURCE_BINDING_KEYS="a,b")
    assert text == 'PARTYMQ_SOURCE_BINDING_KEYS="a,b": allowed only with source_exchange'


def test_a_group_variable_without_a_default_group_is_not_ignored(tmp_path):
    text = complaint(tmp_path, "groups.orders.source_queue = 'q'", PARTYMQ_KEY_CONFIG_KEY="id")
    assert text.startswith('PARTYMQ_KEY_CONFIG_KEY="id": is a setting of group default, which partymq.toml')


def test_a_group_name_that_cannot_be_one_is_refused(tmp_path):
    assert 'groups."a b"' in complaint(tmp_path, "[groups.'a b']\nsource_queue = 'q'")


def test_a_drain_cannot_be_longer_than_messages_may_be_held(tmp_path):
    text = complaint(tmp_path, PARTYMQ_BROKER_CONSUMER_TIMEOUT="15s")
    assert text.startswith('groups.default.drain_timeout = "10s" (the default): has to be below 10s')


def test_unknown_variables_are_warned_of_but_not_those_of_kubernetes():
    found = load(
        None,
        {
            "PARTYMQ_PREFETSCH": "1",
            "PARTYMQ_CONFIG": "x",
            "PARTYMQ_PORT": "tcp://10.0.0.1:8085",
            "PARTYMQ_PORT_8085_TCP_ADDR": "10.0.0.1",
            "PARTYMQ_SERVICE_PORT_HTTP": "8085",
            "OTHER": "1",
        },
    )
    assert found.warnings == (
        "PARTYMQ_PREFETSCH is set in the environment, but there is no such setting; "
        "did you mean PARTYMQ_PREFETCH?",
    )
