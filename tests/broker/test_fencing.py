"""docs/fencing.md: its files as they stand there, two members, one of them stopped until it is a zombie.

PostgreSQL is not on every machine: a module of its name hands the same statements to SQLite.
"""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from partymq import Publisher
from tests.conftest import Vhost

PAGE = Path(__file__).parents[2] / "docs" / "fencing.md"
DEADLINE = 200.0
ACCOUNTS = 20
BOOKINGS = 30
PSYCOPG = """
import re
import sqlite3


class Connection:
    def __enter__(self):
        self.database = sqlite3.connect("accounts.db", timeout=30)
        self.database.execute("PRAGMA synchronous = OFF")
        return self

    def execute(self, statement, values):
        return self.database.execute(re.sub(r"%[(](\\w+)[)]s", r":\\1", statement), values)

    def __exit__(self, kind, error, trace):
        (self.database.commit if error is None else self.database.rollback)()
        self.database.close()


def connect(url):
    return Connection()
"""


def file_of_the_page(name: str) -> str:
    (code,) = re.findall(rf"`{name}`:\n\n```\w+\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return code


def stands_still(pid: int) -> bool:
    """Whether all threads of a process are stopped."""
    with suppress(OSError):
        return all(" T " in stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat"))
    return False


class Members:
    """Two processes of the page's consumer, and the accounts that they keep."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        code = file_of_the_page("accounts.py")
        assert "amqp://guest:guest@localhost:5672" in code
        (folder / "accounts.py").write_text(code.replace("amqp://guest:guest@localhost:5672", url))
        (folder / "psycopg.py").write_text(PSYCOPG)
        self.database = sqlite3.connect(folder / "accounts.db", timeout=30, isolation_level=None)
        self.database.executescript("PRAGMA journal_mode = WAL;" + file_of_the_page("account.sql"))
        self.processes = [self._start(number) for number in range(2)]

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        with (self._folder / f"said-{number}").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "partymq", "worker", "accounts"],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def said(self, number: int) -> str:
        return (self._folder / f"said-{number}").read_text()

    def accounts_of(self, number: int) -> set[str]:
        return set(re.findall(r"(account-\d+) booking", self.said(number)))

    def stop(self, number: int) -> None:
        """SIGSTOP, while it has not SQLite's only lock, for which all others would wait."""
        self.database.execute("BEGIN IMMEDIATE")
        pid = self.processes[number].pid
        os.kill(pid, signal.SIGSTOP)
        # One of its threads may be about to lock it, and stops a moment later.
        self.until(lambda: stands_still(pid))
        self.database.execute("ROLLBACK")

    def go_on(self, number: int) -> None:
        os.kill(self.processes[number].pid, signal.SIGCONT)

    def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, self.said(0) + self.said(1)
            time.sleep(0.05)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.database.close()


@pytest.fixture
def members(vhost: Vhost, tmp_path: Path) -> Iterator[Members]:
    running = Members(tmp_path, vhost.amqp_url)
    yield running
    running.close()


async def publish(url: str) -> None:
    async with Publisher(url, group="accounts") as publisher:
        await publisher.publish_many(
            ({"number": number, "amount": 1}, f"account-{account}")
            for number in range(1, BOOKINGS + 1)
            for account in range(ACCOUNTS)
        )


@pytest.mark.timeout(900)
def test_what_a_zombie_writes_is_refused_and_every_booking_counts_once(
    members: Members, vhost: Vhost
) -> None:
    asyncio.run(publish(vhost.amqp_url))
    members.until(lambda: members.accounts_of(0) and members.accounts_of(1))
    members.stop(0)
    own = members.accounts_of(0)
    members.until(lambda: own <= members.accounts_of(1))
    members.go_on(0)
    members.until(lambda: "refused:" in members.said(0))
    done = f"SELECT count(*) FROM account WHERE latest = {BOOKINGS}"
    members.until(lambda: members.database.execute(done).fetchone() == (ACCOUNTS,))
    assert set(members.database.execute("SELECT balance FROM account")) == {(BOOKINGS,)}


def test_the_fence_lets_pass_who_owns_it_and_later_owners(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "accounts.db")
    database.executescript(file_of_the_page("account.sql"))
    (statement,) = re.findall(r'WRITE = """\n(.*?)"""', file_of_the_page("accounts.py"), re.DOTALL)
    statement = re.sub(r"%\((\w+)\)s", r":\1", statement)

    def write(token: int) -> int:
        values = {"name": "a", "balance": token, "number": token, "token": token}
        return database.execute(statement, values).rowcount

    assert [write(token) for token in (7, 7, 9, 7, 8, 9, 10)] == [1, 1, 1, 0, 0, 1, 1]
