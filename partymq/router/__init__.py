"""From the source to the members' queues: in order, confirmed before acked, held while a partition moves.

`core` decides and is pure; `session` does the IO; `Router` is what the coordinator uses.
"""

from partymq.router.router import Router
from partymq.router.settings import RouterSettings

__all__ = ["Router", "RouterSettings"]
