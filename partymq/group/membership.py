"""Who is a member, and in which state of its life: calls, heartbeats, what the broker says of its queue.

It changes `GroupState.members` and nothing else; what follows for the partitions is the coordinator's.
"""

from dataclasses import dataclass
from typing import Final

from partymq.group.events import Learned, Observed
from partymq.group.state import GONE, TRANSITIONS, GroupState, Member, MemberState, SetAside, Step
from partymq.group.wire import Bind, Heartbeat, MemberCall, Ready, Status, Unbind

MOST_MEMBERS: Final = 2000
"""Members of one group, of all states. Keeps the state message small."""
RETRY_MOST: Final = 60.0
"""Seconds between two tries of the same thing at most."""
_LONG_GAP: Final = 3.0
"""Seconds between two ticks after which the process is taken to have been stopped meanwhile: what members
have said in that time is still to be heard. Less where patience is short, but never less than a second."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When patience ends; all in seconds. What a member has said of itself counts more."""

    expires_after: float = 120.0
    """Without a heartbeat, a member is lost."""
    pending_expires_after: float = 120.0
    """A bound member that does not get ready is forgotten."""
    consumer_grace: float = 1.0
    """A queue that had a consumer and has none for so long cannot be served."""
    drain_retry: float = 2.0
    """After a hand-over was put off the next try waits so long, doubling up to a minute."""
    recover_retry: float = 1.0
    """A member that was set aside is tried again after so long, doubling up to a minute."""
    learn_queue: float = 3.0
    """So long the name of a ready member's queue may take to become known, before it gets messages all the
    same, and an earlier queue is taken to be another one."""
    settle: float = 0.0
    """Members that join within so long of one another are given partitions together; see `Settling`."""
    settle_most: float = 1.0
    """But who has joined waits for others no longer than that."""


@dataclass(slots=True)
class Watch:
    """What is known of a member but not saved: a new coordinator starts afresh. Monotonic seconds."""

    heard: float
    entered: float
    consumer_seen: bool = False
    consumerless_since: float | None = None
    exists: bool | None = None
    bound: bool | None = None
    other_queue: str | None = None
    """Another queue that is said to be the member's, while the one that is known may be there still."""
    unreachable: bool = False
    """A message for it came back: what is held for it must not be sent after it."""
    drain_at: float = 0.0
    drain_wait: float = 0.0
    recover_at: float = 0.0
    recover_wait: float = 0.0


