"""Phases: h2's stream machine, remembered."""

from __future__ import annotations

import random

import pytest
from h2.exceptions import ProtocolError
from h2.stream import H2StreamStateMachine, StreamInputs, StreamState

from engine.wire import http2_phases

STEPS = {name: step for name, step in vars(http2_phases).items() if isinstance(step, int)}
INPUTS = tuple(StreamInputs)


def walk(seed: int, length: int) -> None:
    """The same random inputs to h2's machine and to phases."""
    chosen = random.Random(seed)
    machine, phase = H2StreamStateMachine(1), http2_phases.IDLE
    for _ in range(length):
        step = chosen.choice(list(STEPS.values()))
        try:
            machine.process_input(INPUTS[step])
        except ProtocolError:
            with pytest.raises(ProtocolError):
                phase.after(step)
            return
        phase = phase.after(step)
        assert phase.closed is (machine.state is StreamState.CLOSED)
        assert phase.peer_ended is (machine.state is StreamState.HALF_CLOSED_REMOTE)
        assert phase.headers_received is bool(machine.headers_received)


def test_every_walk_goes_where_h2_goes_and_ends_where_h2_refuses() -> None:
    for seed in range(3_000):
        walk(seed, 12)


def test_a_step_is_learned_once_and_shared_by_all_streams() -> None:
    first = http2_phases.IDLE.after(http2_phases.RECEIVE_HEADERS)
    assert http2_phases.IDLE.after(http2_phases.RECEIVE_HEADERS) is first
    assert first.after(http2_phases.RECEIVE_DATA) is first  # DATA changes nothing
    assert not first.peer_ended
    assert first.after(http2_phases.RECEIVE_END).peer_ended


def test_what_h2_refuses_is_refused_each_time() -> None:
    for _ in range(3):
        with pytest.raises(ProtocolError):
            http2_phases.IDLE.after(http2_phases.RECEIVE_DATA)


def test_there_are_few_phases() -> None:
    for seed in range(3_000):
        walk(seed, 12)
    assert len(http2_phases._phases) < 100
