"""`python -m verify`: a push group of real processes under random faults."""

import sys

from verify.command import main, parser
from verify.run import run

if __name__ == "__main__":
    sys.exit(main(parser("verify", __doc__, pause=3.0), run, sys.argv[1:]))
