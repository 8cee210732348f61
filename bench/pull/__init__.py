"""Measures pull groups: what a consumer costs, how fast a group is and reacts. `python -m bench.pull`."""
