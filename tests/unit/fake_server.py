"""A whole server process around fake groups, for tests of its life.

    python -m tests.unit.fake_server [SECONDS THAT STOPPING TAKES] [HOW THE GROUP ENDS]

Settings come from the environment, as for `partymq serve`. The second argument: `config` or `bug`.
"""

import asyncio
import os
import sys

import uvloop

from partymq.config import AnyGroup, Settings, load
from partymq.errors import ConfigError
from partymq.server import lifecycle, logs
from tests.unit.fake_group import FakeGroup

ENDS = {
    "config": ConfigError("64 partitions are saved, 32 are set"),
    "bug": ZeroDivisionError("a bug at amqp://user:s3cret@host"),
}


def main() -> int:
    stop_takes = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    ends = ENDS[sys.argv[2]] if len(sys.argv) > 2 else None

    def make_group(_: Settings, group: AnyGroup) -> FakeGroup:
        fake = FakeGroup(group.name)
        fake.stop_takes, fake.run_ends = stop_takes, ends
        return fake

    settings = load(None, os.environ).settings
    listener = lifecycle.listen(settings.http)
    logs.set_up(settings.log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(lifecycle.run(settings, make_group, listener))


sys.exit(main())
