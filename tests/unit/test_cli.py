"""The command line: what a start that cannot be says, and with which exit code it ends."""

import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import partymq
from partymq.cli.coordination import ranges

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARTYMQ_")}
    return subprocess.run(
        [sys.executable, "-m", "partymq", *arguments],
        env={**kept, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_version_is_told():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"partymq {partymq.__version__}\n")


def test_a_wrong_setting_ends_the_start_with_one_line_and_2():
    done = run("serve", PARTYMQ_KEY_CONFIG_SOURCE="headr")
    assert done.returncode == 2
    assert done.stderr == (
        'partymq: PARTYMQ_KEY_CONFIG_SOURCE="headr": allowed are header, body, routing_key, property\n'
    )


def test_a_wrong_file_ends_the_start_with_one_line_and_2(tmp_path):
    file = tmp_path / "partymq.toml"
    file.write_text("[groups.default]\nprefetch = 1")
    done = run("serve", "--config", str(file))
    assert done.returncode == 2
    assert done.stderr == (
        f"partymq: {file}: groups.default.prefetch = 1: allowed are whole numbers from 2 to 65535\n"
    )


def test_a_busy_port_ends_the_start_with_one_line_and_1():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        done = run("serve", PARTYMQ_HTTP_HOST="127.0.0.1", PARTYMQ_HTTP_PORT=port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"partymq: HTTP cannot listen on 127.0.0.1:{port}: Address already in use")
    assert done.stderr.count("\n") == 1


def test_the_settings_in_force_are_shown_with_secrets_masked(tmp_path):
    file = tmp_path / "partymq.toml"
    file.write_text("[groups.default]\nprefetch = 10")
    done = run(
        "config",
        PARTYMQ_CONFIG=str(file),
        PARTYMQ_RABBIT_CS="amqp://me:s3cret@host",
        PARTYMQ_PREFETSCH="5",
    )
    assert done.returncode == 0
    assert tomllib.loads(done.stdout)["groups"]["default"]["prefetch"] == 10
    assert "s3cret" not in done.stdout + done.stderr
    assert "did you mean PARTYMQ_PREFETCH?" in done.stderr


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], None), ([4], "4"), ([2, 0, 1], "0-2"), ([9, 0, 1, 4, 8], "0-1,4,8-9")],
)
def test_partitions_are_shown_as_ranges(numbers: list[int], text: str | None):
    assert ranges(numbers) == text
