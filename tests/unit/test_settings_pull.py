"""Settings of pull groups: what they are, and that those of the other mode are refused by name."""

import tomllib
from pathlib import Path

import pytest

from partymq.config import GroupSettings, PullGroupSettings, load, to_toml
from partymq.errors import ConfigError
from partymq.group.key import KeyRule


def loaded(tmp_path: Path, toml: str = "", **environ: str):
    file = None
    if toml:
        file = tmp_path / "partymq.toml"
        file.write_text(toml)
    return load(file, environ)


def complaint(tmp_path: Path, toml: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, toml, **environ)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{tmp_path}/", "")


ORDERS = '[groups.orders]\nmode = "pull"\n'


def test_what_the_file_does_not_say_is_not_wished(tmp_path):
    group = loaded(tmp_path, ORDERS).settings.groups["orders"]
    assert isinstance(group, PullGroupSettings)
    assert group.wish == {}
    assert (group.coordinator, group.routes) == ("server", False)
    assert group.exchange == "partymq.orders.ex.write"


def test_what_the_file_says_is_wished(tmp_path):
    toml = (
        ORDERS
        + 'partitions = 8\nprefetch = 100\nqueue_type = "classic"\n'
        + 'ingress = "hash-exchange"\nkey.source = "routing_key"\n'
    )
    group = loaded(tmp_path, toml).settings.groups["orders"]
    assert group.wish == {
        "partitions": 8,
        "prefetch": 100,
        "queue_type": "classic",
        "ingress": "hash-exchange",
        "key": KeyRule("routing_key"),
    }


def test_the_default_group_may_be_a_pull_group_by_the_environment(tmp_path):
    settings = loaded(
        tmp_path,
        PARTYMQ_MODE="pull",
        PARTYMQ_PARTITIONS="9999",
        PARTYMQ_COORDINATOR="embedded",
        PARTYMQ_KEY_CONFIG_KEY="customer",
    )
    assert not settings.warnings
    group = settings.settings.groups["default"]
    assert (group.wish, group.coordinator) == (
        {"partitions": 9999, "key": KeyRule("header", "customer")},
        "embedded",
    )


def test_one_file_may_have_a_group_of_each_mode(tmp_path):
    groups = loaded(tmp_path, f"[groups.default]\n{ORDERS}", PARTYMQ_WINDOW="1s").settings.groups
    assert isinstance(groups["default"], GroupSettings)
    assert isinstance(groups["orders"], PullGroupSettings)
    assert (groups["default"].mode, groups["orders"].mode) == ("push", "pull")


def test_with_the_router_as_ingress_it_has_a_source(tmp_path):
    toml = (
        ORDERS
        + 'ingress = "router"\nsource_exchange = "shop"\nsource_prefetch = 50\n'
        + 'key = {source = "body", name = "id"}'
    )
    group = loaded(tmp_path, toml).settings.groups["orders"]
    assert group.routes
    assert (group.source_queue, group.source_binding_keys) == ("partymq.orders.q.source", ("#",))
    assert (group.declares_source, group.source_prefetch) == (True, 50)
    assert group.wish["key"] == KeyRule("body", "id")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ('window = "1s"', "is a setting of push groups, but groups.orders has mode"),
        ("hold_messages = 5", "is a setting of push groups, but groups.orders has mode"),
        ('state_queue_type = "classic"', "`queue_type` is that of all queues of a pull group"),
        ('heartbeat.expires_after = "5s"', "the `session_timeout` of each member says"),
        ('exchange = "e"', "has always the same name"),
        ("session_timeout = 5", "is a setting of members: `Consumer(…, session_timeout=…)`"),
        ("partition = 5", "there is no such setting; did you mean partitions?"),
        ('source_queue = "q"', 'set ingress = "router", or leave it out'),
        ('ingress = "publisher"\nsource_prefetch = 9', 'set ingress = "router", or leave it out'),
        ('key.missing = "reject"', 'set ingress = "router", or leave it out'),
        ('ingress = "router"', "has no source: set source_queue, source_exchange or both"),
        ('key.source = "body"', "with ingress publisher allowed are header"),
        ('ingress = "router"\nsource_queue = "q"\nkey.source = "property"', "allowed are content_type"),
        ('coordinator = "somebody"', "allowed are server, embedded"),
        ("partitions = 10001", "from 1 to 10000"),
        ("mode = 'pulll'", "allowed are push, pull"),
    ],
)
def test_what_means_nothing_in_a_pull_group_is_refused_with_a_remedy(tmp_path, setting, says):
    toml = ORDERS if "mode" not in setting else "[groups.orders]\n"
    text = complaint(tmp_path, toml + setting)
    assert text.startswith("partymq.toml: groups.orders")
    assert says in text


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ('queue_type = "quorum"', "`state_queue_type` is that of the queue with the state"),
        ('ingress = "router"', "always filled by `partymq serve`"),
        ('coordinator = "server"', "`partymq serve` coordinates a push group"),
        ("source_prefetch = 5", "`prefetch` is that of the source"),
    ],
)
def test_what_means_nothing_in_a_push_group_is_refused_with_a_remedy(tmp_path, setting, says):
    text = complaint(tmp_path, f'[groups.mail]\nsource_queue = "mail"\n{setting}')
    assert text.startswith(f"partymq.toml: groups.mail.{setting.partition(' ')[0]}")
    assert (
        'is a setting of pull groups, but groups.mail is a push group: leave it out, or set mode = "pull"'
        in text
    )
    assert says in text


def test_a_variable_of_the_other_mode_is_refused_by_its_name(tmp_path):
    text = complaint(tmp_path, PARTYMQ_MODE="pull", PARTYMQ_WINDOW="1s")
    assert text.startswith('PARTYMQ_WINDOW="1s": is a setting of push groups, but groups.default has mode')
    text = complaint(tmp_path, PARTYMQ_MODE="pull", PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER="1s")
    assert "the `session_timeout` of each member" in text
    text = complaint(tmp_path, PARTYMQ_INGRESS="router")
    assert text.startswith('PARTYMQ_INGRESS="router": is a setting of pull groups')


def test_a_key_that_the_ingress_cannot_have_is_named_as_it_was_written(tmp_path):
    text = complaint(tmp_path, PARTYMQ_MODE="pull", PARTYMQ_KEY_CONFIG_SOURCE="body")
    assert text.startswith('PARTYMQ_KEY_CONFIG_SOURCE="body": ')


def test_groups_of_either_mode_have_a_source_and_an_exchange_of_their_own(tmp_path):
    text = complaint(
        tmp_path, f'[groups.mail]\nsource_queue = "q"\n{ORDERS}ingress = "router"\nsource_queue = "q"'
    )
    assert "is the source of group mail already" in text
    text = complaint(
        tmp_path, f'[groups.mail]\nsource_queue = "q"\nexchange = "partymq.orders.ex.write"\n{ORDERS}'
    )
    assert "is the exchange of group mail already" in text


@pytest.mark.parametrize(
    "more", ["", 'ingress = "router"\nsource_exchange = "shop"\nkey.missing = "reject"', "partitions = 3"]
)
def test_what_is_shown_of_a_pull_group_says_the_same_again(tmp_path, more):
    found = loaded(tmp_path, ORDERS + more)
    text = to_toml(found)
    assert tomllib.loads(text)["groups"]["orders"]["mode"] == "pull"
    assert ("source_queue" in text) == ("router" in more)
    assert loaded(tmp_path, text).settings.groups == found.settings.groups
