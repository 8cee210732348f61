"""A process that is a member of a pull group: the real duties, and the calls of `client/membership.py`.

It has two connections, one to consume on and one to speak on, and where the coordinator is embedded a third
one to stand by on. The process can stop, and wake when the broker has given it up.
"""

import asyncio
from collections.abc import Callable, Collection

from partymq.coordinator.layout_store import read_layout
from partymq.coordinator.pull_topology import agree
from partymq.errors import PartyMQError, UnknownMember
from partymq.group.duties import GiveUp, Take
from partymq.group.layout import GroupLayout
from partymq.group.names import layout_and_number
from partymq.group.wire import (
    Assignment,
    Bind,
    Command,
    Heartbeat,
    MemberCall,
    Ready,
    Released,
    Reply,
    Standing,
    Status,
    Unbind,
)
from tests.simulation.broker import Connection, Entry
from tests.simulation.pull_holdings import Holdings, Work
from tests.simulation.pull_loop import Loop
from tests.simulation.pull_scene import CALL_TIMEOUT, COMMANDS, GROUP, Envelope, Scene
from tests.simulation.pull_session import Session
from tests.simulation.pull_term import Candidate
from tests.simulation.pull_wire import Wire
from tests.simulation.world import Process

_UNACKED = 1 << 30
_IDLE_LOOK = 0.25
_AnswerTo = Callable[[Status | None], None]


