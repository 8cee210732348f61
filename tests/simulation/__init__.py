"""The promises under thousands of random schedules: a broker, members and instances in virtual time.

Pull groups (`pull_*.py`) are played with the real coordinator, duties, lanes, publisher and steps of a
resize; their coroutines run in an event loop of virtual time.

`python -m tests.simulation --mode pull --seed N --verbose` plays one schedule again and tells its story.
"""
