"""The names of the library as tools show them: `help`, completion, type checkers."""

import inspect
import pydoc
import subprocess
import sys
from typing import get_type_hints

import pytest

import partymq
from partymq import Consumer, Publisher, SyncPublisher
from partymq.client.membership import MembershipSettings
from partymq.client.options import ConsumerOptions, GroupOptions, PublisherOptions
from partymq.client.settings import ConsumerSettings
from partymq.errors import ConfigError
from partymq.group.key import KeyRule
from partymq.group.layout import WISHES, GroupLayout


def test_help_shows_every_name_of_the_library() -> None:
    told = pydoc.plain(pydoc.render_doc(partymq))
    for name in partymq.__all__:
        if not name.startswith("_"):
            assert f"class {name}(" in told, name
    assert set(partymq.__all__) <= set(dir(partymq))


def test_a_library_name_is_imported_only_when_it_is_asked_for() -> None:
    program = "import sys, partymq; dir(partymq); print('partymq.client' in sys.modules)"
    told = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True).stdout
    assert told == "False\n"


def test_the_keywords_that_type_checkers_know_are_the_settings_that_there_are() -> None:
    known = get_type_hints(ConsumerOptions)
    there = {
        name: kind
        for settings in (ConsumerSettings, MembershipSettings)
        for name, kind in get_type_hints(settings).items()
    }
    wishes = {name: kind for name, kind in get_type_hints(GroupLayout).items() if name in WISHES}
    assert known == there | wishes | {"key": str | KeyRule}
    own = inspect.signature(Publisher, eval_str=True).parameters
    assert get_type_hints(PublisherOptions) == get_type_hints(GroupOptions) | {
        name: own[name].annotation for name in own if name not in ("url", "group", "options")
    }


def test_a_wrong_setting_is_refused_by_type_checkers_too() -> None:
    """mypy refuses an `ignore` that is not needed, so that it has to find what is found here."""
    with pytest.raises(ConfigError, match="concurency"):
        Consumer("amqp://localhost", concurency=5)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="on_failure"):
        Consumer("amqp://localhost", on_failure="drop")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="partitions"):
        Publisher("amqp://localhost", partitions="8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="time_out"):
        SyncPublisher("amqp://localhost", time_out=5)  # type: ignore[call-arg]
