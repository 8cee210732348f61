"""The promises under thousands of random schedules: a broker, members and instances in virtual time.

`python -m tests.simulation --seed N --verbose` plays one schedule again and tells its story.
"""
