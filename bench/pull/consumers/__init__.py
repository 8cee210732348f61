"""The same job with different libraries: consume partition queues, do nothing with a message, ack it, count.

Each program holds back everything until the file `--gate` is there, and notes its count (`tally.py`).
"""