class Membership:
    """The members of a group and their lives. Sets `changed` whenever there is something to save."""

    def __init__(self, state: GroupState, timing: Timing) -> None:
        self._members = state.members
        self._timing = timing
        self._last_tick = 0.0
        self.wall_offset = 0.0
        """Unix seconds minus monotonic seconds."""
        self.watches: dict[str, Watch] = {}
        self.changed = False

    def start(self, now: float, wall: float) -> None:
        """Begin to watch: every member gets its full time to be heard again."""
        self._last_tick = now
        self.wall_offset = wall - now
        self.watches = {name: Watch(heard=now, entered=now) for name in self._members}
        for name, member in self._members.items():
            if member.reason is SetAside.RETURNED and member.queue is not None:
                self.watches[name].exists = False  # until it is seen

    def call(self, request_id: str, call: MemberCall, now: float) -> Status:
        """A member's call. A call that is not allowed changes nothing."""
        match call:
            case Bind(hostname, queue) | Unbind(hostname, queue) if self._is_late(hostname, queue):
                return Status.OK
            case Bind(hostname):
                return self._bind(hostname, request_id, now)
            case Ready():
                return self._ready(call, request_id, now)
            case Unbind(hostname):
                member = self._members.get(hostname)
                if member is not None and member.unbind_request != request_id:
                    member.unbind_request = request_id
                    self._step(hostname, Step.UNBIND, now)
                return Status.OK
            case Heartbeat(hostname):
                member = self._members.get(hostname)
                if member is None or member.state in GONE:
                    return Status.UNKNOWN_MEMBER
                self.watches[hostname].heard = now
                return Status.OK

    def tick(self, now: float) -> None:
        """Let time pass: members expire, are set aside, recover."""
        timing = self._timing
        if now - self._last_tick > min(_LONG_GAP, max(1.0, self._shortest() / 2)):
            self.forgive(now)
        self._last_tick = now
        for hostname, member in self._members.items():
            watch = self.watches[hostname]
            no_consumer = watch.consumerless_since
            if self._expired(member, watch, now):
                self._step(hostname, Step.EXPIRE, now)
            elif no_consumer is not None and now - no_consumer >= timing.consumer_grace:
                self.set_aside(hostname, SetAside.NO_CONSUMER, now)
            elif member.state is MemberState.SET_ASIDE:
                self._recover(hostname, now)

    def forgive(self, now: float) -> None:
        """Give every member its full time again: it could not be heard."""
        for watch in self.watches.values():
            watch.heard = watch.entered = now
            if watch.consumerless_since is not None:
                watch.consumerless_since = now

    def observed(self, seen: Observed, now: float) -> None:
        """What the broker says about a member's queue."""
        member = self._members.get(seen.hostname)
        if member is None or member.incarnation != seen.incarnation:
            return
        watch = self.watches[seen.hostname]
        watch.exists = seen.exists
        if seen.bound is not None:
            watch.bound = seen.bound
        if seen.consumers:
            watch.consumer_seen = True
        idle = seen.consumers == 0 and watch.consumer_seen and member.state is MemberState.READY
        if not idle:
            watch.consumerless_since = None
        elif watch.consumerless_since is None:
            watch.consumerless_since = now
        if member.state is MemberState.READY and not seen.exists:
            if watch.other_queue is not None:
                # What has been sent to it since is there.
                self._take_queue(member, watch.other_queue)
            else:
                self.set_aside(seen.hostname, SetAside.RETURNED, now)
        elif member.state is MemberState.SET_ASIDE:
            self._recover(seen.hostname, now)

    def learned(self, news: Learned, now: float) -> bool:
        """The name of a member's queue; False where it is no news.

        A client whose library recovers by itself may have another queue without a word.
        """
        member = self._members.get(news.hostname)
        if member is None or member.incarnation != news.incarnation or member.queue == news.queue:
            return False
        if member.state is MemberState.PENDING:
            return False  # it says so when it is ready
        watch = self.watches[news.hostname]
        usable = member.queue is not None and watch.exists is not False and watch.bound is not False
        if usable and (watch.consumer_seen or now - watch.entered < self._timing.learn_queue):
            watch.other_queue = news.queue
            return False  # somebody listens in, or an earlier incarnation has not ended yet
        self._take_queue(member, news.queue)
        if member.state is MemberState.SET_ASIDE and member.reason is SetAside.RETURNED:
            self._step(news.hostname, Step.RECOVER, now)
        return True

    def may_become_known(self, member: Member, now: float) -> bool:
        """Whether the name of its queue may still be learnt: it has become ready a short while ago."""
        entered = self.watches[member.hostname].entered
        return member.state is MemberState.READY and now - entered < self._timing.learn_queue

    def unroutable(self, hostname: str, reason: SetAside, now: float) -> None:
        """A message for a member came back."""
        if hostname in self._members:
            self.set_aside(hostname, reason, now)
            self.watches[hostname].unreachable = True

    def set_aside(self, hostname: str, reason: SetAside, now: float) -> None:
        """A ready member cannot receive; any other stays as it is."""
        watch = self.watches[hostname]
        if now - watch.entered > RETRY_MOST:
            watch.recover_wait = 0.0  # it was well for long
        if not self._step(hostname, Step.SET_ASIDE, now, reason):
            return
        watch.recover_wait = min(max(self._timing.recover_retry, 2 * watch.recover_wait), RETRY_MOST)
        watch.recover_at = now + watch.recover_wait

    def forget(self, hostname: str) -> None:
        """A member is no more."""
        del self._members[hostname]
        del self.watches[hostname]
        self.changed = True

    def put_off(self, hostname: str, now: float) -> None:
        """The next try to move what the member owns has to wait."""
        watch = self.watches[hostname]
        watch.drain_wait = min(max(self._timing.drain_retry, 2 * watch.drain_wait), RETRY_MOST)
        watch.drain_at = now + watch.drain_wait

    def try_again(self) -> None:
        """What was put off is worth another try at once: somebody came or went, or a queue is done with."""
        for watch in self.watches.values():
            watch.drain_at = 0.0

    def _is_late(self, hostname: str, queue: str | None) -> bool:
        """Whether a process that says farewell is no member any more, or another one has its name."""
        if queue is None:
            return False
        member = self._members.get(hostname)
        joining = (MemberState.PENDING, MemberState.REBINDING)
        return member is None or member.queue != queue or member.state in joining

    def _bind(self, hostname: str, request_id: str, now: float) -> Status:
        member = self._members.get(hostname)
        if member is None:
            if len(self._members) >= MOST_MEMBERS:
                return Status.GROUP_FULL
            since = now + self.wall_offset
            member = Member(hostname, MemberState.PENDING, since, bind_request=request_id)
            self._members[hostname] = member
            self.watches[hostname] = Watch(heard=now, entered=now)
            self.changed = True
            return Status.OK
        if member.bind_request == request_id:
            return Status.OK
        if not self._step(hostname, Step.BIND, now):
            return Status.ALREADY_PENDING
        member.incarnation += 1
        member.bind_request = request_id
        self.watches[hostname].heard = now
        return Status.OK

    def _ready(self, call: Ready, request_id: str, now: float) -> Status:
        hostname = call.hostname
        member = self._members.get(hostname)
        if member is None or member.state in GONE:
            return Status.NOT_BOUND
        if member.ready_request == request_id:
            return Status.OK
        if not self._step(hostname, Step.READY, now):
            return Status.ALREADY_READY
        member.ready_request = request_id
        self.watches[hostname].heard = now
        self._use_queue(member, call.queue)
        member.session_timeout, member.rejoin_grace = call.session_timeout, call.rejoin_grace
        return Status.OK

    def _take_queue(self, member: Member, queue: str) -> None:
        """A ready member has this queue now, without a word."""
        self._use_queue(member, queue)
        watch = self.watches[member.hostname]
        watch.exists = watch.bound = watch.other_queue = None
        self.changed = True

    @staticmethod
    def _use_queue(member: Member, queue: str | None) -> None:
        """The member's queue is this one now. What it has in others goes first."""
        others = [*member.old_queues, *([member.queue] if member.queue is not None else [])]
        member.old_queues = [other for other in dict.fromkeys(others) if other != queue]
        member.queue = queue

    def _step(self, hostname: str, step: Step, now: float, reason: SetAside = SetAside.NONE) -> bool:
        """Move a member on in its life; False, and nothing changed, where the table does not allow it."""
        member = self._members[hostname]
        to = TRANSITIONS.get((member.state, step))
        if to is None:
            return False
        if to is not member.state:
            member.since = now + self.wall_offset
        member.state = to
        member.reason = reason
        watch = self.watches[hostname]
        watch.entered = now
        watch.consumer_seen = False
        if to is MemberState.READY:
            watch.unreachable = False
        watch.consumerless_since = None
        if step in (Step.BIND, Step.READY):
            watch.exists = watch.bound = watch.other_queue = None
        watch.drain_wait = 0.0
        self.try_again()
        self.changed = True
        return True

    def _expires_after(self, member: Member) -> float:
        own = member.session_timeout
        return own + member.rejoin_grace if own else self._timing.expires_after

    def _pending_expires_after(self, member: Member) -> float:
        own = member.session_timeout
        return max(own, member.rejoin_grace) if own else self._timing.pending_expires_after

    def _shortest(self) -> float:
        """The least time in which anybody expires."""
        return min(map(self._expires_after, self._members.values()), default=self._timing.expires_after)

    def _expired(self, member: Member, watch: Watch, now: float) -> bool:
        match member.state:
            case MemberState.PENDING:
                return now - watch.entered >= self._pending_expires_after(member)
            case MemberState.REBINDING:
                if now - watch.entered >= self._pending_expires_after(member):
                    return True
            case MemberState.SET_ASIDE:
                # Nothing it does by itself will help; told to bind again, it will bind its queue again, too.
                gone = now - watch.entered >= self._expires_after(member)
                if member.reason is SetAside.RETURNED and gone:
                    return True
            case MemberState.LEAVING | MemberState.LOST:
                return False
        return now - watch.heard >= self._expires_after(member)

    def _recover(self, hostname: str, now: float) -> None:
        watch = self.watches[hostname]
        if now < watch.recover_at or watch.exists is False:
            return
        match self._members[hostname].reason:
            case SetAside.NO_CONSUMER:
                usable = watch.consumer_seen
            case SetAside.RETURNED:
                usable = watch.bound is not False
            case _:
                usable = True
        if usable:
            self._step(hostname, Step.RECOVER, now)
