"""Settings: from a TOML file and the environment to checked, immutable objects.

`load` reads and checks them, `to_toml` shows what is in force.
"""

from partymq.config.kinds import ManagementUrl
from partymq.config.load import CONFIG_FILE_ENV, Configuration, load
from partymq.config.pull import PullGroupSettings
from partymq.config.settings import (
    AnyGroup,
    BrokerSettings,
    GroupSettings,
    HeartbeatSettings,
    HttpSettings,
    KeySettings,
    LogSettings,
    Settings,
)
from partymq.config.show import to_toml

__all__ = [
    "CONFIG_FILE_ENV",
    "AnyGroup",
    "BrokerSettings",
    "Configuration",
    "GroupSettings",
    "HeartbeatSettings",
    "HttpSettings",
    "KeySettings",
    "LogSettings",
    "ManagementUrl",
    "PullGroupSettings",
    "Settings",
    "load",
    "to_toml",
]
