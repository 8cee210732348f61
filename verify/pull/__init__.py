"""The soak: a pull group of real processes under random faults, every message of every key checked."""
