"""Chaos: real processes under random faults, and every message of every key checked. `python -m verify`."""
