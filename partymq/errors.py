"""Every error PartyMQ raises, as one tree.

PartyMQError
├── ConfigError            a setting is wrong; names the setting, the value, what is allowed
├── BrokerError            something between us and RabbitMQ
│   ├── ConnectionLost     the connection is gone (closed, cut, timed out, refused)
│   ├── ChannelClosed      the broker closed one channel, with its code and text
│   ├── CallTimeout        an answer did not come in time
│   ├── ProtocolError      bytes that are not AMQP 0-9-1, or not allowed here
│   └── NodeError          a private node could not be started, stopped or asked
│       └── BrokerNotInstalled   there is no rabbitmq-server on this machine
└── GroupError             a call that the group's state does not allow
    ├── AlreadyPending     bind while the hostname's bind waits for ready
    ├── NotBound           ready without bind
    ├── AlreadyReady       ready twice
    ├── UnknownMember      no member of that name (any more)
    ├── InvalidHostname    not a usable member name
    ├── UnknownGroup       no group of that name
    ├── GroupFull          no room for another member
    └── NoCoordinator      nobody answered in time; try again
"""


class PartyMQError(Exception):
    """Base of all errors of this package."""


class ConfigError(PartyMQError):
    """A setting is wrong. The message names the setting, its value and what is allowed."""


class BrokerError(PartyMQError):
    """Something between us and the broker failed."""


class ConnectionLost(BrokerError):
    """The connection to the broker is gone; everything unsettled on it will be redelivered."""


class ChannelClosed(BrokerError):
    """The broker closed a channel.

    Attributes:
        code: AMQP reply code, e.g. 404 (not found), 403 (access refused), 405 (resource locked), 406.
        text: the broker's own words.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the broker closed the channel: {code} {text}")
        self.code = code
        self.text = text


class CallTimeout(BrokerError):
    """An answer of the broker did not come in time."""


class ProtocolError(BrokerError):
    """The peer sent bytes that are not valid AMQP 0-9-1, or not allowed at this point."""


class NodeError(BrokerError):
    """A private RabbitMQ node could not be started, stopped or asked."""


class BrokerNotInstalled(NodeError):
    """No rabbitmq-server was found on this machine."""


class GroupError(PartyMQError):
    """A call that the state of the group does not allow."""


class AlreadyPending(GroupError):
    """The hostname has been bound already and has not said `ready` yet."""


class NotBound(GroupError):
    """`ready` came from a hostname that was not bound before."""


class AlreadyReady(GroupError):
    """`ready` came from a hostname that is ready."""


class UnknownMember(GroupError):
    """No member of that name, or no more: it has to bind again."""


class InvalidHostname(GroupError):
    """The text can't name a member."""


class UnknownGroup(GroupError):
    """No group of that name is configured."""


class GroupFull(GroupError):
    """The group has as many members as it can have."""


class NoCoordinator(GroupError):
    """No coordinator answered in time; the call can be repeated."""
