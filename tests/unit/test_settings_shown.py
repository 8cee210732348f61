"""`partymq config` shows what is in force, without secrets; the documentation names every setting."""

import tomllib
from pathlib import Path

from partymq.config import load, to_toml
from partymq.config.reference import reference

SETTINGS_PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_what_is_shown_says_the_same_settings_again(tmp_path):
    first = tmp_path / "first.toml"
    first.write_text(
        """
        shutdown_timeout = "1m1s"
        [broker]
        management_url = "off"
        [groups.orders]
        source_exchange = 'a "quoted" one'
        source_binding_keys = ["a", "b"]
        [groups."with.dots"]
        source_queue = "q\\u0001"
        hold_bytes = 65537
        """
    )
    found = load(first, {"PARTYMQ_HTTP_PORT": "1"})
    second = tmp_path / "second.toml"
    second.write_text(to_toml(found))
    again = load(second, {}).settings
    assert again.groups == found.settings.groups
    assert (again.http, again.shutdown_timeout) == (found.settings.http, found.settings.shutdown_timeout)


def test_what_is_shown_has_no_passwords():
    text = to_toml(load(None, {"PARTYMQ_RABBIT_CS": "amqp://me:s3cret@host"}))
    assert "s3cret" not in text
    shown = tomllib.loads(text)["broker"]
    assert shown["url"].startswith("amqp://me:***@host")
    assert shown["management_url"] == "http://me:***@host:15672"
    assert "s3cret" not in repr(load(None, {"PARTYMQ_RABBIT_CS": "amqp://me:s3cret@host"}))


def test_every_setting_is_shown_with_its_origin(tmp_path):
    file = tmp_path / "partymq.toml"
    file.write_text("groups.default.window = '1s'")
    lines = to_toml(load(file, {"PARTYMQ_PREFETCH": "9"})).splitlines()
    assert any(line.startswith("window = ") and line.endswith(f"# {file}") for line in lines)
    assert any(line.startswith("prefetch = 9") and line.endswith("# PARTYMQ_PREFETCH") for line in lines)
    assert any(line.startswith("partitions = 64") and line.endswith("# default") for line in lines)
    assert any(line.startswith("# source_exchange is not set") for line in lines)


def test_the_documentation_has_every_setting_as_it_is():
    assert reference() in SETTINGS_PAGE.read_text(), "make it again with python -m partymq.config.reference"