class PullMember(Process):
    """Attributes:
    name: the member's; `process` is told apart by its number.
    alive: whether the process runs (or hangs). leaving: it is about to end in good order.
    """

    def __init__(
        self, scene: Scene, name: str, number: int, keys: list[bytes], work: Work, *, embedded: bool
    ) -> None:
        super().__init__(scene.world, f"{name}#{number}")
        self.member = name
        self.alive = False
        self.leaving = False
        self.session: Session | None = None
        self.holdings = Holdings(scene, self, keys, work)
        self.candidate = Candidate(scene, self) if embedded else None
        self.loop = Loop(self)
        self._scene = scene
        self._answers: dict[str, _AnswerTo] = {}
        self._sessions = 0

    def __str__(self) -> str:
        return self.name

    # -- the process ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process."""
        self.alive = True
        self.world.tell(self.name, "starts")
        if self.candidate is not None:
            self.timer(self.world.lag(), self.candidate.stand)
        self._connect()

    def leave(self) -> None:
        """SIGTERM; a process that hangs gets it when it wakes."""
        self.run(self.life, self._leave, ())

    def _leave(self) -> None:
        if not self.alive or self.leaving:
            return
        self.world.tell(self.name, "is asked to leave")
        self.leaving = True
        session = self.session
        if session is None or not session.joined:
            self._exit()
            return
        session.duties.leave()
        if not self._comes_back:
            session.telling = True
            self._call(session, Unbind(self.member, session.control), 2, lambda status: self._told(session))
        self._work(session)

    @property
    def _comes_back(self) -> bool:
        return self._scene.settings.rejoin_grace > 0

    def crash(self) -> None:
        """SIGKILL."""
        if not self.alive:
            return
        self.world.tell(self.name, "is killed")
        self._die()
        self.end_life()

    def _die(self) -> None:
        self.alive = False
        session, self.session = self.session, None
        if session is not None:
            session.over = True
            session.voice.connection.cut()
            session.data.cut()
            session.wire.lost()
        self.loop.end()
        if self.candidate is not None:
            self.candidate.kill()

    def _exit(self) -> None:
        """End the process; the connections are closed in good order, first what was said, then the rest."""
        self.world.tell(self.name, "ends")
        self.alive = False
        session, self.session = self.session, None
        if session is not None:
            session.over = True
            session.voice.connection.close()
            session.data.close()
            session.wire.lost()
        self.loop.end()
        if self.candidate is not None:
            self.candidate.close()
        self.end_life()

    # -- connections ---------------------------------------------------------------------------------------

    def cut_data(self, notice: float) -> None:
        """The broker closes the connection that it consumes on."""
        if self.session is not None:
            self.session.data.cut(notice)

    def cut_voice(self, notice: float) -> None:
        """The broker closes the connection that it speaks on."""
        if self.session is not None:
            self.session.voice.connection.cut(notice)

    def connections(self) -> list[Connection]:
        """All that it has."""
        found = [self.session.data, self.session.voice.connection] if self.session is not None else []
        if self.candidate is not None and self.candidate.connection is not None:
            found.append(self.candidate.connection)
        return found

    def _connect(self) -> None:
        if self.session is not None or not self.alive:
            return
        broker = self._scene.broker
        self._sessions += 1
        who = f"{self.name}.{self._sessions}"
        # Whichever is lost ends the session; the broker hears of the other one's end at once.
        data = broker.connect(self, lambda: self._lost(session))
        voice = broker.connect(self, lambda: self._lost(session))
        if data is None or voice is None:
            self.timer(0.2, self._connect)
            return
        control = f"control-{who}"
        voice_channel = voice.channel()
        voice_channel.confirms = False
        duties, wire = self._scene.parts.duties(), Wire(self.loop, data)
        guard = self._scene.parts.guard(self._scene.settings.session_timeout, self.world.now)
        session = self.session = Session(who, control, data, voice_channel, duties, wire, guard)
        self.timer(guard.every, self._look_again, session)
        self._scene.who[data] = who
        broker.declare(control, durable=False, owner=data)
        broker.consume(
            data.channel(), control, _UNACKED, lambda e: self._heard(session, e), lambda: None, no_ack=True
        )
        wish = {"partitions": self._scene.layout.partitions}
        self.loop.begin(
            agree(wire, GROUP, wish),  # type: ignore[arg-type]
            lambda layout: self._agreed(session, layout),
            lambda error: self._fails(session, error),
        )

    def _agreed(self, session: Session, layout: GroupLayout) -> None:
        session.layout = layout
        self._bind(session)

    def _fails(self, session: Session, error: PartyMQError) -> None:
        if not session.over:
            self.world.tell(session.who, "can't go on: %s", error)
            self._end(session)

    def _lost(self, session: Session) -> None:
        if session.over:
            return
        self.world.tell(session.who, "has lost its connection")
        self._end(session)

    def _end(self, session: Session) -> None:
        """The session is over; join again, or end."""
        session.over = True
        session.data.cut()
        session.voice.connection.cut()
        session.wire.lost()
        if self.session is session:
            self.session = None
        self.holdings.lose(session.who)
        if self.leaving:
            self._exit()
        else:
            self.timer(self.world.rng.uniform(0.02, 0.4), self._connect)

    # -- calls ---------------------------------------------------------------------------------------------

    def _tell(self, session: Session, call: Heartbeat | Released | MemberCall, request_id: str = "") -> None:
        envelope = Envelope(Command(request_id, call), session.control, self.world.now + CALL_TIMEOUT)
        self._scene.send(session.voice, COMMANDS, envelope)

    def _call(self, session: Session, call: MemberCall, tries: int, answer: _AnswerTo) -> None:
        """Ask the coordinator; None is the answer when nobody coordinates."""
        request_id = f"r{next(self._scene.requests)}"
        self._answers[request_id] = answer

        def attempt(left: int) -> None:
            if session.over or request_id not in self._answers:
                return
            if left:
                self._tell(session, call, request_id)
                self.timer(CALL_TIMEOUT / tries, attempt, left - 1)
            else:
                self._answers.pop(request_id)(None)

        attempt(tries)

    def _heard(self, session: Session, entry: Entry) -> None:
        if session.over:
            return
        match entry.body:
            case Reply(request_id, status):
                answer = self._answers.pop(request_id, None)
                if answer is not None:
                    answer(status)
            case Assignment() as assignment:
                self._see_gap(session)
                if session.duties.take(assignment):
                    if assignment.standing is Standing.MEMBER:
                        session.told = True
                        self._answered(session, assignment.answers)
                        if session.on_told is not None:
                            session.on_told()
                    self._work(session)
                    self._watch(session)

    # -- the guard -----------------------------------------------------------------------------------------

    def _look_again(self, session: Session) -> None:
        if not session.over:
            self._see_gap(session)
            self._ask(session)
            self.timer(session.guard.every, self._look_again, session)

    def _see_gap(self, session: Session) -> None:
        stood = session.guard.look(self.world.now)
        if stood:
            self.world.tell(session.who, "has stood still for %.2f s", stood)
            self.holdings.heed()

    def _ask(self, session: Session) -> None:
        if session.guard.asks and session.joined and not session.over:
            self._say_heartbeat(session, session.idle)

    def _answered(self, session: Session, asked: float | None) -> None:
        if session.guard.answered(asked, self.world.now) is not None:
            self.world.tell(session.who, "goes on")
        self.holdings.heed()

    # -- joining and leaving -------------------------------------------------------------------------------

    def _bind(self, session: Session) -> None:
        def answered(status: Status | None) -> None:
            if status is None:
                self._bind(session)
            elif status in (Status.OK, Status.ALREADY_PENDING):
                # Of a later try's assignments it can't be told whether they are of before the last `bind`.
                session.on_told = None if session.told else lambda: ready(Status.OK)
                self._call(session, Ready(self.member, session.control), 1, ready)
            else:
                self._end(session)

        def ready(status: Status | None) -> None:
            session.on_told = None
            if session.joined:
                return  # the first assignment was the answer
            if status is None:
                self._bind(session)
            elif status is Status.OK:
                session.joined = True
                session.duties.joined()
                self._beat(session)
                self._work(session)
            else:
                self._end(session)

        if not session.over:
            session.duties.joins()
            self._call(session, Bind(self.member), 2, answered)

    def _beat(self, session: Session) -> None:
        if not session.over:
            self._say_heartbeat(session, self.holdings.idle(session.duties.retiring))
            self.timer(self._scene.settings.session_timeout / 3, self._beat, session)

    def _say_heartbeat(self, session: Session, idle: tuple[int, ...]) -> None:
        duties, session.idle = session.duties, idle
        now = self.world.now
        beat = Heartbeat(self.member, duties.epoch, duties.generation, session.control, idle, now)
        self._tell(session, beat)

    def _watch(self, session: Session) -> None:
        """Look at what is to be emptied, as long as there is something."""
        if not session.watching and session.joined:
            session.watching = True
            self._look(session)

    def _look(self, session: Session) -> None:
        session.watching = not session.over and bool(session.duties.retiring or session.idle)
        if session.watching:
            idle = self.holdings.idle(session.duties.retiring)
            if idle != session.idle:
                self._say_heartbeat(session, idle)
            self.timer(_IDLE_LOOK, self._look, session)

    def _told(self, session: Session) -> None:
        session.telling = False
        self._work(session)

    # -- duties --------------------------------------------------------------------------------------------

    def _work(self, session: Session) -> None:
        """Do what is next, whatever else is under way."""
        if session.departed or session.over or not session.joined:
            return
        duties = session.duties
        if not duties.leaving and duties.standing is not Standing.MEMBER:
            self.world.tell(session.who, "is told that it is %s", duties.standing)
            if duties.standing is Standing.REPLACED:
                self.leaving = True
            self._end(session)
            return
        while (step := duties.next()) is not None:
            duties.begun(step)
            match step:
                case Take(partitions):
                    self.loop.begin(
                        self._gain(session, partitions), None, lambda error: self._fails(session, error)
                    )
                case GiveUp(given):
                    self.holdings.revoke(given, lambda ended: self._gave_up(session, ended))
        self._report(session)
        if duties.leaving and duties.nothing_left and not session.telling:
            self._farewell(session)

    async def _gain(self, session: Session, partitions: dict[int, int]) -> None:
        def gained() -> None:
            session.duties.held(partitions)
            self._ask(session)
            self._stepped(session)

        await asyncio.sleep(self.world.lag())
        for identity in partitions:
            await self._know(session, layout_and_number(identity)[0])
        if not session.over:
            self.holdings.gain(session.who, session.data, partitions, session.guard, gained)

    async def _know(self, session: Session, number: int) -> None:
        """Read the group's settings again where a partition is of a layout that it does not know."""
        for attempt in range(2):
            layout = session.layout
            if layout is not None and number in (layout.layout, layout.layout - bool(layout.previous)):
                return
            if not attempt:
                found = await read_layout(session.wire, GROUP)  # type: ignore[arg-type]
                session.layout = found or layout
        raise UnknownMember(f"the settings know nothing of layout {number}")

    def _gave_up(self, session: Session, partitions: Collection[int]) -> None:
        session.duties.gave_up(partitions)
        self._stepped(session)

    def _stepped(self, session: Session) -> None:
        if not session.over:
            self._work(session)

    def _report(self, session: Session) -> None:
        for handover, released in session.duties.released():
            self._tell(
                session, Released(self.member, session.control, handover, released, session.duties.epoch)
            )

    def _farewell(self, session: Session) -> None:
        session.departed = True
        if not self._comes_back:
            self._tell(session, Released(self.member, session.control, 0, ()))
            self._exit()
        else:
            self._call(session, Bind(self.member, session.control), 2, lambda status: self._exit())
