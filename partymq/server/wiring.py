"""Where the rooms are put together: the settings' groups become running ones."""

import os
import socket

from partymq.config import GroupSettings, Settings
from partymq.coordinator.instance import GroupInstance
from partymq.server.face import RunnableGroup


def make_group(settings: Settings, group: GroupSettings) -> RunnableGroup:
    """A group as this process has it; `run` it."""
    return GroupInstance(settings.broker, group, instance=instance_name(), call_timeout=settings.call_timeout)


def instance_name() -> str:
    """This process's name, for people."""
    return f"{socket.gethostname()}/{os.getpid()}"
