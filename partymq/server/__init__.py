"""The HTTP API, metrics, logs and the life of a server process.

Only adapters: what a call means is decided in `group` and carried out by `coordinator`.
"""
