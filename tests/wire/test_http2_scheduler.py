"""The order of frames on the wire: windows kept, turns taken, small answers first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.config import Bucket
from tests.wire.http2_peer import (
    DATA,
    HEADERS,
    OK,
    RST,
    events,
    headers,
    receive,
    sent,
    server,
    settings,
    split,
    window,
)

BIG = 2**31 - 1 - 65_535


def serving(*stream_ids, initial=65_535, connection=BIG):
    core = server(max_window_updates=1_000_000)
    receive(core, settings((4, initial)), *([window(0, connection)] if connection else []))
    receive(core, *(headers(stream_id) for stream_id in stream_ids))
    core.data_to_send()
    for stream_id in stream_ids:
        core.send_headers(stream_id, OK)
    return core


def bodies(frames):
    return [(stream_id, len(payload)) for kind, _, stream_id, payload in frames if kind == DATA]


def test_a_body_is_cut_into_whole_frames_whatever_pieces_it_came_in():
    core = serving(1)
    for _ in range(4000):
        core.send_data(1, b"0123456789")
    core.send_data(1, b"", end_stream=True)
    frames = sent(core)
    assert bodies(frames) == [(1, 16_384), (1, 16_384), (1, 7232)]
    assert b"".join(payload for kind, _, _, payload in frames if kind == DATA) == b"0123456789" * 4000
    assert frames[-1][1] == 1


def test_streams_take_turns_of_one_frame():
    core = serving(1, 3, 5)
    for stream_id in (1, 3, 5):
        core.send_data(stream_id, bytes(40_000), end_stream=True)
    assert [stream_id for stream_id, _ in bodies(sent(core))] == [1, 3, 5] * 3


def test_one_call_returns_about_its_limit():
    core = serving(1, 3, initial=2**20)
    core.send_data(1, bytes(500_000))
    assert 65_536 <= len(core.data_to_send()) < 65_536 + 2 * 16_384
    assert 16_384 <= len(core.data_to_send(1)) < 16_500


def test_a_new_small_answer_overtakes_a_large_one():
    core = serving(1, initial=2**24)
    core.send_data(1, bytes(10_000_000))
    core.data_to_send()
    receive(core, headers(3))
    core.send_headers(3, OK)
    core.send_data(3, b"small", end_stream=True)
    assert bodies(split(core.data_to_send()))[0] == (3, 5)


def test_a_stream_of_small_answers_does_not_starve_a_large_one():
    core = serving(1, initial=2**24)
    core.send_data(1, bytes(10_000_000))
    for stream_id in range(3, 203, 2):
        receive(core, headers(stream_id))
        core.send_headers(stream_id, OK)
        core.send_data(stream_id, bytes(16_384), end_stream=True)
        assert 1 in [stream for stream, _ in bodies(split(core.data_to_send(1)))]


def test_replies_come_before_heads_and_heads_before_bodies():
    core = serving(1)
    core.send_data(1, bytes(20_000))
    sent(core)
    core.send_data(1, bytes(20_000))
    receive(core, headers(3), headers(5))
    core.send_headers(3, OK)
    core.reset_stream(5, 2)
    assert [(kind, stream_id) for kind, _, stream_id, _ in sent(core)] == [(RST, 5), (HEADERS, 3), (DATA, 1), (DATA, 1)]


def test_trailers_wait_for_the_body():
    core = serving(1, initial=10)
    core.send_data(1, bytes(25))
    core.send_trailers(1, ((b"grpc-status", b"0"),))
    assert bodies(sent(core)) == [(1, 10)]
    assert core.queued(1) == 15
    assert core.blocked
    receive(core, window(1, 10))
    assert bodies(sent(core)) == [(1, 10)]
    receive(core, window(1, 10))
    frames = sent(core)
    assert [(kind, flags) for kind, flags, _, _ in frames] == [(DATA, 0), (HEADERS, 5)]
    assert not core.blocked


def test_a_window_that_opens_later_starts_the_stream_again():
    core = serving(1, initial=0)
    core.send_data(1, b"hello", end_stream=True)
    assert bodies(sent(core)) == []
    receive(core, settings((4, 2)))
    assert bodies(sent(core)) == [(1, 2)]
    receive(core, window(1, 100))
    assert bodies(sent(core)) == [(1, 3)]


def test_a_window_below_zero_must_recover_first():
    core = serving(1, initial=3)
    core.send_data(1, b"hello world", end_stream=True)
    assert bodies(sent(core)) == [(1, 3)]
    receive(core, settings((4, 1)), window(1, 2))
    assert bodies(sent(core)) == []
    receive(core, window(1, 1))
    assert bodies(sent(core)) == [(1, 1)]


def test_an_empty_end_needs_no_window():
    core = serving(1, initial=0, connection=0)
    core.data_to_send()
    core.send_data(1, b"", end_stream=True)
    assert sent(core)[-1] == (DATA, 1, 1, b"")


def test_streams_that_wait_for_the_connection_go_on_in_order():
    core = serving(1, 3, 5, initial=2**20, connection=0)
    for stream_id in (1, 3, 5):
        core.send_data(stream_id, bytes(30_000))
    total = sum(size for _, size in bodies(sent(core)))
    assert total == 65_535
    assert core.blocked
    receive(core, window(0, 2 * 16_384))
    assert sum(size for _, size in bodies(sent(core))) == 90_000 - total
    assert not core.blocked


def test_a_window_update_after_the_end_of_a_stream_sends_nothing():
    core = server()
    receive(core, headers(1, end=False))
    core.send_headers(1, OK, end_stream=True)
    core.data_to_send()
    receive(core, window(1, 100))
    assert core.data_to_send() == b""


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from([1, 3, 5]), st.integers(0, 40_000)),
        st.tuples(st.just("window"), st.sampled_from([0, 1, 3, 5]), st.integers(1, 30_000)),
        st.tuples(st.just("initial"), st.just(0), st.integers(0, 70_000)),
        st.tuples(st.just("take"), st.just(0), st.integers(1, 70_000)),
    ),
    max_size=40,
)


@given(STEPS)
def test_no_window_is_ever_overrun_and_no_byte_is_lost(steps):
    core = server(settings=Bucket(1000, 0), glitches=Bucket(1000, 0), max_window_updates=1000)
    receive(core, headers(1), headers(3), headers(5))
    initial = 65_535
    windows = {0: 65_535, 1: initial, 3: initial, 5: initial}
    written = dict.fromkeys((1, 3, 5), 0)
    got = dict.fromkeys((1, 3, 5), 0)
    for stream_id in (1, 3, 5):
        core.send_headers(stream_id, OK)

    def take(limit):
        wire = core.data_to_send(limit)
        for stream_id, size in bodies(split(wire)):
            got[stream_id] += size
            for target in (0, stream_id):
                windows[target] -= size
                assert windows[target] >= 0
        return wire

    for step, stream_id, size in steps:
        if step == "send":
            core.send_data(stream_id, bytes(size))
            written[stream_id] += size
        elif step == "window":
            receive(core, window(stream_id, size))
            windows[stream_id] += size
        elif step == "initial":
            receive(core, settings((4, size)))
            for each in (1, 3, 5):
                windows[each] += size - initial
            initial = size
        else:
            take(size)
    for stream_id in (1, 3, 5):
        core.send_data(stream_id, b"", end_stream=True)
        receive(core, window(stream_id, 2_000_000))
        windows[stream_id] += 2_000_000
    receive(core, window(0, 2_000_000))
    windows[0] += 2_000_000
    while take(65_536):
        pass
    if core.failure is None:
        assert got == written
        assert core.open_streams == 0
    events(core)
