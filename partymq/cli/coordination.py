"""What the coordinator of a pull group says of it: who has what, and how far a resize is."""

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partymq.amqp.connection import Connection

_ACCESS_REFUSED = 403
_NOBODY = "nobody: no member is running, and no server that coordinates"


async def ask_coordinator(connection: "Connection", group: str, timeout: float = 2.0) -> dict[str, Any]:
    """What its coordinator answers within so many seconds; `coordinator` is None where nobody does, or it may
    not be asked, and `uncoordinated` says why. Raises BrokerError."""
    from uuid import uuid4

    from partymq.amqp.queues import look_at
    from partymq.coordinator.commands import CommandClient
    from partymq.errors import BrokerError, NoCoordinator
    from partymq.group.names import coordinator_queue
    from partymq.group.wire import Describe

    try:
        found = await look_at(connection, coordinator_queue(group))
        if found is None or not found.consumers:
            return {"coordinator": None, "uncoordinated": _NOBODY}
        client = CommandClient(connection, group, timeout=timeout, queue_type=None)
        await client.start()
        said = (await client.call(uuid4().hex, Describe())).description
    except NoCoordinator as error:
        return {"coordinator": None, "uncoordinated": str(error)}
    except BrokerError as error:
        refused = _refused(error)
        if refused is None:
            raise
        return {"coordinator": None, "uncoordinated": f"it can't be asked: {refused}"}
    return dict(said or {"coordinator": None, "uncoordinated": "its coordinator says nothing"})


def _refused(error: BaseException) -> str | None:
    """Which permission is missing, in the broker's words; None where that is not what is wrong."""
    from partymq.errors import ChannelClosed

    closed = error if isinstance(error, ChannelClosed) else error.__cause__
    if not isinstance(closed, ChannelClosed) or closed.code != _ACCESS_REFUSED:
        return None
    return closed.text.removeprefix("ACCESS_REFUSED - ")


def summary(said: dict[str, Any]) -> dict[str, Any]:
    """Of what a coordinator says, what is of interest here."""
    if said["coordinator"] is None:
        return {"coordinator": None, "uncoordinated": said["uncoordinated"], "members": []}
    return {
        "coordinator": said["coordinator"],
        "coordinates_since": said["coordinates_since"],
        "epoch": said["epoch"],
        "generation": said["generation"],
        "rebalancing": said["rebalancing"],
        "resizing": said.get("resizing"),
        "members": [
            {
                "name": member["hostname"],
                "state": member["state"],
                "partitions": member["partitions"],
                "old_partitions": member.get("retiring", []),
                "heard_seconds_ago": member["heartbeat_age"],
            }
            for member in said["members"]
        ],
    }


def owners(said: dict[str, Any], layout: int) -> dict[int, tuple[str | None, int]]:
    """Owner and fencing token of the partitions of a layout; empty where nobody says it."""
    return {
        one["partition"]: (one["owner"], one["fencing_token"])
        for one in said.get("partitions", ())
        if one.get("layout", layout) == layout
    }


def lines(told: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary for people, but for its members."""
    if told["coordinator"] is None:
        return [("coordinator", told["uncoordinated"])]
    since = when(told["coordinates_since"])
    found = [
        ("coordinator", f"{told['coordinator']}, since {since}, epoch {told['epoch']}"),
        ("generation", f"{told['generation']}" + (", rebalancing" if told["rebalancing"] else "")),
    ]
    resizing = told["resizing"]
    if resizing is not None:
        text = f"{resizing['retired']} of the {resizing['partitions']} old partitions are done with"
        found.append(("resizing", text))
    return found


def member_rows(told: dict[str, Any]) -> list[list[object]]:
    """Name, state, partitions, old partitions, seconds since it was heard."""
    return [
        [
            one["name"],
            one["state"],
            ranges(one["partitions"]),
            ranges(one["old_partitions"]),
            f"{one['heard_seconds_ago']:.1f} s ago",
        ]
        for one in told["members"]
    ]


def when(seconds: float) -> str:
    """A Unix time, in this machine's time zone."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


def ranges(numbers: Iterable[int]) -> str | None:
    """`0-3,7`; None where there are none."""
    ordered = sorted(numbers)
    if not ordered:
        return None
    starts = [ordered[0], *(after for before, after in pairwise(ordered) if after != before + 1)]
    ends = [*(before for before, after in pairwise(ordered) if after != before + 1), ordered[-1]]
    return ",".join(
        str(first) if first == last else f"{first}-{last}" for first, last in zip(starts, ends, strict=True)
    )
