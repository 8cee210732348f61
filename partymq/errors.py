"""Every error PartyMQ raises, as one tree.

    PartyMQError
    ├── ConfigError            a setting is wrong; names the setting, the value, what is allowed
    ├── BrokerError            something between us and RabbitMQ
    │   ├── ConnectionLost     the connection is gone (closed, cut, timed out, refused)
    │   │   └── LoginRefused   the broker is there but does not let us in: credentials, virtual host
    │   ├── ChannelClosed      the broker closed one channel, with its code and text
    │   ├── CallTimeout        an answer did not come in time
    │   ├── Unroutable         a published message came back: no queue is bound for it
    │   ├── Nacked             the broker did not take over a published message
    │   ├── ManagementUnavailable   the management API does not answer as hoped
    │   ├── LeaseLost          this instance is not the coordinator any more
    │   ├── ProtocolError      bytes that are not AMQP 0-9-1, or not allowed here
    │   └── NodeError          a private node could not be started, stopped or asked
    │       └── BrokerNotInstalled   there is no rabbitmq-server on this machine
    ├── GroupError             a call that the group's state does not allow
    │   ├── AlreadyPending     bind while the hostname's bind waits for ready
    │   ├── NotBound           ready without bind
    │   ├── AlreadyReady       ready twice
    │   ├── UnknownMember      no member of that name (any more)
    │   ├── InvalidHostname    not a usable member name
    │   ├── UnknownGroup       no group of that name
    │   ├── WrongMode          a call that is for groups of the other mode
    │   ├── GroupFull          no room for another member
    │   └── NoCoordinator      nobody answered in time; try again
    ├── HandlerFailed          a handler failed for good, and the consumer was to stop then
    ├── Undecodable            a message's body is not of the type that its handler asks for
    ├── ListenError            the HTTP API cannot listen on its address
    └── RequestError           an HTTP request that is not taken
        ├── BodyTooLarge       its body is over the limit
        ├── BodyTooSlow        its body did not come in time
        └── InvalidBody        its body is not what it should be

The text of each says what was tried, what was found, and what to do.
"""


class PartyMQError(Exception):
    """Base of all errors of this package."""


class ConfigError(PartyMQError):
    """A setting is wrong. The message names the setting, its value and what is allowed."""


class BrokerError(PartyMQError):
    """Something between us and the broker failed."""


class ConnectionLost(BrokerError):
    """The connection to the broker is gone; everything unsettled on it will be redelivered."""


class LoginRefused(ConnectionLost):
    """The broker answers but does not let us in; it will not until a setting here or there is changed."""


class ChannelClosed(BrokerError):
    """A channel is closed: by the broker, or by ourselves (then the code is 200).

    Attributes:
        code: AMQP reply code, e.g. 404 (not found), 403 (access refused), 405 (resource locked), 406. For a
            classic queue whose node is away it is 506 (resource error), where the broker says 404.
        text: the broker's own words.
    """

    def __init__(self, code: int, text: str) -> None:
        by = "the broker closed the channel" if code != 200 else "the channel is closed"
        super().__init__(f"{by}: {code} {text}")
        self.code = code
        self.text = text

    @property
    def in_exclusive_use(self) -> bool:
        """Whether somebody else consumes the queue alone; the code is that of a missing permission."""
        return self.code == 403 and "exclusive" in self.text


class CallTimeout(BrokerError):
    """An answer of the broker did not come in time."""


class Unroutable(BrokerError):
    """A message published as mandatory came back, because no queue is bound for it.

    Attributes:
        code: AMQP reply code, 312 (no route) as a rule.
        text: the broker's own words.
    """

    def __init__(self, code: int, text: str, exchange: str, routing_key: str) -> None:
        super().__init__(
            f"the message to exchange {exchange!r}, key {routing_key!r} came back: {code} {text}"
        )
        self.code = code
        self.text = text


class Nacked(BrokerError):
    """The broker did not take over a message: nobody has it but the caller."""


class ManagementUnavailable(BrokerError):
    """The broker's management API does not answer, or not as hoped."""


class LeaseLost(BrokerError):
    """This instance is not the group's coordinator any more: the broker gave the state to another."""


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


class WrongMode(GroupError):
    """The call is for push groups, and this is a pull group, or the other way round."""


class GroupFull(GroupError):
    """The group has as many members as it can have."""


class NoCoordinator(GroupError):
    """No coordinator answered in time; the call can be repeated."""


class HandlerFailed(PartyMQError):
    """A handler failed for good, and `on_failure` is `stop`. The handler's error is the cause."""


class Undecodable(PartyMQError):
    """A message's body can't be decoded into the type that its handler asks for."""


class ListenError(PartyMQError):
    """The HTTP API cannot listen where it is told to."""


class RequestError(PartyMQError):
    """An HTTP request is not taken."""


class BodyTooLarge(RequestError):
    """The body is over the limit."""


class BodyTooSlow(RequestError):
    """The body did not come in time."""


class InvalidBody(RequestError):
    """The body is not what it should be; the message says why."""
