"""`python -m verify.pull`: a pull group of real processes under random faults."""

import sys

from verify.command import main, parser
from verify.pull.group import Setting
from verify.pull.run import run

if __name__ == "__main__":
    command = parser("verify.pull", __doc__, pause=2.0)
    Setting.add_options(command)
    sys.exit(main(command, run, sys.argv[1:]))
