"""Every name that PartyMQ gives to something in the broker, and what a user of the broker may do with it."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partymq.group import names

ROOT = Path(__file__).parents[2]
SAMPLES = {"group": "orders", "layout": 3, "partition": 7, "number": 2, "token": "ab12", "hostname": "pod"}
NOT_IN_THE_BROKER = {"layout_and_number", "partition_id"}
ROUTING_KEYS = {"partition_key", "member_key"}


def functions() -> list[Callable[..., Any]]:
    found = inspect.getmembers(names, inspect.isfunction)
    public = [one for name, one in found if not name.startswith("_") and name not in NOT_IN_THE_BROKER]
    return [function for function in public if function.__module__ == names.__name__]


def called(function: Callable[..., Any]) -> str:
    """`looked_through` is of queues of ours."""
    ours = names.parked_queue("orders") if function.__name__ == "looked_through" else "theirs"
    samples = SAMPLES | {"queue": ours}
    return str(function(*(samples[name] for name in inspect.signature(function).parameters)))


@pytest.mark.parametrize("page", ["docs/pull.md", "docs/operations.md"])
def test_the_permissions_that_the_documentation_asks_for_are_enough(page: str) -> None:
    text = (ROOT / page).read_text().replace("\\|", "|")
    patterns = re.findall(r"`(\^[^`]+)`", text)
    assert r"^partymq\." in patterns
    assert r"^(partymq\.|amq\.default$)" in patterns
    for function in functions():
        if function.__name__ not in ROUTING_KEYS:
            assert re.match(r"^partymq\.", called(function)), function.__name__


def test_names_are_made_in_one_place() -> None:
    """So that the tests here, and whoever deletes a group, know all of them."""
    made = re.compile(r"""f["']partymq\.[^"']*\{|["']partymq\.[^"'{]*\.(q|ex)\.""")
    for path in (ROOT / "partymq").rglob("*.py"):
        if path.name != "names.py" and "demo" not in path.parts:
            found = [line for line in path.read_text().splitlines() if made.search(line)]
            assert not found, f"{path}: {found}"


def test_no_two_things_have_one_name() -> None:
    found = [called(function) for function in functions()]
    assert len(set(found)) == len(found), found
