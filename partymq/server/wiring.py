"""Where the rooms are put together: the settings' groups become running ones."""

import os
import socket

from partymq.config import AnyGroup, PullGroupSettings, Settings
from partymq.coordinator.instance import GroupInstance
from partymq.coordinator.pull_instance import PullInstance
from partymq.server.face import RunnableGroup


def make_group(settings: Settings, group: AnyGroup) -> RunnableGroup:
    """A group as this process has it; `run` it."""
    instance, call_timeout = instance_name(), settings.call_timeout
    if isinstance(group, PullGroupSettings):
        return PullInstance(settings.broker, group, instance=instance, call_timeout=call_timeout)
    return GroupInstance(settings.broker, group, instance=instance, call_timeout=call_timeout)


def instance_name() -> str:
    """This process's name, for people."""
    return f"{socket.gethostname()}/{os.getpid()}"
