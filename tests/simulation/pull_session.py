"""What a member of a pull group knows of itself while it has one pair of connections."""

from collections.abc import Callable
from dataclasses import dataclass

from partymq.client.guard import Guard
from partymq.group.duties import Duties
from partymq.group.layout import GroupLayout
from tests.simulation.broker import Channel, Connection
from tests.simulation.pull_wire import Wire


@dataclass(slots=True, eq=False)
class Session:
    """A member on one pair of connections."""

    who: str
    control: str
    data: Connection
    voice: Channel
    duties: Duties
    wire: Wire
    """Its `data`."""
    guard: Guard
    layout: GroupLayout | None = None
    told: bool = False
    """Whether an assignment took it for a member."""
    on_told: Callable[[], None] | None = None
    """Called when the first one does, while it waits for the answer to `ready`."""
    idle: tuple[int, ...] = ()
    """What it has said to have nothing of."""
    watching: bool = False
    joined: bool = False
    departed: bool = False
    """Whether it has said its last word."""
    telling: bool = False
    """Whether it waits for the answer to its farewell."""
    over: bool = False
