"""The programs that the README shows, as they stand there: the push member against a running server, the pull
member and its publisher against a broker."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.blackbox.outsider import until

README = Path(__file__).parents[2] / "README.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def program(first_line: str, replaced: dict[str, str]) -> str:
    """The one that begins so, with addresses of here."""
    (code,) = (code for code in PROGRAMS if code.startswith(first_line))
    for shown, here in replaced.items():
        assert shown in code
        code = code.replace(shown, here)
    return code


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`start(code)` runs a program until the end of the test; the file that it prints to."""
    running = []

    def run(code: str) -> Path:
        file, printed = tmp_path / "program.py", tmp_path / "printed"
        file.write_text(code, encoding="utf-8")
        with printed.open("wb") as output:
            running.append(subprocess.Popen([sys.executable, file], stdout=output, stderr=subprocess.STDOUT))
        return printed

    yield run
    for process in running:
        process.kill()
        process.wait()


def test_the_member_in_the_readme_works(serve, publish, vhost, start):
    served = serve().ready()
    addresses = {
        "http://localhost:8085": served.api.base,
        "amqp://guest:guest@localhost:5672": vhost.amqp_url,
    }
    printed = start(program("import json", addresses))
    publish(range(30), keys=3)
    until(lambda: len(printed.read_text().splitlines()) >= 30, what=printed.read_text)
    assert served.api.call("pod-1", "heartbeat").status == 200
    assert served.api.call("pod-1", "unbind").status == 200
    assert sorted(printed.read_text().splitlines()) == sorted(f"key-{n % 3} {n}" for n in range(30))


def test_the_pull_member_and_the_publisher_in_the_readme_work(vhost, start):
    addresses = {"amqp://guest:guest@localhost:5672": vhost.amqp_url}
    printed = start(program("from partymq import Consumer", addresses))
    publisher = program("from partymq import SyncPublisher", addresses)
    subprocess.run([sys.executable, "-c", publisher], check=True, timeout=60)
    until(lambda: "customer-42 {'amount': 7}\n" in printed.read_text(), what=printed.read_text)
