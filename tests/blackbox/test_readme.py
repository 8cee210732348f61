"""The member that the README shows, as it stands there, against a running server."""

import re
import subprocess
import sys
from pathlib import Path

from tests.blackbox.outsider import until

README = Path(__file__).parents[2] / "README.md"


def test_the_member_in_the_readme_works(serve, publish, vhost, tmp_path):
    served = serve().ready()
    (code,) = re.findall(
        r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    for shown, here in (
        ("http://localhost:8085", served.api.base),
        ("amqp://guest:guest@localhost:5672", vhost.amqp_url),
    ):
        assert shown in code
        code = code.replace(shown, here)
    member, printed = tmp_path / "member.py", tmp_path / "printed"
    member.write_text(code, encoding="utf-8")
    with printed.open("wb") as output:
        process = subprocess.Popen([sys.executable, member], stdout=output, stderr=subprocess.STDOUT)
    try:
        publish(range(30), keys=3)
        until(lambda: len(printed.read_text().splitlines()) >= 30, what=printed.read_text)
        assert served.api.call("pod-1", "heartbeat").status == 200
        assert served.api.call("pod-1", "unbind").status == 200
    finally:
        process.kill()
        process.wait()
    assert sorted(printed.read_text().splitlines()) == sorted(f"key-{n % 3} {n}" for n in range(30))
