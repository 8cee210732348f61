"""`python -m partymq` is the console script `partymq`."""

from partymq.cli import main

main()
