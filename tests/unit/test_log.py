"""The library speaks through `logging`: to standard error at most, and as the program wants it."""

import json
import logging
import subprocess
import sys

import pytest

from partymq.client.hooks import Hooks
from partymq.log import FIELDS, get_logger

PROGRAM = """
import sys
import partymq.client.consumer, partymq.client.publisher
from partymq.log import get_logger
sys.argv[1:] and exec(sys.argv[1])
log = get_logger("partymq.client.consumer")
log.info("joined", group="orders")
log.warning("100 % of what is \'there\' waits", reason="no room", seconds=3)
"""
WAITS = "100 % of what is 'there' waits reason='no room' seconds=3"


def output(setting_up: str = "") -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, setting_up], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout, done.stderr


def test_a_program_that_sets_up_no_logging_has_warnings_on_standard_error() -> None:
    assert output() == ("", f"{WAITS}\n")


def test_a_program_has_it_as_it_sets_it_up() -> None:
    stdout, stderr = output(
        "import logging; logging.basicConfig(level='INFO', stream=sys.stdout, format='%(name)s: %(message)s')"
    )
    name = "partymq.client.consumer"
    assert stdout == f"{name}: joined group='orders'\n{name}: {WAITS}\n"
    assert stderr == ""
    assert output("import logging; logging.getLogger('partymq').setLevel('ERROR')") == ("", "")


def test_a_record_has_its_fields_and_its_place_in_the_code(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "partymq")
    error = ValueError("no")
    get_logger("partymq.x").error("failed", partition=3, exc_info=error)
    (record,) = caplog.records
    assert getattr(record, FIELDS) == {"event": "failed", "partition": 3}
    assert json.dumps(getattr(record, FIELDS))
    assert (record.name, record.funcName) == (
        "partymq.x",
        "test_a_record_has_its_fields_and_its_place_in_the_code",
    )
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_partitions_that_come_and_go_are_told_without_any_hook(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "partymq")
    hooks = Hooks(group="orders", member="pod-1")
    await hooks.call_assigned([3, 1])
    await hooks.call_revoked([3])
    await hooks.call_lost([1])
    await hooks.call_revoked([])
    assert [record.getMessage() for record in caplog.records] == [
        "gained group='orders' member='pod-1' partitions=[1, 3]",
        "given up group='orders' member='pod-1' partitions=[3]",
        "lost group='orders' member='pod-1' partitions=[1]",
    ]
