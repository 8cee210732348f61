"""Measures what PartyMQ costs and how fast it is, beside other ways to do the same job. `python -m bench`.

It is no part of the package. How to read the figures: docs/benchmarks.md.
"""
