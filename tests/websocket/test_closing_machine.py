"""Every order of steps through the closing handshake ends well: what is sent, and what `closed` says."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.config import WebSocketConfig
from engine.errors import LocalProtocolError
from engine.wire.websocket.core import State, WebSocketCore
from engine.wire.websocket.events import CloseReceived, ConnectionFailed, Ping
from tests.wire.websocket.client_frames import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame, server_frames

CODES = st.sampled_from([1000, 1001, 3000, 4999])


class ClosingHandshake(RuleBasedStateMachine):
    """The core between a client and an application that both do as they like, and a transport that cuts."""

    @initialize(hold=st.booleans())
    def start(self, hold: bool) -> None:
        self.core = WebSocketCore(WebSocketConfig())
        self.hold = hold
        self.on_the_way = b""  # from the client
        self.sent: list[tuple[int, bytes]] = []
        self.ends: list[object] = []  # terminal events
        self.pings: list[bytes] = []  # that came while nothing was closed by us
        self.client_closed: int | None = None
        self.client_broke = False
        self.we_closed: int | None = None
        self.over = False  # the client sends no more

    def take(self) -> None:
        while (event := self.core.next_event()) is not None:
            assert not self.ends, "an event behind the end"
            if isinstance(event, CloseReceived | ConnectionFailed):
                self.ends.append(event)
            elif isinstance(event, Ping) and self.we_closed is None:
                self.pings.append(event.payload)
        self.sent += server_frames(self.core.data_to_send(hold_answer=self.hold))

    # -- the client -----------------------------------------------------------

    @rule(opcode=st.sampled_from([TEXT, BINARY, PING]), payload=st.binary(max_size=3).filter(bytes.isascii))
    def client_sends(self, opcode: int, payload: bytes) -> None:
        if self.client_closed is None and not self.over:
            self.on_the_way += frame(opcode, payload)

    @rule(code=CODES)
    def client_closes(self, code: int) -> None:
        if self.client_closed is None and not self.over and not self.client_broke:
            self.client_closed = code
            self.on_the_way += close_frame(code)

    @rule()
    def client_breaks_the_protocol(self) -> None:
        if self.client_closed is None and not self.over:
            self.client_broke = True
            self.on_the_way += frame(3, b"?")

    @rule(count=st.integers(1, 20))
    def bytes_arrive(self, count: int) -> None:
        data, self.on_the_way = self.on_the_way[:count], self.on_the_way[count:]
        self.core.receive_data(data)
        self.take()

    @rule()
    def the_transport_ends(self) -> None:
        self.over = True
        self.on_the_way = b""
        self.core.receive_eof()
        self.take()

    # -- the application --------------------------------------------------------

    @rule()
    def application_sends(self) -> None:
        try:
            self.sent += server_frames(self.core.send_message("x"))
        except LocalProtocolError:
            assert self.core.state is not State.OPEN
            assert self.we_closed is not None or not self.hold, "what came before the end could not be answered"

    @rule(code=CODES)
    def application_closes(self, code: int) -> None:
        try:
            self.core.send_close(code)
            self.we_closed = code
        except LocalProtocolError:
            assert self.core.state is not State.OPEN
        self.take()

    @precondition(lambda self: self.hold)
    @rule()
    def application_has_answered_everything(self) -> None:
        self.hold = False
        self.take()

    # -- what holds ---------------------------------------------------------------

    @invariant()
    def nothing_is_sent_behind_the_close_frame_and_that_once(self) -> None:
        closes = [index for index, (opcode, _) in enumerate(self.sent) if opcode == CLOSE]
        assert closes in ([], [len(self.sent) - 1])

    @invariant()
    def the_end_of_the_transport_is_an_end(self) -> None:
        assert self.ends or not self.over

    @invariant()
    def every_ping_is_answered_in_order(self) -> None:
        assert [payload for opcode, payload in self.sent if opcode == PONG] == self.pings

    @invariant()
    def the_end_comes_once_and_says_how(self) -> None:
        assert len(self.ends) <= 1
        for end in self.ends:
            if isinstance(end, CloseReceived):
                assert end.code == self.client_closed
            else:
                assert end.code in (1002, 1006)
                assert self.client_broke if end.code == 1002 else self.over

    @invariant()
    def the_close_frame_has_the_right_code(self) -> None:
        for opcode, payload in self.sent:
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                assert code == (self.we_closed or (1002 if self.client_broke else self.client_closed))

    @invariant()
    def a_finished_handshake_has_both_close_frames(self) -> None:
        if self.core.state is State.CLOSED:
            assert isinstance(self.ends[0], CloseReceived)
            assert self.sent[-1][0] == CLOSE


ClosingHandshake.TestCase.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
TestClosingHandshake = ClosingHandshake.TestCase
