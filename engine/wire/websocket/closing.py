"""The closing handshake of one WebSocket as a table (RFC 6455 section 7)."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """Where the closing handshake stands."""

    OPEN = auto()
    CLOSE_SENT = auto()  # by us, and the peer has not answered
    CLOSE_RECEIVED = auto()  # and our answer is not taken from `data_to_send` yet
    CLOSED = auto()  # both close frames were sent
    FAILED = auto()  # protocol error, exceeded limit, or end of the bytes without a closing handshake


class Step(Enum):
    SEND_CLOSE = auto()
    RECEIVE_CLOSE = auto()
    FAIL = auto()
    RECEIVE_EOF = auto()


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.OPEN: {
        Step.SEND_CLOSE: State.CLOSE_SENT,
        Step.RECEIVE_CLOSE: State.CLOSE_RECEIVED,
        Step.FAIL: State.FAILED,
        Step.RECEIVE_EOF: State.FAILED,
    },
    State.CLOSE_SENT: {
        Step.RECEIVE_CLOSE: State.CLOSED,
        Step.FAIL: State.FAILED,
        Step.RECEIVE_EOF: State.FAILED,
    },
    State.CLOSE_RECEIVED: {Step.SEND_CLOSE: State.CLOSED, Step.RECEIVE_EOF: State.CLOSE_RECEIVED},
    State.CLOSED: {Step.RECEIVE_EOF: State.CLOSED},
    State.FAILED: {Step.SEND_CLOSE: State.FAILED, Step.RECEIVE_EOF: State.FAILED},
}
RECEIVING = frozenset((State.OPEN, State.CLOSE_SENT))
