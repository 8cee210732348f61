"""The main job on real data: a year of flights, per-aircraft order, workers that come, go and crash.

Everything that runs for `partymq demo` and `partymq dev`, and the check of what the workers really did.
"""
