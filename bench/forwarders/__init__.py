"""The same job as the router's, as somebody would write it with a library; programs that know nothing of us.

From a queue to one of several queues by `crc32(key) % 64`, confirmed, acked after the confirm. No members
that come and go, no holds, no hand-over, no second instance.
"""
