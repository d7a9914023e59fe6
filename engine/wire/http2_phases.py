"""The states of an HTTP/2 stream (RFC 9113 section 5.1): h2's machine, asked once for each transition.

Owns: where a stream is between its first and its last frame. The tables, their conditions and their errors
are h2's and stay there.

Theory of operation. h2's machine is a handful of small values; what an input makes of them depends on nothing
else, and it makes an event object each time that nobody here reads. So each combination of values is one
immutable `Phase`, shared by all streams; an input that is new to a phase goes through h2's machine, and where it
led is remembered. A stream's life is then a walk along a dozen known steps. What h2 refuses is never
remembered, so it is refused by h2 each time.
"""

from __future__ import annotations

from typing import Any

from h2.stream import H2StreamStateMachine, StreamInputs, StreamState

_VALUES = (
    "state",
    "client",
    "headers_sent",
    "trailers_sent",
    "headers_received",
    "trailers_received",
    "stream_closed_by",
)
_INPUTS = tuple(StreamInputs)

# Steps: indices into `_INPUTS`, because hashing an enum's member costs more than all the rest.
SEND_INFORMATIONAL = _INPUTS.index(StreamInputs.SEND_INFORMATIONAL_HEADERS)
SEND_HEADERS = _INPUTS.index(StreamInputs.SEND_HEADERS)
SEND_END = _INPUTS.index(StreamInputs.SEND_END_STREAM)
RECEIVE_INFORMATIONAL = _INPUTS.index(StreamInputs.RECV_INFORMATIONAL_HEADERS)
RECEIVE_HEADERS = _INPUTS.index(StreamInputs.RECV_HEADERS)
RECEIVE_DATA = _INPUTS.index(StreamInputs.RECV_DATA)
RECEIVE_END = _INPUTS.index(StreamInputs.RECV_END_STREAM)
RECEIVE_RESET = _INPUTS.index(StreamInputs.RECV_RST_STREAM)


class Phase:
    """One combination of the values of h2's machine."""

    __slots__ = ("_next", "_values", "closed", "headers_received", "peer_ended")

    def __init__(self, values: tuple[Any, ...]) -> None:
        self._values = values
        self._next: list[Phase | None] = [None] * len(_INPUTS)
        self.closed = values[0] is StreamState.CLOSED
        self.peer_ended = values[0] is StreamState.HALF_CLOSED_REMOTE
        """The peer has sent END_STREAM, and we have not."""
        self.headers_received = bool(values[4])
        """The peer's final head has come."""

    def after(self, step: int) -> Phase:
        """Where a step leads.

        Raises:
            h2.exceptions.ProtocolError: the machine does not allow it.
        """
        return self._next[step] or self._learn(step)

    def _learn(self, step: int) -> Phase:
        machine = H2StreamStateMachine(0)
        for name, value in zip(_VALUES, self._values, strict=True):
            setattr(machine, name, value)
        machine.process_input(_INPUTS[step])
        values = tuple([getattr(machine, name) for name in _VALUES])
        phase = self._next[step] = _phases.setdefault(values, Phase(values))
        return phase


def _idle() -> Phase:
    machine = H2StreamStateMachine(0)
    return Phase(tuple([getattr(machine, name) for name in _VALUES]))


IDLE = _idle()

_phases: dict[tuple[Any, ...], Phase] = {IDLE._values: IDLE}  # some thirty: there are no more combinations
